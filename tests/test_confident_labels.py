"""The confident labels of PSA, against cases worked out by hand, and without torch."""

import subprocess
import sys

import numpy as np
import pytest

from acr import confident_labels as module
from acr.confident_labels import confident_labels, label_shard
from acr.config import canonical
from acr.datasets.base import Record, Split, write_classes, write_split
from acr.files import Arrays, write_arrays
from acr.images import write_image
from acr.recipes import Affinity, ConfidentLabels
from acr.shapes import VOID
from benchmarks import reference


def scene():
    """A dark square on a bright ground, and a map of it that is sure inside, unsure in a ring and zero outside."""
    image = np.full((32, 32, 3), 220, np.uint8)
    image[10:22, 10:22] = 30
    maps = np.zeros((2, 32, 32), np.float32)
    maps[1, 12:20, 12:20] = 1
    return image, maps


def test_confident_labels_without_a_crf_follow_the_two_exponents(monkeypatch):
    monkeypatch.setattr(module, "dense_crfs", lambda image, probabilities, settings: probabilities)
    values = np.array([0.0, 0.1, 0.2, 0.45, 0.55, 1.0], np.float32)
    maps = np.stack([values, np.zeros(6, np.float32)])[:, None, :]
    found = confident_labels(np.zeros((1, 6, 3), np.uint8), maps, ConfidentLabels(low=1.0, high=12.0))
    # background while (1 - v)^12 > v, that is below about 0.14; foreground above 1 - v, that is from 0.5
    assert found.tolist() == [[0, 0, 255, 255, 1, 1]]


def test_confident_labels_hand_the_crf_distributions(monkeypatch):
    seen = []
    monkeypatch.setattr(module, "dense_crfs", lambda image, scores, settings: seen.extend(scores) or scores)
    image, maps = scene()
    confident_labels(image, 0.8 * maps, ConfidentLabels(low=1.0, high=2.0))
    assert [scores.shape for scores in seen] == [(3, 32, 32)] * 2
    np.testing.assert_allclose([scores[:, 15, 15] for scores in seen], [[0.2, 0, 0.8], [0.04 / 0.84, 0, 0.8 / 0.84]], rtol=1e-6)


def test_confident_labels_follow_the_object():
    image, maps = scene()
    found = confident_labels(image, maps, ConfidentLabels())
    assert (found[12:20, 12:20] == 2).all()
    assert (found[:4] == 0).all()
    assert set(np.unique(found)) <= {0, 2, VOID}


@pytest.mark.parametrize(("height", "inside"), [(1.0, 6), (0.9, VOID)])
def test_confident_labels_are_those_of_crfs_of_all_classes_from_scratch(height, inside):
    image, maps = scene()
    maps, settings = np.float32(height) * maps, ConfidentLabels()
    found = confident_labels(image, maps, settings)
    by_class = {2: maps[0], 5: maps[1]}
    expected = reference.confident_of_all_labels(image, by_class, 7, (settings.low, settings.high), settings.crf)
    assert set(np.unique(expected)) == {0, inside}
    assert (np.array([0, 3, 6, *[VOID] * 253])[found] == expected).all()


def test_maps_of_zeros_and_no_maps_are_all_void():
    image, maps = scene()
    assert (confident_labels(image, 0 * maps, ConfidentLabels()) == VOID).all()
    assert (confident_labels(image, maps[:0], ConfidentLabels()) == VOID).all()


def scenes(tmp_path):
    """A split of three small scenes of two classes, the last without a tag, and seeds of it."""
    image, maps = scene()
    records = []
    for index, labels in enumerate([("cat", "dog"), ("dog",), ()]):
        path = tmp_path / f"{index}.png"
        write_image(path, np.roll(image, 2 * index, axis=1))
        records.append(Record(f"image_{index}", path, None, labels))
    split = Split("train", ("cat", "dog"), tuple(records))
    write_split(tmp_path / "train.csv", split)
    write_classes(tmp_path / "classes.txt", split.classes)
    coarse = maps.reshape(2, 8, 4, 8, 4).mean((2, 4)).astype(np.float16)
    seeds = {"image_0": coarse, "image_1": coarse[1:], "image_2": coarse[:0]}
    write_arrays(tmp_path / "maps.npz", seeds.items())
    return tmp_path, split


@pytest.fixture
def data(tmp_path):
    return scenes(tmp_path)


def make_labels(folder, name, shard="0-of-1", workers=0):
    output = folder / name
    label_shard(
        split=folder / "train.csv",
        maps=folder / "maps.npz",
        recipe=canonical(Affinity(seeds="acr")),
        execution={"workers": workers},
        shard=shard,
        output=output,
        made_from={},
    )
    return Arrays(output)


def test_label_shards_hold_masks_of_class_indices(data):
    folder, _ = data
    whole = make_labels(folder, "labels.npz")
    assert list(whole) == ["image_0", "image_1", "image_2"]
    assert set(np.unique(whole["image_0"])) <= {0, 2, VOID}
    assert whole["image_1"][15, 17] == 2  # the only map, but class index 1
    assert (whole["image_2"] == VOID).all()
    assert all(whole[name].shape == (32, 32) and whole[name].dtype == np.uint8 for name in whole)
    parts = [make_labels(folder, f"{shard}.npz", shard) for shard in ("0-of-2", "1-of-2")]
    assert [list(part) for part in parts] == [["image_0", "image_2"], ["image_1"]]
    for part, name in [(parts[0], "image_0"), (parts[1], "image_1")]:
        np.testing.assert_array_equal(part[name], whole[name])


@pytest.mark.slow
def test_the_number_of_processes_leaves_no_trace(data):
    folder, _ = data
    make_labels(folder, "one.npz")
    make_labels(folder, "two.npz", workers=2)
    assert (folder / "one.npz").read_bytes() == (folder / "two.npz").read_bytes()


def test_neither_the_job_nor_its_processes_load_torch():
    code = "import sys, acr.confident_labels; print(sorted(set(sys.modules) & {'torch', 'timm'}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
