"""Consistency of the attention of two views: Eq. 1 (activation), Eq. 2 (affinity), of which Eq. 6 is the weighted sum."""

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from acr.models.trace import Trace, activation, affinity, all_kept
from acr.views import View, restore

Distance = Literal["l1", "l2", "smooth_l1"]
DISTANCES = {"l1": functional.l1_loss, "l2": functional.mse_loss, "smooth_l1": functional.smooth_l1_loss}


class Consistency(NamedTuple):
    """The two terms, each a scalar: distances over the entries of an attention, averaged over images and layers."""

    activation: Tensor
    affinity: Tensor


def attention_consistency(
    attentions: Float[Tensor, "L B N N"],
    restored: Float[Tensor, "L B N N"],
    special: int,
    distance: Distance = "l1",
    visible: Tensor | None = None,
    class_tokens: int = 1,
    reduction: Literal["mean", "sum"] = "mean",
) -> Consistency:
    """Eq. 1 and 2 for head-averaged attentions of images and those of their view, already restored, of all layers.

    `visible` "h w" leaves out what a view hides: hidden patches as keys of the class token, and pairs of which either
    is hidden. Neither side is held constant, as in the official code.

    deviates: the paper writes norms, which `reduction` sum gives; like the official code we take means of the entries,
    which do not grow with the image.
    """
    compare = DISTANCES[distance]
    patches = slice(None) if visible is None else visible.flatten()
    activations = (activation(side, special, class_tokens)[..., patches] for side in (attentions, restored))
    affinities = (affinity(side, special)[..., patches, :][..., patches] for side in (attentions, restored))
    return Consistency(_reduced(compare, activations, reduction), _reduced(compare, affinities, reduction))


def _reduced(compare: Callable[..., Tensor], sides: Iterable[Tensor], reduction: str) -> Tensor:
    """The distance of two batches "L B ...": mean over layers and images of the mean or the sum over entries."""
    one, other = sides
    return compare(one, other) if reduction == "mean" else compare(one, other, reduction="sum") / one.shape[:2].numel()


def view_consistency(
    trace: Trace, viewed: Trace, view: View, distance: Distance = "l1", reduction: Literal["mean", "sum"] = "mean"
) -> Consistency:
    """Eq. 1 and 2 between the trace of a batch and the trace of its view, over every layer."""
    # a GPU waits for few large steps less
    attentions, others = (torch.stack(all_kept(each.attentions)) for each in (trace, viewed))
    restored = restore(view, others, viewed.grid, viewed.special)
    return attention_consistency(attentions, restored, trace.special, distance, view.visible, trace.class_tokens, reduction)


def class_map_consistency(trace: Trace, viewed: Trace, view: View, tags: Float[Tensor, "B C"]) -> Float[Tensor, ""]:
    """SEAM's equivariance (Wang et al., CVPR 2020) on class maps: mean distance over the classes present and the patches.

    Maps are cut off at zero and divided by their largest value, as they are where seeds are made of them; those of the
    view come back through its inverse. Classes that are not among the `tags` (0 or 1) are left out.
    """
    restored = view.inverse(scaled_class_maps(viewed).unflatten(-1, viewed.grid)).flatten(-2)
    patches = slice(None) if view.visible is None else view.visible.flatten()
    distances = (scaled_class_maps(trace) - restored).abs()[..., patches].mean(-1)
    return (distances * tags).sum() / tags.sum().clamp(min=1)


def scaled_class_maps(trace: Trace) -> Float[Tensor, "B C P"]:
    """Class maps without negative values, each divided by its largest; a map without positive values is 0."""
    maps = trace.kept_class_maps.clamp(min=0)
    return maps / maps.amax(-1, keepdim=True).clamp(min=1e-5)
