"""Seeds: equations 7 and 8 against results found on paper, and against finite differences."""

import numpy as np
import pytest
import torch

from acr.images import upsample
from acr.models.trace import Trace
from acr.models.vit import VitClassifier
from acr.recipes import Seeds
from acr.seeds import PRODUCTS, gradient_maps, input_size, localise, mean_affinity, normalise, sharpen
from acr.shapes import Grid

RECIPE = Seeds(classifier="any", image_size=32)


def two_layers(gain: float) -> Trace:
    """Class token 0 + A1 v1, then + A2 v2, scored by two classes; one head, one special token, two patches.

    The logit of class c is w_c (a1 . v1 + a2 . v2), where a1 and a2 are the class rows: its gradient with respect to
    them is w_c v1 and w_c v2, whatever the attentions are.
    """
    attentions = tuple(torch.full((1, 1, 3, 3), 1 / 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    values = torch.tensor([[5.0, 2.0, -3.0], [7.0, -4.0, gain]], dtype=torch.float64)
    token = sum(attention[:, 0, 0] @ value for attention, value in zip(attentions, values, strict=True))
    logits = token[:, None] * torch.tensor([1.0, -2.0], dtype=torch.float64)
    return Trace(logits, attentions, torch.zeros(1, 3, 1), Grid(1, 2), 1)


def test_equation_7_on_paper() -> None:
    maps = gradient_maps(two_layers(6.0), (0, 1), layers=2)
    # class 0: relu(2, -3) and relu(-4, 6), averaged; class 1: relu(-4, 6) and relu(8, -12)
    assert maps.tolist() == [[[1.0, 3.0]], [[4.0, 3.0]]]
    assert gradient_maps(two_layers(6.0), (1,), layers=1).tolist() == [[[8.0, 0.0]]]


def test_negative_values_are_removed_head_by_head() -> None:
    attention = torch.full((1, 2, 2, 2), 0.5, requires_grad=True)
    logits = (attention[:, 0, 0, 1] * 3 - attention[:, 1, 0, 1] * 3)[:, None]
    trace = Trace(logits, (attention,), torch.zeros(1, 2, 1), Grid(1, 1), 1)
    assert gradient_maps(trace, (0,), 1).tolist() == [[[1.5]]]


def test_equation_8_multiplies_the_map_by_the_affinity() -> None:
    maps = torch.tensor([[[1.0, 2.0]]])
    affinity = torch.tensor([[[0.9, 0.1], [0.5, 0.5]]])
    assert torch.allclose(PRODUCTS["map_times_affinity"](maps, affinity), torch.tensor([[[1.9, 1.1]]]))
    assert torch.allclose(PRODUCTS["affinity_times_map"](maps, affinity), torch.tensor([[[1.1, 1.5]]]))


def test_mean_affinity_averages_heads_and_layers() -> None:
    first, second = torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3)
    second[0, 0, 1:, 1:] = torch.tensor([[0.2, 0.6], [0.1, 0.3]])
    second[0, 1, 1:, 1:] = torch.tensor([[0.4, 0.2], [0.1, 0.3]])
    trace = Trace(torch.zeros(1, 1), (first, second), torch.zeros(1, 3, 1), Grid(1, 2), 1)
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


def test_gradients_equal_finite_differences(small: VitClassifier) -> None:
    """Eq. 7's gradient is total: what an earlier attention changes in later ones counts."""
    images = torch.rand(1, 3, 32, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    trace = small(images, differentiate_from=10)
    (gradient,) = torch.autograd.grad(trace.logits[:, 2].sum(), trace.attentions[10:11])
    for head, patch in [(0, 1), (2, 6)]:
        change = torch.zeros_like(gradient)
        change[0, head, 0, patch] = 1e-5
        layer = small.network.blocks[10].attn.attn_drop

        def shifted(sign: int, layer: torch.nn.Module = layer, change: torch.Tensor = change) -> float:
            handle = layer.register_forward_hook(lambda module, inputs, output: output + sign * change)
            with torch.no_grad():
                logit = float(small(images).logits[0, 2])
            handle.remove()
            return logit

        numeric = (shifted(1) - shifted(-1)) / 2e-5
        assert float(gradient[0, head, 0, patch]) == pytest.approx(numeric, rel=1e-6, abs=1e-9)


def test_the_graph_that_begins_at_the_first_used_layer_gives_the_same_maps(small: VitClassifier) -> None:
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    short = gradient_maps(small(images, differentiate_from=9), (0, 2), 3)
    whole = gradient_maps(small(images, differentiate_from=0), (0, 2), 3)
    assert torch.allclose(short, whole, atol=1e-14, rtol=1e-12)


@pytest.mark.parametrize("refine", [False, True])
def test_maps_of_a_mirrored_image_are_mirrored(small: VitClassifier, refine: bool) -> None:
    image = torch.rand(3, 32, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    recipe = Seeds(classifier="any", refine=refine)
    maps, mirrored = localise(small, image, (1,), recipe), localise(small, image.flip(-1), (1,), recipe)
    assert maps.shape == (1, 2, 3)
    assert torch.allclose(maps.flip(-1), mirrored, atol=1e-9)
    assert maps.min() == 0
    assert maps.max() == 1
