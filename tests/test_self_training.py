from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acr.config import canonical
from acr.crf import crf_mask
from acr.files import Arrays
from acr.images import read_image
from acr.pseudo_labels import pseudo_scores
from acr.recipes import Crf, PseudoLabels
from acr.segmenters import read_segmenter, scores
from acr.self_training import agreed, self_label_shard
from tests.untrained import CLASSES, write_segmenter, write_tagged

TAGS = (("cat",), ("dog", "bird"), CLASSES, ())
RECIPE = PseudoLabels(seeds="acr", background=0.5, segmenter="deeplab", segmenter_scales=(1.0,), seeds_weight=2.0)


def test_both_sides_are_multiplied_by_hand():
    seeds = np.array([0.25, 0.75], np.float32).reshape(2, 1, 1)
    segmented = np.array([0.2, 0.3, 0.4, 0.1], np.float32).reshape(4, 1, 1)
    # of the third class: 0.25 x 0.2 for the background, 0.75 x 0.1 for it
    assert np.allclose(agreed(seeds, segmented, (2,), 1.0).ravel(), [0.4, 0.6])
    # 0.0625 x 0.2 and 0.5625 x 0.1 once seeds count twice
    assert np.allclose(agreed(seeds, segmented, (2,), 2.0).ravel(), np.array([0.0125, 0.05625]) / 0.06875)
    two = np.array([0.5, 0.25, 0.25], np.float32).reshape(3, 1, 1)
    assert np.allclose(
        agreed(two, segmented, (2, 0), 1.0).ravel(), np.array([0.1, 0.025, 0.075]) / 0.2
    )  # in the order of the tags
    assert agreed(np.ones((1, 1, 1), np.float32), segmented, (), 1.0).ravel().tolist() == [1]
    assert agreed(seeds, 0 * segmented, (1,), 1.0).ravel().tolist() == [0, 0]


@given(st.integers(0, 10_000))
def test_who_knows_nothing_changes_nothing(state):
    rng = np.random.default_rng(state)
    segmented = rng.dirichlet(np.ones(4), (2, 3)).transpose(2, 0, 1).astype(np.float32)
    even = np.full((4, 2, 3), 0.25, np.float32)
    assert np.allclose(agreed(even, segmented, (0, 1, 2), 1.0), segmented, atol=1e-6)
    assert np.allclose(agreed(segmented, even, (0, 1, 2), 1.0), segmented, atol=1e-6)


@pytest.fixture
def made(tmp_path):
    """Four images of 22 x 30 pixels and an untrained segmenter; a call makes their labels by a recipe."""
    write_tagged(tmp_path, "train", TAGS, 22, 30)
    write_segmenter(tmp_path / "network")

    def call(recipe: PseudoLabels = RECIPE, shard: str = "0-of-1") -> dict[str, np.ndarray]:
        output = tmp_path / f"{shard}.npz"
        self_label_shard(
            split=str(tmp_path / "train.csv"),
            maps=str(tmp_path / "maps.npz"),
            model=None,
            segmenter=str(tmp_path / "network" / "model.safetensors"),
            recipe=canonical(recipe),
            execution={"device": "cpu", "workers": 0},
            shard=shard,
            output=str(output),
            made_from={"recipe": canonical(recipe)},
        )
        archive = Arrays(output)
        return {name: archive[name] for name in archive}

    return call


@pytest.mark.parametrize("crf", [None, Crf(bilateral_xy=20.0)])
def test_each_pixel_takes_the_best_of_the_tagged_classes(made, tmp_path, crf):
    labels, seeds = made(replace(RECIPE, crf=crf)), Arrays(tmp_path / "maps.npz")
    model = read_segmenter(tmp_path / "network" / "model.safetensors")
    changed = 0
    for index, tags in enumerate(TAGS):
        image = read_image(tmp_path / f"{index}.png")
        values = [0, *(CLASSES.index(tag) + 1 for tag in sorted(tags))]
        first = pseudo_scores(image, seeds[str(index)].astype(np.float32), 0.5, lambda image, maps: maps)
        both = first**2 * scores(model, image, (1.0,))[values]
        best = both.argmax(0) if crf is None else crf_mask(image, both / both.sum(0), crf)
        assert (labels[str(index)] == np.array(values)[best]).all()
        changed += (best != first.argmax(0)).sum()
    assert changed > 100  # else the segmenter would have had no say


def test_the_number_of_shards_leaves_no_trace(made):
    whole = made()
    parts = [made(shard=f"{shard}-of-2") for shard in range(2)]
    assert [list(part) for part in parts] == [["0", "2"], ["1", "3"]]
    assert all((part[name] == whole[name]).all() for part in parts for name in part)
    assert not whole["3"].any()  # without tags all is background


def test_scales_count(made):
    one, other = made(), made(replace(RECIPE, segmenter_scales=(0.5, 2.0)))
    assert any((one[name] != other[name]).any() for name in one)
