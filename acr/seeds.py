"""Seeds: localisation maps of photographs, refined by the affinity of patches, flipped, at several scales (Sec. 3.3, Eq. 8)."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float16, Int64, UInt8
from torch import Tensor
from torch.nn import functional

from acr import config
from acr.classifiers import read_classifier
from acr.datasets.base import Record, read_split, shard_of
from acr.devices import device_of
from acr.files import write_resumably
from acr.images import read_image, resize_image
from acr.localisation import METHODS, asked, compete, kept, refining_layers
from acr.models.trace import Trace, affinity, all_kept
from acr.models.vit import VitClassifier
from acr.recipes import Execution, Seeds
from acr.views import HFLIP


def mean_affinity(trace: Trace, layers: Sequence[int], power: float) -> Float[Tensor, "B P P"]:
    """Patch-to-patch attention averaged over heads and over `layers`; a power other than 1 sharpens its rows.

    deviates: Eq. 8 has no power; with one, rows are made to sum to one again.
    """
    chosen = [affinity(each, trace.special) for each in all_kept(trace.attentions[layer] for layer in layers)]
    mean = torch.stack(chosen).mean(0)
    return mean if power == 1 else sharpen(mean, power)


def sharpen(affinities: Float[Tensor, "B P P"], power: float) -> Float[Tensor, "B P P"]:
    """Element-wise power relative to the largest of each row, rows summing to one."""
    sharpened = (affinities / affinities.amax(-1, keepdim=True)) ** power
    return sharpened / sharpened.sum(-1, keepdim=True)


PRODUCTS = {
    "map_times_affinity": lambda maps, affinities: torch.einsum("kbp,bpq->kbq", maps, affinities),
    "affinity_times_map": lambda maps, affinities: torch.einsum("bqp,kbp->kbq", affinities, maps),
}


def localise(
    model: VitClassifier, images: Float[Tensor, "B 3 H W"], classes: Sequence[Sequence[int]], recipe: Seeds
) -> Float[Tensor, "K B h w"]:
    """Maps of the classes of images in [0, 1] at the patch grid: Eq. 7, or Eq. 8 where `recipe.refine`.

    Args:
        model: frozen; only what the first used layer's attention can reach is differentiated.
        images: RGB in [0, 1]; both sides are multiples of the patch size.
        classes: 0-based, of each image; K is the largest number of them, and the maps beyond an image's own mean nothing.
        recipe: what to compute.
    """
    trace = traced(model, images, recipe)
    maps = METHODS[recipe.method].maps(trace, of_trace(classes, trace), recipe)
    if recipe.competition:
        counts = torch.tensor([len(each) for each in classes], device=maps.device)
        maps = compete(maps, counts.repeat(maps.shape[1] // len(classes)), recipe.competition)
    if recipe.refine:
        maps = PRODUCTS[recipe.product](maps, mean_affinity(trace, refining_layers(recipe), recipe.affinity_power))
    return normalise(mirrored_back(maps, trace, recipe))


def traced(model: VitClassifier, images: Float[Tensor, "B 3 H W"], recipe: Seeds) -> Trace:
    """The trace of images and, where the recipe wants it, of their mirror images; differentiable where its method asks."""
    images = torch.cat([images, HFLIP.forward(images)]) if recipe.flip else images
    return model(images, kept(recipe, len(model.network.blocks)))


def of_trace(classes: Sequence[Sequence[int]], trace: Trace) -> Int64[Tensor, "K B"]:
    """The classes of each image, for it and for its mirror image."""
    wanted = asked(classes).to(trace.logits.device)
    return wanted.repeat(1, len(trace.logits) // len(classes))


def mirrored_back(maps: Float[Tensor, "*K _ P"], trace: Trace, recipe: Seeds) -> Float[Tensor, "*K B h w"]:
    """The maps on their grid, those of the mirror images added."""
    maps = maps.unflatten(-1, trace.grid)
    if not recipe.flip:
        return maps
    own, mirrored = maps.chunk(2, dim=-3)
    return own + HFLIP.inverse(mirrored)


def normalise(maps: Float[Tensor, "*K h w"]) -> Float[Tensor, "*K h w"]:
    """Each map from its minimum at 0 to its maximum at 1; a constant map is 0."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low), torch.zeros_like(maps))


def input_size(height: int, width: int, patch: int, recipe: Seeds, scale: float = 1.0) -> tuple[int, int]:
    """Size a photograph is resized to: multiples of the patch with about the area of the recipe's square at `scale`."""
    side = scale * recipe.image_size
    factors = (side / height, side / width) if recipe.aspect == "square" else (side / math.sqrt(height * width),) * 2
    rows, columns = (max(1, round(factor * old / patch)) for factor, old in zip(factors, (height, width), strict=True))
    return patch * rows, patch * columns


def localise_photograph(
    model: VitClassifier, photograph: UInt8[np.ndarray, "H W 3"], classes: Sequence[int], recipe: Seeds
) -> Float16[np.ndarray, "K h w"]:
    """`localise` for an RGB photograph of any size, on the model's device; maps of several scales are averaged."""
    return at_scales(localise, model, [photograph], [classes], recipe)[0]


def at_scales(
    method: Callable[..., Tensor],
    model: VitClassifier,
    photographs: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    classes: Sequence[Sequence[int]],
    recipe: Seeds,
) -> list[Float16[np.ndarray, "*K h w"]]:
    """The maps that `method`, called as `localise` is, gives at each of the recipe's scales, fused, of each photograph.

    Their sizes must agree at the input of the model.
    """
    (sizes,) = {_sizes(photograph, model.patch, recipe) for photograph in photographs}
    inputs = [torch.stack([as_input(photograph, *size, model) for photograph in photographs]) for size in sizes]
    maps = fuse([method(model, images, classes, recipe) for images in inputs])
    several = (with_corners(maps) if recipe.align_corners else maps).cpu().numpy().astype(np.float16)
    return [several[..., : len(each), number, :, :] for number, each in enumerate(classes)]


