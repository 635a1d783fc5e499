"""Seeds: class localisation maps from the gradients of a classifier's attention (Sec. 3.3, Eq. 7 and 8)."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Float16, UInt8
from torch import Tensor

from acr import config
from acr.classifiers import read_classifier
from acr.datasets.base import Record, Split, read_split, shard_of
from acr.devices import device_of
from acr.files import write_resumably
from acr.images import read_image, resize_image
from acr.models.trace import Trace, affinity
from acr.models.vit import VitClassifier
from acr.recipes import Execution, Seeds
from acr.views import HFLIP


def gradient_maps(trace: Trace, classes: Sequence[int], layers: int) -> Float[Tensor, "K B P"]:
    """Eq. 7: gradients of each class's logit with respect to the class-to-patch attention of the last layers.

    Negative values are removed head by head before heads and layers are averaged, as in the official code; the paper
    leaves the order open.
    """
    used = trace.attentions[-layers:]
    maps = []
    for index in classes:
        gradients = torch.autograd.grad(trace.logits[:, index].sum(), used, retain_graph=True)
        rows = [gradient[:, :, 0, trace.special :].clamp(min=0).mean(1) for gradient in gradients]
        maps.append(torch.stack(rows).mean(0))
    return torch.stack(maps)


def mean_affinity(trace: Trace, layers: Sequence[int], power: float) -> Float[Tensor, "B P P"]:
    """Patch-to-patch attention averaged over heads and over `layers`; a power other than 1 sharpens its rows.

    deviates: Eq. 8 has no power; with one, rows are made to sum to one again.
    """
    chosen = [affinity(trace.attentions[layer].detach().mean(1), trace.special) for layer in layers]
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
    model: VitClassifier, image: Float[Tensor, "3 H W"], classes: Sequence[int], recipe: Seeds
) -> Float[Tensor, "K h w"]:
    """Maps of the `classes` of one image in [0, 1] at the patch grid: Eq. 7, or Eq. 8 where `recipe.refine`.

    Args:
        model: frozen; only the blocks from the first used layer on are differentiated.
        image: RGB in [0, 1]; both sides are multiples of the patch size.
        classes: 0-based.
        recipe: what to compute.
    """
    images = torch.stack([image, HFLIP.forward(image)]) if recipe.flip else image[None]
    depth = len(model.network.blocks)
    trace = model(images, differentiate_from=depth - recipe.layers)
    maps = gradient_maps(trace, classes, recipe.layers)
    if recipe.refine:
        layers = recipe.affinity_layers or range(depth - recipe.layers, depth)
        affinities = mean_affinity(trace, layers, recipe.affinity_power)
        maps = PRODUCTS[recipe.product](maps, affinities)
    maps = maps.unflatten(-1, trace.grid)
    restored = maps[:, 0] + HFLIP.inverse(maps[:, 1]) if recipe.flip else maps[:, 0]
    return normalise(restored)


def normalise(maps: Float[Tensor, "K h w"]) -> Float[Tensor, "K h w"]:
    """Each map from its minimum at 0 to its maximum at 1; a constant map is 0."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low), torch.zeros_like(maps))


def input_size(height: int, width: int, patch: int, recipe: Seeds) -> tuple[int, int]:
    """Size a photograph is resized to: multiples of the patch with about the area of the recipe's square."""
    if recipe.aspect == "square":
        return recipe.image_size, recipe.image_size
    scale = recipe.image_size / math.sqrt(height * width)
    return tuple(patch * max(1, round(scale * side / patch)) for side in (height, width))


def localise_photograph(
    model: VitClassifier, photograph: UInt8[np.ndarray, "H W 3"], classes: Sequence[int], recipe: Seeds
) -> Float16[np.ndarray, "K h w"]:
    """`localise` for an RGB photograph of any size, on the model's device."""
    height, width = input_size(*photograph.shape[:2], model.patch, recipe)
    image = torch.from_numpy(resize_image(photograph, height, width)).permute(2, 0, 1).float() / 255
    return localise(model, image.to(model.normalise.mean.device), classes, recipe).cpu().numpy().astype(np.float16)


def _maps(model: VitClassifier, split: Split, record: Record, recipe: Seeds) -> Float16[np.ndarray, "K h w"]:
    classes = split.class_indices(record)
    if not classes:
        return np.zeros((0, 1, 1), np.float16)
    return localise_photograph(model, read_image(record.image), classes, recipe)


def seed_shard(*, split: str, model: str, recipe: str, execution: Mapping, shard: str, output: str, made_from: Mapping) -> None:
    """Writes the maps of one shard of a split, such as `0-of-4`, as an npz archive.

    What an interrupted call `made_from` the same made is not made again.
    """
    classifier = read_classifier(model).to(device_of(config.build(Execution, execution, "execution")))
    part, wanted = shard_of(read_split(split), shard), config.load(Seeds, recipe)
    write_resumably(
        output,
        made_from,
        [record.image_id for record in part.records],
        lambda first: (_maps(classifier, part, record, wanted) for record in part.records[first:]),
    )
