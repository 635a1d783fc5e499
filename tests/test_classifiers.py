"""Classifiers: the loss of equation 6, the samples, and a network that learns."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.layers import StdConv2d, StdConv2dSame
from torch.nn import functional

from acr.augmentations import random_window
from acr.classifiers import Objective, Sample, measure_classifier, predict_tags, read_classifier, train_classifier, two_views
from acr.config import canonical
from acr.consistency import class_map_consistency, view_consistency
from acr.datasets.base import read_split
from acr.datasets.catalogue import fetch_dataset, write_splits
from acr.files import read_json
from acr.images import image_size
from acr.models.attention import Keep
from acr.models.mctformer import MctFormer
from acr.models.trace import Trace
from acr.models.vit import VitClassifier
from acr.recipes import Classifier, Execution, Textures, Training
from acr.shapes import Grid
from acr.views import HFLIP, IDENTITY, resize
from benchmarks import reference

RECIPE = Classifier(
    backbone="vit_stem8_96",
    image_size=32,
    long_side=(1.0, 1.0),
    activation=3.0,
    affinity=5.0,
    training=Training(steps=2, batch_size=2, optimiser="adamw", learning_rate=1e-3),
)


@pytest.fixture(scope="module")
def model() -> VitClassifier:
    torch.manual_seed(0)
    return VitClassifier("vit_stem8_96", 5, "native").eval()


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifiers")
    data = canonical(Textures(root=str(folder / "data"), train_images=6, val_images=2, size=32))
    fetch_dataset(recipe=data, execution={}, manifest=folder / "source.json")
    write_splits(recipe=data, execution={"workers": 0}, manifest=folder / "source.json", drawn=None, folder=folder)
    return folder / "train.csv"


def test_seam_star_compares_class_maps_of_the_classes_present() -> None:
    maps = torch.tensor([[[4.0, 2.0, -1.0, 0.0], [1.0, 1.0, 1.0, 1.0]]])
    other = torch.tensor([[[0.0, -3.0, 1.0, 2.0], [9.0, 0.0, 0.0, 0.0]]])
    one, two = (Trace(torch.zeros(1, 2), (), (), each, Grid(1, 4), 1) for each in (maps, other))
    tags = torch.tensor([[1.0, 0.0]])
    # (1, .5, 0, 0) against (0, 0, .5, 1) mirrored back
    assert class_map_consistency(one, two, HFLIP, tags) == pytest.approx(0.0)
    assert class_map_consistency(one, two, IDENTITY, tags) == pytest.approx((1 + 0.5 + 0.5 + 1) / 4)
    # both classes: (1, 1, 1, 1) against (0, 0, 0, 1) mirrored back from (1, 0, 0, 0)
    assert class_map_consistency(one, two, HFLIP, torch.ones(1, 2)) == pytest.approx(0.75 / 2)
    assert class_map_consistency(one, two, HFLIP, torch.zeros(1, 2)) == 0


def test_seam_star_has_its_term_in_place_of_attention_s(model: VitClassifier) -> None:
    batch = {
        "image": torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8),
        "tags": torch.eye(5)[:2],
        "step": torch.tensor(0),
    }
    recipe = replace(RECIPE, activation=0.0, affinity=0.0, class_maps=2.0)
    terms = Objective(model, recipe)(batch)
    assert torch.allclose(terms["loss"], terms["classification"] + 2 * terms["class_maps"])
    # the maps learn the tags, or they would agree best where all are zero
    assert terms["classification"] > Objective(model, RECIPE)(batch)["classification"] * 1.5
    assert "class_maps" not in Objective(model, RECIPE)(batch)


def test_every_head_learns_the_tags() -> None:
    torch.manual_seed(0)
    model, tags = MctFormer("vit_stem8_96", 5, "native").eval(), torch.eye(5)[:2]
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    terms = Objective(model, replace(RECIPE, views=("identity",)))({"image": images, "tags": tags, "step": torch.tensor(0)})
    trace = model(images.float() / 255, Keep(class_maps=True))
    heads = (trace.logits, trace.class_maps.mean(-1))
    once = sum(functional.multilabel_soft_margin_loss(logits, tags) for logits in heads)
    assert torch.allclose(terms["classification"], 2 * once, atol=1e-5)


def test_tokens_before_the_final_norm_are_those_of_the_last_block() -> None:
    torch.manual_seed(0)
    model = VitClassifier("vit_stem8_96", 5, "native", tokens="pre_norm").eval()
    images, seen = torch.rand(1, 3, 32, 32), []
    model.network.blocks[-1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    model.network(model.normalise(images))  # as timm has it
    trace = model(images, Keep(class_maps=True))
    assert torch.allclose(trace.logits, model.network.head(seen[0][:, 0]), atol=1e-5)
    assert torch.allclose(trace.class_maps[0].T, seen[0][0, 1:] @ model.network.head.weight.T, atol=1e-5)


def test_class_maps_leave_the_bias_out() -> None:
    """It lifts or lowers a map as a whole, which decides what of it is above zero: CAM has none."""
    torch.manual_seed(0)
    model = VitClassifier("vit_stem8_96", 5, "native").eval()
    images = torch.rand(1, 3, 32, 32)
    before = model(images, Keep(class_maps=True))
    with torch.no_grad():
        model.network.head.bias += 3
    after = model(images, Keep(class_maps=True))
    assert torch.equal(before.class_maps, after.class_maps)
    assert torch.allclose(after.logits - before.logits, torch.full((1, 5), 3.0), atol=1e-5)


def test_a_hybrid_s_convolutions_take_the_recipe_s_epsilon() -> None:
    model = VitClassifier("vit_small_r26_s32_224", 2, "native", standardisation_epsilon=1e-5)
    found = [module.eps for module in model.modules() if isinstance(module, StdConv2d | StdConv2dSame)]
    assert found
    assert set(found) == {1e-5}


@pytest.mark.parametrize(
    ("backbone", "reason"),
    [
        ("resnet10t", "which has no class token or only one size of images"),
        ("vit_base_patch16_siglip_224", "which has no class token"),
        ("vit_small_patch16_36x1_224", None),
        ("vit_small_patch16_18x2_224", "whose blocks do not show their attention"),
        ("vit_relpos_small_patch16_224", "which"),
        ("beit_base_patch16_224", "which has no class token or only one size of images"),
        ("swin_tiny_patch4_window7_224", "which has no class token or only one size of images"),
        ("deit_tiny_patch16_225", "which timm does not know"),
    ],
)
def test_any_vit_by_name_or_a_clear_sentence(backbone: str, reason: str | None) -> None:
    if reason is None:
        assert VitClassifier(backbone, 2, "native").class_tokens == 1
    else:
        with pytest.raises(ValueError, match=rf"^backbone is '{backbone}', {reason}[^\n]*$"):
            VitClassifier(backbone, 2, "native")


def test_one_forward_pass_of_both_views_equals_two(model: VitClassifier) -> None:
    images = torch.rand(2, 3, 32, 48)
    trace, viewed = two_views(model, images, HFLIP)
    for one, other in ((trace, model(images)), (viewed, model(images.flip(-1)))):
        assert torch.allclose(one.logits, other.logits, atol=1e-5)
        assert torch.allclose(one.attentions[2], other.attentions[2], atol=1e-6)


def test_a_view_of_another_size_is_a_pass_of_its_own(model: VitClassifier) -> None:
    view = resize(Grid(6, 3), Grid(4, 4))
    trace, viewed = two_views(model, torch.rand(1, 3, 32, 32), view)
    assert (trace.grid, viewed.grid) == (Grid(4, 4), Grid(6, 3))
    assert torch.isfinite(view_consistency(trace, viewed, view).affinity)


def test_equation_6(model: VitClassifier) -> None:
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    tags = torch.tensor([[1.0, 0, 0, 1, 0], [0, 1, 0, 0, 0]])
    terms = Objective(model, RECIPE)({"image": images, "tags": tags, "step": torch.tensor(0)})
    one, two = model(images / 255), model((images / 255).flip(-1))
    consistency = view_consistency(one, two, HFLIP)
    classification = sum(functional.binary_cross_entropy_with_logits(side.logits, tags) for side in (one, two))
    assert terms["classification"].item() == pytest.approx(classification.item(), rel=1e-5)
    expected = classification + 3 * consistency.activation + 5 * consistency.affinity
    assert terms["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_identity_view_has_no_consistency_loss(model: VitClassifier) -> None:
    objective = Objective(model, replace(RECIPE, views=("identity",)))
    images = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    terms = objective({"image": images, "tags": torch.zeros(1, 5), "step": torch.tensor(3)})
    assert float(terms["activation"]) == pytest.approx(0, abs=1e-8)
    assert float(terms["affinity"]) == pytest.approx(0, abs=1e-8)


def test_a_sample_is_a_padded_crop_and_its_tags(split: Path) -> None:
    data = read_split(split)
    sample = Sample(data, replace(RECIPE, long_side=(0.5, 0.5), augmentations=()), (9, 8, 7))(0, np.random.default_rng(0))
    assert sample["image"].shape == (3, 32, 32)
    filled = (sample["image"] == np.array([9, 8, 7], np.uint8)[:, None, None]).all(0)
    assert 32 * 32 - 16 * 16 <= filled.sum() < 32 * 32
    assert [data.classes[index] for index in np.flatnonzero(sample["tags"])] == sorted(
        data.records[0].labels, key=data.classes.index
    )


def test_a_sample_is_what_single_precision_would_give_to_half_a_grey_level(split: Path) -> None:
    data, recipe = read_split(split), replace(RECIPE, long_side=(0.9, 0.9), augmentations=())
    path = data.records[1].image
    found = Sample(data, recipe, (0, 0, 0))(1, np.random.default_rng(0))["image"]
    sides = image_size(path)
    rng = np.random.default_rng(0)
    scale = recipe.image_size * rng.uniform(*recipe.long_side) / max(sides)
    window = random_window(rng, *(round(scale * side) for side in sides), recipe.image_size)
    expected = reference.normalised_crop(path, scale, window, recipe.image_size, (0, 0, 0), (1, 1, 1))
    assert scale < 1
    np.testing.assert_allclose(found, 255 * expected.numpy(), atol=0.51)


def test_a_trained_classifier_is_read_back_as_it_was(split: Path, tmp_path: Path) -> None:
    folder = tmp_path / "classifier"
    arguments = {
        "split": str(split),
        "weights": None,
        "recipe": canonical(RECIPE),
        "execution": {"workers": 0},
        "made_from": {},
    }
    train_classifier(folder=str(folder), **arguments)
    assert sorted(path.name for path in folder.iterdir()) == ["history.csv", "model.json", "model.safetensors"]
    network = read_classifier(folder / "model.safetensors")
    assert not any(parameter.requires_grad for parameter in network.parameters())
    train_classifier(folder=str(tmp_path / "again"), **arguments)
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    scores = predict_tags(read_split(split), str(folder / "model.safetensors"), Execution(workers=0))
    assert scores.shape == (6, 5)
    common = {"split": str(split), "recipe": canonical(RECIPE), "execution": {}, "dataset": "toy", "name": "acr"}
    measure_classifier(model=str(folder / "model.safetensors"), output=str(tmp_path / "m.json"), **common)
    content = read_json(tmp_path / "m.json")
    known = [value for value in content["average_precision"].values() if value is not None]
    assert content["mean_average_precision"] == pytest.approx(np.mean(known))
    assert (content["stage"], content["recipe"], content["split"], content["images"]) == ("classifiers", "acr", "train", 6)
