"""Equations 1 and 2 by hand."""

import re

import pytest
import torch

from acr.consistency import all_pairs_consistency, attention_consistency, view_consistency
from acr.models.trace import Trace
from acr.shapes import Grid
from acr.views import HFLIP, IDENTITY, ROT90, View, hide, resize

ONE = torch.tensor([[[0.2, 0.3, 0.5], [0.1, 0.6, 0.3], [0.4, 0.4, 0.2]]], dtype=torch.float64)
TWO = torch.tensor([[[0.2, 0.4, 0.4], [0.9, 0.1, 0.0], [0.0, 0.4, 0.6]]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("distance", "activation", "affinity"),
    [
        # entries of the class row: 0.1, 0.1; of the patches: 0.5, 0.3, 0.0, 0.4
        ("l1", 0.1, 0.3),
        ("l2", 0.01, (0.25 + 0.09 + 0.16) / 4),
        ("smooth_l1", 0.005, (0.25 + 0.09 + 0.16) / 8),
    ],
)
def test_distances_by_hand(distance: str, activation: float, affinity: float) -> None:
    terms = attention_consistency(torch.stack([ONE]), torch.stack([TWO]), 1, distance)
    assert float(terms.activation) == pytest.approx(activation, abs=1e-12)
    assert float(terms.affinity) == pytest.approx(affinity, abs=1e-12)


def test_the_mean_is_over_layers() -> None:
    terms = attention_consistency(torch.stack([ONE, ONE]), torch.stack([TWO, ONE]), 1)
    assert float(terms.activation) == pytest.approx(0.05, abs=1e-12)
    assert float(terms.affinity) == pytest.approx(0.15, abs=1e-12)


def test_hidden_patches_are_not_compared() -> None:
    visible = torch.tensor([[True, False]])
    terms = attention_consistency(torch.stack([ONE]), torch.stack([TWO]), 1, "l1", visible)
    assert float(terms.activation) == pytest.approx(0.1, abs=1e-12)
    assert float(terms.affinity) == pytest.approx(0.5, abs=1e-12)


def trace_of(attention: torch.Tensor) -> Trace:
    return Trace(torch.zeros(1, 1), (attention,), (), None, Grid(1, 2), 1)


def test_an_attention_and_its_flip_agree_after_restoring() -> None:
    flipped = ONE[:, [0, 2, 1]][:, :, [0, 2, 1]]
    terms = view_consistency(trace_of(ONE), trace_of(flipped), HFLIP)
    assert float(terms.activation) == 0
    assert float(terms.affinity) == 0
    unrestored = view_consistency(trace_of(ONE), trace_of(flipped), IDENTITY)
    assert float(unrestored.activation) == pytest.approx(0.2, abs=1e-12)


@pytest.mark.parametrize("distance", ["l1", "l2", "smooth_l1"])
def test_two_equal_views_cost_nothing_and_teach_nothing(distance: str) -> None:
    attention = ONE.clone().requires_grad_()
    trace = Trace(torch.zeros(1, 1), (attention, (attention + TWO) ** 2), (), None, Grid(1, 2), 1)
    terms = view_consistency(trace, trace, IDENTITY, distance)
    assert [term.item() for term in terms] == [0, 0]
    (gradient,) = torch.autograd.grad(terms.activation + terms.affinity, attention)
    assert not gradient.any()


def test_both_views_receive_gradients() -> None:
    one, two = ONE.clone().requires_grad_(), TWO.clone().requires_grad_()
    terms = view_consistency(trace_of(one), trace_of(two), View("same", lambda x: x, lambda x: x))
    (terms.activation + terms.affinity).backward()
    assert torch.equal(one.grad, -two.grad)
    assert one.grad.abs().sum() > 0


# ---- attentions of any transformer ---------------------------------------------------------------------------------------


def random_attention(grid: Grid, special: int, state: int) -> torch.Tensor:
    """Attention "1 A N N" of three heads in double precision."""
    tokens = special + grid.patches
    noise = torch.randn(1, 3, tokens, tokens, generator=torch.Generator().manual_seed(state), dtype=torch.float64)
    return noise.softmax(-1)


def seen_in(view: View, attention: torch.Tensor, grid: Grid, special: int) -> torch.Tensor:
    """The attention of a network without positions for the view of an image: its patches, listed in another order."""
    patches = special + view.forward(torch.arange(grid.patches).view(*grid)).flatten()
    order = torch.cat([torch.arange(special), patches])
    return attention[..., order, :][..., order]


@pytest.mark.parametrize("special", [1, 2, 5])
@pytest.mark.parametrize("view", [HFLIP, ROT90], ids=lambda view: view.name)
def test_attentions_head_by_head_agree_with_those_of_the_view(view: View, special: int) -> None:
    grid = Grid(2, 3)
    own = [random_attention(grid, special, state) for state in range(2)]
    viewed = [seen_in(view, each, grid, special) for each in own]
    terms = all_pairs_consistency(own, viewed, view, (2, 3), special)
    assert [term.item() for term in terms] == [0, 0]
    assert min(all_pairs_consistency(own, own, HFLIP, (2, 3), special)) > 0.01


def test_heads_are_averaged_before_they_are_compared() -> None:
    """Two heads that swap their attentions differ in nothing."""
    heads = torch.cat([ONE, TWO])[None]
    assert [term.item() for term in all_pairs_consistency([heads], [heads.flip(1)], IDENTITY, (1, 2))] == [0, 0]
    once, twice = (all_pairs_consistency([each], [each.flip(-1)], IDENTITY, (1, 2)) for each in (heads, heads.mean(1)))
    assert torch.equal(torch.stack(once), torch.stack(twice))
    assert once.activation == pytest.approx(float((heads.mean(1) - heads.mean(1).flip(-1))[0, 0, 1:].abs().mean()))


def test_what_a_view_hides_is_left_out_of_any_attention() -> None:
    shown = hide(torch.tensor([[True, False]]))
    terms = all_pairs_consistency([ONE[:, None]], [TWO[:, None]], shown, (1, 2))
    assert float(terms.activation) == pytest.approx(0.1, abs=1e-12)
    assert float(terms.affinity) == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize(
    ("view", "grid", "special", "message"),
    [
        (HFLIP, (1, 3), 1, "attentions[0] is 3 x 3, which are not 1 special tokens and 1 x 3 patches; see to grid and special"),
        (HFLIP, (1, 2), 0, "attentions[0] is 3 x 3, which are not 0 special tokens and 1 x 2 patches; see to grid and special"),
        (resize(Grid(1, 1), Grid(1, 2)), (1, 2), 1, "viewed[0] is 3 x 3, which are not 1 special tokens and 1 x 1 patches; "),
    ],
)
def test_a_wrong_number_of_tokens_is_one_sentence(view: View, grid: tuple[int, int], special: int, message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        all_pairs_consistency([ONE], [ONE], view, grid, special)
