"""Self-training: a segmenter that learnt from pseudo labels makes better ones, among the classes that the tags name."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float32, UInt8

from acr import config
from acr.crf import masks
from acr.datasets.base import read_split, shard_of
from acr.devices import device_of
from acr.files import write_resumably
from acr.images import at_full_size, read_working_image
from acr.pseudo_labels import mask_values
from acr.recipes import Execution, PseudoLabels
from acr.segmenters import read_segmenter, scores


def of_tags(probabilities: Float32[np.ndarray, "K H W"], indices: Sequence[int]) -> Float32[np.ndarray, "L H W"]:
    """What a segmenter's K probabilities, the background's first, become once the classes are known: L - 1 of `indices`.

    The background and the tagged classes share each pixel in the proportions they have there.
    """
    kept = probabilities[mask_values(indices)]
    return kept / np.maximum(kept.sum(0), np.finfo(np.float32).tiny)


# ---- disk ----------------------------------------------------------------------------------------------------------------


def self_label_shard(
    *, split: str, model: str, recipe: str, execution: Mapping, shard: str, output: str, made_from: Mapping
) -> None:
    """Writes the masks of one shard of a split, such as `0-of-4`, as an npz archive.

    Args:
        split: table of the split; its tags count.
        model: model.safetensors of the segmenter.
        recipe: a `pseudo_labels` recipe, of which `scales` and `crf` count.
        execution: how to run.
        shard: which images.
        output: the archive.
        made_from: all that the masks are a function of: what an interrupted call of it made is not made again.
    """
    wanted, data = config.load(PseudoLabels, recipe), read_split(split)
    how = config.build(Execution, execution, "execution")
    part, network = shard_of(data, shard).records, read_segmenter(model).to(device_of(how))

    def labels(first: int) -> Iterator[UInt8[np.ndarray, "H W"]]:
        images = ((record, read_working_image(record.image)) for record in part[first:])
        scored = ((image, of_tags(scores(network, image, wanted.scales), data.class_indices(record))) for record, image in images)
        made = zip(masks(scored, wanted.crf, how.workers), part[first:], strict=True)
        return (at_full_size(mask_values(data.class_indices(record))[mask], record.image) for mask, record in made)

    write_resumably(output, made_from, [record.image_id for record in part], labels)
