"""How good maps, masks and tags are: the confusion matrix, IoU, FP / FN, the background-threshold curve, average precision.

Every rate of this module, and of the files it writes, is in percent.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int64, UInt8
from tqdm import tqdm

from acr import config
from acr.classifiers import predict_tags
from acr.config import Execution
from acr.datasets import Record, Split, read_split
from acr.files import Arrays, write_json
from acr.images import read_mask, upsample
from acr.shapes import VOID

# float32 as the maps: a score of exactly 0.07 must tie with the threshold 0.07
THRESHOLDS = (np.arange(100) / 100).astype(np.float32)
BINS = len(THRESHOLDS) + 1


def intersection_over_union(counts: Int64[np.ndarray, "*T K K"]) -> Float[np.ndarray, "*T K"]:
    """IoU in [0, 1] of each class of a confusion matrix or a stack of them; NaN for a class in neither truth nor prediction."""
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    with np.errstate(invalid="ignore"):
        return hits / (counts.sum(axis=-1) + counts.sum(axis=-2) - hits)


def mean_of_known(values: Float[np.ndarray, "*T K"]) -> Float[np.ndarray, "*T"]:
    """Mean over the last axis of the values that are not NaN; NaN where there is none."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, values, 0).sum(axis=-1) / known.sum(axis=-1))


@dataclass(frozen=True)
class Confusion:
    """Pixel counts: row = truth, column = prediction. K counts the background too, as class 0; void pixels are left out."""

    counts: Int64[np.ndarray, "K K"]

    def __add__(self, other: "Confusion") -> "Confusion":
        return Confusion(self.counts + other.counts)

    def iou(self) -> Float[np.ndarray, " K"]:
        """IoU of each class in [0, 1]; NaN for a class that is in neither truth nor prediction."""
        return intersection_over_union(self.counts)

    def miou(self) -> float:
        """Mean IoU in percent over the classes that occur; NaN where none does.

        deviates: the official evaluation counts an absent class as IoU 0.
        """
        return float(100 * mean_of_known(self.iou()))

    def false_positive(self) -> float:
        """Over-activation: mean over classes of (P - TP) / (T + P - TP), in percent (SEAM's evaluation; Fig. 8).

        mIoU + FP + FN = 100, since each class's union is its hits, its false positives and its misses.
        """
        return self._share_of_union(self.counts.sum(axis=0))

    def false_negative(self) -> float:
        """Under-activation: mean over classes of (T - TP) / (T + P - TP), in percent (SEAM's evaluation; Fig. 8)."""
        return self._share_of_union(self.counts.sum(axis=1))

    def _share_of_union(self, pixels: Int64[np.ndarray, " K"]) -> float:
        hits = np.diagonal(self.counts)
        with np.errstate(invalid="ignore"):
            return float(100 * mean_of_known((pixels - hits) / (self.counts.sum(axis=0) + self.counts.sum(axis=1) - hits)))


def confusion(truth: UInt8[np.ndarray, "H W"], prediction: UInt8[np.ndarray, "H W"], classes: int) -> Confusion:
    """The confusion of one image over `classes` mask values, the background counted; pixels of void truth are left out."""
    seen = truth != VOID
    assert max(truth[seen].max(initial=0), prediction[seen].max(initial=0)) < classes
    pairs = np.minimum(truth, classes).astype(np.int64) * classes + np.where(seen, prediction, 0)
    counts = np.bincount(pairs.ravel(), minlength=(classes + 1) * classes)
    return Confusion(counts.reshape(classes + 1, classes)[:classes])


def bins_of(scores: Float32[np.ndarray, "*H"]) -> Int64[np.ndarray, "*H"]:
    """How many of THRESHOLDS lie strictly below each score, 0 to 100: a tie goes to the background (BASELINES 10)."""
    # the nearest threshold is the only one whose side is in doubt; an order of magnitude faster than searchsorted
    nearest = np.rint(scores * 100).astype(np.int64)
    return nearest + (np.append(THRESHOLDS, np.float32(np.inf))[nearest] < scores)


def score_histogram(
    truth: UInt8[np.ndarray, "H W"], maps: Float32[np.ndarray, "K H W"], indices: Sequence[int], classes: int
) -> Int64[np.ndarray, "truths classes bins"]:
    """Pixels of one image counted by truth, best class and bin of the best score: all that any threshold can ask for.

    Args:
        truth: mask; void pixels are left out.
        maps: scores of the classes `indices`, in [0, 1].
        indices: 0-based class of each map; where maps tie the first one wins, as in argmax.
        classes: mask values, the background counted; the histogram has `classes` truths and `classes - 1` best classes.
    """
    # void pixels are counted in a row of their own, which is quicker than to take them out; so is a loop over the maps
    row = np.minimum(truth, classes).astype(np.int64) * (classes - 1)
    best = np.zeros(truth.shape, np.float32)
    column = np.zeros(truth.shape, np.int64)
    for index, scores in zip(indices, maps, strict=True):
        better = scores > best
        column[better] = index
        np.maximum(best, scores, out=best)
    cells = (row + column) * BINS + bins_of(best)
    counts = np.bincount(cells.ravel(), minlength=(classes + 1) * (classes - 1) * BINS)
    return counts.reshape(classes + 1, classes - 1, BINS)[:classes]


