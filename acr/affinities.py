"""Affinities of neighbouring pixels, learnt where the seeds are sure, and the walk over them (PSA: Ahn and Kwak, CVPR 2018).

Two neighbours are alike where their features are (PSA) or where no boundary lies between them (IRN: Ahn, Cho and Kwak,
CVPR 2019).

Beside the letters of `acr.shapes`, F counts features of a cell and E pairs of cells: all pairs at the first offset, then
all at the second, and so on, each in row-major order of its upper cell.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from scipy import sparse
from torch import Tensor, nn

from acr import config
from acr.augmentations import augment, random_window
from acr.datasets.base import Split, read_split
from acr.distributed import mean_count, on_all_devices
from acr.files import Arrays
from acr.images import crop, read_working_image
from acr.models.affinity_net import AffinityNet, build_affinity_net
from acr.models.weights import load_weights
from acr.recipes import Affinity, Execution
from acr.shapes import BACKGROUND, VOID, Grid
from acr.training import Run, fit, freeze_norm, freeze_stem, save_trained

Offset = tuple[int, int]
Window = tuple[slice, slice]  # rows and columns of a grid
EPSILON = 1e-5  # keeps the logarithms of the loss finite
TOLERANCE = 1e-8  # of a walk, in the norm in which its matrix is symmetric
NEGLIGIBLE = 1e-20  # weights below it change nothing, but arithmetic with them is slow where its results are subnormal
CACHED = 100_000  # features whose differences stay in a processor's cache


def neighbours(radius: int) -> tuple[Offset, ...]:
    """The (y, x) from a cell to its neighbours nearer than `radius`, in cells: 34 at PSA's radius 5.

    Of each opposite two only the one later in row-major order, so that every pair of cells is met once.

    Raises:
        ValueError: a radius that leaves no neighbour.
    """
    if radius < 2:
        raise ValueError(f"radius is {radius}, which leaves a cell without neighbours; it must be at least 2")
    span = range(-radius + 1, radius)
    return tuple((y, x) for y in range(radius) for x in span if (y, x) > (0, 0) and x * x + y * y < radius * radius)


def pairs(offset: Offset, grid: Grid) -> tuple[Window, Window]:
    """Where the first and the second cell of all pairs at `offset` lie: two windows of equal size, empty if none fits.

    deviates: PSA pairs only cells whose whole neighbourhood lies inside the grid; here every pair inside it counts.
    """
    (y, x), (height, width) = offset, grid
    above, below = slice(0, max(height - y, 0)), slice(min(y, height), height)
    left, right = slice(0, max(width - abs(x), 0)), slice(min(abs(x), width), width)
    return ((above, left), (below, right)) if x >= 0 else ((above, right), (below, left))


def affinity(features: Float[Tensor, "B F h w"], offsets: Sequence[Offset]) -> Float[Tensor, "B E"]:
    """exp(-mean |f_i - f_j|) in (0, 1] of all pairs of cells at `offsets` (PSA, Eq. 2; the mean is over features)."""
    grid = Grid(*features.shape[-2:])
    return torch.exp(-_Distances.apply(features, [pairs(offset, grid) for offset in offsets]))


class _Distances(torch.autograd.Function):
    """The mean over features of |f_i - f_j| of the pairs in all windows, "B E".

    autograd keeps the differences of all offsets and pads the gradient of every window to the whole grid; here differences
    are taken again in the backward pass and added in place.
    """

    @staticmethod
    def forward(context: Any, features: Tensor, windows: Sequence[tuple[Window, Window]]) -> Tensor:
        context.save_for_backward(features)
        context.windows = windows
        return torch.cat([(features[..., *i] - features[..., *j]).abs_().mean(1).flatten(1) for i, j in windows], dim=1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, of_distances: Tensor) -> tuple[Tensor, None]:
        (features,) = context.saved_tensors
        gradient, start = torch.zeros_like(features), 0
        for i, j in context.windows:
            signs = (features[..., *i] - features[..., *j]).sgn_()
            height, width = signs.shape[-2:]
            part = of_distances[:, start : start + height * width].reshape(len(features), 1, height, width)
            signs *= part / features.shape[1]
            gradient[..., *i] += signs
            gradient[..., *j] -= signs
            start += height * width
        return gradient, None


def way(offset: Offset) -> tuple[Offset, ...]:
    """The cells that the straight line from a cell to its neighbour at `offset` runs through, both ends among them.

    At each step along the longer side the nearest cell, or both that are: backwards the way is the same.
    """
    steps = max(abs(side) for side in offset)
    at = [[_nearest(side * step, steps) for side in offset] for step in range(steps + 1)]
    return tuple((y, x) for rows, columns in at for y in sorted(rows) for x in sorted(columns))


def _nearest(numerator: int, denominator: int) -> set[int]:
    """The integers nearest to a fraction: two where it lies in their middle."""
    return {(2 * numerator + denominator) // (2 * denominator), -((denominator - 2 * numerator) // (2 * denominator))}


def boundary_affinity(boundaries: Float[Tensor, "B 1 h w"], offsets: Sequence[Offset]) -> Float[Tensor, "B E"]:
    """1 - the highest boundary on the way between the cells of all pairs at `offsets`, which [0, 1] holds (IRN)."""
    grid = Grid(*boundaries.shape[-2:])
    return torch.cat([1 - _highest(boundaries[:, 0], offset, grid).flatten(1) for offset in offsets], dim=1)


def _highest(boundaries: Float[Tensor, "B h w"], offset: Offset, grid: Grid) -> Float[Tensor, "B _ _"]:
    """The highest boundary on the way of each pair at `offset`."""
    (rows, columns), _ = pairs(offset, grid)
    passed = (boundaries[:, _shifted(rows, y), _shifted(columns, x)] for y, x in way(offset))
    return functools.reduce(torch.maximum, passed)


def _shifted(side: slice, by: int) -> slice:
    return slice(side.start + by, side.stop + by)


AFFINITIES = {"psa": affinity, "irn": boundary_affinity}  # of a batch's features, by the method of the network


class PairLabels(NamedTuple):
    """Which of the E pairs are alike and background, alike and of one class, and unlike; void cells are in no set."""

    background: Tensor
    foreground: Tensor
    negative: Tensor


def pair_labels(labels: Int64[Tensor, "B h w"], offsets: Sequence[Offset]) -> PairLabels:
    """Boolean "B E" sets of pairs, from cells labelled with a class index + 1, BACKGROUND or VOID."""
    grid = Grid(*labels.shape[-2:])
    windows = [pairs(offset, grid) for offset in offsets]
    first = torch.cat([labels[:, *i].flatten(1) for i, _ in windows], dim=1)
    second = torch.cat([labels[:, *j].flatten(1) for _, j in windows], dim=1)
    known, alike = (first != VOID) & (second != VOID), first == second
    return PairLabels(known & alike & (first == BACKGROUND), known & alike & (first != BACKGROUND), known & ~alike)


def affinity_loss(affinities: Float[Tensor, "B E"], labels: PairLabels) -> dict[str, Float[Tensor, ""]]:
    """PSA's Eq. 4: cross-entropy of each set of pairs over its count; loss = background/4 + foreground/4 + negative/2."""
    alike, unlike = -torch.log(affinities + EPSILON), -torch.log(1 + EPSILON - affinities)
    background = _mean(alike, labels.background)
    foreground = _mean(alike, labels.foreground)
    negative = _mean(unlike, labels.negative)
    loss = background / 4 + foreground / 4 + negative / 2
    return {"loss": loss, "background": background, "foreground": foreground, "negative": negative}


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    """The mean of the chosen values of all processes that train together, 0 where none is chosen."""
    return (values * chosen).sum() / mean_count(chosen)


