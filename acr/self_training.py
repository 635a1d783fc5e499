"""Self-training: a segmenter that learnt from pseudo labels has a say beside the seeds, and better ones are made of both."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float32, UInt8

from acr import config
from acr.datasets.base import Record, read_split, shard_of
from acr.devices import device_of
from acr.pseudo_labels import mask_values, seed_scores, write_labels
from acr.recipes import Execution, PseudoLabels
from acr.segmenters import read_segmenter, scores


def agreed(
    seeds: Float32[np.ndarray, "L H W"], segmented: Float32[np.ndarray, "K H W"], indices: Sequence[int], weight: float
) -> Float32[np.ndarray, "L H W"]:
    """Probabilities of the background and of the image's classes `indices`: of each pixel, seeds^weight times segmenter.

    What the segmenter gives classes that the image does not have is left out. Seeds say where a class is in this image,
    and a segmenter, which saw all images, what belongs to it.
    """
    both = seeds**weight * segmented[mask_values(indices)]
    return both / np.maximum(both.sum(0), np.finfo(np.float32).tiny)


# ---- disk ----------------------------------------------------------------------------------------------------------------


def self_label_shard(
    *,
    split: str,
    maps: str,
    model: str | None,
    segmenter: str,
    recipe: str,
    execution: Mapping,
    shard: str,
    output: str,
    made_from: Mapping,
) -> None:
    """Writes the masks of one shard of a split as an npz archive.

    `segmenter` is the model.safetensors of one; all other arguments are those of `acr.pseudo_labels.pseudo_label_shard`.
    """
    wanted, data = config.load(PseudoLabels, recipe), read_split(split)
    how = config.build(Execution, execution, "execution")
    network = read_segmenter(segmenter).to(device_of(how))
    seeds = seed_scores(data, maps, model, wanted, how)

    def score(record: Record, image: UInt8[np.ndarray, "H W 3"]) -> Float32[np.ndarray, "L H W"]:
        segmented = scores(network, image, wanted.segmenter_scales)
        return agreed(seeds(record, image), segmented, data.class_indices(record), wanted.seeds_weight)

    write_labels(score, shard_of(data, shard), wanted.crf, how.workers, output, made_from)
