"""Your own photographs: a folder of any names and depth, tags in one of several forms, masks and lists of splits if any."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from acr.config import WHOLE, Folder
from acr.datasets.base import Record, Skipped, Split, check_labels, read_text
from acr.datasets.label_dictionaries import named_classes, read_label_dictionary
from acr.datasets.tags import LABEL_COLUMNS, SPLIT_COLUMNS, Photographs, class_name, image_ids, labels_of, parse_table
from acr.files import digest

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
NO_CLASS = "background"  # a sub-folder or label of this name stands for photographs without any class
UNLABELLED = "nothing says what is in it"
UNLISTED = "it is in no split"

Labels = Mapping[str, Sequence[str]]  # names of classes by the path of the photograph below the root


def drawn_by_lot(labels: Labels, ids: Mapping[str, str], share: float) -> set[str]:
    """The photographs of val: `share` of them, at least one, always the same ones; one of each class stays in train.

    A photograph's lot is a digest of its id, so that another one that is added later moves at most one from side to side.
    """
    order = sorted(labels, key=lambda path: hashlib.sha256(ids[path].encode()).digest())
    val = set(order[: max(1, round(share * len(order)))])
    for name in sorted({name for names in labels.values() for name in names}):
        having = [path for path in order if name in labels[path]]
        if set(having) <= val:
            val.remove(having[-1])
    return val or set(order[:1])


# ---- disk ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Known:
    """All that is known of a folder: ids and labels by path, classes, paths by split, and why some are in none but WHOLE."""

    ids: Mapping[str, str]
    labels: Labels
    classes: tuple[str, ...]
    splits: Mapping[str, Sequence[str]]
    left_out: Mapping[str, str]


def fetch(data: Folder, mirrors: Sequence[str]) -> dict[str, Any]:
    """How many photographs lie below the root; nothing is ever fetched or written there."""
    return {"photographs": len(photographs(data))}


def read(data: Folder, drawn: Path | None) -> tuple[list[Split], list[Skipped]]:
    """Train, val and WHOLE, which is all photographs, and those that are in no other split.

    Raises:
        ValueError: a table or list cannot be read, names a photograph that is not there or a class that is none.
    """
    root, known = Path(data.root), _known(data)
    masks = _masks(data, known)

    def record(path: str) -> Record:
        return Record(known.ids[path], root / path, masks.get(path), tuple(known.labels.get(path, ())))

    splits = [Split(name, known.classes, tuple(map(record, paths))) for name, paths in known.splits.items()]
    return splits, [Skipped(data.train, known.ids[path], str(root / path), why) for path, why in known.left_out.items()]


def photographs(data: Folder) -> list[str]:
    """The paths below the root of all photographs, in their order; hidden files and the masks' folder are passed over."""
    root, masks = Path(data.root), Path(data.masks).absolute() if data.masks else None
    if not root.is_dir():
        raise ValueError(f"{root} is no folder, but root of the data set must name that of your photographs; check it")
    found = [
        path
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(root).parts)
        and not (masks and path.absolute().is_relative_to(masks))
        and path.is_file()
    ]
    if not found:
        raise ValueError(f"{root} holds no photograph, that is no file that ends in {', '.join(sorted(SUFFIXES))}; check root")
    return sorted(path.relative_to(root).as_posix() for path in found)


def _known(data: Folder) -> Known:
    paths = photographs(data)
    there = Photographs(paths, Path(data.root))
    found, named = _labels(data, there)
    wanted = {path: [name for label in labels if (name := class_name(label)) != NO_CLASS] for path, labels in found.items()}
    classes = tuple(map(class_name, named)) or tuple(sorted({*chain(*wanted.values())}))
    if not classes:
        raise ValueError(f"{data.labels or data.root} gives no photograph a class; see docs/own-data.md for how to")
    for path, names in wanted.items():
        check_labels(names, classes, f"photograph {path!r}")
    ids = dict(zip(paths, image_ids(paths), strict=True))
    labels = {path: tuple(name for name in classes if name in wanted[path]) for path in paths if path in wanted}
    splits = _splits(data, there, labels, ids)
    left_out = {path: UNLABELLED for path in paths if path not in labels}
    listed = {*chain(*splits.values())}
    left_out |= {path: UNLISTED for path in labels if path not in listed}
    return Known(ids, labels, classes, {**splits, WHOLE: paths}, left_out)


