"""PASCAL VOC 2012, and its training split enlarged by the images of the Semantic Boundaries Dataset (SBD)."""

import csv
import io
import logging
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
from jaxtyping import UInt8
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from acr.datasets.base import Record, Skipped, Split, check_id, check_labels, read_text
from acr.datasets.classes import VOC as CLASSES
from acr.datasets.download import provide
from acr.datasets.published import published
from acr.images import read_mask
from acr.recipes import Voc12
from acr.shapes import BACKGROUND, VOID

logger = logging.getLogger(__name__)

ENLARGED = "train_aug"
AUGMENTED = "SegmentationClassAug"
LISTS = "ImageSets/Segmentation"
SBD = "benchmark_RELEASE/dataset"  # below the root


def enlarged(train: list[str], val: list[str], sbd: list[str]) -> list[str]:
    """The ids of `train_aug`, sorted: all of VOC's train and of SBD but for VOC's val; 10,582 of the whole data sets."""
    return sorted({*train, *sbd} - {*val})


def tags_in_xml(annotation: str | bytes) -> set[str]:
    """The names of the objects of an XML annotation; parts of objects do not count, difficult and truncated objects do.

    That is the habit of the field since PSA's class labels: `difficult` was meant for the detection challenge.
    """
    return {item.findtext("name", "") for item in ET.fromstring(annotation).findall("object")}


# ---- disk ----------------------------------------------------------------------------------------------------------------


def fetch(data: Voc12, mirrors: Sequence[str]) -> dict[str, Any]:
    """Makes the root hold VOC 2012 and, where lists or masks need it, SBD; `archives` are those it was unpacked from."""
    root, archives = Path(data.root), published("voc12").archives
    lists = ENLARGED in (data.train, data.val) and not _list_path(root, ENLARGED).is_file()
    masks = data.masks_drawn and not (root / "VOC2012" / AUGMENTED).is_dir()
    wanted = ("trainval", "sbd") if lists or masks else ("trainval",)
    return {"archives": provide(root, [archives[name] for name in wanted], mirrors)}


def fetch_test(data: Voc12, mirrors: Sequence[str]) -> bool:
    """Makes the root hold the images of `test`, in VOC2012 or as VOC2012test beside it; whether they are those published."""
    root, archives = Path(data.root), published("voc12").archives
    if _list_path(root, "test").is_file():
        return False
    return archives["test"].name in provide(root, [archives["trainval"], archives["test"]], mirrors)


def read(data: Voc12, drawn: Path | None) -> tuple[list[Split], list[Skipped]]:
    """Both splits: lists in ImageSets, or train_aug made from SBD's lists where there is none; nothing is left out.

    By default masks are VOC's own: in train_aug only the 1,464 images of VOC's train have one, the others none, so that
    whatever is measured on it compares with the published figures on train, which SBD's masks, of another style, do not.

    Args:
        data: the recipe.
        drawn: the folder of SegmentationClassAug's masks, where the recipe has them made.
    """
    return [_read(Path(data.root), name, drawn) for name in data.splits_made], []


def _read(root: Path, name: str, drawn: Path | None) -> Split:
    ids, own = _ids(root, name), root / "VOC2012" / "SegmentationClass"
    masked = ids if drawn or name != ENLARGED else sorted({*ids} & {*_listed(_list_path(root, "train"))})
    masks = {image_id: (drawn or own) / f"{image_id}.png" for image_id in masked}
    tags = _tags(root / "VOC2012", name, masks)
    photographs = root / "VOC2012" / "JPEGImages"
    records = (
        Record(image_id, photographs / f"{image_id}.jpg", masks.get(image_id), _ordered(tags(image_id), image_id))
        for image_id in ids
    )
    return Split(name, CLASSES, tuple(records))


def read_test(data: Voc12) -> Split:
    """The images of `test`, of which neither masks nor tags are published."""
    root = Path(data.root)
    folder = root / ("VOC2012" if _list_path(root, "test").is_file() else "VOC2012test")
    ids = _listed(folder / LISTS / "test.txt")
    records = (Record(image_id, folder / "JPEGImages" / f"{image_id}.jpg", None, ()) for image_id in ids)
    return Split("test", CLASSES, tuple(records))


def to_draw(data: Voc12) -> list[tuple[str, Callable[[], UInt8[np.ndarray, "H W"]]]]:
    """Image ids of both splits and how the mask of each in SegmentationClassAug is had: VOC's own, else SBD's."""
    root = Path(data.root)
    ids = dict.fromkeys(image_id for name in data.splits_made for image_id in _ids(root, name))
    return [(image_id, partial(_augmented_mask, root, image_id)) for image_id in ids]


