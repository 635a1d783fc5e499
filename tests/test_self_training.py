from dataclasses import replace

import numpy as np
import pytest
import torch

from acr.config import canonical
from acr.crf import crf_mask
from acr.datasets.base import Record, Split, write_classes, write_split
from acr.files import Arrays
from acr.images import read_image, write_image
from acr.models.deeplab import build_deeplab
from acr.models.weights import save_model
from acr.recipes import Crf, PseudoLabels
from acr.segmenters import read_segmenter, scores
from acr.self_training import of_tags, self_label_shard

CLASSES = ("bird", "cat", "dog")
TAGS = (("cat",), ("dog", "bird"), CLASSES, ())
DESCRIPTION = {
    "backbone": "resnet10t",
    "options": {"channels": [8, 12, 16, 16], "stem_width": 8, "avg_down": False},
    "stride": 8,
    "dilations": [1, 2],
    "normalisation": "half",
    "classes": CLASSES,
}
RECIPE = PseudoLabels(segmenter="deeplab", scales=(1.0,))


def test_background_and_tags_share_what_others_had():
    probabilities = np.array([0.2, 0.3, 0.4, 0.1], np.float32).reshape(4, 1, 1)
    assert np.allclose(of_tags(probabilities, (2,)).ravel(), [2 / 3, 1 / 3])
    assert np.allclose(of_tags(probabilities, (2, 0)).ravel(), [2 / 6, 1 / 6, 3 / 6])  # in the order of the tags
    assert np.allclose(of_tags(probabilities, (0, 1, 2)), probabilities)
    assert of_tags(probabilities, ()).ravel().tolist() == [1]
    assert of_tags(0 * probabilities, (1,)).ravel().tolist() == [0, 0]


@pytest.fixture
def made(tmp_path):
    """Four images of 22 x 30 pixels and an untrained segmenter; a call makes their labels by a recipe."""
    rng, records = np.random.default_rng(0), []
    for index, labels in enumerate(TAGS):
        path = tmp_path / f"{index}.png"
        write_image(path, rng.integers(0, 256, (22, 30, 3), dtype=np.uint8))
        records.append(Record(str(index), path, None, labels))
    write_split(tmp_path / "train.csv", Split("train", CLASSES, tuple(records)))
    write_classes(tmp_path / "classes.txt", CLASSES)
    torch.manual_seed(0)
    model = build_deeplab(DESCRIPTION)
    for layer in model.head:
        layer.weight.data.normal_()
    save_model(tmp_path / "network", model, DESCRIPTION)

    def call(recipe: PseudoLabels = RECIPE, shard: str = "0-of-1") -> dict[str, np.ndarray]:
        output = tmp_path / f"{shard}.npz"
        self_label_shard(
            split=str(tmp_path / "train.csv"),
            model=str(tmp_path / "network" / "model.safetensors"),
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
    labels = made(replace(RECIPE, crf=crf))
    model = read_segmenter(tmp_path / "network" / "model.safetensors")
    for index, tags in enumerate(TAGS):
        image = read_image(tmp_path / f"{index}.png")
        values = [0, *(CLASSES.index(tag) + 1 for tag in tags)]
        kept = scores(model, image, (1.0,))[values]
        best = kept.argmax(0) if crf is None else crf_mask(image, kept / kept.sum(0), crf)
        assert (labels[str(index)] == np.array(values)[best]).all()
    # the fixture is no test of tags unless the network would name others
    assert set(np.unique(scores(model, read_image(tmp_path / "0.png"), (1.0,)).argmax(0))) - {0, 2}


def test_the_number_of_shards_leaves_no_trace(made):
    whole = made()
    parts = [made(shard=f"{shard}-of-2") for shard in range(2)]
    assert [list(part) for part in parts] == [["0", "2"], ["1", "3"]]
    assert all((part[name] == whole[name]).all() for part in parts for name in part)
    assert not whole["3"].any()  # without tags all is background


def test_scales_count(made):
    one, other = made(), made(replace(RECIPE, scales=(0.5, 2.0)))
    assert any((one[name] != other[name]).any() for name in one)
