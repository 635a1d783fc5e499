"""Pictures of one image: masks and maps over a photograph, and several of them side by side under their titles."""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from acr.images import palette, resize_image, resize_mask, upsample
from acr.shapes import BACKGROUND, VOID, Grid

SIDE = 256  # pixels of the longer side of a picture in a row
TITLE = 22  # pixels above a picture for its name


def display_size(height: int, width: int) -> tuple[int, int]:
    """Height and width at which a picture is shown: its longer side SIDE pixels."""
    scale = SIDE / max(height, width)
    return max(1, round(scale * height)), max(1, round(scale * width))


def thumbnail(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "_ _ 3"]:
    """The photograph at display size."""
    return resize_image(image, *display_size(*image.shape[:2]))


def faded(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """The photograph in grey, against which colours stand out."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def painted(
    photograph: UInt8[np.ndarray, "H W 3"], mask: UInt8[np.ndarray, "H W"], opacity: float = 0.6
) -> UInt8[np.ndarray, "H W 3"]:
    """The mask in VOC's colours over the grey photograph, outlined in white; the background is clear, void is white."""
    colours = palette().astype(np.float32)
    colours[VOID] = 255
    share = np.where(mask == BACKGROUND, 0, opacity).astype(np.float32)[..., None]
    mixed = (1 - share) * faded(photograph) + share * colours[mask]
    mixed[outline(mask)] = 255
    return np.rint(mixed).astype(np.uint8)


def overlay(image: UInt8[np.ndarray, "H W 3"], mask: UInt8[np.ndarray, "H W"]) -> UInt8[np.ndarray, "_ _ 3"]:
    """`painted` at display size, the mask by its nearest pixels."""
    size = display_size(*mask.shape)
    return painted(resize_image(image, *size), resize_mask(mask, *size))


def outline(mask: UInt8[np.ndarray, "H W"]) -> np.ndarray:
    """Boolean "H W": pixels whose right or lower neighbour has another value."""
    edge = np.zeros(mask.shape, bool)
    edge[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    edge[:-1] |= mask[:-1] != mask[1:]
    return edge


def heat_map(
    image: UInt8[np.ndarray, "H W 3"], scores: Float[np.ndarray, "h w"], opacity: float = 0.7
) -> UInt8[np.ndarray, "_ _ 3"]:
    """A map in [0, 1] over the grey photograph at display size, from dark violet at 0 to yellow at 1."""
    photograph = faded(thumbnail(image))
    colours = coloured(upsample(scores[None], *photograph.shape[:2])[0]).astype(np.float32)
    return np.rint((1 - opacity) * photograph + opacity * colours).astype(np.uint8)


def marked(picture: UInt8[np.ndarray, "H W 3"], cell: tuple[int, int], grid: Grid) -> UInt8[np.ndarray, "H W 3"]:
    """The picture with a ring around the middle of a (row, column) of the grid that lies over it."""
    height, width = picture.shape[:2]
    centre = (round((cell[1] + 0.5) * width / grid.width), round((cell[0] + 0.5) * height / grid.height))
    ringed = picture.copy()
    for thickness, colour in ((4, (0, 0, 0)), (2, (255, 255, 255))):
        cv2.circle(ringed, centre, 7, colour, thickness, cv2.LINE_AA)
    return ringed


def coloured(scores: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """A map in [0, 1] from dark violet at 0 to yellow at 1."""
    levels = np.rint(255 * np.clip(scores, 0, 1)).astype(np.uint8)
    return cv2.applyColorMap(levels, cv2.COLORMAP_PLASMA)[..., ::-1]


def sheet(pictures: Mapping[str, UInt8[np.ndarray, "_ _ 3"]]) -> UInt8[np.ndarray, "_ _ 3"]:
    """Pictures of one size side by side on white, each under its title."""
    height, width = next(iter(pictures.values())).shape[:2]
    gap = 6
    page = Image.new("RGB", (len(pictures) * (width + gap) - gap, height + TITLE), "white")
    font = ImageFont.load_default(13)
    draw = ImageDraw.Draw(page)
    for place, (title, picture) in enumerate(pictures.items()):
        left = place * (width + gap)
        draw.text((left + 2, 3), _fitting(title, font, width), fill="black", font=font)
        page.paste(Image.fromarray(picture), (left, TITLE))
    return np.array(page)


def _fitting(title: str, font: Any, width: int) -> str:
    """The title, cut short where it is wider than `width` pixels."""
    while len(title) > 1 and font.getlength(title) > width:
        title = title.removesuffix("…")[:-1] + "…"
    return title
