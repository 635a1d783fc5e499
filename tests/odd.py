"""A VOCdevkit of photographs that are odd but fine, and of one that is damaged, for the tests of bad input."""

from pathlib import Path

import cv2
import numpy as np
import yaml
from PIL import Image

from acr.datasets.voc12 import CLASSES
from tests.running import MICRO

LABELS = {"cat": CLASSES.index("cat") + 1, "dog": CLASSES.index("dog") + 1}
LARGE = (3648, 5472)  # 20 megapixels
BYTE_ORDER_MARK = "\ufeff"


def scene(label: str, height: int = 60, width: int = 80) -> tuple[Image.Image, np.ndarray]:
    """A photograph and its mask: a striped disc for a cat, a checkered one for a dog, on a ground that fades."""
    y, x = np.mgrid[:60, :80]
    pattern = (x // 4 % 2) if label == "cat" else ((x // 4 + y // 4) % 2)
    disc = (y - 30) ** 2 + (x - 45) ** 2 < 18**2
    ground = np.stack([y * 3, x * 2, 255 - x * 2], axis=-1)
    pixels = np.where(disc[..., None], pattern[..., None] * np.array([200, 150, 40]), ground).astype(np.uint8)
    pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    mask = cv2.resize((disc * LABELS[label]).astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return Image.fromarray(pixels), mask


class Devkit:
    """VOC's folders, filled one photograph at a time; `write_lists` ends them."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "VOC2012"
        self.listed: dict[str, list[str]] = {"train": [], "val": []}
        self.labels: dict[str, str] = {}
        for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
            (self.folder / name).mkdir(parents=True)

    def photograph(self, image_id: str) -> Path:
        return self.folder / "JPEGImages" / f"{image_id}.jpg"

    def mask(self, image_id: str) -> Path:
        return self.folder / "SegmentationClass" / f"{image_id}.png"

    def list(self, split: str) -> Path:
        return self.folder / "ImageSets" / "Segmentation" / f"{split}.txt"

    @property
    def table(self) -> Path:
        return self.folder / "labels.csv"

    def add(self, split: str, image_id: str, label: str = "cat", kind: str = "RGB", size: tuple[int, int] = (60, 80)) -> None:
        """A photograph of some kind: a mode of Pillow, or `turned` for one with an EXIF orientation."""
        picture, mask = scene(label, *size)
        exif = Image.Exif()
        if kind == "turned":
            exif[0x0112] = 6  # by 90 degrees
        else:
            picture = picture.convert(kind)
        # JPEG has no transparency: that one is a PNG whose name ends in .jpg
        picture.save(self.photograph(image_id), format="PNG" if kind in ("RGBA", "P") else "JPEG", exif=exif)
        Image.fromarray(mask).save(self.mask(image_id))
        self.listed[split].append(image_id)
        self.labels[image_id] = label

    def write_lists(self, end: str = "\n", mark: str = "") -> None:
        for split, ids in self.listed.items():
            self.list(split).write_bytes((mark + "".join(f"{image_id}{end}" for image_id in ids)).encode())
        rows = ["image_id,labels", *(f'"{image_id}",{labels}' for image_id, labels in self.labels.items())]
        self.table.write_bytes((mark + "".join(f"{row}{end}" for row in rows)).encode())


def plain(root: Path) -> Devkit:
    """Three photographs to train on, a and c of a cat and b of a dog, and one to report on, d."""
    devkit = Devkit(root)
    for image_id, label in (("a", "cat"), ("b", "dog"), ("c", "cat")):
        devkit.add("train", image_id, label)
    devkit.add("val", "d", "dog")
    devkit.write_lists()
    return devkit


def odd(root: Path) -> Devkit:
    """All that people's folders hold and that has to work, and the photograph `damaged`, which is cut short."""
    devkit = Devkit(root)
    for kind in ("L", "RGBA", "P", "CMYK", "turned"):
        devkit.add("train", f"kind {kind}", "dog" if kind in ("P", "L") else "cat", kind)
    devkit.add("train", "one pixel", size=(1, 1))
    devkit.add("train", "one row", "dog", size=(1, 300))
    devkit.add("train", "large", size=LARGE)
    devkit.add("train", "Käse 日本 e\u0301", "dog")
    devkit.add("train", "damaged")
    devkit.add("val", "a, b & <c>; #100%", size=LARGE)
    palette = Image.open(devkit.mask("kind L"))
    palette.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    palette.save(devkit.mask("kind L"))
    photograph = devkit.photograph("damaged")
    photograph.write_bytes(photograph.read_bytes()[:-200])
    devkit.write_lists(end="\r\n", mark=BYTE_ORDER_MARK)
    return devkit


def configuration(**execution: object) -> dict:
    """The micro recipes on the devkit in `voc`."""
    content = yaml.safe_load(MICRO.read_text())
    content["datasets"]["micro"] = {"kind": "voc12", "root": "voc", "train": "train"}
    content["execution"] = {**content["execution"], **execution}
    return content
