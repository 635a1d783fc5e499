"""Random changes of training images, as pure functions of arrays and a generator."""

from collections.abc import Sequence

import numpy as np


def augment(arrays: tuple[np.ndarray, ...], names: Sequence[str], rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """The arrays after each named change, each made or not with probability one half.

    Args:
        arrays: images "H W 3" and masks "H W" of one scene; flips and transposes act on all of them alike.
        names: of hflip, vflip, transpose, channels (permutes the colours of the images), invert (each colour on its own).
        rng: the only source of randomness.
    """
    for name in names:
        if rng.random() < 0.5:
            arrays = _CHANGES[name](arrays, rng)
    return arrays


def _permute_channels(arrays: tuple[np.ndarray, ...], rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    order = rng.permutation(3)
    return tuple(array[..., order] if array.ndim == 3 else array for array in arrays)


def _invert(arrays: tuple[np.ndarray, ...], rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    flipped = np.where(rng.random(3) < 0.5, 255, 0).astype(np.uint8)
    return tuple(array ^ flipped if array.ndim == 3 else array for array in arrays)


_CHANGES = {
    "hflip": lambda arrays, rng: tuple(array[:, ::-1] for array in arrays),
    "vflip": lambda arrays, rng: tuple(array[::-1] for array in arrays),
    "transpose": lambda arrays, rng: tuple(array.swapaxes(0, 1) for array in arrays),
    "channels": _permute_channels,
    "invert": _invert,
}


def random_window(rng: np.random.Generator, height: int, width: int, size: int) -> tuple[int, int]:
    """Top and left of a random `size` x `size` window inside an image, or of one that holds it where it is smaller."""
    top, left = (int(rng.integers(min(0, side - size), max(0, side - size) + 1)) for side in (height, width))
    return top, left
