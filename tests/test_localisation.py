"""The methods that Eq. 7 is compared with: numbers found on paper, cases in which two must coincide, and dense matrices."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from acr import localisation
from acr.localisation import compete
from acr.models.attention import Keep
from acr.models.trace import Trace
from acr.models.vit import VitClassifier
from acr.shapes import Grid


def of_all(maps: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The method with the same classes for all images."""

    def asked(trace: Trace, classes: Sequence[int], *rest: int, **named: str) -> Tensor:
        return maps(trace, localisation.asked([classes] * len(trace.logits)), *rest, **named)

    return asked


cam_maps, class_attention_maps, generic_maps = map(
    of_all, (localisation.cam_maps, localisation.class_attention_maps, localisation.generic_maps)
)
grad_cam_maps, gradient_maps, ts_cam_maps = map(
    of_all, (localisation.grad_cam_maps, localisation.gradient_maps, localisation.ts_cam_maps)
)
METHODS: dict[str, Callable[[Trace, Sequence[int], int], Tensor]] = {
    "gradient": gradient_maps,
    "gradient of means": partial(gradient_maps, rectify="layers"),
    "cam": lambda trace, classes, layers: cam_maps(trace, classes),
    "ts_cam": ts_cam_maps,
    "grad_cam": grad_cam_maps,
    "generic": generic_maps,
    "class_attention": class_attention_maps,
}


def linear(attentions: Tensor, gradients: Tensor, class_maps: Tensor, special: int = 1, class_tokens: int = 1) -> Trace:
    """A trace of which the gradients are given: the logit of class c is the sum of gradients[c] * attentions.

    Attentions are "L A N N", gradients "C L A N N" and class maps "C P"; there is one image.
    """
    leaves = tuple(layer[None].clone().requires_grad_() for layer in attentions.double())
    logits = sum((leaf * layer).sum((1, 2, 3)) for leaf, layer in zip(leaves, gradients.double().transpose(0, 1), strict=True))
    grid = Grid(1, attentions.shape[-1] - special)
    means = tuple(leaf.mean(1) for leaf in leaves)
    return Trace(logits[None], means, leaves, class_maps[None].double(), grid, special, class_tokens)


def of_patches(rows: list) -> Tensor:
    """Matrices of one class token and two patches of which only the class-to-patch entries count; the others would show."""
    entries = torch.tensor(rows)
    matrices = torch.full((*entries.shape[:-1], 3, 3), 100.0)
    matrices[..., 0, 1:] = entries
    return matrices


# two layers of two heads
ATTENTIONS = [[[0.5, 0.25], [0.125, 0.5]], [[0.25, 0.25], [0.75, 0.25]]]
GRADIENTS = [[[4.0, -2.0], [-3.0, -1.0]], [[1.0, 3.0], [-3.0, 1.0]]]
CLASS_MAPS = torch.tensor([[2.0, -4.0], [-1.0, 8.0]])


def by_hand() -> Trace:
    """The second class has the negative gradients of the first."""
    return linear(of_patches(ATTENTIONS), torch.stack([of_patches(GRADIENTS), -of_patches(GRADIENTS)]), CLASS_MAPS)


@pytest.mark.parametrize(
    ("method", "layers", "first", "second"),
    [
        # heads of layer 1, negatives removed: (4, 0), (0, 0); of layer 2: (1, 3), (0, 1); the means are (2, 0), (0.5, 2)
        # the other class: (0, 2), (3, 1) and (0, 0), (3, 0), with means (1.5, 1.5), (1.5, 0)
        ("gradient", 2, [1.25, 1.0], [1.5, 0.75]),
        ("gradient", 1, [0.5, 2.0], [1.5, 0.0]),
        # the means of the heads are (0.5, -1.5) and (-1, 2): each layer loses its negatives, then the mean of the two
        ("gradient of means", 2, [0.25, 1.0], [0.5, 0.75]),
        ("gradient of means", 1, [0.0, 2.0], [1.0, 0.0]),
        ("cam", 2, [2.0, 0.0], [0.0, 8.0]),
        # mean attention of layer 1: (0.3125, 0.375), of layer 2: (0.5, 0.25), of both: (0.40625, 0.3125)
        ("ts_cam", 2, [0.8125, -1.25], [-0.40625, 2.5]),
        ("ts_cam", 1, [1.0, -1.0], [-0.5, 2.0]),
        ("class_attention", 2, [0.8125, 0.0], [0.0, 2.5]),
        ("class_attention", 1, [1.0, 0.0], [0.0, 2.0]),
        # layer 1: weights (4 - 2)/2 = 1, -2, sum (0.5, 0.25) - 2 (0.125, 0.5) = (0.25, -0.75)
        # layer 2: weights 2, -1, sum 2 (0.25, 0.25) - (0.75, 0.25) = (-0.25, 0.25); each loses its negatives, then the mean
        ("grad_cam", 2, [0.125, 0.125], [0.125, 0.375]),
        ("grad_cam", 1, [0.0, 0.25], [0.25, 0.0]),
    ],
)
def test_each_method_on_paper(method: str, layers: int, first: list[float], second: list[float]) -> None:
    assert METHODS[method](by_hand(), (0, 1), layers).tolist() == [[first], [second]]


