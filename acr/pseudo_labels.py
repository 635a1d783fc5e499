"""Pseudo labels: seeds spread by a random walk over learnt affinities, one mask an image (PSA: Ahn and Kwak, CVPR 2018)."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial, reduce
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8

from acr import config
from acr.affinities import WITHOUT_GRADIENT, Offset, neighbours, random_walk, transition
from acr.crf import masks
from acr.datasets.base import Record, Split, read_split, shard_of
from acr.devices import device_of
from acr.files import Arrays, read_json, write_resumably
from acr.images import at_full_size, read_working_image, upsample
from acr.measures import otsu_threshold
from acr.models.affinity_net import AffinityNet, build_affinity_net
from acr.models.weights import load_state
from acr.pixel_refinement import refine_by_pixels
from acr.recipes import Crf, Execution, PseudoLabels
from acr.shapes import BACKGROUND, Grid

Spread = Callable[[UInt8[np.ndarray, "H W 3"], Float32[np.ndarray, "K h w"]], Float32[np.ndarray, "K i j"]]


def probabilities_of(maps: Float32[np.ndarray, "K H W"], background: float) -> Float32[np.ndarray, "L H W"]:
    """A constant `background` score and the maps, L = K + 1, each pixel's divided by their sum.

    The walk leaves a constant as it is, so the background does not take part in it.
    """
    scores = np.concatenate([np.full_like(maps[:1], background), maps])
    return scores / np.maximum(scores.sum(0), np.finfo(np.float32).tiny)


def mask_values(indices: Sequence[int]) -> UInt8[np.ndarray, " L"]:
    """The mask value of each row of `probabilities_of`: BACKGROUND, then class index + 1."""
    return np.array([BACKGROUND, *(index + 1 for index in indices)], np.uint8)


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
        affinities = WITHOUT_GRADIENT[self.network.method](features[0].cpu().numpy(), self.offsets)
        steps = transition(affinities, grid, self.offsets, self.recipe.exponent)
        return random_walk(upsample(maps, *grid), steps, self.recipe.walk_steps)


def pseudo_scores(
    image: UInt8[np.ndarray, "H W 3"],
    maps: Float32[np.ndarray, "K h w"],
    background: float | Literal["otsu"],
    spread: Spread,
) -> Float32[np.ndarray, "L H W"]:
    """Probabilities of the background and of the image's classes, L = K + 1; without classes all is background.

    The background `otsu` is the threshold that best splits the image's own scores after the walk, which lowers peaks by
    as much as the image's regions are large: no constant fits all images.

    deviates: PSA walks (1 - max)^16 beside the maps, and the field's later code a constant found with true masks.
    """
    if len(maps) == 0:
        return np.ones((1, *image.shape[:2]), np.float32)
    scores = spread(image, maps)
    level = otsu_threshold([scores]) if background == "otsu" else background
    return probabilities_of(upsample(scores, *image.shape[:2]), level)


# ---- disk ----------------------------------------------------------------------------------------------------------------


def read_affinity(model: str | Path) -> tuple[AffinityNet, tuple[Offset, ...]]:
    """A trained network, frozen and in evaluation mode, and the offsets of the pairs it was trained on."""
    description = read_json(Path(model).with_suffix(".json"))
    network = build_affinity_net(description)
    load_state(network, model)
    return network.requires_grad_(False).eval(), neighbours(description["radius"])


Score = Callable[[Record, UInt8[np.ndarray, "H W 3"]], Float32[np.ndarray, "L H W"]]


def seed_scores(data: Split, maps: str | Path, model: str | Path | None, recipe: PseudoLabels, how: Execution) -> Score:
    """`pseudo_scores` as a function of a record and its photograph; arguments as `pseudo_label_shard` has them."""
    seeds, spread = Arrays(maps), spread_of(model, recipe, how)
    level = level_of(recipe, (seeds[record.image_id] for record in data.records))
    return lambda record, image: pseudo_scores(image, seeds[record.image_id].astype(np.float32), level, spread)


def level_of(recipe: PseudoLabels, maps: Iterable[Float[np.ndarray, "_ _ _"]]) -> float | Literal["otsu"]:
    """The background of all images, for which the maps of all may have to be read; or `otsu`, each image's own."""
    return otsu_threshold(maps) if recipe.background == "otsu_of_split" else recipe.background


def spread_of(model: str | Path | None, recipe: PseudoLabels, how: Execution) -> Spread:
    """The walk, if there is a network to walk by, and after it the refinement by pixels, if there is one."""
    spread: list[Spread] = []
    if model:
        network, offsets = read_affinity(model)
        spread.append(Walk(network.to(device_of(how)), offsets, recipe))
    if recipe.pixels:
        spread.append(partial(refine_by_pixels, settings=recipe.pixels, device=device_of(how)))
    return lambda image, maps: reduce(lambda scores, each: each(image, scores), spread, maps)


def write_labels(score: Score, part: Split, crf: Crf | None, workers: int, output: str | Path, made_from: Mapping) -> None:
    """Writes the best label of each pixel of each image of a part of a split, after a CRF if there is one."""

    def labels(first: int) -> Iterator[UInt8[np.ndarray, "H W"]]:
        records = part.records[first:]
        images = ((record, read_working_image(record.image)) for record in records)
        made = zip(masks(((image, score(record, image)) for record, image in images), crf, workers), records, strict=True)
        return (at_full_size(mask_values(part.class_indices(record))[mask], record.image) for mask, record in made)

    write_resumably(output, made_from, [record.image_id for record in part.records], labels)


def pseudo_label_shard(
    *,
    split: str | Path,
    maps: str | Path,
    model: str | Path | None,
    recipe: str,
    execution: Mapping,
    shard: str,
    output: str | Path,
    made_from: Mapping,
) -> None:
    """Writes the masks of one shard of a split, such as `0-of-4`, as an npz archive.

    Args:
        split: table of the split.
        maps: seeds of the whole split.
        model: model.safetensors of the affinity network; without one nothing is walked.
        recipe: a `pseudo_labels` recipe.
        execution: how to run.
        shard: which images.
        output: the archive.
        made_from: all that the masks are a function of: what an interrupted call of it made is not made again.
    """
    wanted, data = config.load(PseudoLabels, recipe), read_split(split)
    how = config.build(Execution, execution, "execution")
    score = seed_scores(data, maps, model, wanted, how)
    write_labels(score, shard_of(data, shard), wanted.crf, how.workers, output, made_from)
