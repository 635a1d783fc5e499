"""Equations 1 and 2 by hand."""

import pytest
import torch

from acr.consistency import attention_consistency, view_consistency
from acr.models.trace import Trace
from acr.shapes import Grid
from acr.views import HFLIP, IDENTITY, View

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
