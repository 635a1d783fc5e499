"""Figure 8: the seeds of one recipe from its last layer alone, its last two, and so on to all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Float16
from torch import Tensor

from acr import config
from acr.classifiers import read_classifier
from acr.datasets.base import Record, Split, read_split, shard_of
from acr.devices import device_of
from acr.files import write_resumably
from acr.images import read_image
from acr.localisation import layer_gradients
from acr.models.trace import Trace
from acr.models.vit import VitClassifier
from acr.recipes import Execution, Seeds
from acr.seeds import PRODUCTS, at_scales, mean_affinity, mirrored_back, normalise, sharpen, traced, with_depth


def localise_from_each(
    model: VitClassifier, image: Float[Tensor, "3 H W"], classes: Sequence[int], recipe: Seeds
) -> Float[Tensor, "L K h w"]:
    """`acr.seeds.localise` with the last 1, 2, ... L layers, from one forward pass and one backward pass a class.

    Affinities follow the number of layers as they do there; where the recipe names their layers they are the same for all.
    """
    trace = traced(model, image, recipe)
    maps = from_last(layer_gradients(trace, classes, recipe.layers, recipe.rectify))
    if recipe.refine:
        maps = torch.stack(
            [PRODUCTS[recipe.product](*pair) for pair in zip(maps, _affinities(trace, recipe, len(maps)), strict=True)]
        )
    return normalise(mirrored_back(maps, trace, recipe))


def from_last(layers: Float[Tensor, "L *B"]) -> Float[Tensor, "L *B"]:
    """Means over the last 1, 2, ... L of what is given for each layer."""
    counts = torch.arange(1, len(layers) + 1, dtype=layers.dtype, device=layers.device)
    return layers.flip(0).cumsum(0) / counts.view(-1, *[1] * (layers.dim() - 1))


def _affinities(trace: Trace, recipe: Seeds, layers: int) -> Sequence[Float[Tensor, "B P P"]]:
    if recipe.affinity_layers is not None:
        return [mean_affinity(trace, recipe.affinity_layers, recipe.affinity_power)] * layers
    means = list(from_last(torch.stack([affinity.detach() for affinity in trace.affinity()])))
    return means if recipe.affinity_power == 1 else [sharpen(mean, recipe.affinity_power) for mean in means]


def _maps(model: VitClassifier, split: Split, record: Record, recipe: Seeds) -> Float16[np.ndarray, "L K h w"]:
    classes = split.class_indices(record)
    if not classes:
        return np.zeros((recipe.layers, 0, 1, 1), np.float16)
    return at_scales(localise_from_each, model, read_image(record.image), classes, recipe)


def sweep_shard(
    *, split: str, model: str, recipe: str, execution: Mapping, shard: str, output: str, made_from: Mapping
) -> None:
    """Writes the maps "L K h w" of one shard of a split; arguments as those of `acr.seeds.seed_shard`.

    `recipe` is a Seeds; its number of layers does not count.

    Raises:
        ValueError: its method does not average gradients of layers.
    """
    seeds = config.load(Seeds, recipe)
    if seeds.method != "gradient":
        raise ValueError(f"method is {seeds.method!r}, which has no gradients of layers; sweep over seeds of method gradient")
    classifier = read_classifier(model).to(device_of(config.build(Execution, execution, "execution")))
    part, wanted = shard_of(read_split(split), shard), with_depth(replace(seeds, layers=None), classifier)
    write_resumably(
        output,
        made_from,
        [record.image_id for record in part.records],
        lambda first: (_maps(classifier, part, record, wanted) for record in part.records[first:]),
    )
