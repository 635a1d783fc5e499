"""Confident labels: where the seeds of an image leave no doubt, for the PSA network to learn from (Ahn and Kwak, CVPR 2018).

Nothing here imports torch: the processes that run CRFs start quickly and stay small.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from acr import config
from acr.crf import dense_crfs
from acr.datasets.base import read_split, shard_of
from acr.files import Arrays, write_resumably
from acr.images import read_working_image, upsample
from acr.processes import in_processes
from acr.recipes import Affinity, ConfidentLabels, Execution
from acr.shapes import BACKGROUND, VOID


def confident_labels(
    image: UInt8[np.ndarray, "H W 3"], maps: Float32[np.ndarray, "K H W"], settings: ConfidentLabels
) -> UInt8[np.ndarray, "H W"]:
    """Where PSA may learn: map index + 1 or BACKGROUND where two CRFs leave no doubt, VOID elsewhere.

    Background scores (1 - max)^low are generous, so that foreground found beside them is sure; (1 - max)^high are
    strict, so that background is. Maps that are all zero locate nothing: all is VOID.
    """
    if not maps.any():
        return np.full(image.shape[:2], VOID, np.uint8)
    probabilities = [_probabilities(maps, exponent) for exponent in (settings.low, settings.high)]
    generous, strict = (posterior.argmax(0) for posterior in dense_crfs(image, probabilities, settings.crf))
    sure = np.where(generous == BACKGROUND, VOID, generous)
    return np.where(strict == BACKGROUND, BACKGROUND, sure).astype(np.uint8)


def _probabilities(maps: Float32[np.ndarray, "K H W"], exponent: float) -> Float32[np.ndarray, "L H W"]:
    background = (1 - maps.max(0, keepdims=True)) ** exponent
    scores = np.concatenate([background, maps])
    return scores / scores.sum(0)


# ---- disk ----------------------------------------------------------------------------------------------------------------


def _confident(path: Path, indices: tuple[int, ...], maps: np.ndarray, settings: ConfidentLabels) -> np.ndarray:
    image = read_working_image(path)
    values = np.full(VOID + 1, VOID, np.uint8)
    values[: len(indices) + 1] = [BACKGROUND, *(index + 1 for index in indices)]
    return values[confident_labels(image, upsample(maps, *image.shape[:2]), settings)]


def label_shard(
    *,
    split: str | Path,
    maps: str | Path,
    recipe: str,
    execution: Mapping,
    shard: str,
    output: str | Path,
    made_from: Mapping,
) -> None:
    """Writes the confident labels (class index + 1, size of `read_working_image`) of one shard of a split, such as `0-of-4`.

    `recipe` is an Affinity, of which `labels` counts; `maps` are its seeds. CRFs run in `execution.workers` processes.
    What an interrupted call `made_from` the same made is not made again.
    """
    settings, how = config.load(Affinity, recipe).labels, config.build(Execution, execution, "execution")
    part, seeds = shard_of(read_split(split), shard), Arrays(maps)

    def labels(first: int) -> Iterator[np.ndarray]:
        wanted = part.records[first:]
        tasks = ((item.image, part.class_indices(item), seeds[item.image_id], settings) for item in wanted)
        return in_processes(_confident, tasks, how.workers)

    write_resumably(output, made_from, [item.image_id for item in part.records], labels)
