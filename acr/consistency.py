"""Consistency of the attention of two views: Eq. 1 (activation), Eq. 2 (affinity), of which Eq. 6 is the weighted sum."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from acr.models.trace import Trace, activation, affinity
from acr.views import View, restore

Distance = Literal["l1", "l2", "smooth_l1"]
DISTANCES = {"l1": functional.l1_loss, "l2": functional.mse_loss, "smooth_l1": functional.smooth_l1_loss}


class Consistency(NamedTuple):
    """The two terms, each a scalar: mean distance over images, layers and entries."""

    activation: Tensor
    affinity: Tensor


def attention_consistency(
    attentions: Sequence[Float[Tensor, "B N N"]],
    restored: Sequence[Float[Tensor, "B N N"]],
    special: int,
    distance: Distance = "l1",
    visible: Tensor | None = None,
) -> Consistency:
    """Eq. 1 and 2 for head-averaged attentions of an image and those of its view, already restored, layer by layer.

    `visible` "h w" leaves out what a view hides: hidden patches as keys of the class token, and pairs of which either
    is hidden. Neither side is held constant, as in the official code.

    deviates: the paper writes norms (sums); like the official code we take means, which do not grow with the image.
    """
    assert len(attentions) == len(restored), (len(attentions), len(restored))
    compare = DISTANCES[distance]
    patches = slice(None) if visible is None else visible.flatten()
    activations, affinities = [], []
    for one, other in zip(attentions, restored, strict=True):
        activations.append(compare(activation(one, special)[:, patches], activation(other, special)[:, patches]))
        one, other = (affinity(side, special)[:, patches][:, :, patches] for side in (one, other))
        affinities.append(compare(one, other))
    return Consistency(torch.stack(activations).mean(), torch.stack(affinities).mean())


def view_consistency(trace: Trace, viewed: Trace, view: View, distance: Distance = "l1") -> Consistency:
    """Eq. 1 and 2 between the trace of a batch and the trace of its view, over every layer."""
    attentions = [attention.mean(1) for attention in trace.attentions]
    restored = [restore(view, attention.mean(1), viewed.grid, viewed.special) for attention in viewed.attentions]
    return attention_consistency(attentions, restored, trace.special, distance, view.visible)
