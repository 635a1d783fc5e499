from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from acr.classifiers import build_classifier, describe, read_classifier, tag_probabilities
from acr.config import canonical
from acr.files import Arrays
from acr.images import read_image
from acr.measures import otsu_threshold
from acr.models.weights import save_model
from acr.predictions import found, of_all_classes, predict_shard, weighed
from acr.pseudo_labels import pseudo_scores
from acr.recipes import Classifier, Predictions, PseudoLabels, Seeds
from acr.seeds import localise_photograph, with_depth
from acr.segmenters import read_segmenter, scores
from tests.untrained import CLASSES, write_segmenter, write_tagged

LABELS = PseudoLabels(seeds="acr", background="otsu_of_split")
SEEDS = Seeds(classifier="acr", image_size=32, layers=2, product="affinity_times_map")
RECIPE = Predictions(
    segmenter="deeplab",
    scales=(1.0,),
    crf=None,
    labels="acr",
    found=0.5,
    seeds_weight=2.0,
    labels_recipe=LABELS,
    seeds_recipe=SEEDS,
)
ALONE = Predictions(segmenter="deeplab", scales=(1.0,), crf=None)


def test_classes_are_found_from_a_probability_on():
    assert found(np.array([0.2, 0.1, 0.09, 0.7]), 0.1) == (0, 1, 3)
    assert found(np.array([0.2, 0.1]), 0.3) == ()


def test_what_is_not_found_has_no_probability():
    two = np.array([0.7, 0.1, 0.2], np.float32).reshape(3, 1, 1)
    assert of_all_classes(two, (2, 0), 4).ravel().tolist() == pytest.approx([0.7, 0.2, 0, 0.1])
    assert of_all_classes(np.ones((1, 1, 2), np.float32), (), 3).tolist() == [[[1, 1]], [[0, 0]], [[0, 0]]]


def test_a_background_of_half_the_weight_has_half_the_odds():
    pixels = np.array([[0.6, 1, 0], [0.3, 0, 0.5], [0.1, 0, 0.5]], np.float32)[:, None]
    halved = [[3 / 7, 1, 0], [3 / 7, 0, 0.5], [1 / 7, 0, 0.5]]
    assert weighed(pixels, 0.5)[:, 0].tolist() == [pytest.approx(row) for row in halved]


@given(arrays(np.float32, (4, 2, 3), elements=st.floats(2**-10, 1, width=32)), st.floats(0.01, 20))
def test_the_weight_of_the_background_leaves_classes_to_each_other_as_they_were(scores, weight):
    probabilities = scores / scores.sum(0)
    result = weighed(probabilities, weight)
    np.testing.assert_allclose(result.sum(0), 1, rtol=1e-4)
    np.testing.assert_allclose(result[0] / result[1], weight * probabilities[0] / probabilities[1], rtol=1e-4)
    np.testing.assert_allclose(result[2] / result[1], probabilities[2] / probabilities[1], rtol=1e-4)
    assert (weighed(probabilities, 1.0) == probabilities).all()


@pytest.fixture
def made(tmp_path):
    """Three images of 40 x 48 pixels, an untrained classifier and an untrained segmenter; a call predicts by a recipe."""
    write_tagged(tmp_path, "val", [("bird", "cat")] * 3, 40, 48)
    write_segmenter(tmp_path / "segmenter")
    torch.manual_seed(1)
    description = describe(Classifier(backbone="vit_stem8_96", image_size=32, normalisation="half"), CLASSES)
    classifier = build_classifier(description)
    classifier.network.head.weight.data.normal_()
    save_model(tmp_path / "classifier", classifier, description)

    def call(recipe: Predictions, shard: str = "0-of-1") -> dict[str, np.ndarray]:
        output = tmp_path / f"{shard}.npz"
        beside = {"classifier": str(tmp_path / "classifier" / "model.safetensors"), "maps": str(tmp_path / "maps.npz")}
        predict_shard(
            split=str(tmp_path / "val.csv"),
            model=str(tmp_path / "segmenter" / "model.safetensors"),
            **(beside if recipe.labels else {}),
            recipe=canonical(recipe),
            execution={"device": "cpu", "workers": 0},
            shard=shard,
            output=str(output),
            made_from={"recipe": canonical(recipe)},
        )
        archive = Arrays(output)
        return {name: archive[name] for name in archive}

    return call