@pytest.mark.parametrize(
    ("method", "tokens", "first", "second"),
    [
        ("gradient", 1, [1.0, 3.0], [50.0, 60.0]),
        ("gradient", 2, [1.0, 3.0], [6.0, 0.0]),
        ("gradient of means", 2, [1.0, 3.0], [6.0, 0.0]),
        ("cam", 2, [8.0, 0.0], [0.0, 16.0]),
        # row 0, or the mean (0.375, 0.1875) of rows 0 and 1, times (8, -16) and (-8, 16)
        ("ts_cam", 1, [4.0, -4.0], [-4.0, 4.0]),
        ("ts_cam", 2, [3.0, -3.0], [-3.0, 3.0]),
        ("class_attention", 1, [4.0, 0.0], [0.0, 4.0]),
        ("class_attention", 2, [4.0, 0.0], [0.0, 2.0]),
        # weights 2 and 55, or 2 and 1
        ("grad_cam", 1, [1.0, 0.5], [27.5, 13.75]),
        ("grad_cam", 2, [1.0, 0.5], [0.25, 0.125]),
        ("generic", 1, [0.5, 0.75], [25.0, 15.0]),
        ("generic", 2, [0.5, 0.75], [1.5, 0.0]),
    ],
)
def test_a_class_is_read_at_its_own_token_where_it_has_one(method: str, tokens: int, first: list, second: list) -> None:
    """Three special tokens of which one or two are class tokens, two patches, one layer of one head."""
    attention, gradients = torch.full((5, 5), 0.125), torch.full((2, 5, 5), 70.0)
    attention[:3, 3:] = torch.tensor([[0.5, 0.25], [0.25, 0.125], [0.0, 1.0]])
    gradients[0, :2, 3:] = torch.tensor([[1.0, 3.0], [50.0, 60.0]])
    gradients[1, :2, 3:] = torch.tensor([[50.0, 60.0], [6.0, -4.0]])
    class_maps = torch.tensor([[8.0, -16.0], [-8.0, 16.0]])
    trace = linear(attention[None, None], gradients[:, None, None], class_maps, special=3, class_tokens=tokens)
    assert METHODS[method](trace, (0, 1), 1).tolist() == [[first], [second]]


def transformer(
    tokens: Tensor, layers: Sequence[Tensor], gains: Sequence[float], weights: Sequence[float], special: int, class_tokens: int
) -> Trace:
    """Attention alone: tokens "B N" of one number, t <- t + sum over heads of gain A t, and logits weight t[class token].

    What a layer is given depends on the layers before it, and so do the gradients of its attention.
    """
    leaves = tuple(layer.clone().requires_grad_() for layer in layers)
    for leaf in leaves:
        tokens = tokens + torch.einsum("a,bamn,bn->bm", torch.tensor(gains, dtype=torch.float64), leaf, tokens)
    rows = list(range(len(weights))) if class_tokens > 1 else [0] * len(weights)
    logits = tokens[:, rows] * torch.tensor(weights, dtype=torch.float64)
    patches = tokens[:, None, special:] * torch.tensor(weights, dtype=torch.float64)[:, None]
    means = tuple(leaf.mean(1) for leaf in leaves)
    return Trace(logits, means, leaves, patches, Grid(1, tokens.shape[1] - special), special, class_tokens)


def two_layers_of(heads: int) -> Trace:
    """A class token and two patches of 2, 4 and -8; of the second layer only the class row reaches the logit."""
    first = [[[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0, 0.5, 0.5]], [[0.25, 0.25, 0.5], [0.5, 0.25, 0.25], [0.5, 0, 0.5]]]
    second = [[[0.5, 0.5, 0], [0.25, 0.5, 0.25], [0, 0, 1]], [[0.25, 0.25, 0.5], [0.5, 0, 0.5], [0, 1, 0]]]
    layers = [torch.tensor(layer[:heads], dtype=torch.float64)[None] for layer in (first, second)]
    tokens = torch.tensor([[2.0, 4.0, -8.0]], dtype=torch.float64)
    return transformer(tokens, layers, [2.0, -1.0][:heads], [1.0, -1.0], special=1, class_tokens=1)


