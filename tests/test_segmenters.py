import csv
import json
import math
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from acr.config import canonical
from acr.crf import crf_mask
from acr.datasets.base import Record, Split, read_split, write_classes, write_split
from acr.files import Arrays
from acr.images import read_image, write_image, write_mask
from acr.models.deeplab import build_deeplab
from acr.models.vit import VitClassifier
from acr.models.weights import save_model
from acr.predictions import predict_shard
from acr.recipes import Crf, Predictions, Segmenter, Training
from acr.segmenters import (
    Objective,
    Sample,
    cross_entropy,
    read_segmenter,
    scores,
    train_segmenter,
)

CLASSES = ("cat", "dog")
OPTIONS = {"channels": [8, 12, 16, 16], "stem_width": 8, "avg_down": False}
HOW = {"device": "cpu", "workers": 0}
FILL = (1, 2, 3)


def recipe(**changes) -> Segmenter:
    values = {
        "labels": "acr",
        "backbone": "resnet10t",
        "options": OPTIONS,
        "normalisation": "half",
        "freeze_norm": False,
        "dilations": (1, 2),
        "crop_size": 49,
        "crop_scales": (1.0,),
        "augmentations": (),
        "loss_scales": (),
        "training": Training(steps=2, batch_size=2, optimiser="adamw", learning_rate=0.005),
    }
    return Segmenter(**{**values, **changes})


def description(wanted: Segmenter) -> dict:
    keys = ("backbone", "options", "stride", "dilations", "normalisation")
    return {"classes": CLASSES, **{key: getattr(wanted, key) for key in keys}}


def scene(rng: np.random.Generator, side: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """A red disc (1) and a blue one (2) on noise; the later one hides the other."""
    image, mask = rng.integers(0, 120, (side, side, 3), np.uint8), np.zeros((side, side), np.uint8)
    for value, colour in ((1, (255, 40, 40)), (2, (40, 40, 255))):
        centre, radius = rng.integers(8, side - 8, 2).tolist(), int(rng.integers(7, 12))
        cv2.circle(image, centre, radius, colour, -1)
        cv2.circle(mask, centre, radius, value, -1)
    return image, mask


@pytest.fixture
def data(tmp_path):
    """Eight scenes, their split and their masks, which are kept where pseudo labels are."""
    rng, records = np.random.default_rng(0), []
    (tmp_path / "masks").mkdir()
    for index in range(8):
        image, mask = scene(rng)
        path = tmp_path / f"{index}.png"
        write_image(path, image)
        write_mask(tmp_path / "masks" / f"{index}.png", mask)
        records.append(Record(str(index), path, None, CLASSES))
    write_classes(tmp_path / "classes.txt", CLASSES)
    write_split(tmp_path / "train.csv", Split("train", CLASSES, tuple(records)))
    return SimpleNamespace(split=str(tmp_path / "train.csv"), masks=str(tmp_path / "masks"), folder=tmp_path)


def sample(data, **changes) -> Sample:
    return Sample(read_split(data.split), data.masks, recipe(**changes), FILL)


# ---- loss ----------------------------------------------------------------------------------------------------------------


def test_cross_entropy_by_hand():
    logits = torch.tensor([[0.0, 0.0, 9.0], [math.log(3.0), 0.0, 0.0]]).view(1, 2, 1, 3)
    labels = torch.tensor([[[1, 0, 255]]], dtype=torch.uint8)
    assert cross_entropy(logits, labels).item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)


def test_the_background_weighs_what_it_is_told_to():
    """Two cells of the background and one of a class, by hand; at weight 1 nothing changes, bit for bit."""
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0]]).reshape(1, 2, 1, 3)
    labels = torch.tensor([[[0, 1, 0]]], dtype=torch.uint8)
    costs = torch.log1p(torch.exp(-torch.tensor([2.0, 1.0, 1.0])))
    expected = (0.25 * costs[0] + costs[1] + 0.25 * costs[2]) / 1.5
    assert torch.isclose(cross_entropy(logits, labels, 0.25), expected)
    plain = torch.nn.functional.cross_entropy(logits, labels.long(), reduction="sum") / 3
    assert torch.equal(cross_entropy(logits, labels), plain)


def test_nothing_but_void_costs_nothing():
    logits = torch.rand(1, 3, 2, 2, requires_grad=True)
    loss = cross_entropy(logits, torch.full((1, 2, 2), 255, dtype=torch.uint8))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def batch() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "image": torch.randint(0, 256, (2, 3, 49, 49), dtype=torch.uint8),
        "mask": torch.randint(0, 3, (2, 49, 49), dtype=torch.uint8),
        "step": torch.tensor(0),
    }


