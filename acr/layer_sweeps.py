"""Figure 8: the seeds of one recipe from its last layer alone, its last two, and so on to all of them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from acr import config
from acr.localisation import count_of_layers, layer_gradients, refining_layers
from acr.models.trace import Trace, affinity, all_kept
from acr.models.vit import VitClassifier
from acr.recipes import Seeds
from acr.seeds import PRODUCTS, map_shard, mean_affinity, mirrored_back, normalise, of_trace, sharpen, traced


def localise_from_each(
    model: VitClassifier, images: Float[Tensor, "B 3 H W"], classes: Sequence[Sequence[int]], recipe: Seeds
) -> Float[Tensor, "L K B h w"]:
    """`acr.seeds.localise` with the last 1, 2, ... L layers, from one forward pass and one backward pass a class.

    Affinities follow the number of layers as they do there; where the recipe names their layers they are the same for all.
    """
    trace = traced(model, images, recipe)
    maps = from_last(layer_gradients(trace, of_trace(classes, trace), count_of_layers(recipe), recipe.rectify))
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
        return [mean_affinity(trace, refining_layers(recipe), recipe.affinity_power)] * layers
    means = list(from_last(affinity(torch.stack(all_kept(trace.attentions)), trace.special)))
    return means if recipe.affinity_power == 1 else [sharpen(mean, recipe.affinity_power) for mean in means]


def sweep_shard(*, recipe: str, **which: Any) -> None:
    """Writes the maps "L K h w" of one shard; arguments as those of `acr.seeds.seed_shard`.

    The recipe's number of layers does not count.

    Raises:
        ValueError: its method does not average gradients of layers.
    """
    seeds = config.load(Seeds, recipe)
    if seeds.method != "gradient":
        raise ValueError(f"method is {seeds.method!r}, which has no gradients of layers; sweep over seeds of method gradient")
    map_shard(localise_from_each, replace(seeds, layers=None), lambda wanted: (count_of_layers(wanted), 0, 1, 1), **which)
