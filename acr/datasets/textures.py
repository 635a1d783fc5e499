"""`textures`, the generated data set: patterned blobs to segment, plain blobs to ignore, coloured noise behind both.

A scene is drawn from back to front like a collage. Every blob has a random outline; one to three are filled with one of
five patterns and are the foreground, one or two are filled with a plain colour and are background. Colours are random
everywhere, so a class can be told from its pattern alone. Without the plain blobs every edge in the picture would belong to
an object, and the gradients of an untrained network would already find the objects.

Lengths are fractions of the picture's side, so that a scene looks the same at any size. A scene is a pure function of
(random_state, split, index): changing how many scenes there are changes none of them.
"""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from acr.files import atomic
from acr.images import write_image, write_mask
from acr.shapes import BACKGROUND

CLASSES = ("stripes", "checkers", "dots", "bricks", "waves")
SPLITS = ("train", "val")

BLOB_RADIUS = (0.18, 0.30)
DISTRACTOR_RADIUS = (0.10, 0.20)
CENTRE = (0.15, 0.85)
PERIOD = (0.06, 0.09)  # at 96 pixels about 6 to 9, near the width of a patch, which is 8
MIN_VISIBLE = 0.6  # of a blob's area, neither hidden by later blobs nor cut off by the border
MIN_CONTRAST = 0.9  # between the two colours of a pattern, Euclidean in RGB of range 0..1
NOISE = 0.02  # of a pixel, standard deviation in the range 0..1: nothing in the picture is perfectly flat
EDGE = 6.0  # slope of the step between a pattern's two colours: softens the edge over about a pixel


# ---- patterns: (u, v) in periods -> 0..1, the share of the first colour; all arrays (H, W) -------------------------------


def _step(height: np.ndarray) -> np.ndarray:
    return np.clip(0.5 + EDGE / 2 * height, 0, 1)