def _labels(data: Folder, there: Photographs) -> tuple[Labels, Sequence[str]]:
    """The labels of each photograph that has any said of it, and the names of the classes where the source orders them."""
    if data.labels is None:
        return _of_folders(there), data.classes
    path = Path(data.labels)
    if not path.is_file():
        raise ValueError(f"{path} does not exist, but labels of the data set must name a file; check it")
    if path.suffix.lower() in (".npy", ".npz"):
        return _of_dictionary(path, there, data.classes)
    rows, names = _of_coco(path) if path.suffix.lower() == ".json" else _of_table(path, there)
    labels: dict[str, list[str]] = {}
    for name, found in rows:
        labels.setdefault(there.get(name, path), []).extend(found)
    return labels, data.classes or names


def _of_folders(there: Photographs) -> Labels:
    """One sub-folder a class; copies of one photograph in several make one with several labels."""
    same, labels = defaultdict(list), {}
    for path in there.paths:
        if "/" in path:
            same[(there.root / path).stat().st_size].append(path)
    for paths in same.values():
        copies = defaultdict(list)
        for path in paths:
            copies[digest(there.root / path) if len(paths) > 1 else ""].append(path)
        labels |= {group[0]: [PurePosixPath(path).parts[0] for path in group] for group in copies.values()}
    return labels


def _of_table(path: Path, there: Photographs) -> tuple[list[tuple[str, list[str]]], list[str]]:
    """The labels of every row of a table, and the classes in the order of its columns where they are columns."""
    table = parse_table(read_text(path), there)
    try:
        rows = labels_of(table)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None
    columns = table.names and table.column(LABEL_COLUMNS) is None
    return rows, [table.names[place] for place in table.class_columns] if columns else []


def _of_dictionary(path: Path, there: Photographs, classes: Sequence[str]) -> tuple[Labels, Sequence[str]]:
    """The labels of the photographs that the field's dictionary of vectors knows, and the classes its numbers stand for.

    Unlike a table it may name photographs that are not there: it is made for whole data sets, and not by its user.
    """
    vectors = read_label_dictionary(path)
    names, length = named_classes(tuple(map(class_name, classes))) if classes else (), len(next(iter(vectors.values())))
    if length != len(names):
        given = f"vectors of {length} numbers, but classes of the data set names {len(names)}"
        raise ValueError(f"{path} has {given}; name one a number, or voc or coco for theirs")
    found = {there.find(name): vector for name, vector in vectors.items() if there.knows(name)}
    return {photo: [name for name, one in zip(names, vector, strict=True) if one] for photo, vector in found.items()}, names


def _of_coco(path: Path) -> tuple[list[tuple[str, list[str]]], list[str]]:
    """The labels of every image that COCO's JSON lists, none for one without annotations, and the classes by category id."""
    try:
        content = json.loads(read_text(path))
        names = {item["id"]: item["name"] for item in sorted(content["categories"], key=lambda item: item["id"])}
        labels = {image["id"]: (image["file_name"], []) for image in content["images"]}
        for item in content["annotations"]:
            labels[item["image_id"]][1].append(names[item["category_id"]])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not COCO's JSON of images, annotations and categories ({error!r}); check it") from None
    return list(labels.values()), list(names.values())


def _splits(data: Folder, there: Photographs, labels: Labels, ids: Mapping[str, str]) -> dict[str, list[str]]:
    if data.train == data.val:
        return {data.train: [*labels]}
    if data.splits is None:
        val = drawn_by_lot(labels, ids, data.val_share)
        return {data.train: [path for path in labels if path not in val], data.val: [path for path in labels if path in val]}
    path = Path(data.splits)
    if not path.is_file():
        raise ValueError(f"{path} does not exist, but splits of the data set must name a table image,split; check it")
    table = parse_table(read_text(path), there)
    column = table.column(SPLIT_COLUMNS) if table.names else 1
    if column is None:
        raise ValueError(f"{path} has the columns {', '.join(table.names)}, but must have image and split")
    listed = {there.get(row[table.image], path): row[column] for row in table.rows}
    return {name: [path for path in labels if listed.get(path) == name] for name in (data.train, data.val)}


def _masks(data: Folder, known: Known) -> dict[str, Path]:
    """The mask of each photograph that has one: named as it is below the root, or in one folder, or by its id."""
    if data.masks is None:
        return {}
    folder, masks = Path(data.masks), {}
    for path, image_id in known.ids.items():
        plain = PurePosixPath(path).with_suffix(".png")
        places = (folder / plain, folder / plain.name, folder / f"{image_id}.png")
        if (mask := next((place for place in places if place.is_file()), None)) is not None:
            masks[path] = mask
    if not masks:
        raise ValueError(f"{folder} holds no mask of any photograph, such as {places[0]}; check masks of the data set")
    return masks
