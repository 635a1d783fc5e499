"""The paper's own networks and sizes: one true step of each stage, from random weights, on the CPU."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from acr import config
from acr.affinities import train_affinity
from acr.classifiers import train_classifier
from acr.confident_labels import label_shard
from acr.config import Plan, canonical
from acr.datasets.base import read_split
from acr.datasets.catalogue import fetch_dataset, write_splits
from acr.files import Arrays, write_arrays
from acr.images import read_mask, write_mask
from acr.predictions import predict_shard
from acr.pseudo_labels import pseudo_label_shard
from acr.recipes import Textures
from acr.seeds import seed_shard
from acr.segmenters import train_segmenter

pytestmark = pytest.mark.slow
EXECUTION = {"device": "cpu", "workers": 0}


@pytest.fixture(scope="module")
def plan() -> Plan:
    return config.check(yaml.safe_load((Path(__file__).parent.parent / "config" / "voc12.yaml").read_text()))


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One generated scene, of which the crops of every stage take what they need."""
    folder = tmp_path_factory.mktemp("full")
    data = canonical(Textures(root=str(folder / "data"), train_images=1, val_images=1))
    fetch_dataset(recipe=data, execution={}, manifest=folder / "source.json")
    write_splits(recipe=data, execution={"workers": 0}, manifest=folder / "source.json", drawn=None, folder=folder)
    return folder / "train.csv"


def one_step(recipe: object) -> str:
    """The recipe as the paper has it, but one step of one image."""
    return canonical(replace(recipe, weights=None, training=replace(recipe.training, steps=1, batch_size=1)))


def history(folder: Path) -> dict[str, float]:
    return pd.read_csv(folder / "history.csv").iloc[0].to_dict()


def test_vit_hybrid_learns_and_makes_a_seed(plan: Plan, split: Path) -> None:
    classifier, folder = plan.recipe("classifiers", "acr"), split.parent / "classifier"
    assert (classifier.backbone, classifier.image_size, classifier.activation) == ("vit_base_r50_s16_384", 384, 100)
    common = {"split": str(split), "execution": EXECUTION, "made_from": {}}
    train_classifier(weights=None, recipe=one_step(classifier), folder=str(folder), **common)
    terms = history(folder)
    # five classes at random: each view's loss is near -log(1/2)
    assert 1.0 < terms["classification"] < 2.5
    assert terms["loss"] == pytest.approx(terms["classification"] + 100 * (terms["activation"] + terms["affinity"]), rel=1e-4)
    assert terms["activation"] > 0
    seeds = canonical(plan.recipe("seeds", "acr"))
    output = split.parent / "maps.npz"
    model = str(folder / "model.safetensors")
    seed_shard(model=model, recipe=seeds, shard="0-of-1", output=str(output), **common)
    record = read_split(split).records[0]
    maps = Arrays(output)[record.image_id]
    assert maps.shape == (len(record.labels), 24, 24)
    assert (maps.min((1, 2)).tolist(), maps.max((1, 2)).tolist()) == ([0] * len(maps), [1] * len(maps))


def test_affinity_network_learns_and_walks(plan: Plan, split: Path) -> None:
    data, recipe = read_split(split), plan.recipe("affinities", "psa")
    record, folder = data.records[0], split.parent / "affinity"
    truth = read_mask(record.mask)
    maps = np.stack([truth[4::8, 4::8] == index + 1 for index in data.class_indices(record)]).astype(np.float16)
    write_arrays(folder / "maps.npz", [(record.image_id, maps)])
    common = {"split": str(split), "execution": EXECUTION, "made_from": {}}
    shard = {"maps": str(folder / "maps.npz"), "shard": "0-of-1", **common}
    label_shard(recipe=canonical(recipe), output=str(folder / "labels.npz"), **shard)
    labels = str(folder / "labels.npz")
    train_affinity(recipe=one_step(recipe), folder=str(folder), labels=labels, weights=None, **common)
    assert history(folder)["loss"] > 0
    walk = canonical(replace(plan.recipe("pseudo_labels", "acr"), walk_steps=4))
    pseudo_label_shard(model=str(folder / "model.safetensors"), recipe=walk, output=str(folder / "masks.npz"), **shard)
    assert Arrays(folder / "masks.npz")[record.image_id].shape == truth.shape


def test_deeplab_r101_learns_and_predicts(plan: Plan, split: Path) -> None:
    data, folder = read_split(split), split.parent / "segmenter"
    record = data.records[0]
    write_mask(folder / "masks" / f"{record.image_id}.png", read_mask(record.mask))
    recipe = plan.recipe("segmenters", "deeplab")
    assert (recipe.backbone, recipe.stride, recipe.dilations) == ("resnet101", 8, (6, 12, 18, 24))
    common = {"split": str(split), "execution": EXECUTION, "made_from": {}}
    masks = str(folder / "masks")
    train_segmenter(recipe=one_step(recipe), folder=str(folder), masks=masks, weights=None, **common)
    terms = history(folder)
    # six labels at random, and the loss is the sum over three scales and their maximum
    assert terms["scale_1"] == pytest.approx(np.log(6), abs=0.7)
    assert terms["loss"] == pytest.approx(
        sum(terms[key] for key in ("scale_1", "scale_0.5", "scale_0.75", "maximum")), rel=1e-4
    )
    predict = canonical(plan.recipe("predictions", "deeplab_crf"))
    model = str(folder / "model.safetensors")
    predict_shard(recipe=predict, model=model, shard="0-of-1", output=str(folder / "predicted.npz"), **common)
    mask = Arrays(folder / "predicted.npz")[record.image_id]
    assert mask.shape == read_mask(record.mask).shape
    assert mask.max() <= len(data.classes)
