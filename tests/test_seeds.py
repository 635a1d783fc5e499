"""Seeds: equations 7 and 8 against results found on paper, and against finite differences."""

import copy
import itertools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from acr import seeds
from acr.config import canonical
from acr.datasets.base import Record, read_split, write_split
from acr.files import Arrays, write_resumably
from acr.images import read_image, resize_image, upsample, write_image
from acr.localisation import METHODS, asked, gradient_maps
from acr.models.attention import Keep
from acr.models.trace import Trace
from acr.models.vit import VitClassifier
from acr.recipes import Seeds
from acr.seeds import (
    PRODUCTS,
    fuse,
    input_size,
    localise,
    localise_photograph,
    mean_affinity,
    normalise,
    seed_shard,
    sharpen,
    with_corners,
    with_depth,
)
from acr.shapes import Grid
from benchmarks import reference

RECIPE = Seeds(classifier="any", image_size=32)


def localise_one(model: VitClassifier, image: torch.Tensor, classes: tuple[int, ...], recipe: Seeds) -> torch.Tensor:
    """Maps "K h w" of one image."""
    return localise(model, image[None], [classes], recipe)[:, 0]


def two_layers(gain: float) -> Trace:
    """Class token 0 + A1 v1, then + A2 v2, scored by two classes; one head, one special token, two patches.

    The logit of class c is w_c (a1 . v1 + a2 . v2), where a1 and a2 are the class rows: its gradient with respect to
    them is w_c v1 and w_c v2, whatever the attentions are.
    """
    attentions = tuple(torch.full((1, 1, 3, 3), 1 / 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    values = torch.tensor([[5.0, 2.0, -3.0], [7.0, -4.0, gain]], dtype=torch.float64)
    token = sum(attention[:, 0, 0] @ value for attention, value in zip(attentions, values, strict=True))
    logits = token[:, None] * torch.tensor([1.0, -2.0], dtype=torch.float64)
    return Trace(logits, (), attentions, None, Grid(1, 2), 1)


def test_equation_7_on_paper() -> None:
    maps = gradient_maps(two_layers(6.0), asked([(0, 1)]), layers=2)
    # class 0: relu(2, -3) and relu(-4, 6), averaged; class 1: relu(-4, 6) and relu(8, -12)
    assert maps.tolist() == [[[1.0, 3.0]], [[4.0, 3.0]]]
    assert gradient_maps(two_layers(6.0), asked([(1,)]), layers=1).tolist() == [[[8.0, 0.0]]]


def test_negative_values_are_removed_head_by_head() -> None:
    attention = torch.full((1, 2, 2, 2), 0.5, requires_grad=True)
    logits = (attention[:, 0, 0, 1] * 3 - attention[:, 1, 0, 1] * 3)[:, None]
    trace = Trace(logits, (), (attention,), None, Grid(1, 1), 1)
    assert gradient_maps(trace, asked([(0,)]), 1).tolist() == [[[1.5]]]


def test_equation_8_multiplies_the_map_by_the_affinity() -> None:
    maps = torch.tensor([[[1.0, 2.0]]])
    affinity = torch.tensor([[[0.9, 0.1], [0.5, 0.5]]])
    assert torch.allclose(PRODUCTS["map_times_affinity"](maps, affinity), torch.tensor([[[1.9, 1.1]]]))
    assert torch.allclose(PRODUCTS["affinity_times_map"](maps, affinity), torch.tensor([[[1.1, 1.5]]]))


def test_mean_affinity_averages_layers() -> None:
    first, second = torch.zeros(1, 3, 3), torch.zeros(1, 3, 3)
    second[0, 1:, 1:] = torch.tensor([[0.3, 0.4], [0.1, 0.3]])
    trace = Trace(torch.zeros(1, 1), (first, second), (), None, Grid(1, 2), 1)
    assert torch.allclose(mean_affinity(trace, [-1], 1.0), torch.tensor([[[0.3, 0.4], [0.1, 0.3]]]))
    assert torch.allclose(mean_affinity(trace, [0, 1], 1.0), torch.tensor([[[0.15, 0.2], [0.05, 0.15]]]))
    # squared: 9 : 16 and 1 : 9
    assert torch.allclose(mean_affinity(trace, [1], 2.0), torch.tensor([[[0.36, 0.64], [0.1, 0.9]]]))


def test_sharpening_survives_tiny_affinities() -> None:
    assert torch.allclose(sharpen(torch.full((1, 2, 2), 1e-30), 8.0), torch.full((1, 2, 2), 0.5))


def test_normalise_maps_from_zero_to_one_and_a_constant_to_zero() -> None:
    maps = torch.tensor([[[2.0, 4.0, 3.0]], [[5.0, 5.0, 5.0]]])
    assert normalise(maps).tolist() == [[[0.0, 1.0, 0.5]], [[0.0, 0.0, 0.0]]]


def test_input_size_keeps_area_and_aspect_in_whole_patches() -> None:
    assert input_size(375, 500, 16, Seeds(classifier="any", image_size=384)) == (336, 448)
    assert input_size(500, 500, 16, Seeds(classifier="any", image_size=384)) == (384, 384)
    assert input_size(1, 4000, 16, Seeds(classifier="any", image_size=32))[0] == 16
    assert input_size(375, 500, 16, Seeds(classifier="any", image_size=384, aspect="square")) == (384, 384)


def test_upsample_uses_half_pixel_centres() -> None:
    maps = np.array([[[0.0, 1.0]]], np.float32)
    assert np.allclose(upsample(maps, 1, 4), [[[0.0, 0.25, 0.75, 1.0]]])


@pytest.fixture(scope="module")
def small() -> VitClassifier:
    torch.manual_seed(0)
    model = VitClassifier("deit_tiny_patch16_224", 3, "native").double().eval().requires_grad_(False)
    # random weights of the usual size give attention too even to tell a wrong gradient by
    for block in model.network.blocks:
        block.attn.qkv.weight *= 8
    model.network.head.weight.normal_()
    return model


def test_equation_7_equals_finite_differences(small: VitClassifier) -> None:
    """Every head and patch of two layers; the gradient is total: what an earlier attention changes in later ones counts."""
    images = torch.rand(1, 3, 32, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    trace = small(images, Keep(layers=2))
    heads, patches, step = 3, 6, 1e-5
    # one copy of the image for each entry of the class-to-patch attention, shifted in that entry in timm's own forward pass
    shifts = torch.zeros(heads * patches, heads, 7, 7, dtype=torch.float64)
    shifts[:, :, 0, 1:] = step * torch.eye(heads * patches, dtype=torch.float64).view(-1, heads, patches)

    def shifted(layer: int, sign: int) -> torch.Tensor:
        attention = small.network.blocks[layer].attn
        attention.fused_attn = False
        handle = attention.attn_drop.register_forward_hook(lambda module, inputs, output: output + sign * shifts)
        with torch.no_grad():
            logits = small.network(small.normalise(images.expand(len(shifts), -1, -1, -1)))[:, 2]
        handle.remove()
        return logits.view(heads, patches)

    numeric = [(shifted(layer, 1) - shifted(layer, -1)) / (2 * step) for layer in (10, 11)]
    gradients = torch.autograd.grad(trace.logits[:, 2].sum(), trace.rows, retain_graph=True)
    for expected, gradient in zip(numeric, gradients, strict=True):
        torch.testing.assert_close(gradient[0, :, 0, 1:], expected, rtol=1e-6, atol=1e-8)
    expected = torch.stack([gradient.clamp(min=0).mean(0) for gradient in numeric]).mean(0)
    torch.testing.assert_close(gradient_maps(trace, asked([(2,)]), 2)[0, 0], expected, rtol=1e-6, atol=1e-8)


def test_the_graph_that_begins_at_the_first_used_layer_gives_the_same_maps(small: VitClassifier) -> None:
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    short = gradient_maps(small(images, Keep(layers=3)), asked([(0, 2)] * 2), 3)
    whole = gradient_maps(small(images, Keep(layers=12, all_rows=True)), asked([(0, 2)] * 2), 3)
    assert torch.allclose(short, whole, atol=1e-14, rtol=1e-12)


def test_negative_values_may_be_removed_layer_by_layer() -> None:
    first, second = (torch.full((1, 2, 2, 2), 0.5, requires_grad=True) for _ in range(2))
    # heads 3 and -1 in the first layer, -4 and 2 in the second: means 1 and -1
    logits = (first[:, 0, 0, 1] * 3 - first[:, 1, 0, 1] - second[:, 0, 0, 1] * 4 + second[:, 1, 0, 1] * 2)[:, None]
    trace = Trace(logits, (), (first, second), None, Grid(1, 1), 1)
    assert gradient_maps(trace, asked([(0,)]), 2, "layers").tolist() == [[[0.5]]]
    assert gradient_maps(trace, asked([(0,)]), 2, "heads").tolist() == [[[1.25]]]


def test_one_scale_is_the_photograph_itself_and_two_are_averaged(small: VitClassifier) -> None:
    photograph = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    recipe = Seeds(classifier="any", image_size=64, layers=2)
    model = copy.deepcopy(small).float()
    single = localise_photograph(model, photograph, (1,), replace(recipe, scales=(1.0,)))
    twice = localise_photograph(model, photograph, (1,), replace(recipe, scales=(1.0, 1.0)))
    assert np.allclose(single.astype(np.float32), twice.astype(np.float32), atol=1e-3)
    other = localise_photograph(model, photograph, (1,), replace(recipe, scales=(1.0, 0.5)))
    assert other.shape == single.shape
    assert np.abs(other.astype(np.float32) - single.astype(np.float32)).max() > 0.01


def test_maps_of_two_scales_by_hand() -> None:
    maps = fuse([torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[1.0]]])])
    # (0 + 1) / 2 and (1 + 1) / 2, from 0 to 1
    assert maps.tolist() == [[[0.0, 1.0]]]
    maps = fuse([torch.tensor([[[0.0, 1.0, 0.5]]]), torch.tensor([[[1.0, 0.0, 0.0]]])])
    assert torch.allclose(maps, torch.tensor([[[1.0, 1.0, 0.0]]]))


