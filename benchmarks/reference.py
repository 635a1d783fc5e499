"""The published algorithms, written plainly by us: what everything is compared with, in time and in result."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from PIL import Image
from pydensecrf.densecrf import DenseCRF2D
from pydensecrf.utils import unary_from_softmax
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional

from acr.recipes import Crf
from acr.shapes import VOID, Grid

# ---- seeds and training: attention kept by hooks, all parameters' gradients, one backward pass a class and view ----------


@contextmanager
def hooked(blocks: nn.Sequential) -> Iterator[list[Tensor]]:
    """Collects the attention "B A N N" of every block, with its gradient, by hooks on what drops attention out."""
    attentions: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:
            output.retain_grad()
        attentions.append(output)

    handles = [block.attn.attn_drop.register_forward_hook(keep) for block in blocks]
    try:
        yield attentions
    finally:
        for handle in handles:
            handle.remove()


def forward(network: nn.Module, images: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B C"], list[Tensor]]:
    """Logits of normalised images by a transformer of timm, and the attention of each block, which is not fused."""
    for block in network.blocks:
        block.attn.fused_attn = False
    with hooked(network.blocks) as attentions:
        return network(images), attentions


def seed(
    network: nn.Module, image: Float[Tensor, "3 H W"], classes: Sequence[int], layers: int, grid: tuple[int, int]
) -> Float[Tensor, "K h w"]:
    """Eq. 7 over the last layers, refined by the affinity of all layers (A M), summed over the image and its mirror image.

    One backward pass for each class and each of the two, through the whole network and to all its parameters.
    """
    views = [[], []]
    for mirrored, maps in zip((False, True), views, strict=True):
        logits, attentions = forward(network, (image.flip(-1) if mirrored else image)[None])
        affinity = torch.stack([attention.detach().mean(1) for attention in attentions]).mean(0)[0, 1:, 1:]
        for index in classes:
            network.zero_grad()
            for attention in attentions:
                attention.grad = None
            logits[0, index].backward(retain_graph=True)
            rows = [attention.grad.clamp(min=0).mean(1)[0, 0, 1:] for attention in attentions[-layers:]]
            refined = affinity @ torch.stack(rows).mean(0)
            maps.append(refined.view(grid).flip(-1) if mirrored else refined.view(grid))
    return torch.stack([scaled(sum(pair)) for pair in zip(*views, strict=True)])


def scaled(values: Tensor) -> Tensor:
    """From the smallest value at 0 to the largest at 1."""
    return (values - values.min()) / (values.max() - values.min())


def training_loss(
    network: nn.Module,
    images: Float[Tensor, "B 3 H W"],
    tags: Float[Tensor, "B C"],
    weights: tuple[float, float],
    grid: tuple[int, int],
) -> Float[Tensor, ""]:
    """Eq. 6 with a horizontal flip: two forward passes, all attention stacked, flipped row by row in place, compared in L1."""
    logits, attentions = forward(network, images)
    other_logits, other_attentions = forward(network, images.flip(-1))
    one, other = (torch.stack(each).mean(2) for each in (attentions, other_attentions))
    activation, affinity = other[..., 0, 1:].clone(), other[..., 1:, 1:].clone()
    for row in range(grid[0]):
        cells = slice(row * grid[1], (row + 1) * grid[1])
        activation[..., cells] = activation[..., cells].flip(-1)
        affinity[..., cells] = affinity[..., cells].flip(-1)
    for row in range(grid[0]):
        cells = slice(row * grid[1], (row + 1) * grid[1])
        affinity[..., cells, :] = affinity[..., cells, :].flip(-2)
    classification = sum(functional.multilabel_soft_margin_loss(each, tags) for each in (logits, other_logits))
    distances = functional.l1_loss(one[..., 0, 1:], activation), functional.l1_loss(one[..., 1:, 1:], affinity)
    return classification + sum(weight * distance for weight, distance in zip(weights, distances, strict=True))


# ---- affinities and walks (PSA: Ahn and Kwak, CVPR 2018), the threshold curve, seeds on disk ------------------------------


def psa_neighbours(
    grid: Grid, offsets: Sequence[tuple[int, int]]
) -> tuple[Int64[Tensor, "offsets cells"], Bool[Tensor, "offsets cells"]]:
    """The cell at each (y, x) offset of each cell, the cell itself where that lies outside, and whether it lies inside.

    deviates: PSA leaves out the cells of which a neighbour lies outside; here every pair inside counts, as in ours.
    """
    rows, columns = (axis.flatten() for axis in torch.meshgrid(*map(torch.arange, grid), indexing="ij"))
    cells, near, inside = torch.arange(grid.patches), [], []
    for y, x in offsets:
        fits = (rows + y < grid.height) & (columns + x >= 0) & (columns + x < grid.width)
        near.append(torch.where(fits, cells + y * grid.width + x, cells))
        inside.append(fits)
    return torch.stack(near), torch.stack(inside)


def psa_affinities(features: Float[Tensor, "F h w"], offsets: Sequence[tuple[int, int]]) -> Float[Tensor, " E"]:
    """Eq. 2 by gathering: the features of every cell's neighbours side by side, less those of the cell."""
    near, inside = psa_neighbours(Grid(*features.shape[1:]), offsets)
    flat = features.flatten(1)
    gathered = torch.index_select(flat, 1, near.flatten()).view(len(flat), *near.shape)
    return torch.exp(-(gathered - flat[:, None]).abs().mean(0))[inside]