def threshold_confusions(histogram: Int64[np.ndarray, "K C bins"]) -> Int64[np.ndarray, "T K K"]:
    """The confusion counts at each of THRESHOLDS, equal to those of argmax([threshold, maps]) at every one of them."""
    up_to = histogram.cumsum(axis=-1)[..., :-1]
    background = up_to.sum(axis=1, keepdims=True)
    foreground = histogram.sum(axis=-1, keepdims=True) - up_to
    return np.ascontiguousarray(np.concatenate([background, foreground], axis=1).transpose(2, 0, 1))


def curve(confusions: Int64[np.ndarray, "T K K"]) -> Float[np.ndarray, " T"]:
    """The mIoU in percent of each confusion matrix of a stack."""
    return 100 * mean_of_known(intersection_over_union(confusions))


def otsu(histogram: Int64[np.ndarray, " bins"]) -> int:
    """Index into THRESHOLDS that best splits a histogram of best scores: largest variance between the two sides (Otsu 1979).

    Bins are those of `bins_of`; where a gap makes thresholds equally good, the middle one.

    Raises:
        ValueError: an empty histogram.
    """
    if histogram.sum() == 0:
        raise ValueError("there is no localisation map to find a threshold from; is the split empty?")
    weights, moments = histogram.cumsum(), (histogram * np.arange(BINS)).cumsum()
    total, moment = int(weights[-1]), int(moments[-1])
    below, above = weights[:-1], total - weights[:-1]
    # total^2 times the variance, from whole numbers, so that a plateau is exactly flat
    difference = (moment * below - total * moments[:-1]).astype(np.float64)
    variance = np.divide(difference**2, below.astype(np.float64) * above, out=np.zeros(BINS - 1), where=(below * above) > 0)
    plateau = np.flatnonzero(variance == variance.max())
    return int(plateau[(len(plateau) - 1) // 2])


def otsu_threshold(maps: Iterable[Float[np.ndarray, "_ _ _"]]) -> float:
    """The background threshold fixed without any mask: Otsu's on the best score of every cell of every image.

    It is taken at the token grid, so that it needs nothing but the maps ("K h w", of another size each); one of THRESHOLDS.

    Raises:
        ValueError: no maps.
    """
    histogram = np.zeros(BINS, np.int64)
    for image in maps:
        best = image.astype(np.float32).max(axis=0, initial=0)
        histogram += np.bincount(bins_of(best).ravel(), minlength=BINS)
    return otsu(histogram) / 100


def average_precision(scores: Float[np.ndarray, "M C"], tags: Float[np.ndarray, "M C"]) -> Float[np.ndarray, " C"]:
    """Average precision of each class over M images, in percent; NaN for a class that no image has.

    Not interpolated: the sum over distinct scores of precision times gain in recall, images of equal score entering together.

    Args:
        scores: logits or probabilities; only their order within a class counts.
        tags: 0 or 1.
    """
    return np.array([_average_precision(*pair) for pair in zip(scores.T, tags.T, strict=True)], dtype=np.float64)


def _average_precision(scores: Float[np.ndarray, " M"], tags: Float[np.ndarray, " M"]) -> float:
    if not tags.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    last_of_tie = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits = tags[order].astype(np.float64).cumsum()[last_of_tie]
    return float(100 * (np.diff(hits, prepend=0) * hits / (last_of_tie + 1)).sum() / tags.sum())


def number(value: float) -> float | None:
    """A JSON number, or None for NaN, which JSON has not."""
    return None if np.isnan(value) else float(value)


def scores_of(total: Confusion, names: Sequence[str]) -> dict[str, Any]:
    """The keys miou, iou, false_positive and false_negative of a metrics file; `names` leaves the background out."""
    iou = {name: number(100 * value) for name, value in zip(("background", *names), total.iou(), strict=True)}
    return {
        "miou": number(total.miou()),
        "iou": iou,
        "false_positive": number(total.false_positive()),
        "false_negative": number(total.false_negative()),
    }


def measure_seeds(*, split: str | Path, maps: str | Path, recipe: str, dataset: str, name: str, output: str | Path) -> None:
    """Writes the metrics of localisation maps on a split: the whole curve, its best threshold and the one fixed without masks.

    Args:
        split: csv of the split; images without a mask are left out of all but the fixed threshold.
        maps: npz of "K h w" maps at the token grid, upsampled to each mask's size.
        recipe: canonical JSON of the recipe.
        dataset: name of the data set in the configuration.
        name: name of the recipe in the configuration.
        output: the metrics JSON.

    Raises:
        ValueError: a mask that is missing or has values beyond the split's classes, or an image without maps.
    """
    records, archive = read_split(split), Arrays(maps)
    histogram, images = _total(
        records,
        lambda record, truth: score_histogram(
            truth,
            upsample(archive[record.image_id], *truth.shape),
            records.class_indices(record),
            len(records.classes) + 1,
        ),
    )
    fixed = otsu_threshold(archive[record.image_id] for record in records.records)
    content = _header(records, "seeds", recipe, dataset, name, images) | {"threshold_fixed": fixed}
    if histogram is not None:
        confusions = threshold_confusions(histogram)
        mious = curve(confusions)
        best = int(np.argmax(mious))
        content |= scores_of(Confusion(confusions[best]), records.classes)
        content |= {"threshold": best / 100, "miou_fixed": number(mious[round(fixed * 100)])}
        content["curve"] = [number(value) for value in mious]
    write_json(output, content)


def measure_masks(
    *, split: str | Path, masks: str | Path, stage: str, recipe: str, dataset: str, name: str, output: str | Path
) -> None:
    """Writes the metrics of masks on a split: `stage` is pseudo_labels or predictions, `masks` a folder of {image_id}.png.

    The other arguments are those of `measure_seeds`. Thresholds and curve do not apply and are null.

    Raises:
        ValueError: a mask that is missing, of another size than the truth, or with values beyond the split's classes.
    """
    records = read_split(split)
    size = len(records.classes) + 1
    counts, images = _total(
        records,
        lambda record, truth: confusion(truth, _mask_like(truth, Path(masks) / f"{record.image_id}.png", size), size).counts,
    )
    content = _header(records, stage, recipe, dataset, name, images)
    if counts is not None:
        content |= scores_of(Confusion(counts), records.classes)
    write_json(output, content)


def measure_classifier(
    *, split: str | Path, model: str | Path, recipe: str, execution: Mapping, dataset: str, name: str, output: str | Path
) -> None:
    """Writes the average precision of a classifier's tags on a split, for which no mask is needed.

    `model` is the model.safetensors of a classifier, `execution` how to run; the others are those of `measure_seeds`.
    """
    records = read_split(split)
    scores = predict_tags(records, model, config.build(Execution, execution, "execution"))
    precision = average_precision(scores, np.stack([records.tags(record) for record in records.records]))
    by_class = {label: number(value) for label, value in zip(records.classes, precision, strict=True)}
    content = _header(records, "classifiers", recipe, dataset, name, len(records.records))
    content |= {"mean_average_precision": number(float(mean_of_known(precision))), "average_precision": by_class}
    write_json(output, content)


def _total(
    split: Split, count: Callable[[Record, UInt8[np.ndarray, "H W"]], Int64[np.ndarray, "..."]]
) -> tuple[Int64[np.ndarray, "..."] | None, int]:
    """The sum of `count` over the images that have a mask, None where none has, and how many there are."""
    records = [record for record in split.records if record.mask is not None]
    total = None
    for record in tqdm(records, desc=f"measuring {split.name}", unit="image", disable=None):
        counts = count(record, _mask(record.mask, len(split.classes) + 1))
        total = counts if total is None else total + counts
    return total, len(records)


def _mask(path: Path, classes: int) -> UInt8[np.ndarray, "H W"]:
    mask = read_mask(path)
    highest = mask[mask != VOID].max(initial=0)
    if highest >= classes:
        raise ValueError(
            f"{path} holds the value {highest}, but the split's masks go from 0 to {classes - 1}, and {VOID} is void"
        )
    return mask


def _mask_like(truth: UInt8[np.ndarray, "H W"], path: Path, classes: int) -> UInt8[np.ndarray, "H W"]:
    if not path.is_file():
        raise ValueError(f"{path} is missing, but its image is in the split; delete its folder and run again")
    mask = _mask(path, classes)
    if mask.shape != truth.shape:
        raise ValueError(
            f"{path} is {mask.shape} pixels high and wide, but its truth is {truth.shape}; delete it and run again"
        )
    if (mask == VOID).any():
        raise ValueError(f"{path} holds void ({VOID}), but a mask to be measured must name a class everywhere")
    return mask


def _header(split: Split, stage: str, recipe: str, dataset: str, name: str, images: int) -> dict[str, Any]:
    """What a metrics file says beside its scores, which stand as null until they are known."""
    resolved = json.loads(recipe)
    predicted = stage == "predictions"
    unknown = ("miou", "iou", "false_positive", "false_negative", "threshold", "miou_fixed", "threshold_fixed", "curve")
    return {
        "dataset": dataset,
        "split": split.name,
        "stage": stage,
        "recipe": name,
        "images": images,
        **dict.fromkeys(unknown),
        "crf": resolved["crf"] if predicted else None,
        "scales": resolved["scales"] if predicted else None,
        "provenance": {"recipe": resolved},
    }