def test_generic_of_two_layers_of_one_head_on_paper() -> None:
    """R = (I + E2)(I + E1), whose class row is that of I + E1 + E2 + E2 E1: E2 has a class row only, E1 has all rows.

    The first layer gives t = (2, 4, -8) + 2 (0, 0.5, -2) = (2, 5, -12), and the logit is t0 + 2 (t0/2 + t1/2).
    Layer 2: gradient of the class row 2 t = (4, 10, -24), times (0.5, 0.5, 0): E2 = (2, 5, 0).
    Layer 1: the logit has dt = (2, 1, 0), so that the gradient of row j is 2 dt_j (2, 4, -8):
        row 0 (8, 16, -32) times (0.5, 0.25, 0.25): (4, 4, 0), with -8 removed
        row 1 (4, 8, -16) times (0.25, 0.5, 0.25): (1, 4, 0), with -4 removed
        row 2 is zero
    E2 E1 = 2 (4, 4, 0) + 5 (1, 4, 0) = (13, 28, 0); patches: (4, 0) + (5, 0) + (28, 0).
    For the other class only what was removed counts: E2 = 0 (-24 meets attention 0), E1 row 0 is (0, 0, 8).
    """
    assert generic_maps(two_layers_of(1), (0, 1), 2).tolist() == [[[37.0, 0.0]], [[0.0, 8.0]]]
    assert generic_maps(two_layers_of(1), (0, 1), 1).tolist() == [[[5.0, 0.0]], [[0.0, 0.0]]]


def test_generic_of_two_layers_of_two_heads_on_paper() -> None:
    """As with one head; negatives are removed in each head, then the mean of the two is E.

    The first layer gives t = (2, 4, -8) + 2 (0, 0.5, -2) - (-2.5, 0, -3) = (4.5, 5, -9).
    Layer 2: head 1 has gradient 2 t = (9, 10, -18), times (0.5, 0.5, 0): (4.5, 5, 0);
        head 2 has -t = (-4.5, -5, 9), times (0.25, 0.25, 0.5): (0, 0, 4.5); E2 = (2.25, 2.5, 2.25)
    Layer 1: dt = (1, 0, 0) + 2 (0.5, 0.5, 0) - (0.25, 0.25, 0.5) = (1.75, 0.75, -0.5);
        head 1, row j has gradient 2 dt_j (2, 4, -8):
            (7, 14, -28) times (0.5, 0.25, 0.25): (3.5, 3.5, 0)
            (3, 6, -12) times (0.25, 0.5, 0.25): (0.75, 3, 0)
            (-2, -4, 8) times (0, 0.5, 0.5): (0, 0, 4)
        head 2, row j has -dt_j (2, 4, -8):
            (-3.5, -7, 14) times (0.25, 0.25, 0.5): (0, 0, 7)
            (-1.5, -3, 6) times (0.5, 0.25, 0.25): (0, 0, 1.5)
            (1, 2, -4) times (0.5, 0, 0.5): (0.5, 0, 0)
        E1 = (1.75, 1.75, 3.5), (0.375, 1.5, 0.75), (0.25, 0, 2)
    E2 E1, patches: 2.25 (1.75, 3.5) + 2.5 (1.5, 0.75) + 2.25 (0, 2) = (7.6875, 14.25)
    R, patches: (1.75, 3.5) + (2.5, 2.25) + (7.6875, 14.25) = (11.9375, 20); the other order, (I + E1)(I + E2), is not that.

    For the other class what was removed counts, with its sign changed:
    E2 = (0.5625, 0.625, 0), from (0, 0, 0) and (1.125, 1.25, 0)
    E1 = (0.4375, 0.875, 3.5), (0.375, 0.375, 1.5), (0, 1, 1), from (0, 0, 7), (0, 0, 3), (0, 2, 0)
        and (0.875, 1.75, 0), (0.75, 0.75, 0), (0, 0, 2)
    E2 E1, patches: 0.5625 (0.875, 3.5) + 0.625 (0.375, 1.5) = (0.7265625, 2.90625)
    R, patches: (0.875, 3.5) + (0.625, 0) + (0.7265625, 2.90625) = (2.2265625, 6.40625)
    """
    assert generic_maps(two_layers_of(2), (0, 1), 2).tolist() == [[[11.9375, 20.0]], [[2.2265625, 6.40625]]]
    assert generic_maps(two_layers_of(2), (0, 1), 1).tolist() == [[[2.5, 2.25]], [[0.625, 0.0]]]


