"""How good maps, masks and tags are, as pure functions: confusion matrix, IoU, FP / FN, threshold curve, average precision.

Every rate of this module is in percent unless it says [0, 1].
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int32, Int64, UInt8

from acr.datasets.base import Split
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


def bins_of(scores: Float32[np.ndarray, "*H"]) -> Int32[np.ndarray, "*H"]:
    """How many of THRESHOLDS lie strictly below each score, 0 to 100: a tie goes to the background (BASELINES 10)."""
    # the nearest threshold is the only one whose side is in doubt; an order of magnitude faster than searchsorted
    nearest = np.rint(scores * 100)
    return (nearest + (nearest / 100 < np.minimum(scores, 1))).astype(np.int32)


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
    best, column = np.zeros(truth.shape, np.float32), np.zeros(truth.shape, np.uint8)
    for index, scores in zip(indices, maps, strict=True):
        column += (scores > best) * (np.uint8(index) - column)  # the index where better, several times as fast as by a mask
        np.maximum(best, scores, out=best)
    cells = np.minimum(truth, classes) * np.int32(classes - 1)
    cells += column
    cells *= BINS
    cells += bins_of(best)
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
        histogram += cell_histogram(image)
    return otsu(histogram) / 100


def cell_histogram(maps: Float[np.ndarray, "_ _ _"]) -> Int64[np.ndarray, " bins"]:
    """How many cells of the maps "K h w" of one image have their best score in each of the bins of `bins_of`."""
    best = maps.astype(np.float32).max(axis=0, initial=0)
    return np.bincount(bins_of(best).ravel(), minlength=BINS)


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


def identity(split: Split, stage: str, recipe: str, dataset: str, name: str, images: int) -> dict[str, Any]:
    """What a metrics file says beside its scores, which stand as null until they are known."""
    resolved = json.loads(recipe)
    unknown = ("miou", "iou", "false_positive", "false_negative", "threshold", "miou_fixed", "threshold_fixed")
    return {
        "dataset": dataset,
        "split": split.name,
        "stage": stage,
        "recipe": name,
        "images": images,
        **dict.fromkeys((*unknown, "curve", "confusion")),
        "crf": resolved.get("crf"),
        "scales": resolved.get("scales"),
        "provenance": {"recipe": resolved},
    }