def parts(folder, index):
    """What is known of one image: it, the classifier, its tags, and what the segmenter says."""
    image = read_image(folder / f"{index}.png")
    classifier = read_classifier(folder / "classifier" / "model.safetensors")
    segmented = scores(read_segmenter(folder / "segmenter" / "model.safetensors"), image, (1.0,))
    return image, classifier, tag_probabilities(classifier, image, 32), segmented


def test_each_pixel_takes_the_best_of_the_classes_that_are_found(made, tmp_path):
    masks, archive, numbers = made(RECIPE), Arrays(tmp_path / "maps.npz"), []
    level = otsu_threshold(archive[name] for name in archive)  # of the training images' seeds
    for index in range(3):
        image, classifier, tags, segmented = parts(tmp_path, index)
        classes = [number for number, tag in enumerate(tags) if tag >= 0.5]
        numbers.append(len(classes))
        maps = localise_photograph(classifier, image, classes, with_depth(SEEDS, classifier)).astype(np.float32)
        background, *seeded = pseudo_scores(image, maps, level, lambda image, maps: maps)
        both = np.zeros((4, 40, 48))
        both[0] = background.astype(float) ** 2 * segmented[0]
        for number, seed in zip(classes, seeded, strict=True):
            both[number + 1] = seed.astype(float) ** 2 * segmented[number + 1]
        assert (masks[str(index)] == both.argmax(0)).mean() > 0.999  # but for ties in single precision
    assert {1, 2} & {*numbers}  # some classes are found and some are not


def test_where_all_is_found_and_seeds_weigh_nothing_the_segmenter_is_alone(made):
    alone = made(ALONE)
    for name, mask in made(replace(RECIPE, found=0.0, seeds_weight=0.0)).items():
        assert (mask == alone[name]).mean() > 0.999  # but for ties in single precision


def test_where_nothing_is_found_all_is_background(made):
    assert not any(mask.any() for mask in made(replace(RECIPE, found=1.0)).values())


def test_without_labels_the_segmenter_is_alone(made, tmp_path):
    masks = made(ALONE)
    assert all((masks[str(index)] == parts(tmp_path, index)[3].argmax(0)).all() for index in range(3))
    assert any((masks[name] != mask).any() for name, mask in made(RECIPE).items())


@pytest.mark.parametrize("recipe", [ALONE, RECIPE])
def test_the_lighter_the_background_the_more_is_of_a_class(made, recipe):
    even, light, heavy = (made(replace(recipe, background_weight=weight)) for weight in (1.0, 0.2, 5.0))
    shares = [np.mean([mask > 0 for mask in masks.values()]) for masks in (heavy, even, light)]
    assert shares[0] < shares[1] < shares[2]
    changed = [(light[name] != mask) for name, mask in even.items()]
    assert all((even[name][where] == 0).all() for name, where in zip(even, changed, strict=True))


def test_a_weighed_background_is_that_of_the_segmenter_alone(made, tmp_path):
    masks = made(replace(ALONE, background_weight=0.25))
    for index in range(3):
        segmented = parts(tmp_path, index)[3]
        segmented[0] /= 4
        assert (masks[str(index)] == segmented.argmax(0)).mean() > 0.999  # but for ties in single precision


def test_the_number_of_shards_leaves_no_trace(made):
    whole, shards = made(RECIPE), [made(RECIPE, f"{shard}-of-2") for shard in range(2)]
    assert [list(shard) for shard in shards] == [["0", "2"], ["1"]]
    assert all((shard[name] == whole[name]).all() for shard in shards for name in shard)
