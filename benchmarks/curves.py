"""Pairs of curves, and what seeds take on disk."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8

from acr.files import Arrays, write_arrays
from acr.images import upsample
from acr.measures import THRESHOLDS, curve, score_histogram, threshold_confusions
from acr.shapes import Grid
from benchmarks import inputs, reference
from benchmarks.pairs import Pair, Sizes

CLASSES = 21  # of VOC, the background counted
PRESENT = ((7,), (14,), (2, 14), (11,), (6, 14), (19,), (8, 17, 10), (3,), (14,), (0, 14), (12,), (4, 8, 15))  # 1.58 a picture
IMAGES = 20  # of a repetition: a hundred in five
GRID = Grid(24, 24)  # of a ViT with patches of 16 pixels at 384

Seeds = Float32[np.ndarray, "K h w"]


def _picture(number: int) -> tuple[UInt8[np.ndarray, "H W"], Seeds, tuple[int, ...]]:
    """A mask, seeds of it (the blurred truth and noise, each map from 0 to 1) and the classes of the seeds."""
    classes = PRESENT[number % len(PRESENT)]
    truth = inputs.mask(number, classes)
    objects = np.stack([(truth == index + 1).astype(np.float32) for index in classes], axis=-1)
    coarse = cv2.blur(cv2.resize(objects, GRID[::-1], interpolation=cv2.INTER_AREA), (5, 5)).reshape(*GRID, -1)
    maps = coarse.transpose(2, 0, 1) + np.random.default_rng(number).normal(0, 0.1, (len(classes), *GRID))
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    return truth, ((maps - low) / (high - low)).astype(np.float32), classes


def _full_size(number: int) -> tuple[UInt8[np.ndarray, "H W"], dict[int, Float32[np.ndarray, "H W"]]]:
    truth, maps, classes = _picture(number)
    return truth, dict(zip(classes, upsample(maps, *truth.shape), strict=True))


def _histogram(truth: UInt8[np.ndarray, "H W"], seeds: dict[int, Float32[np.ndarray, "H W"]]) -> Int64[np.ndarray, "K C bins"]:
    return score_histogram(truth, np.stack(list(seeds.values())), tuple(seeds), CLASSES)


def _counts(confusions: Int64[np.ndarray, "T K K"]) -> Int64[np.ndarray, "T 3 K"]:
    return np.stack([confusions.diagonal(axis1=1, axis2=2), confusions.sum(1), confusions.sum(2)], axis=1)


def _curve(device: torch.device) -> Pair:
    pictures = [_full_size(number) for number in range(5 * IMAGES)]

    def of(number: int) -> list:
        return pictures[number % 5 * IMAGES :][:IMAGES]

    def passes(number: int) -> Int64[np.ndarray, "T 3 K"]:
        truths, seeds = zip(*of(number), strict=True)
        return np.stack([reference.threshold_counts(truths, seeds, threshold, CLASSES) for threshold in THRESHOLDS])

    return Pair(
        name="background-threshold curve, 100 thresholds",
        inputs=f"375 x 500, {IMAGES} other images each time; reference: a pass over all images for each threshold",
        reference=passes,
        ours=lambda number: _counts(threshold_confusions(sum(_histogram(*picture) for picture in of(number)))),
        difference=lambda one, other: float(np.abs(one - other).max()),
        tolerance=0,
        goal="≥ 300",
    )


def seeds_on_disk(images: int = 48) -> Sizes:
    """Single precision at full size, a file an image, against half precision on the token grid, all images in one file."""
    pictures = [_picture(number) for number in range(images)]
    with TemporaryDirectory() as name:
        folder = Path(name)
        larger = sum(reference.save_seeds(folder, str(number), _full_size(number)[1]) for number in range(images))
        write_arrays(
            folder / "maps.npz", ((f"2007_{n:06}", maps.astype(np.float16)) for n, (_, maps, _) in enumerate(pictures))
        )
        smaller, archive = (folder / "maps.npz").stat().st_size, Arrays(folder / "maps.npz")
        full, ours = np.zeros((2, CLASSES, CLASSES - 1, len(THRESHOLDS) + 1), np.int64)
        for number, (truth, _, classes) in enumerate(pictures):
            full += _histogram(truth, reference.load_seeds(folder, str(number)))
            ours += score_histogram(truth, upsample(archive[f"2007_{number:06}"], *truth.shape), classes, CLASSES)
    one, other = (curve(threshold_confusions(histogram)) for histogram in (full, ours))
    return Sizes(
        name="seeds on disk",
        inputs=f"{images} images of 375 x 500 with 1.58 classes each; per image; equal: mIoU at every threshold",
        reference=larger / images,
        ours=smaller / images,
        difference=float(np.abs(one - other).max()),
        tolerance=0.02,
        goal="≥ 600",
    )


PAIRS: dict[str, Callable[[torch.device], Pair]] = {"curve": _curve}
SIZES: dict[str, Callable[[], Sizes]] = {"seeds_on_disk": seeds_on_disk}
