"""Predictions: masks of the reported split, of which no tag is used (App. A).

A segmenter makes them alone or, deviates: beside the seeds of the classes that a classifier finds, as pseudo labels are made.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, UInt8

from acr import config
from acr.classifiers import read_classifier, tag_probabilities
from acr.crf import masks
from acr.datasets.base import read_split, shard_of
from acr.devices import device_of
from acr.files import Arrays, read_json, write_resumably
from acr.images import at_full_size, read_working_image
from acr.models.vit import VitClassifier
from acr.pseudo_labels import Spread, level_of, mask_values, pseudo_scores, spread_of
from acr.recipes import Execution, Predictions, Seeds
from acr.seeds import localise_photograph, with_depth
from acr.segmenters import read_segmenter, scores
from acr.self_training import agreed
from acr.shapes import BACKGROUND

Scores = Callable[[UInt8[np.ndarray, "H W 3"]], Float32[np.ndarray, "K H W"]]


def found(probabilities: Float[np.ndarray, " C"], least: float) -> tuple[int, ...]:
    """The indices of the classes of at least this probability, in their order."""
    return tuple(np.flatnonzero(probabilities >= least).tolist())


def of_all_classes(
    probabilities: Float32[np.ndarray, "L H W"], indices: Sequence[int], count: int
) -> Float32[np.ndarray, "M H W"]:
    """Probabilities of the background and of the classes `indices`, with zeros for the others of M = `count` labels."""
    whole = np.zeros((count, *probabilities.shape[1:]), np.float32)
    whole[mask_values(indices)] = probabilities
    return whole


def weighed(probabilities: Float32[np.ndarray, "K H W"], background: float) -> Float32[np.ndarray, "K H W"]:
    """Probabilities as if the background had been `background` times as common, beside classes as common as they were.

    Those of 1 label or more, the background first, which sum to 1 at each pixel; 1 leaves them as they are.
    """
    weights = np.ones((len(probabilities), 1, 1), np.float32)
    weights[BACKGROUND] = background
    return probabilities * weights / (1 - (1 - background) * probabilities[BACKGROUND])


@dataclass(frozen=True)
class Beside:
    """Makes the probabilities of a segmenter those of pseudo labels whose tags the classifier of their seeds finds.

    A pixel's probability of a class is that of the seeds, to the power of `seeds_weight`, times the segmenter's; of a class
    that is not found it is 0.
    """

    classifier: VitClassifier
    image_size: int  # pixels a side that the classifier tags photographs at
    recipe: Predictions
    seeds: Seeds  # with the classifier's layers
    level: float | Literal["otsu"]
    spread: Spread

    def __call__(
        self, image: UInt8[np.ndarray, "H W 3"], segmented: Float32[np.ndarray, "K H W"]
    ) -> Float32[np.ndarray, "K H W"]:
        """Probabilities of background and classes at every pixel, of an image and what the segmenter makes of it."""
        indices = found(tag_probabilities(self.classifier, image, self.image_size), self.recipe.found)
        if not indices:
            return of_all_classes(np.ones((1, *image.shape[:2]), np.float32), indices, len(segmented))
        maps = localise_photograph(self.classifier, image, indices, self.seeds).astype(np.float32)
        seeded = pseudo_scores(image, maps, self.level, self.spread)
        return of_all_classes(agreed(seeded, segmented, indices, self.recipe.seeds_weight), indices, len(segmented))


# ---- disk ----------------------------------------------------------------------------------------------------------------


def predict_shard(
    *,
    split: str,
    model: str,
    classifier: str | None = None,
    maps: str | None = None,
    affinity: str | None = None,
    recipe: str,
    execution: Mapping,
    shard: str,
    output: str,
    made_from: Mapping,
) -> None:
    """Writes the predicted masks of one shard of a split, such as `0-of-4`, as an npz archive.

    Args:
        split: table of the split.
        model: model.safetensors of the segmenter.
        classifier: where the recipe has `labels`, model.safetensors of the classifier of their seeds.
        maps: these seeds, of the training split: their background level is that of the predictions.
        affinity: model.safetensors of the affinity network of these pseudo labels, if they have one.
        recipe: a Predictions; its CRFs run in `execution.workers` processes beside the network.
        execution: how to run.
        shard: which images.
        output: the archive of uint8 masks "H W" by image_id.
        made_from: all that they are a function of: what an interrupted call of it predicted is not predicted again.
    """
    wanted, how = config.load(Predictions, recipe), config.build(Execution, execution, "execution")
    records = shard_of(read_split(split), shard).records
    score = score_of(wanted, how, model, classifier, maps, affinity)

    def predicted(first: int) -> Iterator[UInt8[np.ndarray, "H W"]]:
        images = (read_working_image(record.image) for record in records[first:])
        scored = ((image, score(image)) for image in images)
        made = zip(masks(scored, wanted.crf, how.workers), records[first:], strict=True)
        return (at_full_size(mask, record.image) for mask, record in made)

    write_resumably(output, made_from, [record.image_id for record in records], predicted)


def score_of(
    recipe: Predictions,
    how: Execution,
    model: str | Path,
    classifier: str | Path | None = None,
    maps: str | Path | None = None,
    affinity: str | Path | None = None,
) -> Scores:
    """What makes the probabilities of an image, before a CRF; arguments as `predict_shard` has them.

    They are the segmenter's, or those made beside it where the recipe has `labels`; the background is weighed.
    """
    network, beside = read_segmenter(model).to(device_of(how)), _beside(recipe, how, classifier, maps, affinity)

    def score(image: UInt8[np.ndarray, "H W 3"]) -> Float32[np.ndarray, "K H W"]:
        segmented = scores(network, image, recipe.scales)
        return weighed(beside(image, segmented) if beside else segmented, recipe.background_weight)

    return score


def _beside(
    recipe: Predictions, how: Execution, classifier: str | Path | None, maps: str | Path | None, affinity: str | Path | None
) -> Beside | None:
    """What stands beside the segmenter; nothing where the recipe has no `labels`."""
    if recipe.labels_recipe is None:
        return None
    assert recipe.seeds_recipe is not None, recipe.labels
    assert classifier is not None, recipe.labels
    assert maps is not None, recipe.labels
    size, archive = read_json(Path(classifier).with_suffix(".json"))["image_size"], Arrays(maps)
    level = level_of(recipe.labels_recipe, (archive[name] for name in archive))
    spread = spread_of(affinity, recipe.labels_recipe, how)
    tagger = read_classifier(classifier).to(device_of(how))
    return Beside(tagger, size, recipe, with_depth(recipe.seeds_recipe, tagger), level, spread)
