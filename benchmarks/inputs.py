"""What the benchmarks are run on: generated photographs, or those of a folder."""

import functools
import os
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from acr.files import listed
from acr.images import read_image
from acr.recipes import PHOTOGRAPHS

PHOTOGRAPH = (375, 500)  # height and width in pixels of most photographs of VOC
CLASSES = tuple(f"class_{number}" for number in range(20))  # as many as VOC has
ROOT = "ACR_PHOTOGRAPHS"  # the variable that names a folder of photographs, which the processes of one run share


def photograph(number: int, height: int = PHOTOGRAPH[0], width: int = PHOTOGRAPH[1]) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """Photograph `number` of the folder, resized; or smooth colours, edges and noise, where no folder is named."""
    paths = _paths(os.environ.get(ROOT, ""))
    if paths:
        return cv2.resize(read_image(paths[number % len(paths)]), (width, height), interpolation=cv2.INTER_AREA)
    rng = np.random.default_rng(number)
    fields = [smooth(rng, 3, height, width) for _ in range(2)]
    edges = smooth(rng, 1, height, width)[0] > 0.5
    picture = np.where(edges, *fields) + rng.normal(0, 0.03, (3, height, width))
    return np.ascontiguousarray((255 * picture.clip(0, 1)).astype(np.uint8).transpose(1, 2, 0))


@functools.cache
def _paths(root: str) -> list[Path]:
    return [Path(root, name) for name in listed(root, PHOTOGRAPHS)] if root else []


def smooth(rng: np.random.Generator, count: int, height: int, width: int) -> Float32[np.ndarray, "{count} {height} {width}"]:
    """Random blobs from 0 to 1, about a sixth of the picture wide."""
    coarse = rng.random((count, 7, 7)).astype(np.float32)
    planes = np.stack([cv2.resize(plane, (width, height), interpolation=cv2.INTER_CUBIC) for plane in coarse])
    low, high = planes.min((1, 2), keepdims=True), planes.max((1, 2), keepdims=True)
    return (planes - low) / (high - low)


def mask(
    number: int, classes: tuple[int, ...], height: int = PHOTOGRAPH[0], width: int = PHOTOGRAPH[1]
) -> UInt8[np.ndarray, "{height} {width}"]:
    """Blobs of the mask values of some classes on background, with void between them."""
    rng = np.random.default_rng([number, 1])
    fields = smooth(rng, len(classes) + 1, height, width)
    labels = np.array([0, *(index + 1 for index in classes)], np.uint8)[fields.argmax(0)]
    first, second = np.sort(fields, 0)[-1], np.sort(fields, 0)[-2]
    labels[first - second < 0.01] = 255
    return labels
