"""Pseudo labels: seeds spread by a random walk over learnt affinities, one mask an image (PSA: Ahn and Kwak, CVPR 2018)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from tqdm import tqdm

from acr import config
from acr.affinities import Offset, affinity, neighbours, random_walk, transition
from acr.config import Execution, PseudoLabels
from acr.datasets import Split, read_split, shard_of
from acr.files import Arrays, read_json, write_arrays
from acr.images import read_image, upsample
from acr.measures import otsu_threshold
from acr.models.affinity_net import AffinityNet, build_affinity_net
from acr.models.weights import load_state
from acr.shapes import BACKGROUND, Grid
from acr.training import device_of

Spread = Callable[[UInt8[np.ndarray, "H W 3"], Float32[np.ndarray, "K h w"]], Float32[np.ndarray, "K i j"]]


def mask_of(maps: Float32[np.ndarray, "K H W"], background: float, indices: Sequence[int]) -> UInt8[np.ndarray, "H W"]:
    """The class index + 1 of the best map, BACKGROUND where none is above the constant `background`.

    Args:
        maps: scores in [0, 1], of which each belongs to one of `indices`.
        background: score of the background. The walk leaves a constant as it is, so it does not take part in it.
        indices: 0-based classes in the order of the maps.
    """
    best = np.concatenate([np.full_like(maps[:1], background), maps]).argmax(0)
    return np.array([BACKGROUND, *(index + 1 for index in indices)], np.uint8)[best]


class Walk:
    """Spreads maps over an image's affinities; nothing is normalised afterwards, so that a walk lowers peaks (as in PSA)."""

    def __init__(self, network: AffinityNet, offsets: Sequence[Offset], recipe: PseudoLabels) -> None:
        self.network, self.offsets, self.recipe = network, offsets, recipe

    @torch.inference_mode()
    def __call__(self, image: UInt8[np.ndarray, "H W 3"], maps: Float32[np.ndarray, "K h w"]) -> Float32[np.ndarray, "K i j"]:
        """The maps after the walk, on the grid of the affinities."""
        device = self.network.backbone.normalise.mean.device
        features = self.network(torch.from_numpy(image).permute(2, 0, 1)[None].to(device).float() / 255)
        grid = Grid(*features.shape[-2:])
        affinities = affinity(features, self.offsets)[0].cpu().numpy()
        steps = transition(affinities, grid, self.offsets, self.recipe.exponent)
        return random_walk(upsample(maps, *grid), steps, self.recipe.walk_steps)


def pseudo_label(
    image: UInt8[np.ndarray, "H W 3"],
    maps: Float32[np.ndarray, "K h w"],
    indices: Sequence[int],
    background: float | Literal["otsu"],
    spread: Spread,
) -> UInt8[np.ndarray, "H W"]:
    """The mask of one image from the seeds of its classes `indices`; one without classes is all background.

    The background `otsu` is the threshold that best splits the image's own scores after the walk, which lowers peaks by
    as much as the image's regions are large: no constant fits all images.

    deviates: PSA walks (1 - max)^16 beside the maps, and the field's later code a constant found with true masks.
    """
    if not indices:
        return np.full(image.shape[:2], BACKGROUND, np.uint8)
    scores = spread(image, maps)
    level = otsu_threshold([scores]) if background == "otsu" else background
    return mask_of(upsample(scores, *image.shape[:2]), level, indices)


# ---- disk ----------------------------------------------------------------------------------------------------------------


def read_affinity(model: str | Path) -> tuple[AffinityNet, tuple[Offset, ...]]:
    """A trained network, frozen and in evaluation mode, and the offsets of the pairs it was trained on."""
    description = read_json(Path(model).with_suffix(".json"))
    network = build_affinity_net(description)
    load_state(network, model)
    return network.requires_grad_(False).eval(), neighbours(description["radius"])


def _spread(model: str | Path | None, recipe: PseudoLabels, how: Execution) -> Spread:
    if not model:
        return lambda image, maps: maps
    network, offsets = read_affinity(model)
    return Walk(network.to(device_of(how)), offsets, recipe)


def _masks(
    split: Split, seeds: Arrays, background: float | str, spread: Spread
) -> Iterator[tuple[str, UInt8[np.ndarray, "H W"]]]:
    for record in tqdm(split.records, desc="pseudo labels", disable=None):
        maps = seeds[record.image_id].astype(np.float32)
        yield record.image_id, pseudo_label(read_image(record.image), maps, split.class_indices(record), background, spread)


def pseudo_label_shard(
    *,
    split: str | Path,
    maps: str | Path,
    model: str | Path | None,
    recipe: str,
    execution: Mapping,
    shard: str,
    output: str | Path,
) -> None:
    """Writes the masks of one shard of a split, such as `0-of-4`, as an npz archive.

    Args:
        split: table of the split.
        maps: seeds of the whole split.
        model: model.safetensors of the affinity network; none thresholds the seeds as they are.
        recipe: a `pseudo_labels` recipe.
        execution: how to run.
        shard: which images.
        output: the archive.
    """
    wanted, data, seeds = config.load(PseudoLabels, recipe), read_split(split), Arrays(maps)
    spread = _spread(model, wanted, config.build(Execution, execution, "execution"))
    write_arrays(output, _masks(shard_of(data, shard), seeds, wanted.background, spread))