def affinity_without_gradient(features: Float32[np.ndarray, "F h w"], offsets: Sequence[Offset]) -> Float32[np.ndarray, " E"]:
    """`affinity` of one image where nothing is learnt from it, in less than half the time."""
    grid, rows = Grid(*features.shape[1:]), features.reshape(len(features), -1)
    sums = np.zeros((len(offsets), grid.patches), np.float32)
    several = max(1, CACHED // grid.patches)
    gaps = np.zeros((several, grid.patches), np.float32)
    for start in range(0, len(rows), several):
        _add_distances(sums, rows[start : start + several], [y * grid.width + x for y, x in offsets], gaps)
    windows = [total.reshape(grid)[pairs(offset, grid)[0]].ravel() for total, offset in zip(sums, offsets, strict=True)]
    return np.exp(-np.concatenate(windows) / np.float32(len(rows)))


def boundary_affinity_without_gradient(
    boundaries: Float32[np.ndarray, "1 h w"], offsets: Sequence[Offset]
) -> Float32[np.ndarray, " E"]:
    """`boundary_affinity` of one image where nothing is learnt from it."""
    return boundary_affinity(torch.from_numpy(boundaries)[None], offsets)[0].numpy()


WITHOUT_GRADIENT = {"psa": affinity_without_gradient, "irn": boundary_affinity_without_gradient}


def _add_distances(
    sums: Float32[np.ndarray, "O P"],
    features: Float32[np.ndarray, "F P"],
    steps: Sequence[int],
    gaps: Float32[np.ndarray, "_ P"],
) -> None:
    """Adds to each row of `sums` the sum over features of |f_i - f_j|, cell j lying `step` after cell i in row-major order.

    Shifting whole pictures is quick and pairs cells across the left and right border too: those sums stand for nothing.
    `gaps` is room to work in.
    """
    gaps, ones = gaps[: len(features)], np.ones(len(features), np.float32)
    flat, shifted = features.ravel(), gaps.ravel()
    for total, step in zip(sums, steps, strict=True):
        if step > 0:  # else the grid is narrower than the step, and there are no pairs
            np.subtract(flat[step:], flat[:-step], out=shifted[:-step])
            np.abs(shifted, out=shifted)
            total += ones @ gaps


def transition(affinities: Float[np.ndarray, " E"], grid: Grid, offsets: Sequence[Offset], exponent: float) -> sparse.dia_array:
    """The matrix of one step of the walk, "P P": row i holds the weights of the mean that cell i takes, which sum to 1.

    They are the affinities to the power `exponent`, 1 for the cell itself; PSA's T is the transpose. Each offset is two
    diagonals of the matrix, so that diagonals are how it is stored: a product with it is a few dozen contiguous
    multiply-adds.
    """
    powers = affinities**exponent
    powers[powers < NEGLIGIBLE] = 0
    diagonals = {0: np.ones(grid, powers.dtype)}
    start = 0
    for y, x in offsets:
        first, second = pairs((y, x), grid)
        shape = diagonals[0][first].shape
        values = powers[start : start + shape[0] * shape[1]].reshape(shape)
        start += values.size
        if values.size:
            # an entry of a matrix stored by diagonals lies at its column; on a narrow grid two offsets may share a diagonal
            step = y * grid.width + x
            diagonals.setdefault(step, np.zeros(grid, values.dtype))[second] = values
            diagonals.setdefault(-step, np.zeros(grid, values.dtype))[first] = values
    assert start == affinities.size
    data = np.stack(list(diagonals.values())).reshape(len(diagonals), grid.patches)
    # of a column, and so of a row, since affinities are symmetric; in double precision: every step loses what a row lacks
    total = data.sum(0, dtype=np.float64)
    for row, step in zip(data, diagonals, strict=True):
        row /= np.roll(total, step)
    return sparse.dia_array((data, list(diagonals)), shape=(grid.patches, grid.patches))


def random_walk(maps: Float[np.ndarray, "K h w"], transition: sparse.dia_array, steps: int) -> Float[np.ndarray, "K h w"]:
    """The maps after `steps` steps, at each of which every cell takes the affinity-weighted mean of its neighbours and itself.

    A constant map stays as it is and no map leaves its range. PSA squares the dense matrix; here a polynomial of it that
    differs from the power by less than TOLERANCE is applied to the few maps of an image: 90 products for 256 steps.
    """
    weights = chebyshev(steps)
    return np.array([_applied(weights, transition, item.ravel()) for item in maps], maps.dtype).reshape(maps.shape)


@functools.cache
def chebyshev(steps: int) -> tuple[float, ...]:
    """Weights of the Chebyshev polynomials T_0, T_1, ... whose sum differs from x^steps by at most TOLERANCE on [-1, 1].

    x^n is the mean of T_|k|(x) over the sum k of n coin tosses, each 1 or -1, and a sum far beyond sqrt(n) hardly occurs.
    On [-1, 1] lie the eigenvalues of a walk's matrix, which is similar to a symmetric one.
    """
    weights = np.zeros(steps + 1)
    for degree in range(steps % 2, steps + 1, 2):
        weights[degree] = math.comb(steps, (steps - degree) // 2) / 2 ** (steps - 1)
    weights[0] /= 2
    rest = weights[::-1].cumsum()[::-1]  # no T_k exceeds 1
    return tuple(weights[rest > TOLERANCE].tolist())


def _applied(weights: Sequence[float], matrix: sparse.dia_array, row: Float[np.ndarray, " P"]) -> Float[np.ndarray, " P"]:
    """The sum of weights times Chebyshev polynomials of the matrix, times the row, kept in the row's range."""
    low, high = row.min(), row.max()
    middle = (low + high) / 2  # stays as it is, and is left out so that rounding errors are of the size of what changes
    now = row - middle  # T_0
    before = matrix @ now  # T_-1 = T_1; from here on T_k+1 = 2 x T_k - T_k-1
    total = weights[0] * now
    for weight in weights[1:]:
        before, now = now, 2 * (matrix @ now) - before
        total += weight * now
    return (middle + total).clip(low, high)


def majority(labels: UInt8[np.ndarray, "H W"], stride: int) -> UInt8[np.ndarray, "h w"]:
    """The most frequent label of each cell of `stride` x `stride` pixels, the smallest of equals; sides are multiples of it.

    deviates: PSA averages the CRFs' scores over a cell and takes the best; here their decisions vote.
    """
    height, width = (side // stride for side in labels.shape)
    cells = labels.reshape(height, stride, width, stride)
    values = np.unique(labels)
    votes = np.stack([(cells == value).sum((1, 3)) for value in values])
    return values[votes.argmax(0)]


class Objective(nn.Module):
    """The loss of a batch of images and of labels on the grid."""

    def __init__(self, network: AffinityNet, offsets: Sequence[Offset]) -> None:
        super().__init__()
        self.network, self.offsets = network, offsets

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`affinity_loss` for uint8 images "B 3 H W" and int64 labels "B h w"."""
        affinities = AFFINITIES[self.network.method](self.network(batch["image"].float() / 255), self.offsets)
        return affinity_loss(affinities, pair_labels(batch["labels"], self.offsets))


@dataclass
class Sample:
    """One training image, mirrored or not, and its labels on the grid: a random window, padded with the mean colour and VOID.

    deviates: PSA also jitters colours.
    """

    split: Split
    labels: str | Path
    recipe: Affinity
    fill: tuple[int, int, int]

    @functools.cached_property
    def _labels(self) -> Arrays:  # opened where it is read: processes must not share the file
        return Arrays(self.labels)

    def __call__(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        record, size = self.split.records[index], self.recipe.crop_size
        image, labels = read_working_image(record.image), self._labels[record.image_id]
        image, labels = augment((image, labels), ("hflip",), rng)
        top, left = random_window(rng, labels.shape[0], labels.shape[1], size)
        image, labels = crop(image, top, left, size, self.fill), crop(labels, top, left, size, VOID)
        return {
            "image": np.ascontiguousarray(image.transpose(2, 0, 1)),
            "labels": majority(labels, self.recipe.stride).astype(np.int64),
        }


def describe(recipe: Affinity) -> dict[str, Any]:
    """What model.json says of the network of a recipe, but for its input."""
    keys = ("method", "backbone", "stride", "normalisation", "options", "radius")
    return {"kind": "affinity", **{key: getattr(recipe, key) for key in keys}}


# ---- disk ----------------------------------------------------------------------------------------------------------------


@on_all_devices
def train_affinity(
    *,
    split: str | Path,
    labels: str | Path,
    weights: str | Path | None,
    recipe: str,
    execution: Mapping,
    folder: str | Path,
    made_from: Mapping,
) -> None:
    """Trains an `affinities` recipe on confident labels and writes model and history into `folder`.

    Arguments as those of `acr.segmenters.train_segmenter`.
    """
    wanted, data = config.load(Affinity, recipe), read_split(split)
    if wanted.crop_size % wanted.stride:
        raise ValueError(f"crop_size is {wanted.crop_size}, but must be a multiple of stride {wanted.stride}")
    torch.manual_seed(wanted.training.random_state)
    description = describe(wanted)
    network = build_affinity_net(description)
    load_weights(network.backbone.network, weights)
    if weights:
        freeze_stem(network.backbone.network)
    if wanted.freeze_norm:
        freeze_norm(network)
    sample = Sample(data, labels, wanted, network.backbone.normalise.fill)
    objective = Objective(network, neighbours(wanted.radius))
    run = Run(Path(folder), made_from, config.build(Execution, execution, "execution"))
    described = description | network.backbone.normalise.described
    save_trained(run, network, described, fit(objective, len(data.records), sample, wanted.training, run))