# ---- where two methods must be one ---------------------------------------------------------------------------------------


def random_trace(state: int, layers: int, heads: int, special: int = 1, class_tokens: int = 1, images: int = 1) -> Trace:
    """A `transformer` of softmax attention between six tokens, with three classes."""
    generator = torch.Generator().manual_seed(state)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    attentions = [torch.softmax(2 * normal(images, heads, 6, 6), -1) for _ in range(layers)]
    return transformer(normal(images, 6), attentions, normal(heads).tolist(), normal(3).tolist(), special, class_tokens)


@given(st.integers(0, 999))
def test_generic_of_one_layer_and_one_head_is_attention_times_gradient(state: int) -> None:
    trace = random_trace(state, layers=1, heads=1)
    (gradient,) = torch.autograd.grad(trace.logits[:, 1].sum(), trace.rows, retain_graph=True)
    expected = (gradient * trace.rows[0]).clamp(min=0)[:, 0, 0, 1:]
    torch.testing.assert_close(generic_maps(trace, (1,), 1)[0], expected, rtol=0, atol=1e-12)


@given(st.integers(0, 999), st.integers(1, 3))
def test_ts_cam_of_even_attention_is_cam_in_a_smaller_unit(state: int, layers: int) -> None:
    class_maps = torch.randn(2, 5, generator=torch.Generator().manual_seed(state), dtype=torch.float64)
    even = torch.full((3, 2, 6, 6), 1 / 6, dtype=torch.float64)
    trace = linear(even, torch.zeros(2, 3, 2, 6, 6), class_maps)
    maps = ts_cam_maps(trace, (0, 1), layers)
    torch.testing.assert_close(maps.clamp(min=0) * 6, cam_maps(trace, (0, 1)), rtol=0, atol=1e-12)


@given(st.integers(0, 999), st.integers(1, 2))
def test_class_attention_of_a_single_class_token_is_ts_cam_without_its_negatives(state: int, layers: int) -> None:
    trace = random_trace(state, layers=2, heads=2)
    expected = ts_cam_maps(trace, (0, 2), layers).clamp(min=0)
    torch.testing.assert_close(class_attention_maps(trace, (0, 2), layers), expected, rtol=0, atol=1e-12)


@given(st.integers(0, 999), st.floats(-4, 4))
def test_grad_cam_of_one_head_and_a_constant_gradient_is_attention(state: int, gradient: float) -> None:
    attention = torch.softmax(torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(state)).double(), -1)
    trace = linear(attention, torch.full((1, 1, 1, 6, 6), gradient), torch.zeros(1, 5))
    expected = (gradient * attention[0, :, 0, 1:]).clamp(min=0)
    torch.testing.assert_close(grad_cam_maps(trace, (0,), 1)[0], expected, rtol=0, atol=1e-6)


@given(st.integers(0, 999))
def test_where_negatives_are_removed_is_no_matter_for_one_head_of_one_layer(state: int) -> None:
    trace = random_trace(state, layers=1, heads=1)
    assert torch.equal(gradient_maps(trace, (0, 1, 2), 1), gradient_maps(trace, (0, 1, 2), 1, rectify="layers"))


@given(st.integers(0, 999), st.integers(1, 3))
def test_removing_negatives_late_never_leaves_more(state: int, layers: int) -> None:
    """The mean of what is positive is at least what is positive of the mean."""
    trace = random_trace(state, layers=3, heads=4)
    early, late = (gradient_maps(trace, (0, 1), layers, rectify=rectify) for rectify in ("heads", "layers"))
    assert (late <= early + 1e-12).all()


