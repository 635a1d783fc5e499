"""A transformer taken apart: what it leaves must be what timm's own forward pass computes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from acr.consistency import view_consistency
from acr.models import attention
from acr.models.attention import Heads, Keep, attention_of, gather_and_mean
from acr.models.vit import VitClassifier
from acr.views import HFLIP
from benchmarks import reference


def heads(state: int, images: int = 2, count: int = 3, tokens: int = 5) -> Heads:
    generator = torch.Generator().manual_seed(state)
    shape = (3, images, count, tokens, 4)
    return Heads(*(2 * torch.randn(shape, generator=generator, dtype=torch.float64)).unbind(0))


def plainly(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    weights = (queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5).softmax(-1)
    return weights @ values, weights.mean(1)


@pytest.fixture(params=["kept", "whole", "one head at a time", "one image at a time"])
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How much attention of `heads` is formed at once: 2 images of 3 heads of 5 x 5 numbers."""
    size = {"kept": 0, "whole": 2**20, "one head at a time": 100, "one image at a time": 300}[request.param]
    monkeypatch.setattr(attention, "KEPT", 0 if size else 600)
    monkeypatch.setattr(attention, "PIECE", size)


@pytest.mark.usefixtures("piece")
def test_gathering_in_pieces_is_gathering() -> None:
    for found, expected in zip(gather_and_mean(heads(0)), plainly(*heads(0)), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


@pytest.mark.usefixtures("piece")
@pytest.mark.parametrize("outputs", [(0,), (1,), (0, 1)])
def test_gradients_are_those_of_the_plain_form(outputs: tuple[int, ...]) -> None:
    gradients = []
    for form in (lambda *each: gather_and_mean(Heads(*each)), plainly):
        leaves = [each.clone().requires_grad_() for each in heads(1)]
        made = form(*leaves)
        weights = [torch.linspace(-1, 2, made[output].numel(), dtype=torch.float64).view_as(made[output]) for output in outputs]
        sum((made[output] * weight).sum() for output, weight in zip(outputs, weights, strict=True)).backward()
        gradients.append([torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves])
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


@given(st.integers(0, 999))
@settings(max_examples=20)
def test_rows_of_attention_sum_to_one_and_values_mix_within_their_range(state: int) -> None:
    made = heads(state)
    output, mean = gather_and_mean(made)
    torch.testing.assert_close(mean.sum(-1), torch.ones(2, 5, dtype=torch.float64))
    low, high = made.values.amin(2, keepdim=True), made.values.amax(2, keepdim=True)
    assert ((output >= low - 1e-12) & (output <= high + 1e-12)).all()


def test_attention_of_half_precision_is_summed_in_single() -> None:
    assert attention_of(*(each.half() for each in heads(0)[:2])).dtype == torch.float32
    assert gather_and_mean(Heads(*(each.half() for each in heads(0))))[1].dtype == torch.float32


@pytest.fixture(
    scope="module",
    params=[
        ("deit_tiny_patch16_224", 1),
        ("deit_tiny_distilled_patch16_224", 2),
        ("vit_small_patch14_reg4_dinov2", 5),
        ("vit_stem8_96", 1),
    ],
    ids=lambda param: param[0],
)
def model(request: pytest.FixtureRequest) -> VitClassifier:
    torch.manual_seed(0)
    network = VitClassifier(request.param[0], 3, "native").double().eval().requires_grad_(False)
    assert network.network.num_prefix_tokens == request.param[1]
    for block in network.network.blocks:
        block.attn.qkv.weight *= 8
    return network


@pytest.fixture(scope="module")
def images(model: VitClassifier) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, 2 * model.patch, 3 * model.patch, dtype=torch.float64, generator=generator)


KEPT = {
    "attention": Keep(),
    "no attention": Keep(attention=()),
    "class maps": Keep(class_maps=True),
    "rows": Keep(layers=2),
    "rows, class maps": Keep(layers=2, class_maps=True),
    "rows of half": Keep(layers=2, attention=(0, 2)),
    "rows of all layers": Keep(layers=3),
    "all rows": Keep(layers=3, all_rows=True),
}


@pytest.mark.parametrize("keep", KEPT.values(), ids=KEPT.keys())
def test_what_is_kept_is_what_timm_computes(model: VitClassifier, images: Tensor, keep: Keep) -> None:
    logits, attentions = reference.forward(model.network, model.normalise(images))
    trace = model(images, keep)
    torch.testing.assert_close(trace.logits, logits, rtol=0, atol=1e-12)
    for layer, (found, expected) in enumerate(zip(trace.attentions, attentions, strict=True)):
        if keep.reads(layer):
            torch.testing.assert_close(found, expected.mean(1), rtol=0, atol=1e-12)
        else:
            assert found is None
    count = attentions[0].shape[-1] if keep.all_rows else trace.special
    assert len(trace.rows) == keep.layers
    for found, expected in zip(trace.rows, attentions[len(attentions) - keep.layers :], strict=True):
        torch.testing.assert_close(found, expected[:, :, :count], rtol=0, atol=1e-12)
    if keep.class_maps:
        tokens = model.network.forward_features(model.normalise(images))[:, trace.special :]
        torch.testing.assert_close(trace.class_maps, (tokens @ model.network.head.weight.T).transpose(1, 2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("all_rows", [False, True])
def test_gradients_of_rows_are_those_of_the_whole_graph(
    model: VitClassifier, images: Tensor, layers: int, all_rows: bool
) -> None:
    """The graph that begins at the rows of the first used layer reaches all that depends on them."""
    trace = model(images, Keep(layers=layers, all_rows=all_rows))
    found = torch.autograd.grad(trace.logits[:, 1].sum(), trace.rows)
    model.requires_grad_(True)
    logits, attentions = reference.forward(model.network, model.normalise(images))
    used = attentions[len(attentions) - layers :]
    for gradient, expected in zip(found, torch.autograd.grad(logits[:, 1].sum(), used), strict=True):
        expected = expected[:, :, : gradient.shape[2]]
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
    model.requires_grad_(False)


def test_heads_are_averaged_before_they_are_compared(model: VitClassifier, images: Tensor) -> None:
    """Heads that change places between two views agree on average: the paper compares the mean."""
    trace = model(images)
    layer = model.network.blocks[0].attn
    swapped = layer.qkv.weight.unflatten(0, (3, layer.num_heads, -1)).flip(1).flatten(0, 2)
    kept, layer.qkv.weight.data = layer.qkv.weight.data, swapped
    if layer.qkv.bias is not None:
        bias, layer.qkv.bias.data = layer.qkv.bias.data, layer.qkv.bias.unflatten(0, (3, layer.num_heads, -1)).flip(1).flatten()
    other = model(images).attentions[0]
    layer.qkv.weight.data, layer.qkv.bias.data = kept, bias
    torch.testing.assert_close(other, trace.attentions[0], rtol=0, atol=1e-13)


def test_the_loss_of_two_views_is_that_of_the_published_loops(model: VitClassifier, images: Tensor) -> None:
    if model.network.num_prefix_tokens > 1:
        pytest.skip("the published loops know one special token")
    tags = torch.eye(3, dtype=torch.float64)[:2]
    grid = (2, 3)
    weights = (2.0, 5.0)
    expected = reference.training_loss(model.network, model.normalise(images), tags, weights, grid)
    classification = reference.training_loss(model.network, model.normalise(images), tags, (0.0, 0.0), grid)
    terms = view_consistency(model(images), model(HFLIP.forward(images)), HFLIP)
    found = classification + weights[0] * terms.activation + weights[1] * terms.affinity
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert expected > classification * 1.001