def psa_transition(
    affinities: Float[Tensor, " E"], grid: Grid, offsets: Sequence[tuple[int, int]], exponent: float
) -> Float[Tensor, "P P"]:
    """T as a dense matrix: symmetric affinities with ones on the diagonal, to a power, columns summing to 1."""
    near, inside = psa_neighbours(grid, offsets)
    first, second = torch.arange(grid.patches).expand_as(near)[inside], near[inside]
    dense = torch.eye(grid.patches, dtype=affinities.dtype)
    dense[first, second] = affinities
    dense[second, first] = affinities
    dense = dense**exponent * (dense > 0)
    return dense / dense.sum(0)


def psa_walk(
    maps: Float[Tensor, "K h w"],
    affinities: Float[Tensor, " E"],
    offsets: Sequence[tuple[int, int]],
    exponent: float,
    doublings: int = 8,
) -> Float[Tensor, "K h w"]:
    """Maps times T^256, the dense matrix squared eight times."""
    power = psa_transition(affinities, Grid(*maps.shape[1:]), offsets, exponent)
    for _ in range(doublings):
        power = power @ power
    return (maps.flatten(1) @ power).view_as(maps)


def stepwise_walk(
    maps: Float[np.ndarray, "K h w"],
    affinities: Float[np.ndarray, " E"],
    offsets: Sequence[tuple[int, int]],
    exponent: float,
    steps: int,
) -> Float[np.ndarray, "K h w"]:
    """Maps times T as often as there are steps, where a dense matrix would not fit into memory."""
    near, inside = (table.numpy() for table in psa_neighbours(Grid(*maps.shape[1:]), offsets))
    first, second = np.broadcast_to(np.arange(near.shape[1]), near.shape)[inside], near[inside]
    one_way = sparse.csr_array((affinities**exponent, (first, second)), shape=(near.shape[1],) * 2)
    both = one_way + one_way.T + sparse.eye_array(near.shape[1], dtype=affinities.dtype)
    transposed = sparse.csr_array((both / both.sum(0)).T)
    columns = maps.reshape(len(maps), -1).T
    for _ in range(steps):
        columns = transposed @ columns
    return columns.T.reshape(maps.shape)