def test_the_loss_is_the_sum_over_scales_and_their_maximum():
    model, given = build_deeplab(description(recipe())).eval(), batch()
    terms = Objective(model, (0.5,))(given)
    assert set(terms) == {"loss", "scale_1", "scale_0.5", "maximum"}
    assert terms["loss"].item() == pytest.approx(sum(terms[name].item() for name in ("scale_1", "scale_0.5", "maximum")))
    images, labels = given["image"].float() / 255, given["mask"]
    # at scale 1 a cell is every eighth pixel; at scale 0.5 of 7 x 7 cells 4 x 4 are left, every sixteenth pixel
    assert terms["scale_1"].item() == pytest.approx(cross_entropy(model(images), labels[:, ::8, ::8]).item())
    half = torch.nn.functional.interpolate(images, (25, 25), mode="bilinear", align_corners=True, antialias=True)
    assert terms["scale_0.5"].item() == pytest.approx(cross_entropy(model(half), labels[:, ::16, ::16]).item())
    larger = torch.nn.functional.interpolate(model(half), (7, 7), mode="bilinear", align_corners=True)
    best = torch.maximum(model(images), larger)
    assert terms["maximum"].item() == pytest.approx(cross_entropy(best, labels[:, ::8, ::8]).item())


def test_without_further_scales_the_loss_is_one_cross_entropy():
    terms = Objective(build_deeplab(description(recipe())).eval(), ())(batch())
    assert set(terms) == {"loss", "scale_1"}
    assert terms["loss"].item() == terms["scale_1"].item()


# ---- samples -------------------------------------------------------------------------------------------------------------


def test_a_sample_is_a_padded_window_of_image_and_mask(data):
    drawn = sample(data, crop_size=56)(3, np.random.default_rng(0))
    image, mask = drawn["image"].transpose(1, 2, 0), drawn["mask"]
    assert (image.shape, image.dtype) == ((56, 56, 3), np.uint8)
    assert (mask.shape, mask.dtype) == ((56, 56), np.uint8)
    padding = mask == 255
    assert padding.sum() == 56**2 - 48**2
    assert (image[padding] == FILL).all()
    assert (image[~padding].reshape(48, 48, 3) == read_image(data.folder / "3.png")).all()


def test_image_and_mask_go_through_the_same_changes(data):
    names, red = ("hflip", "vflip", "transpose"), (255, 40, 40)
    make = sample(data, augmentations=names, crop_scales=(1.0, 2.0), crop_size=33)
    windows = set()
    for state in range(20):
        drawn = make(0, np.random.default_rng(state))
        windows.add(drawn["mask"].tobytes())
        # away from the disc's edge, where resizing mixes colours; what lies outside the window counts as edge
        disc = np.pad((drawn["mask"] == 1).astype(np.uint8), 2)
        inside = cv2.erode(disc, np.ones((5, 5)))[2:-2, 2:-2] > 0
        assert (drawn["image"][:, inside] == np.array(red)[:, None]).all()
    assert len(windows) == 20


def test_a_sample_depends_on_its_generator_alone(data):
    make = sample(data, augmentations=("hflip", "channels"), crop_scales=(0.5, 1.5))
    first, again, other = (make(1, np.random.default_rng(state)) for state in (5, 5, 6))
    assert all((first[key] == again[key]).all() for key in first)
    assert (first["image"] != other["image"]).any()


# ---- scores --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 0.75, 1.0), (2.0,)])
def test_scores_are_probabilities_of_every_pixel(scales):
    model = build_deeplab(description(recipe())).eval()
    image = np.random.default_rng(0).integers(0, 256, (37, 50, 3), np.uint8)
    found = scores(model, image, scales)
    assert found.shape == (3, 37, 50)
    assert np.allclose(found.sum(0), 1, atol=1e-5)


def test_scores_of_one_scale_are_the_softmax_of_the_logits():
    model = build_deeplab(description(recipe())).eval()
    image = np.random.default_rng(0).integers(0, 256, (33, 41, 3), np.uint8)
    expected = model(torch.from_numpy(image).permute(2, 0, 1)[None] / 255).softmax(1)[0].detach().numpy()
    assert np.allclose(scores(model, image, (1.0,))[:, ::8, ::8], expected, atol=1e-6)


# ---- disk ----------------------------------------------------------------------------------------------------------------


def train(data, name: str, wanted: Segmenter, classifier: str | None = None) -> str:
    folder = str(data.folder / name)
    text = canonical(wanted)
    common = {"split": data.split, "masks": data.masks, "weights": None, "classifier": classifier, "made_from": {}}
    train_segmenter(recipe=text, execution=HOW, folder=folder, **common)
    return folder