def test_corners_lie_on_the_corners_of_the_image() -> None:
    maps = torch.rand(2, 5, 7, generator=torch.Generator().manual_seed(0))
    official = torch.nn.functional.interpolate(maps[None], (100, 150), mode="bilinear", align_corners=True)[0].numpy()
    ours = upsample(with_corners(maps).numpy(), 100, 150)
    usual = upsample(maps.numpy(), 100, 150)
    assert np.abs(ours - official).mean() < 0.01
    assert np.abs(ours - official).max() < 0.13
    assert np.abs(usual - official).max() > 0.25
    # a slope is a slope, up to the last cells: half of one there is beyond the outermost centre
    slope = torch.linspace(0, 1, 5).expand(1, 3, 5)
    expected = np.clip(np.linspace(0, 1, 100), 1 / 40, 1 - 1 / 40)
    assert np.allclose(upsample(with_corners(slope).numpy(), 30, 100)[0, 0], expected, atol=6e-3)


def test_layers_that_the_network_lacks_are_refused(small: VitClassifier) -> None:
    recipe = Seeds(classifier="any", layers=None, affinity_layers="all")
    assert (with_depth(recipe, small).layers, with_depth(recipe, small).affinity_layers) == (12, tuple(range(12)))
    with pytest.raises(ValueError, match=r"^layers is 13, but the classifier has 12; give at most as many, or null for all$"):
        with_depth(replace(recipe, layers=13), small)
    with pytest.raises(ValueError, match=r"^affinity_layers names 12, but the classifier's last layer is 11; name layers"):
        with_depth(replace(recipe, affinity_layers=(0, 12)), small)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_gives_mirrored_maps_for_a_mirrored_image(small: VitClassifier, method: str) -> None:
    image = torch.rand(3, 32, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    recipe = Seeds(classifier="any", method=method, layers=3, refine=False)
    maps, mirrored = localise_one(small, image, (1, 2), recipe), localise_one(small, image.flip(-1), (1, 2), recipe)
    assert torch.allclose(maps.flip(-1), mirrored, atol=1e-9)
    assert not maps.requires_grad
    assert (maps.amin((1, 2)) == 0).all()
    assert set(maps.amax((1, 2)).tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("refine", [False, True])
def test_maps_of_a_mirrored_image_are_mirrored(small: VitClassifier, refine: bool) -> None:
    image = torch.rand(3, 32, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    recipe = Seeds(classifier="any", refine=refine)
    maps, mirrored = localise_one(small, image, (1,), recipe), localise_one(small, image.flip(-1), (1,), recipe)
    assert maps.shape == (1, 2, 3)
    assert torch.allclose(maps.flip(-1), mirrored, atol=1e-9)
    assert maps.min() == 0
    assert maps.max() == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "special"),
    [
        ("deit_tiny_patch16_224", 1),
        ("deit_small_patch16_224", 1),
        ("deit_base_patch16_224", 1),
        ("vit_base_patch16_224", 1),
        ("deit_tiny_distilled_patch16_224", 2),
        ("vit_small_patch14_reg4_dinov2", 5),
        ("vit_base_r50_s16_384", 1),
    ],
)
def test_every_backbone_gives_maps_on_a_rectangular_grid(backbone: str, special: int) -> None:
    torch.manual_seed(0)
    model = VitClassifier(backbone, 2, "native").eval().requires_grad_(False)
    model.network.head.weight.normal_()
    side = model.patch
    image = torch.rand(3, 2 * side, 3 * side, generator=torch.Generator().manual_seed(0))
    trace = model(image[None])
    assert (trace.special, trace.grid) == (special, Grid(2, 3))
    for attention in trace.attentions:
        assert torch.allclose(attention.sum(-1), torch.ones(()), atol=1e-4)
    maps = localise_one(model, image, (0, 1), Seeds(classifier="any"))
    mirrored = localise_one(model, image.flip(-1), (0, 1), Seeds(classifier="any"))
    assert torch.allclose(maps.flip(-1), mirrored, atol=2e-2)
    assert (maps.amax((1, 2)) == 1).all()


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_batch_of_images_of_one_size_gives_the_maps_of_each(small: VitClassifier, method: str) -> None:
    """Each image has classes of its own, and another number of them."""
    images = torch.rand(3, 3, 32, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    classes = [(1,), (2, 0), (0, 1, 2)]
    recipe = replace(RECIPE, method=method, layers=3, refine=method == "gradient", affinity_layers=(0, 11))
    together = localise(small, images, classes, recipe)
    for number, each in enumerate(classes):
        alone = localise_one(small, images[number], each, recipe)
        torch.testing.assert_close(together[: len(each), number], alone, rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("classes", [(4,), (4, 1)])
@pytest.mark.parametrize("backbone", ["deit_tiny_patch16_224", "vit_tiny_r_s16_p8_224"])
def test_seeds_are_those_of_the_published_form(backbone: str, classes: tuple[int, ...]) -> None:
    """One whole backward pass for each class and each of the two images, in float64."""
    torch.manual_seed(0)
    model = VitClassifier(backbone, 5, "native").double().eval()
    with torch.no_grad():
        for block in model.network.blocks:
            block.attn.qkv.weight *= 8
        model.network.head.weight.normal_()
    side = model.patch
    image = torch.rand(3, 4 * side, 6 * side, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    expected = reference.seed(model.network, model.normalise(image[None])[0], classes, 2, (4, 6))
    recipe = with_depth(replace(RECIPE, layers=2, affinity_layers="all", product="affinity_times_map"), model)
    found = localise_one(model.requires_grad_(False), image, classes, recipe)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.05


def test_photographs_localised_together_keep_their_order_and_maps(trained: dict[str, str], tmp_path: Path) -> None:
    """Two sizes by turns, one photograph without tags: each batch is sorted by size and put back."""
    split = read_split(trained["split"])
    records = []
    for number in range(5):
        picture = resize_image(read_image(split.records[number % len(split.records)].image), *((32, 48), (48, 32))[number % 2])
        write_image(tmp_path / f"{number}.png", picture)
        labels = () if number == 3 else split.classes[: 1 + number % 3]
        records.append(Record(f"photograph_{number}", tmp_path / f"{number}.png", None, labels))
    write_split(tmp_path / "train.csv", replace(split, records=tuple(records)))
    shutil.copy(Path(trained["split"]).with_name("classes.txt"), tmp_path)
    call = {"split": str(tmp_path / "train.csv"), "model": trained["model"], "shard": "0-of-1", "made_from": {}}
    made = []
    for batch in (1, 4):
        output = tmp_path / f"{batch}.npz"
        seed_shard(**call, recipe=canonical(RECIPE), execution={"device": "cpu", "batch": batch}, output=str(output))
        made.append(Arrays(output))
    assert list(made[0]) == list(made[1]) == [record.image_id for record in records]
    for name, record in zip(made[0], records, strict=True):
        assert made[0][name].shape == made[1][name].shape
        assert len(made[0][name]) == len(record.labels)
        assert np.abs(made[0][name].astype(np.float32) - made[1][name].astype(np.float32)).max(initial=0) < 2e-3


def test_an_interrupted_batch_is_made_again_as_a_whole(
    trained: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shard goes on behind its last map with the same bytes, and each photograph is in the batch it was in."""
    call = {**trained, "recipe": canonical(RECIPE), "execution": {"device": "cpu", "batch": 3}, "shard": "0-of-1"}
    seed_shard(**call, made_from={}, output=str(tmp_path / "whole.npz"))

    class CutOffError(Exception):
        pass

    def cut(arrays: Callable) -> Callable:
        def some(first: int) -> Iterator[np.ndarray]:
            yield from itertools.islice(arrays(first), 2)
            raise CutOffError

        return some

    monkeypatch.setattr(seeds, "write_resumably", lambda *args: write_resumably(*args[:-1], cut(args[-1])))
    with pytest.raises(CutOffError):
        seed_shard(**call, made_from={}, output=str(tmp_path / "cut.npz"))
    monkeypatch.undo()
    sizes, of_batch = [], seeds._of_batch
    monkeypatch.setattr(seeds, "_of_batch", lambda *args: sizes.append(len(args[2])) or of_batch(*args))
    seed_shard(**call, made_from={}, output=str(tmp_path / "cut.npz"))
    assert sizes == [3, 1]  # of four photographs, of which two were there
    assert (tmp_path / "cut.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
