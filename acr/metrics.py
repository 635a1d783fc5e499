"""Metrics: what the stages made against the true masks, one JSON file a recipe and split; rates are in percent."""

from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64, UInt8

from acr.datasets.base import Record, Split, read_split
from acr.files import Arrays, write_json
from acr.images import read_mask, upsample
from acr.measures import (
    Confusion,
    cell_histogram,
    confusion,
    curve,
    identity,
    number,
    otsu,
    otsu_threshold,
    score_histogram,
    scores_of,
    threshold_confusions,
)
from acr.progress import Progress
from acr.shapes import VOID


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
    histogram, images = _total(records, lambda record, truth: _histogram(records, record, truth, archive[record.image_id]))
    content = identity(records, "seeds", recipe, dataset, name, images)
    fixed = otsu_threshold(archive[record.image_id] for record in records.records)
    write_json(output, content | _at_thresholds(records, histogram, fixed))


def measure_layer_sweep(
    *, split: str | Path, maps: str | Path, recipe: str, dataset: str, name: str, output: str | Path
) -> None:
    """Writes the metrics of a sweep over layers (maps "L K h w"): under `layers` those of `measure_seeds` for each number.

    The other arguments and errors are those of `measure_seeds`.
    """
    records, archive = read_split(split), Arrays(maps)
    histograms, images = _total(
        records,
        lambda record, truth: np.stack([_histogram(records, record, truth, each) for each in archive[record.image_id]]),
    )
    each_image = (np.stack([cell_histogram(each) for each in archive[item.image_id]]) for item in records.records)
    cells = reduce(np.add, each_image)
    depth = len(cells)
    layers = [
        {"layers": count, "first_layer": depth - count + 1}
        | _at_thresholds(records, None if histograms is None else histograms[count - 1], otsu(cells[count - 1]) / 100)
        for count in range(1, depth + 1)
    ]
    write_json(output, identity(records, "layer_sweeps", recipe, dataset, name, images) | {"layers": layers})


def _histogram(
    split: Split, record: Record, truth: UInt8[np.ndarray, "H W"], maps: Float[np.ndarray, "K h w"]
) -> Int64[np.ndarray, "..."]:
    return score_histogram(truth, upsample(maps, *truth.shape), split.class_indices(record), len(split.classes) + 1)


def _at_thresholds(split: Split, histogram: Int64[np.ndarray, "..."] | None, fixed: float) -> dict[str, Any]:
    """What a metrics file says of maps: the fixed threshold, and where there are masks scores at the best one and the curve."""
    if histogram is None:
        return {"threshold_fixed": fixed}
    confusions = threshold_confusions(histogram)
    mious = curve(confusions)
    best = int(np.argmax(mious))
    return {
        **scores_of(Confusion(confusions[best]), split.classes),
        "threshold": best / 100,
        "threshold_fixed": fixed,
        "miou_fixed": number(mious[round(fixed * 100)]),
        "curve": [number(value) for value in mious],
    }


def measure_masks(
    *, split: str | Path, masks: str | Path, stage: str, recipe: str, dataset: str, name: str, output: str | Path
) -> None:
    """Writes the metrics of masks on a split: `stage` is pseudo_labels or predictions, `masks` a folder of {image_id}.png.

    The other arguments are those of `measure_seeds`. Thresholds and curve do not apply and are null;
    `confusion` holds pixel counts, a row a class of the truth and a column a class of the mask, the background first.

    Raises:
        ValueError: a mask that is missing, of another size than the truth, or with values beyond the split's classes.
    """
    records = read_split(split)
    size = len(records.classes) + 1
    counts, images = _total(
        records,
        lambda record, truth: confusion(truth, _mask_like(truth, Path(masks) / f"{record.image_id}.png", size), size).counts,
    )
    content = identity(records, stage, recipe, dataset, name, images)
    if counts is not None:
        content |= scores_of(Confusion(counts), records.classes) | {"confusion": counts.tolist()}
    write_json(output, content)


def _total(
    split: Split, count: Callable[[Record, UInt8[np.ndarray, "H W"]], Int64[np.ndarray, "..."]]
) -> tuple[Int64[np.ndarray, "..."] | None, int]:
    """The sum of `count` over the images that have a mask, None where none has, and how many there are."""
    records = [(record, record.mask) for record in split.records if record.mask is not None]
    total = None
    for record, mask in Progress(records, f"measuring {split.name}"):
        counts = count(record, _mask(mask, len(split.classes) + 1))
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
