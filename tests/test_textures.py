"""The generated data set: the same everywhere, every time, and its tags say what its masks show."""

import csv
import hashlib

import numpy as np
import pytest
from PIL import Image

from acr.datasets import textures
from acr.datasets.textures import CLASSES, generate, scene, stream, tags

SIZE = 96


def _digest(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


@pytest.fixture(scope="module")
def scenes() -> list[tuple[np.ndarray, np.ndarray]]:
    return [scene(stream(0, "train", index), SIZE) for index in range(200)]


def test_a_scene_is_a_pure_function_of_its_three_numbers(scenes):
    for index in (0, 7, 199):
        assert _digest(*scene(stream(0, "train", index), SIZE)) == _digest(*scenes[index])
    others = [(1, "train", 0), (0, "val", 0), (0, "train", 1)]
    digests = {_digest(*scene(stream(*other), SIZE)) for other in others} | {_digest(*scenes[0])}
    assert len(digests) == 4


def test_images_and_masks_have_their_types_and_values(scenes):
    for image, mask in scenes:
        assert image.shape == (SIZE, SIZE, 3)
        assert image.dtype == np.uint8
        assert mask.shape == (SIZE, SIZE)
        assert mask.dtype == np.uint8
        assert 0 < (mask > 0).sum() < mask.size
        assert mask.max() <= len(CLASSES)


def test_tags_are_the_classes_of_the_mask():
    assert tags(np.array([[0, 4], [1, 4]])) == ["stripes", "bricks"]
    assert tags(np.zeros((2, 2), np.uint8)) == []


def test_every_class_is_neither_rare_nor_everywhere(scenes):
    for value in range(1, len(CLASSES) + 1):
        share = np.mean([(mask == value).any() for _, mask in scenes])
        assert 0.2 < share < 0.5, (CLASSES[value - 1], share)  # expected: mean over 1, 2, 3 blobs of 1 - 0.8**n = 0.35
    foreground = np.mean([(mask > 0).mean() for _, mask in scenes])
    assert 0.15 < foreground < 0.35


def test_a_tag_always_stands_for_something_visible(scenes):
    smallest = min(np.bincount(mask.ravel(), minlength=6)[value] for _, mask in scenes for value in np.unique(mask))
    whole = np.pi * (textures.BLOB_RADIUS[0] * SIZE) ** 2
    assert smallest > 0.5 * textures.MIN_VISIBLE * whole


def test_distractors_are_drawn_and_carry_no_tag():
    rng = np.random.default_rng(0)
    for _ in range(50):
        arrangement = textures._arrangement(rng, SIZE)
        values = [value for value, _ in arrangement]
        assert 1 <= values.count(0) <= 2
        assert 1 <= len(values) - values.count(0) <= 3

    for index in range(20):
        image, mask = scene(stream(0, "train", index), SIZE)
        shapes = textures._arrangement(_after_backdrop(index), SIZE)
        top = np.zeros((SIZE, SIZE), int)
        for order, (_, shape) in enumerate(shapes, start=1):
            top[shape] = order
        for order, (value, _) in enumerate(shapes, start=1):
            assert (mask[top == order] == value).all()
            spread = image[top == order].astype(float).std(axis=0).max()
            assert (spread < 2 * 255 * textures.NOISE) == (value == 0), "plain if and only if a distractor"


def _after_backdrop(index: int) -> np.random.Generator:
    rng = stream(0, "train", index)
    textures._backdrop(rng, SIZE)
    return rng


def test_no_two_patterns_look_alike():
    y, x = np.mgrid[0:4:0.01, 0:4:0.01]
    drawn = {name: pattern(x, y) for name, pattern in textures.PATTERNS.items()}
    assert tuple(drawn) == CLASSES
    for name, values in drawn.items():
        assert (values.min(), values.max()) == (0, 1), name
    assert np.allclose(drawn["stripes"], drawn["stripes"][:1])  # constant along v
    assert not np.allclose(drawn["waves"], drawn["waves"][:1], atol=0.5)
    one_cell = 1 / 1.4
    assert np.allclose(textures.PATTERNS["checkers"](x + one_cell, y), 1 - drawn["checkers"], atol=1e-6)
    shares = {name: values.mean() for name, values in drawn.items()}
    assert shares["stripes"] == pytest.approx(0.5, abs=0.01)
    assert shares["waves"] == pytest.approx(0.5, abs=0.01)
    assert shares["dots"] == pytest.approx(np.pi * 0.30**2, abs=0.03)
    assert shares["bricks"] > 0.5


def test_a_scene_looks_the_same_at_any_size():
    _, small = scene(stream(0, "val", 3), 48)
    _, large = scene(stream(0, "val", 3), 192)
    assert np.mean(small == large[2::4, 2::4]) > 0.95


def test_generate_writes_what_scene_draws(tmp_path):
    generate(tmp_path, train=3, val=2, size=32, random_state=5)
    with (tmp_path / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["image_id"] for row in rows] == ["train_0000", "train_0001", "train_0002", "val_0000", "val_0001"]
    for row in rows:
        split, index = row["image_id"].split("_")
        assert row["split"] == split
        image, mask = scene(stream(5, split, int(index)), 32)
        assert np.array_equal(np.asarray(Image.open(tmp_path / "images" / f"{row['image_id']}.png")), image)
        assert np.array_equal(np.asarray(Image.open(tmp_path / "masks" / f"{row['image_id']}.png")), mask)
        assert row["labels"].split() == tags(mask)
    assert len([*tmp_path.rglob("*.*")]) == 11, "no temporary file is left behind"


def test_generate_leaves_right_files_alone_and_mends_wrong_ones(tmp_path):
    def stamps() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}

    generate(tmp_path, train=2, val=1, size=32, random_state=0)
    first = stamps()
    generate(tmp_path, train=2, val=1, size=32, random_state=0)
    assert stamps() == first

    damaged = tmp_path / "images" / "train_0001.png"
    damaged.write_bytes(damaged.read_bytes()[:50])
    generate(tmp_path, train=2, val=1, size=32, random_state=0)
    changed = {path for path, stamp in stamps().items() if stamp != first[path]}
    assert changed == {str(damaged)}
    assert np.array_equal(np.asarray(Image.open(damaged)), scene(stream(0, "train", 1), 32)[0])