def _stripes(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _step(np.sin(2 * np.pi * u))


def _checkers(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _step(2 * np.sin(1.4 * np.pi * u) * np.sin(1.4 * np.pi * v))


def _dots(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _step(2 * (0.30 - np.hypot(u - np.round(u), v - np.round(v))))


def _bricks(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Courses two thirds of a period high and bricks twice as long, every second course shifted by half a brick."""
    across = 1.5 * v
    along = 0.75 * u + 0.5 * (np.floor(across) % 2)
    to_bed = np.abs(across - np.round(across)) / 1.5
    to_joint = np.abs(along - np.round(along)) / 0.75
    return _step(3 * (np.minimum(to_bed, to_joint) - 0.12))


def _waves(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Stripes that swing to and fro so strongly that no piece of one looks like a straight stripe."""
    return _step(np.sin(2 * np.pi * (0.8 * u + 0.3 * np.sin(1.5 * np.pi * v))))


PATTERNS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "stripes": _stripes,
    "checkers": _checkers,
    "dots": _dots,
    "bricks": _bricks,
    "waves": _waves,
}


# ---- parts of a scene ----------------------------------------------------------------------------------------------------


def _positions(size: int) -> tuple[np.ndarray, np.ndarray]:
    """The (y, x) of pixel centres as fractions of the side, each (H, W) float64 in 0..1."""
    centres = (np.arange(size) + 0.5) / size
    return np.meshgrid(centres, centres, indexing="ij")


def _outline(rng: np.random.Generator, radius: tuple[float, float], size: int) -> tuple[np.ndarray, float]:
    """A blob as (H, W) bool, and its whole area in pixels, what lies beyond the border included.

    The outline's distance from the centre is a mean radius plus a few harmonics of the angle, weaker the faster they turn.
    """
    centre = rng.uniform(*CENTRE, size=2)
    mean = rng.uniform(*radius)
    order = np.arange(2, 6)
    amplitude = rng.normal(0, 0.28, order.size) / order
    phase = rng.uniform(0, 2 * np.pi, order.size)

    angle = np.linspace(0, 2 * np.pi, 128, endpoint=False)
    reach = mean * np.clip(1 + np.cos(np.outer(angle, order) + phase) @ amplitude, 0.4, 1.6)
    corners = centre + reach[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points = np.round(size * corners).astype(np.int32)
    shape = np.zeros((size, size), np.uint8)
    cv2.fillPoly(shape, [points], color=1)
    return shape.astype(bool), cv2.contourArea(points)


def _colours(rng: np.random.Generator, count: int) -> np.ndarray:
    """`count` RGB colours, (count, 3) in 0..1; two of them differ enough to be seen apart."""
    while True:
        colours = rng.uniform(0, 1, (count, 3))
        if count == 1 or np.linalg.norm(colours[0] - colours[1]) >= MIN_CONTRAST:
            return colours


def _fill(rng: np.random.Generator, name: str, size: int) -> np.ndarray:
    """The pattern `name` over the whole picture at a random angle, period, offset and colours: (H, W, 3) in 0..1."""
    y, x = _positions(size)
    angle, period = rng.uniform(0, np.pi), rng.uniform(*PERIOD)
    offset_u, offset_v = rng.uniform(0, 2, 2)
    u = (np.cos(angle) * x + np.sin(angle) * y) / period + offset_u
    v = (np.cos(angle) * y - np.sin(angle) * x) / period + offset_v
    share = PATTERNS[name](u, v)[..., None]
    first, second = _colours(rng, 2)
    return share * first + (1 - share) * second


def _backdrop(rng: np.random.Generator, size: int) -> np.ndarray:
    """Smooth coloured noise in two octaves around a random colour: (H, W, 3) float64, about 0..1."""
    backdrop = np.broadcast_to(rng.uniform(0.25, 0.75, 3), (size, size, 3)).copy()
    for cells, strength in ((4, 0.16), (9, 0.08)):
        coarse = rng.normal(0, strength, (cells, cells, 3))
        backdrop += cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return backdrop


def _arrangement(rng: np.random.Generator, size: int) -> list[tuple[int, np.ndarray]]:
    """The blobs from back to front: mask value (class index + 1, BACKGROUND for a distractor) and shape (H, W) bool.

    An arrangement in which any blob shows less than MIN_VISIBLE of its area is thrown away and drawn anew, so a tag
    always stands for something that can be seen.
    """
    while True:
        values = [*(1 + rng.integers(len(CLASSES), size=rng.integers(1, 4))), *[BACKGROUND] * rng.integers(1, 3)]
        values = [int(value) for value in rng.permutation(values)]
        radii = [BLOB_RADIUS if value else DISTRACTOR_RADIUS for value in values]
        shapes, areas = zip(*(_outline(rng, radius, size) for radius in radii), strict=True)
        top = np.zeros((size, size), int)
        for order, shape in enumerate(shapes, start=1):
            top[shape] = order
        visible = np.bincount(top.ravel(), minlength=len(shapes) + 1)[1:]
        if (visible >= MIN_VISIBLE * np.array(areas)).all():
            return list(zip(values, shapes, strict=True))


def scene(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """One scene: image (H, W, 3) uint8 RGB and mask (H, W) uint8, 0 background and class index + 1 elsewhere."""
    image = _backdrop(rng, size)
    mask = np.full((size, size), BACKGROUND, np.uint8)
    for value, shape in _arrangement(rng, size):
        fill = _colours(rng, 1)[0] if value == BACKGROUND else _fill(rng, CLASSES[value - 1], size)[shape]
        image[shape] = fill
        mask[shape] = value
    image += rng.normal(0, NOISE, image.shape)
    return np.round(255 * np.clip(image, 0, 1)).astype(np.uint8), mask


def stream(random_state: int, split: str, index: int) -> np.random.Generator:
    """The source of randomness of one scene and of no other."""
    return np.random.default_rng([random_state, SPLITS.index(split), index])


def tags(mask: np.ndarray) -> list[str]:
    """The names of the classes in `mask` (H, W), in the order of CLASSES: the image-level labels."""
    return [CLASSES[value - 1] for value in np.unique(mask) if value != BACKGROUND]


# ---- disk ----------------------------------------------------------------------------------------------------------------


def generate(root: Path, train: int, val: int, size: int, random_state: int) -> None:
    """Writes `train` + `val` scenes of `size` x `size` pixels below `root`; what is there already and right stays untouched.

    images/{split}_{index:04d}.png, masks/{split}_{index:04d}.png (palette), and last labels.csv, the sign of completeness.
    """
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(("image_id", "split", "labels"))
    for split, count in zip(SPLITS, (train, val), strict=True):
        for index in range(count):
            image, mask = scene(stream(random_state, split, index), size)
            name = f"{split}_{index:04d}"
            for path, pixels, write in (
                (root / "images" / f"{name}.png", image, write_image),
                (root / "masks" / f"{name}.png", mask, write_mask),
            ):
                if not _holds(path, pixels):
                    write(path, pixels)
            rows.writerow((name, split, " ".join(tags(mask))))
    labels = root / "labels.csv"
    if not labels.exists() or labels.read_text(encoding="utf-8") != table.getvalue():
        with atomic(labels) as temporary:
            temporary.write_text(table.getvalue(), encoding="utf-8")


def _holds(path: Path, pixels: np.ndarray) -> bool:
    """Whether the file is there and decodes to exactly `pixels`; a damaged one does not."""
    try:
        with Image.open(path) as file:
            return np.array_equal(np.asarray(file), pixels)
    except OSError:
        return False
