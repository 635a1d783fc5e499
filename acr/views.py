"""Views of an image, and their inverse on attention (Eq. 3-5, App. B).

A view is a frozen pair of functions: what it does to pixels, and what undoes it on maps over the patch grid. Its action
on attention is derived from these, not written per view: an attention matrix is a map over keys for each query, and a
map over queries for each key. Randomness lies in drawing a view, never inside it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from acr.shapes import Grid


def _same(maps: Tensor) -> Tensor:
    return maps


@dataclass(frozen=True)
class View:
    """`forward` acts on images "B 3 H W", `inverse` on maps "... h w" of the transformed image.

    `visible`, where given, is "h w" and false at the patches that the view hides: these are not compared.
    """

    name: str
    forward: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]
    visible: Tensor | None = None


Draw = Callable[[np.random.Generator, Grid], View]


def restore(view: View, attention: Float[Tensor, "*B N N"], grid: Grid, special: int) -> Float[Tensor, "*B M M"]:
    """Attention of a transformed image in the token order of the image itself: f^-1 of Eq. 5, exact for permutations.

    Args:
        view: what was done to the image.
        attention: rows are queries, columns keys; the `special` tokens come first and stay where they are.
        grid: of the transformed image.
        special: number of special tokens.

    The attention that a query pays is mass: where the view changes the number of patches, the keys are multiplied by
    the ratio of the numbers, so that rows still sum to one.
    """
    keys = _restore_last(view, attention, grid, special, mass=True)
    return _restore_last(view, keys.transpose(-1, -2), grid, special, mass=False).transpose(-1, -2)


def _restore_last(view: View, attention: Tensor, grid: Grid, special: int, *, mass: bool) -> Tensor:
    # reshape and flip, never an index: the backward pass of a gather scatters element by element
    patches = view.inverse(attention[..., special:].unflatten(-1, grid)).flatten(-2)
    if mass and patches.shape[-1] != grid.patches:
        patches = patches * (grid.patches / patches.shape[-1])
    return torch.cat([attention[..., :special], patches], -1)


IDENTITY = View("identity", _same, _same)
HFLIP = View("hflip", lambda x: x.flip(-1), lambda x: x.flip(-1))
VFLIP = View("vflip", lambda x: x.flip(-2), lambda x: x.flip(-2))
TRANSPOSE = View("transpose", lambda x: x.transpose(-1, -2), lambda x: x.transpose(-1, -2))
ROT90 = View("rot90", lambda x: torch.rot90(x, 1, (-2, -1)), lambda x: torch.rot90(x, -1, (-2, -1)))
ROT180 = View("rot180", lambda x: torch.rot90(x, 2, (-2, -1)), lambda x: torch.rot90(x, 2, (-2, -1)))
ROT270 = View("rot270", lambda x: torch.rot90(x, -1, (-2, -1)), lambda x: torch.rot90(x, 1, (-2, -1)))
GREY = View("grey", lambda x: _grey(x), _same)


def _grey(images: Tensor) -> Tensor:
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=images.dtype, device=images.device).view(3, 1, 1)
    return (images * weights).sum(-3, keepdim=True).expand_as(images)


def resize(target: Grid, source: Grid) -> View:
    """The image scaled so that its patch grid is `target` instead of `source`; maps come back by overlap of areas."""
    rows, columns = _overlap(source.height, target.height), _overlap(source.width, target.width)

    def forward(images: Tensor) -> Tensor:
        height, width = images.shape[-2] // source.height, images.shape[-1] // source.width
        size = (height * target.height, width * target.width)
        return functional.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)

    def inverse(maps: Tensor) -> Tensor:
        return rows.to(maps) @ maps @ columns.to(maps).T

    return View("resize", forward, inverse)


def _overlap(cells: int, parts: int) -> Tensor:
    """The matrix "cells parts": the share of each of `cells` equal intervals that each of `parts` equal intervals covers."""
    start = torch.arange(cells, dtype=torch.float64)[:, None] / cells
    part = torch.arange(parts, dtype=torch.float64)[None] / parts
    covered = torch.minimum(start + 1 / cells, part + 1 / parts) - torch.maximum(start, part)
    return covered.clamp(min=0) * cells


def hide(visible: Tensor) -> View:
    """Patches where `visible` "h w" is false are painted mid-grey; they are left out of the comparison."""

    def forward(images: Tensor) -> Tensor:
        shown = functional.interpolate(visible[None, None].to(images), size=images.shape[-2:], mode="nearest")[0]
        return images * shown + 0.5 * (1 - shown)

    return View("hide", forward, _same, visible)


def compose(first: View, second: View) -> View:
    """First one view, then the other; a patch of the image is visible where neither hides any of it."""
    return View(
        f"{first.name}+{second.name}",
        lambda images: second.forward(first.forward(images)),
        lambda maps: first.inverse(second.inverse(maps)),
        _both_visible(first.visible, None if second.visible is None else first.inverse((~second.visible).float()) == 0),
    )


def _both_visible(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return other if one is None else one if other is None else one & other


def moved(view: View, grid: Grid) -> Grid:
    """The grid of patches that an image of `grid` has after a view."""
    return Grid(*view.forward(torch.zeros(1, 3, *grid)).shape[-2:])


def _draw_resize(rng: np.random.Generator, grid: Grid) -> View:
    ratio = rng.uniform(0.7, 1.3)
    return resize(Grid(max(1, round(grid.height * ratio)), max(1, round(grid.width * ratio))), grid)


def _draw_hide(rng: np.random.Generator, grid: Grid) -> View:
    return hide(torch.from_numpy(rng.random(grid) >= 0.2))


def _draw_rotation(rng: np.random.Generator, grid: Grid) -> View:
    return (ROT90, ROT180, ROT270)[rng.integers(3)]


def _always(view: View) -> Draw:
    return lambda rng, grid: view


FIXED = (IDENTITY, HFLIP, VFLIP, TRANSPOSE, ROT90, ROT180, ROT270, GREY)
VIEWS: dict[str, Draw] = {
    **{view.name: _always(view) for view in FIXED},
    "rotation": _draw_rotation,
    "resize": _draw_resize,
    "hide": _draw_hide,
}


def draw(names: tuple[str, ...], rng: np.random.Generator, grid: Grid) -> View:
    """One of the named views, each as likely as the other; `a+b` is a, then b, and the parts may be any of VIEWS."""
    first, *others = names[rng.integers(len(names))].split("+")
    view = VIEWS[first](rng, grid)
    for part in others:
        view = compose(view, VIEWS[part](rng, moved(view, grid)))
    return view