def predict(data, folder: str, output: str, shard: str = "0-of-1", workers: int = 0, **changes) -> Arrays:
    text = canonical(Predictions(segmenter="s", scales=(1.0,), **{"crf": None, **changes}))
    path, how = str(data.folder / output), {**HOW, "workers": workers}
    model = f"{folder}/model.safetensors"
    predict_shard(split=data.split, model=model, recipe=text, execution=how, shard=shard, output=path, made_from={})
    return Arrays(path)


@pytest.fixture
def trained(data) -> str:
    return train(data, "trained", recipe())


def test_training_writes_all_that_prediction_needs(data, trained):
    found = json.loads((data.folder / "trained" / "model.json").read_text())
    seen = {"channels": "RGB", "range": [0, 1], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    said = {"kind": "segmenter", "mask_values": ["background", *CLASSES], "input": seen}
    assert found == json.loads(json.dumps(description(recipe()))) | said
    rows = list(csv.DictReader((data.folder / "trained" / "history.csv").open()))
    assert [float(row["step"]) for row in rows] == [2]
    assert float(rows[0]["loss"]) == pytest.approx(math.log(3), abs=0.5)
    model = read_segmenter(f"{trained}/model.safetensors")
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_segmenter_goes_on_from_a_classifiers_transformer(data):
    torch.manual_seed(1)
    save_model(data.folder / "classifier", VitClassifier("vit_stem8_96", 2, "half"), {})
    path = str(data.folder / "classifier" / "model.safetensors")
    untrained = recipe(backbone="vit_stem8_96", classifier="acr", stride=16, options={}, training=Training(steps=0))
    folder = train(data, "transformer", untrained, classifier=path)
    found, given = (load_file(f"{each}/model.safetensors") for each in (folder, data.folder / "classifier"))
    shared = {name: tensor for name, tensor in found.items() if name.startswith("backbone.network.")}
    assert shared
    assert all(torch.equal(tensor, given[name.removeprefix("backbone.")]) for name, tensor in shared.items())
    assert read_segmenter(f"{folder}/model.safetensors").stride == 8  # its patches'


def test_training_is_repeatable(data, trained):
    again = train(data, "again", recipe())
    assert (data.folder / "again" / "model.safetensors").read_bytes() == (
        data.folder / "trained" / "model.safetensors"
    ).read_bytes(), again


def test_frozen_norms_stay_as_they_were_and_others_learn(data, trained):
    frozen = read_segmenter(train(data, "frozen", recipe(freeze_norm=True)) + "/model.safetensors").state_dict()
    free = read_segmenter(f"{trained}/model.safetensors").state_dict()
    means = [name for name in frozen if name.endswith("running_mean")]
    assert all((frozen[name] == 0).all() for name in means)
    assert all((free[name] != 0).any() for name in means)


def test_shards_hold_their_images_at_image_size(data, trained):
    whole = predict(data, trained, "whole.npz")
    assert list(whole) == [str(index) for index in range(8)]
    parts = [predict(data, trained, f"{shard}.npz", f"{shard}-of-3") for shard in range(3)]
    assert [list(part) for part in parts] == [["0", "3", "6"], ["1", "4", "7"], ["2", "5"]]
    for part in parts:
        for name in part:
            assert (part[name] == whole[name]).all()
            assert (part[name].shape, part[name].dtype) == ((48, 48), np.uint8)


def test_a_prediction_is_the_best_score_and_the_crf_comes_after_it(data, trained):
    model, settings = read_segmenter(f"{trained}/model.safetensors"), Crf(bilateral_xy=20.0)
    plain, sharpened = predict(data, trained, "plain.npz"), predict(data, trained, "crf.npz", crf=settings)
    parallel = predict(data, trained, "parallel.npz", crf=settings, workers=2)
    for index in range(8):
        image = read_image(data.folder / f"{index}.png")
        expected = scores(model, image, (1.0,))
        assert (plain[str(index)] == expected.argmax(0)).all()
        assert (sharpened[str(index)] == crf_mask(image, expected, settings)).all()
        assert (parallel[str(index)] == sharpened[str(index)]).all()


def test_a_small_segmenter_learns_coloured_discs(data):
    training = Training(steps=60, batch_size=8, optimiser="adamw", learning_rate=0.005, schedule="one_cycle")
    folder = train(data, "learnt", recipe(training=training, augmentations=("hflip", "vflip")))
    model = read_segmenter(f"{folder}/model.safetensors")
    rng = np.random.default_rng(99)  # scenes that were not trained on
    right = total = 0
    for _ in range(10):
        image, mask = scene(rng)
        found = scores(model, image, (1.0,)).argmax(0)
        right, total = right + ((found == mask) & (mask > 0)).sum(), total + ((found > 0) | (mask > 0)).sum()
    assert right / total > 0.6