def _sizes(photograph: UInt8[np.ndarray, "H W 3"], patch: int, recipe: Seeds) -> tuple[tuple[int, int], ...]:
    height, width = photograph.shape[:2]
    return tuple(input_size(height, width, patch, recipe, scale) for scale in recipe.scales)


def as_input(photograph: UInt8[np.ndarray, "H W 3"], height: int, width: int, model: VitClassifier) -> Float[Tensor, "3 _ _"]:
    """The photograph at another size as RGB in [0, 1], on the model's device."""
    image = torch.from_numpy(resize_image(photograph, height, width)).permute(2, 0, 1).float() / 255
    return image.to(model.normalise.mean.device)


def fuse(maps: Sequence[Float[Tensor, "*K _ _"]]) -> Float[Tensor, "*K h w"]:
    """Maps of several scales, averaged on the grid of the first and normalised; those of one scale as they are."""
    if len(maps) == 1:
        return maps[0]
    shape = maps[0].shape
    resized = [functional.interpolate(each.flatten(0, -3)[None], shape[-2:], mode="bilinear")[0] for each in maps]
    return normalise(torch.stack(resized).mean(0).view(shape))


def with_corners(maps: Float[Tensor, "*K h w"], factor: int = 4) -> Float[Tensor, "*K i j"]:
    """Maps whose corner cells lie on the corners of the image, resampled to cells that lie on their areas, `factor` as many.

    The official code enlarges its maps so (torch's align_corners=True). All that reads seeds takes a cell for its area:
    enlarged from here, a map agrees with the official one but within a quarter of a cell around its kinks.
    """
    shape = maps.shape[-2:]
    rows, columns = (2 * (torch.arange(side * factor, dtype=maps.dtype) + 0.5) / (side * factor) - 1 for side in shape)
    places = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)[None].to(maps.device)
    sampled = functional.grid_sample(maps.flatten(0, -3)[None], places, mode="bilinear", align_corners=True)
    return sampled.view(*maps.shape[:-2], *sampled.shape[-2:])


def with_depth(recipe: Seeds, model: VitClassifier) -> Seeds:
    """The recipe with numbers of layers in place of null and `all`; a null of the affinity's layers stays.

    Raises:
        ValueError: it names layers that the network does not have.
    """
    depth = len(model.network.blocks)
    averaged = tuple(range(depth)) if recipe.affinity_layers == "all" else recipe.affinity_layers
    if (recipe.layers or 0) > depth:
        raise ValueError(f"layers is {recipe.layers}, but the classifier has {depth}; give at most as many, or null for all")
    for layer in averaged or ():
        if not -depth <= layer < depth:
            last = f"the classifier's last layer is {depth - 1}; name layers from 0 to that"
            raise ValueError(f"affinity_layers names {layer}, but {last}")
    return replace(recipe, layers=recipe.layers or depth, affinity_layers=averaged)


def map_shard(
    method: Callable[..., Tensor],
    recipe: Seeds,
    nothing: Callable[[Seeds], tuple[int, ...]],
    *,
    split: str,
    model: str,
    execution: Mapping,
    shard: str,
    output: str,
    made_from: Mapping,
) -> None:
    """Writes what `method`, called as `localise` is, gives for one shard of a split, such as `0-of-4`, as an npz archive.

    Args:
        method: see `at_scales`.
        recipe: what to compute.
        nothing: the shape of the maps of a photograph without tags.
        split: table of the split.
        model: model.safetensors of the classifier.
        execution: how to run.
        shard: which images.
        output: the archive.
        made_from: all that the maps are a function of: what an interrupted call of it made is not made again.
    """
    how = config.build(Execution, execution, "execution")
    classifier = read_classifier(model).to(device_of(how))
    part, wanted = shard_of(read_split(split), shard), with_depth(recipe, classifier)

    def maps(first: int) -> Iterator[Float16[np.ndarray, "*K h w"]]:
        # an interrupted batch is made again as a whole: who is in it decides the last bits of its maps
        for start in range(first - first % how.batch, len(part.records), how.batch):
            items = [(item, part.class_indices(item)) for item in part.records[start : start + how.batch]]
            yield from _of_batch(method, classifier, items, wanted, nothing)[max(0, first - start) :]

    write_resumably(output, made_from, [record.image_id for record in part.records], maps)


def _of_batch(
    method: Callable[..., Tensor],
    model: VitClassifier,
    items: Sequence[tuple[Record, tuple[int, ...]]],
    recipe: Seeds,
    nothing: Callable[[Seeds], tuple[int, ...]],
) -> list[Float16[np.ndarray, "*K h w"]]:
    """The maps of photographs and their classes, in their order; those of one size are seen together."""
    made = [np.zeros(nothing(recipe), np.float16) for _ in items]
    together = defaultdict(list)
    for number, (record, classes) in enumerate(items):
        if classes:
            photograph = read_image(record.image)
            together[_sizes(photograph, model.patch, recipe)].append((number, photograph, classes))
    for group in together.values():
        numbers, photographs, classes = zip(*group, strict=True)
        for number, maps in zip(numbers, at_scales(method, model, photographs, classes, recipe), strict=True):
            made[number] = maps
    return made


def seed_shard(*, recipe: str, **which: Any) -> None:
    """Writes the maps "K h w" of one shard; `recipe` is a Seeds, the other arguments are those of `map_shard`."""
    map_shard(localise, config.load(Seeds, recipe), lambda wanted: (0, 1, 1), **which)
