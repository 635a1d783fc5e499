"""The only door for pixels: RGB photographs and palette masks, read, written, resized and cropped.

A photograph is (H, W, 3) uint8 in the order red, green, blue; a mask is (H, W) uint8 with the values of `acr.shapes`.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, Float32, Shaped, UInt8
from PIL import Image, UnidentifiedImageError

from acr.files import atomic
from acr.shapes import VOID

LARGEST = 2_000_000  # pixels at which networks and CRFs see a photograph; a CRF of 20 million takes minutes and 5 GB


class UnreadableError(ValueError):
    """The file of a photograph or mask is damaged: a sentence that names it, and the bare `reason`."""

    def __init__(self, sentence: str, reason: str = "") -> None:
        super().__init__(sentence)
        self.reason = reason


def palette() -> UInt8[np.ndarray, "256 3"]:
    """The VOC colours: bit 3 i + j of a mask value is bit 7 - i of colour channel j (VOCdevkit's `VOClabelcolormap`)."""
    values = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for i in range(8):
        for j in range(3):
            colours[:, j] |= ((values >> (3 * i + j) & 1) << (7 - i)).astype(np.uint8)
    return colours


def resize_image(image: UInt8[np.ndarray, "H W 3"], height: int, width: int) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """The photograph at `height` x `width`: areas are averaged when neither side grows, else pixels are interpolated linearly.

    Plain linear interpolation would skip pixels of a photograph that shrinks by more than two, and so alias.
    """
    grows = height > image.shape[0] or width > image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR if grows else cv2.INTER_AREA)


def working_size(height: int, width: int) -> tuple[int, int]:
    """The size at which networks and CRFs see a photograph: its own, or of LARGEST pixels where it has more."""
    scale = min(1.0, math.sqrt(LARGEST / (height * width)))
    return max(1, int(scale * height)), max(1, int(scale * width))


def as_working_image(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "_ _ 3"]:
    """The photograph at its `working_size`."""
    size = working_size(*image.shape[:2])
    return image if size == image.shape[:2] else resize_image(image, *size)


def resize_mask(mask: UInt8[np.ndarray, "H W"], height: int, width: int) -> UInt8[np.ndarray, "{height} {width}"]:
    """The mask at `height` x `width`, each pixel with the value of the pixel its centre falls into.

    OpenCV's plain INTER_NEAREST takes a pixel's corner for its centre and would shift masks against photographs.
    """
    return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def crop(
    array: Shaped[np.ndarray, "H W *channels"],
    top: int,
    left: int,
    size: int,
    fill: int | float | Sequence[int | float] | np.ndarray,
) -> Shaped[np.ndarray, "{size} {size} *channels"]:
    """The window of `size` x `size` pixels whose first pixel is (top, left), a copy; what lies outside `array` is `fill`.

    `top` and `left` may be negative, and the window may lie outside altogether. `fill` is one value or one per channel.
    """
    window = np.empty((size, size, *array.shape[2:]), array.dtype)
    window[:] = fill
    height, width = array.shape[:2]
    rows = slice(max(top, 0), max(min(top + size, height), 0))
    columns = slice(max(left, 0), max(min(left + size, width), 0))
    inside = array[rows, columns]
    first_row, first_column = rows.start - top, columns.start - left
    window[first_row : first_row + inside.shape[0], first_column : first_column + inside.shape[1]] = inside
    return window


def check_mask(mask: UInt8[np.ndarray, "i j"], size: tuple[int, int], classes: int, path: Path) -> None:
    """Refuses a mask of another (height, width) than its photograph's `size`, or with a value that is no class.

    Raises:
        ValueError: names `path`.
    """
    if mask.shape != size:
        found, expected = ("{} x {}".format(*shape) for shape in (mask.shape, size))
        raise ValueError(f"mask {path} is {found} pixels, but its image is {expected}; make it again at the size of its image")
    largest = mask.max(where=mask != VOID, initial=0)
    if largest > classes:
        allowed = f"the values of {classes} classes are 0 (background) to {classes} and {VOID} (void)"
        raise ValueError(f"mask {path} holds the value {largest}, but {allowed}; make it again with those")