def threshold_counts(
    truths: Iterable[UInt8[np.ndarray, "H W"]],
    seeds: Iterable[Mapping[int, Float32[np.ndarray, "H W"]]],
    threshold: float,
    classes: int,
) -> Int64[np.ndarray, "3 {classes}"]:
    """True positives, predictions and truths of each class in pixels, of one pass over all images (the official evaluation).

    Seeds are maps by class index; the background has the threshold as its score, and void pixels do not count.
    """
    counts = np.zeros((3, classes), np.int64)
    for truth, maps in zip(truths, seeds, strict=True):
        scores = np.zeros((classes, *truth.shape), np.float32)
        scores[0] = threshold
        for index, scored in maps.items():
            scores[index + 1] = scored
        prediction, known = scores.argmax(0), truth != VOID
        for value in range(classes):
            predicted, true = (prediction == value) & known, (truth == value) & known
            counts[:, value] += (predicted & true).sum(), predicted.sum(), true.sum()
    return counts


def save_seeds(folder: Path, name: str, maps: Mapping[int, Float32[np.ndarray, "H W"]]) -> int:
    """Writes the maps of one image by class index, in single precision at its full size, as the field does; bytes written."""
    path = folder / f"{name}.npy"
    np.save(path, dict(maps))
    return path.stat().st_size


def load_seeds(folder: Path, name: str) -> dict[int, Float32[np.ndarray, "H W"]]:
    """What `save_seeds` wrote."""
    return np.load(folder / f"{name}.npy", allow_pickle=True).item()


# ---- CRFs of all labels of a data set, one library object each; photographs that the training process prepares itself ----


def crf_of_all_labels(
    image: UInt8[np.ndarray, "H W 3"], probabilities: Float32[np.ndarray, "K H W"], settings: Crf
) -> UInt8[np.ndarray, "H W"]:
    """The best label of each pixel after a dense CRF over all labels, made and filled as pydensecrf's examples do."""
    labels, height, width = probabilities.shape
    crf = DenseCRF2D(width, height, labels)
    crf.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(probabilities, clip=1e-5)))
    crf.addPairwiseGaussian(sxy=settings.gaussian_xy, compat=settings.gaussian_weight)
    crf.addPairwiseBilateral(
        sxy=settings.bilateral_xy,
        srgb=settings.bilateral_rgb,
        rgbim=np.ascontiguousarray(image),
        compat=settings.bilateral_weight,
    )
    return np.argmax(crf.inference(settings.iterations), axis=0).reshape(height, width)


def confident_of_all_labels(
    image: UInt8[np.ndarray, "H W 3"],
    maps: Mapping[int, Float32[np.ndarray, "H W"]],
    classes: int,
    exponents: tuple[float, float],
    settings: Crf,
) -> UInt8[np.ndarray, "H W"]:
    """PSA's confident labels from the maps of an image by class index: one CRF of all classes for each exponent.

    Class index + 1 where the first has it, background where the second has it, 255 elsewhere.
    """
    best = []
    for exponent in exponents:
        scores = np.zeros((classes + 1, *image.shape[:2]), np.float32)
        scores[0] = (1 - np.max(list(maps.values()), axis=0)) ** exponent
        for index, values in maps.items():
            scores[index + 1] = values
        best.append(crf_of_all_labels(image, scores / scores.sum(0), settings))
    generous, strict = best
    labels = np.where(generous == 0, VOID, generous)
    labels[strict == 0] = 0
    return labels


def normalised_crop(
    path: Path, scale: float, window: tuple[int, int], size: int, mean: Sequence[float], deviation: Sequence[float]
) -> Float[Tensor, "3 {size} {size}"]:
    """A photograph in single precision: read, resized, normalised, and cropped at (top, left) with zeros outside."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"), np.float32) / 255
    height, width = (round(scale * side) for side in pixels.shape[:2])
    grows = scale > 1
    pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR if grows else cv2.INTER_AREA)
    pixels = (pixels - np.float32(mean)) / np.float32(deviation)
    top, left = window
    padded = np.zeros((height + 2 * size, width + 2 * size, 3), np.float32)
    padded[size : size + height, size : size + width] = pixels
    cut = padded[size + top : 2 * size + top, size + left : 2 * size + left]
    return torch.from_numpy(np.ascontiguousarray(cut.transpose(2, 0, 1)))