def _augmented_mask(root: Path, image_id: str) -> UInt8[np.ndarray, "H W"]:
    """VOC's mask with its void contours where there is one, else SBD's, else the one in a SegmentationClassAug of the user."""
    own = root / "VOC2012" / "SegmentationClass" / f"{image_id}.png"
    sbd = root / SBD / "cls" / f"{image_id}.mat"
    return read_mask(own) if own.is_file() else read_sbd(sbd) if sbd.is_file() else read_mask(_augmented_path(root, image_id))


def _augmented_path(root: Path, image_id: str) -> Path:
    path = root / "VOC2012" / AUGMENTED / f"{image_id}.png"
    if not path.is_file():
        raise ValueError(
            f"image {image_id!r} has no mask in VOC2012/SegmentationClass, {SBD}/cls or {path.parent}; provide one"
        )
    return path


def read_sbd(path: Path) -> UInt8[np.ndarray, "H W"]:
    """The mask in one of SBD's .mat files, whose values are VOC's, without void.

    Raises:
        ValueError: the file is damaged or holds no such mask.
    """
    try:
        content = loadmat(path, simplify_cells=True, variable_names=["GTcls"])
        return np.asarray(content["GTcls"]["Segmentation"]).astype(np.uint8, casting="safe")
    except (KeyError, IndexError, TypeError, ValueError, OSError, NotImplementedError, zlib.error, MatReadError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} holds no mask of SBD ({reason}); unpack the data set again") from None


def _ids(root: Path, name: str) -> list[str]:
    if name != ENLARGED or _list_path(root, name).is_file():
        return _listed(_list_path(root, name))
    sbd = [image_id for part in ("train", "val") for image_id in _listed(root / SBD / f"{part}.txt")]
    return enlarged(_listed(_list_path(root, "train")), _listed(_list_path(root, "val")), sbd)


def _list_path(root: Path, name: str) -> Path:
    return root / "VOC2012" / LISTS / f"{name}.txt"


def _listed(path: Path) -> list[str]:
    if not path.is_file():
        raise ValueError(f"{path} does not exist, but must list the images of a split; check the data set's root and splits")
    ids = [line.strip() for line in read_text(path).split("\n") if line.strip()]
    for image_id in ids:
        check_id(image_id, str(path))
    return ids


def _tags(folder: Path, name: str, masks: dict[str, Path]) -> Callable[[str], set[str]]:
    """Where the tags of an image are read: its XML annotation, else labels.csv, else its mask."""
    annotations, table = folder / "Annotations", folder / "labels.csv"
    if annotations.is_dir():
        logger.info("tags of %s are read from %s", name, annotations)
        return lambda image_id: _xml_tags(annotations / f"{image_id}.xml")
    if table.is_file():
        logger.info("tags of %s are read from %s, since there is no %s", name, table, annotations)
        labels = _table(table)
        return lambda image_id: _row(labels, image_id, table)
    logger.info("tags of %s are read off the masks, since there is neither %s nor %s", name, annotations, table)
    return lambda image_id: _mask_tags(masks.get(image_id), image_id, annotations)


def _xml_tags(path: Path) -> set[str]:
    if not path.is_file():
        raise ValueError(f"{path} does not exist, but must hold the tags of an image; unpack the data set again")
    try:
        return tags_in_xml(path.read_bytes())
    except ET.ParseError as error:
        raise ValueError(f"{path} is not valid XML ({error}); unpack the data set again") from None


def _table(path: Path) -> dict[str, str]:
    reader = csv.DictReader(io.StringIO(read_text(path)))
    if not {"image_id", "labels"} <= set(reader.fieldnames or ()):
        raise ValueError(f"{path} has the columns {reader.fieldnames}, but must have image_id and labels")
    labels: dict[str, str] = {}
    for row in reader:
        if row["image_id"] in labels:
            raise ValueError(f"{path} lists image {row['image_id']!r} twice; each image must be listed once")
        labels[row["image_id"]] = row["labels"] or ""
    return labels


def _row(labels: dict[str, str], image_id: str, table: Path) -> set[str]:
    if image_id not in labels:
        raise ValueError(f"{table} has no row for image {image_id!r} of the split; add it, or take the image out of the list")
    return set(labels[image_id].split())


def _mask_tags(mask: Path | None, image_id: str, annotations: Path) -> set[str]:
    if mask is None:
        raise ValueError(
            f"image {image_id!r} has no mask to read its tags off, and there is no {annotations}; provide it, or set masks "
            f"of the data set to {AUGMENTED}, which has one of every image"
        )
    values = [int(value) for value in np.unique(read_mask(mask)) if value not in (BACKGROUND, VOID)]
    if values and values[-1] > len(CLASSES):
        raise ValueError(f"{mask} holds the value {values[-1]}, but VOC's classes end at {len(CLASSES)}; is it a VOC mask?")
    return {CLASSES[value - 1] for value in values}


def _ordered(tags: set[str], image_id: str) -> tuple[str, ...]:
    check_labels(tags, CLASSES, f"image {image_id!r}")
    return tuple(name for name in CLASSES if name in tags)