# ---- disk ----------------------------------------------------------------------------------------------------------------


def read_working_image(path: str | Path) -> UInt8[np.ndarray, "H W 3"]:
    """`read_image`, made smaller where the photograph has more than LARGEST pixels."""
    return as_working_image(read_image(path))


def at_full_size(mask: UInt8[np.ndarray, "i j"], path: str | Path) -> UInt8[np.ndarray, "H W"]:
    """The mask that was made for `read_working_image(path)` at the size of the photograph itself."""
    return resize_mask(mask, *image_size(path))


def read_image(path: str | Path) -> UInt8[np.ndarray, "H W 3"]:
    """The photograph as RGB; grey, palette and CMYK files are converted, transparency is dropped.

    The pixels are taken as they are stored, an EXIF orientation is not applied: masks are drawn on the stored pixels.

    Raises:
        ValueError: the file is missing, or UnreadableError: it is cut short or no image; the sentence names it.
    """
    with _opened(path) as picture:
        if picture.mode[0] in "IF":  # Pillow would cut off all above 255
            raise _unreadable(path, f"its pixels are of mode {picture.mode}, but must have 8 bits a channel")
        return np.array(picture.convert("RGB"))


def read_mask(path: str | Path) -> UInt8[np.ndarray, "H W"]:
    """The values of a palette or grey 8-bit PNG (class index + 1, 0 background, 255 void), whatever their colours.

    Raises:
        ValueError: the file is missing, damaged or holds colours instead of values; the sentence names it.
    """
    with _opened(path) as picture:
        if picture.mode not in ("P", "L"):
            raise ValueError(
                f"{path} has pixels of mode {picture.mode}, but a mask must be an 8-bit palette or grey PNG; "
                "save it again with class index + 1 as the value of each pixel"
            )
        return np.array(picture)


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) in pixels of an image or mask file, from its header alone; a ValueError names an unreadable file."""
    with _opened(path) as picture:
        return picture.height, picture.width


def write_image(path: str | Path, rgb: UInt8[np.ndarray, "H W 3"]) -> None:
    """Writes an RGB photograph whole or not at all, in the format of the path's suffix."""
    with atomic(path) as temporary:
        Image.fromarray(rgb).save(temporary)


def write_mask(path: str | Path, mask: UInt8[np.ndarray, "H W"]) -> None:
    """Writes a mask whole or not at all, as a PNG with the VOC colours."""
    picture = Image.fromarray(mask)
    picture.putpalette(_PALETTE)
    with atomic(path) as temporary:
        picture.save(temporary)


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """The opened file; whatever Pillow raises over a damaged one becomes UnreadableError."""
    try:
        with Image.open(path) as picture:
            yield picture
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist, but an image was expected there; check the data set's root") from None
    except UnidentifiedImageError:  # whose message repeats the path
        raise _unreadable(path, "it is in no format of images" if Path(path).stat().st_size else "it is empty") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise _unreadable(path, str(error)) from None


def _unreadable(path: str | Path, reason: str) -> UnreadableError:
    way_out = "replace it, or run snakemake with --forcerun splits, which leaves unreadable photographs out"
    return UnreadableError(f"{path} cannot be read as an image ({reason}); {way_out}", reason)


_PALETTE = palette().tobytes()


def upsample(maps: Float[np.ndarray, "K h w"], height: int, width: int) -> Float32[np.ndarray, "K H W"]:
    """Maps at the size of an image, bilinear with half-pixel centres (as torch with align_corners=False)."""
    planes = [cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR) for plane in maps.astype(np.float32)]
    return np.stack(planes) if planes else np.zeros((0, height, width), np.float32)
