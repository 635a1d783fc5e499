"""MS COCO 2014: 80 classes; masks are drawn from the instances' outlines."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from pycocotools import mask as outlines

from acr.datasets.base import Record, Skipped, Split
from acr.datasets.download import provide
from acr.datasets.published import published
from acr.recipes import Coco14
from acr.shapes import BACKGROUND, VOID

Entry = Mapping[str, Any]  # one object of the annotations' JSON
UNLABELLED = "it has no annotation"


def class_names(categories: Sequence[Entry]) -> dict[int, str]:
    """Category id to class name, in the order of the ids, which have gaps; spaces become underscores.

    The first class has the mask value 1, as everywhere: person is not the background.
    """
    return {item["id"]: item["name"].replace(" ", "_") for item in sorted(categories, key=lambda item: item["id"])}


def rasterise(
    objects: Sequence[Entry], values: Mapping[int, int], crowd: int | None, height: int, width: int
) -> UInt8[np.ndarray, "H W"]:
    """The mask of one image's annotations: crowds lie lowest, and of two objects the later one lies on top.

    Args:
        objects: annotations in the order of the file.
        values: mask value of each category id.
        crowd: mask value of crowds, whose outlines take in what stands between; None: that of their category.
        height: of the mask.
        width: of the mask.
    """
    mask = np.full((height, width), BACKGROUND, np.uint8)
    for item in sorted(objects, key=lambda item: not item["iscrowd"]):
        own = values[item["category_id"]]
        value = crowd if item["iscrowd"] and crowd is not None else own
        mask[_region(item["segmentation"], height, width)] = value
    return mask


def _region(segmentation: Any, height: int, width: int) -> Bool[np.ndarray, "H W"]:
    """The pixels of a list of polygons or of a run-length code, compressed or not."""
    if isinstance(segmentation, list):
        segmentation = outlines.merge(outlines.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        segmentation = outlines.frPyObjects(segmentation, height, width)
    return outlines.decode(segmentation).astype(bool)


# ---- disk ----------------------------------------------------------------------------------------------------------------


def fetch(data: Coco14, mirrors: Sequence[str]) -> dict[str, Any]:
    """Makes the root hold the annotations and the images; `archives` are those it was unpacked from."""
    archives = published("coco14").archives
    return {"archives": provide(Path(data.root), [archives[name] for name in ("annotations", "train", "val")], mirrors)}


def read(data: Coco14, drawn: Path | None) -> tuple[list[Split], list[Skipped]]:
    """Both splits and the images that are left out of them, those without any annotation.

    That leaves 82,081 images of train and 40,137 of val. A crowd counts as a tag of its class, whatever its pixels are.
    """
    read = [_read(Path(data.root), name, drawn) for name in data.splits_made]
    return [split for split, _ in read], [item for _, skipped in read for item in skipped]


def _read(root: Path, name: str, drawn: Path | None) -> tuple[Split, list[Skipped]]:
    names, images = _instances(root, name)
    records, skipped = [], []
    for image, objects in images:
        image_id, path = _image_id(image), root / f"{name}2014" / image["file_name"]
        present = {item["category_id"] for item in objects}
        labels = tuple(label for category, label in names.items() if category in present)
        if labels:
            records.append(Record(image_id, path, drawn / f"{image_id}.png" if drawn else None, labels))
        else:
            skipped.append(Skipped(name, image_id, str(path), UNLABELLED))
    return Split(name, tuple(names.values()), tuple(records)), skipped


def to_draw(data: Coco14) -> Iterator[tuple[str, Callable[[], UInt8[np.ndarray, "H W"]]]]:
    """Ids of the annotated images of both splits, and how the mask of each is drawn; one split at a time is parsed."""
    for name in data.splits_made:
        names, images = _instances(Path(data.root), name)
        values = {category: index + 1 for index, category in enumerate(names)}
        crowd = VOID if data.crowd == "void" else None
        for image, objects in images:
            if objects:
                yield _image_id(image), partial(rasterise, objects, values, crowd, image["height"], image["width"])


def _image_id(image: Entry) -> str:
    return str(Path(image["file_name"]).with_suffix(""))  # with its folder, if it has one, which is refused


def _instances(root: Path, name: str) -> tuple[dict[int, str], Iterator[tuple[Entry, list[Entry]]]]:
    """Class names by category id, and every image of a split with its annotations."""
    path = root / "annotations" / f"instances_{name}2014.json"
    if not path.is_file():
        raise ValueError(f"{path} does not exist, but must hold a split's annotations; check the data set's root and splits")
    try:
        content = json.loads(path.read_bytes(), object_hook=_compact)
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); unpack the data set again") from None
    objects = defaultdict(list)
    for item in content["annotations"]:
        objects[item["image_id"]].append(item)
    return class_names(content["categories"]), ((image, objects[image["id"]]) for image in content["images"])


def _compact(entry: dict[str, Any]) -> dict[str, Any]:
    """An annotation as it is parsed, with what is needed of it: outlines as lists of Python numbers take gigabytes."""
    if "segmentation" not in entry:
        return entry
    outline = entry["segmentation"]
    if isinstance(outline, list):
        outline = [np.array(polygon, np.float64) for polygon in outline]
    return {key: entry[key] for key in ("image_id", "category_id", "iscrowd")} | {"segmentation": outline}
