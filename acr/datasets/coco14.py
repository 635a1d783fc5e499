"""MS COCO 2014: 80 classes; masks are drawn once from the instances' outlines."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from pycocotools import mask as outlines
from tqdm import tqdm

from acr.config import Coco14
from acr.datasets.base import Record, Split
from acr.datasets.download import Archive, provide
from acr.files import read_json
from acr.images import write_mask
from acr.shapes import BACKGROUND, VOID

logger = logging.getLogger(__name__)

Entry = Mapping[str, Any]  # one object of the annotations' JSON


def _zip(path: str, folder: str, size: int, sha256: str) -> Archive:
    # the second address is the first one's bucket, under a certificate that is valid for it
    urls = (f"http://images.cocodataset.org/{path}", f"https://s3.amazonaws.com/images.cocodataset.org/{path}")
    return Archive(Path(path).name, size, f"sha256:{sha256}", folder, folder, urls)


INSTANCES = "annotations/annotations_trainval2014.zip"
# sizes and checksums as published by torchvision
ARCHIVES = (
    _zip(
        "annotations/annotations_trainval2014.zip",
        "annotations",
        252872794,
        "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
    ),
    _zip("zips/train2014.zip", "train2014", 13510573713, "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775"),
    _zip("zips/val2014.zip", "val2014", 6645013297, "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0"),
)


def class_names(categories: Sequence[Entry]) -> dict[int, str]:
    """Category id to class name, in the order of the ids, which have gaps; spaces become underscores."""
    return {item["id"]: item["name"].replace(" ", "_") for item in sorted(categories, key=lambda item: item["id"])}


def rasterise(objects: Sequence[Entry], values: Mapping[int, int], height: int, width: int) -> UInt8[np.ndarray, "H W"]:
    """The mask of one image's annotations; `values` maps a category id to its mask value.

    Crowds, whose outlines take in what stands between, are void and lie lowest; of two objects the later one lies on top.
    """
    mask = np.full((height, width), BACKGROUND, np.uint8)
    for item in sorted(objects, key=lambda item: not item["iscrowd"]):
        mask[_region(item["segmentation"], height, width)] = VOID if item["iscrowd"] else values[item["category_id"]]
    return mask


def _region(segmentation: Any, height: int, width: int) -> Bool[np.ndarray, "H W"]:
    """The pixels of a list of polygons or of a run-length code, compressed or not."""
    if isinstance(segmentation, list):
        segmentation = outlines.merge(outlines.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        segmentation = outlines.frPyObjects(segmentation, height, width)
    return outlines.decode(segmentation).astype(bool)


# ---- disk ----------------------------------------------------------------------------------------------------------------


def fetch(data: Coco14) -> dict[str, Any]:
    """Makes the root hold the images, the annotations and, in masks/{split}/{image_id}.png, the masks.

    The masks are all that is ever written into an existing root, and only where they are absent.
    """
    root = Path(data.root)
    archives = provide(root, ARCHIVES)
    return {"archives": archives, "masks_drawn": {name: _draw(root, name) for name in (data.train, data.val)}}


def read(data: Coco14, name: str) -> Split:
    """The split `name` without the images that have no annotation, which leaves 82,081 of train and 40,137 of val.

    A crowd counts as a tag of its class, although its pixels are void in the mask.
    """
    root = Path(data.root)
    names, annotated, left_out = _instances(root, name)
    logger.info("%s: %d images have no annotation and are left out", name, left_out)
    records = []
    for image, objects in annotated:
        present = {item["category_id"] for item in objects}
        labels = tuple(label for category, label in names.items() if category in present)
        path = root / f"{name}2014" / image["file_name"]
        image_id = str(Path(image["file_name"]).with_suffix(""))  # with its folder, if it has one, which is refused
        records.append(Record(image_id, path, _mask_path(root, name, image), labels))
    return Split(name, tuple(names.values()), tuple(records))


def _draw(root: Path, name: str) -> int:
    """Draws the absent masks of a split and returns how many they were."""
    names, annotated, _ = _instances(root, name)
    values = {category: index + 1 for index, category in enumerate(names)}
    absent = [(image, objects) for image, objects in annotated if not _mask_path(root, name, image).exists()]
    for image, objects in tqdm(absent, desc=f"drawing masks of {name}", unit="mask", disable=None):
        write_mask(_mask_path(root, name, image), rasterise(objects, values, image["height"], image["width"]))
    return len(absent)


def _mask_path(root: Path, name: str, image: Entry) -> Path:
    return root / "masks" / name / f"{Path(image['file_name']).stem}.png"


def _instances(root: Path, name: str) -> tuple[dict[int, str], list[tuple[Entry, list[Entry]]], int]:
    """Class names by category id, images with the annotations they have, and the number of images without any."""
    path = root / "annotations" / f"instances_{name}2014.json"
    if not path.is_file():
        raise ValueError(f"{path} does not exist, but must hold a split's annotations; check the data set's root and splits")
    content = read_json(path)
    objects = defaultdict(list)
    for item in content["annotations"]:
        objects[item["image_id"]].append(item)
    annotated = [(image, objects[image["id"]]) for image in content["images"] if image["id"] in objects]
    return class_names(content["categories"]), annotated, len(content["images"]) - len(annotated)