@pytest.mark.parametrize("class_tokens", [1, 3])
@pytest.mark.parametrize("method", METHODS)
def test_images_and_classes_do_not_mix(method: str, class_tokens: int) -> None:
    """A batch and a list of classes are a way to ask several questions of one graph, which stays for the next."""
    maps = METHODS[method]
    trace = random_trace(7, layers=3, heads=2, special=3, class_tokens=class_tokens, images=4)
    found = maps(trace, (2, 0), 2)
    assert found.shape == (2, 4, 3)
    assert not torch.equal(found[0], found[1])
    for position, index in enumerate((2, 0)):
        torch.testing.assert_close(found[position], maps(trace, (index,), 2)[0], rtol=0, atol=1e-14)
    factors = torch.tensor([1.0, -3.0, 1.0, 1.0], dtype=torch.float64)
    changed = replace(trace, logits=trace.logits * factors[:, None], class_maps=trace.class_maps * factors[:, None, None])
    others = [0, 2, 3]
    torch.testing.assert_close(maps(changed, (2, 0), 2)[:, others], found[:, others], rtol=0, atol=1e-14)
    assert not torch.equal(maps(changed, (2, 0), 2)[:, 1], found[:, 1])


# ---- Generic by dense matrices -------------------------------------------------------------------------------------------


def relevance(trace: Trace, index: int, layers: int) -> np.ndarray:
    """R = (I + E_L) ... (I + E_1) "B N N" of Chefer et al., Eq. 5 and 6, image by image in NumPy."""
    used = trace.rows[-layers:]
    gradients = torch.autograd.grad(trace.logits[:, index].sum(), used, retain_graph=True)
    images = []
    for image in range(len(trace.logits)):
        product = np.eye(used[0].shape[-1])
        for attention, gradient in zip(reversed(used), reversed(gradients), strict=True):
            heads = zip(attention[image].detach().numpy(), gradient[image].numpy(), strict=True)
            effect = sum(np.maximum(one * other, 0) for one, other in heads) / attention.shape[1]
            product = product @ (np.eye(len(effect)) + effect)
        images.append(product)
    return np.stack(images)


@pytest.mark.parametrize("class_tokens", [1, 3])
@pytest.mark.parametrize("layers", [1, 2, 4])
def test_generic_is_a_product_of_matrices(class_tokens: int, layers: int) -> None:
    trace = random_trace(3, layers=4, heads=3, special=3, class_tokens=class_tokens, images=2)
    for index, maps in zip((0, 2), generic_maps(trace, (0, 2), layers).detach(), strict=True):
        expected = relevance(trace, index, layers)[:, index if class_tokens > 1 else 0, 3:]
        np.testing.assert_allclose(maps, expected, rtol=1e-9)


@pytest.fixture(scope="module")
def small() -> VitClassifier:
    torch.manual_seed(0)
    model = VitClassifier("deit_tiny_patch16_224", 3, "native").double().eval().requires_grad_(False)
    # random weights of the usual size give attention too even to tell a wrong product by
    for block in model.network.blocks:
        block.attn.qkv.weight *= 8
    model.network.head.weight.normal_()
    return model


@pytest.mark.parametrize("layers", [1, 3, 12])
def test_generic_of_a_vision_transformer_is_a_product_of_matrices(small: VitClassifier, layers: int) -> None:
    images = torch.rand(2, 3, 32, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    trace = small(images, Keep(layers=layers, all_rows=True))
    for index, maps in zip((0, 2), generic_maps(trace, (0, 2), layers).detach(), strict=True):
        expected = relevance(trace, index, layers)[:, 0, 1:]
        assert expected.std() > 0.01 * expected.mean()
        np.testing.assert_allclose(maps, expected, rtol=1e-9, atol=1e-9 * expected.max())


def test_competition_takes_a_share_of_the_other_classes_by_hand() -> None:
    maps = torch.tensor([[[1.0, 3.0]], [[2.0, 2.0]]])
    assert compete(maps, torch.tensor([2]), 0.5).tolist() == [[[0.0, 0.5]], [[0.375, 0.125]]]
    # a map that is nowhere takes nothing from another, and stays so
    assert compete(torch.stack([maps[0], 0 * maps[1]]), torch.tensor([2]), 1.0).tolist() == [[[0.25, 0.75]], [[0.0, 0.0]]]


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_competition_of_an_image_is_no_matter_to_those_beside_it(state: int, share: float) -> None:
    maps = torch.rand(3, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(state))
    counts = torch.tensor([3, 1, 2])
    together = compete(maps, counts, share)
    for image, count in enumerate(counts.tolist()):
        alone = compete(maps[:count, image : image + 1], counts[image : image + 1], share)
        torch.testing.assert_close(together[:count, image : image + 1], alone, rtol=0, atol=0)
        assert not together[count:, image].any()
    torch.testing.assert_close(together[:1, 1], maps[:1, 1])  # a lone class has nobody to compete with
    none = compete(maps, counts, 0.0)[:, 0]
    torch.testing.assert_close(none, maps[:, 0] / maps[:, 0].sum(-1, keepdim=True))
