"""Consistency of the attention of two views: Eq. 1 (activation), Eq. 2 (affinity), of which Eq. 6 is the weighted sum."""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from acr.models.trace import Trace, activation, affinity, all_kept
from acr.shapes import Grid
from acr.views import View, moved, restore

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


def all_pairs_consistency(
    attentions: Sequence[Float[Tensor, "B *A N N"]],
    viewed: Sequence[Float[Tensor, "B *A M M"]],
    view: View,
    grid: tuple[int, int],
    special: int = 1,
    distance: Distance = "l1",
    class_tokens: int = 1,
    reduction: Literal["mean", "sum"] = "mean",
) -> Consistency:
    """Eq. 1 and 2 between the attentions of images and those of their view, one a layer, as any transformer gives them.

    Args:
        attentions: of the images: head by head, or averaged over heads already; the `special` tokens come first, of which
            the first `class_tokens` are class tokens, and patches follow row by row.
        viewed: of `view.forward` of the images.
        view: what was done to the images.
        grid: height and width of the images in patches; that of their view follows from it.
        special: number of tokens that are no patches.
        distance: see `DISTANCES`.
        class_tokens: one, or one a class.
        reduction: see `attention_consistency`.

    Raises:
        ValueError: an attention has another number of tokens than grid and `special` have.
    """
    target = moved(view, Grid(*grid))
    one = _of_layers(attentions, Grid(*grid), special, "attentions")
    restored = restore(view, _of_layers(viewed, target, special, "viewed"), target, special)
    return attention_consistency(one, restored, special, distance, view.visible, class_tokens, reduction)


def _of_layers(attentions: Sequence[Tensor], grid: Grid, special: int, name: str) -> Float[Tensor, "L B N N"]:
    """Attentions averaged over heads; stacked, since a GPU waits for few large steps less."""
    for layer, attention in enumerate(attentions):
        if attention.shape[-2:] != (special + grid.patches,) * 2:
            expected = f"{special} special tokens and {grid.height} x {grid.width} patches; see to grid and special"
            raise ValueError(f"{name}[{layer}] is {' x '.join(map(str, attention.shape[-2:]))}, which are not {expected}")
    return torch.stack([each.mean(1) if each.ndim == 4 else each for each in attentions])


def view_consistency(
    trace: Trace, viewed: Trace, view: View, distance: Distance = "l1", reduction: Literal["mean", "sum"] = "mean"
) -> Consistency:
    """Eq. 1 and 2 between the trace of a batch and the trace of its view, over every layer."""
    kept, others = (all_kept(each.attentions) for each in (trace, viewed))
    special, class_tokens = trace.special, trace.class_tokens
    return all_pairs_consistency(kept, others, view, trace.grid, special, distance, class_tokens, reduction)


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
