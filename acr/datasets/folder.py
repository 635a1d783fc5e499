"""Your own photographs: a folder of any names and depth, tags in one of several forms, masks and lists of splits if any."""

import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from acr.datasets.base import Record, Skipped, Split, check_labels, read_text, read_true_mask
from acr.datasets.label_dictionaries import named_classes, read_label_dictionary
from acr.datasets.tags import (
    SPLIT_COLUMNS,
    Photographs,
    Table,
    TagsError,
    class_name,
    class_names,
    composed,
    image_ids,
    labels_of,
    parse_table,
    splits_of,
)
from acr.files import digest, listed
from acr.recipes import PHOTOGRAPHS, WHOLE, Folder
from acr.shapes import BACKGROUND, VOID

SPLIT_FOLDERS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": ""}
UNLABELLED = "nothing says what is in it"
UNLISTED = "it is in no split"
COPY = "it is a copy of a photograph in another sub-folder"
SAMPLED = 20  # masks that are looked into for a habit of others

Labels = Mapping[str, Sequence[str]]  # names of classes by the path of the photograph below the root


def drawn_by_lot(labels: Labels, share: float) -> set[str]:
    """The photographs of val: `share` of them, at least one, always the same ones; one of each class stays in train.

    A photograph's lot is a digest of its path, so that one that is added later moves hardly any from side to side. Where a
    class would be lost the next lot is drawn; only where that leaves val empty, as with two photographs of two classes,
    val has one all the same.
    """
    order = sorted(labels, key=lambda path: hashlib.sha256(path.encode()).digest())
    left, val = Counter(chain(*labels.values())), set[str]()
    for path in order:
        if len(val) < max(1, round(share * len(order))) and all(left[name] > 1 for name in labels[path]):
            val.add(path)
            left.subtract(labels[path])
    return val or set(order[:1])


def top_folders(paths: Sequence[str]) -> dict[str, str]:
    """The first folder of each path that has one."""
    return {path: PurePosixPath(path).parts[0] for path in paths if "/" in path}


def split_folders(tops: Iterable[str]) -> set[str]:
    """Those of the first folders that name splits; none unless both train and val are among them."""
    splits = {top for top in tops if top.casefold() in SPLIT_FOLDERS}
    return splits if {"train", "val"} <= {SPLIT_FOLDERS[top.casefold()] for top in splits} else set()


def class_depth(paths: Sequence[str]) -> int:
    """Where in a path the sub-folder stands that is a class: first (0), or second (1), below those of splits.

    Raises:
        TagsError: beside the folders of splits lies another one.
    """
    tops = {*top_folders(paths).values()}
    if not (splits := split_folders(tops)):
        return 0
    if tops - splits:
        beside = f"the folders {' and '.join(sorted(splits))} and beside them {min(tops - splits)}"
        raise TagsError(f"holds {beside}; take it out, or say what is in the photographs in a table of labels")
    return 1


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
    """The paths below the root of all photographs, in their order; the masks' folder is passed over."""
    root, masks = Path(data.root), Path(data.masks).resolve() if data.masks else None
    if not root.is_dir():
        raise ValueError(f"{root} is no folder, but root of the data set must name that of your photographs; check it")
    if masks and root.resolve().is_relative_to(masks):
        raise ValueError(
            f"masks of the data set is {data.masks}, where the photographs are; keep masks in a folder of their own"
        )
    found = [path for path in listed(root, PHOTOGRAPHS) if not (masks and (root / path).resolve().is_relative_to(masks))]
    for path in found:
        if not (root / path).exists():
            raise ValueError(f"{root / path} is a link that leads nowhere; mend it or take it away")
    if not found:
        raise ValueError(f"{root} holds no photograph, that is no file that ends in {', '.join(PHOTOGRAPHS)}; check root")
    return found


def _known(data: Folder) -> Known:
    there = Photographs(photographs(data), Path(data.root))
    source = data.labels or data.root
    try:
        table = _label_table(data, there)
        found, named = _labels(data, there, table)
        labelled = {path: class_names(names) for path, names in found.items()}
        classes = tuple(class_names(named) or class_names(sorted({*chain(*labelled.values())})))
    except TagsError as error:
        raise ValueError(f"{source} {error}") from None
    if not classes:
        raise ValueError(f"{source} gives no photograph a class; see docs/own-data.md for how to")
    for path, names in labelled.items():
        check_labels(names, classes, f"photograph {path!r}")
    labels = {path: tuple(name for name in classes if name in labelled[path]) for path in there.paths if path in labelled}
    splits = _splits(data, there, labels, table)
    depth = math.inf if data.labels else class_depth(there.paths)  # below it, a photograph without labels is a copy
    left_out = {path: COPY if path.count("/") > depth else UNLABELLED for path in there.paths if path not in labels}
    in_some = {*chain(*splits.values())}
    left_out |= {path: UNLISTED for path in labels if path not in in_some}
    ids = dict(zip(there.paths, image_ids(there.paths), strict=True))
    return Known(ids, labels, classes, {**splits, WHOLE: there.paths}, left_out)


def _label_table(data: Folder, there: Photographs) -> Table | None:
    """The table of labels, where they are in one.

    Raises:
        TagsError: there is no such file, or it cannot be read.
    """
    if data.labels is None:
        return None
    path = Path(data.labels)
    if not path.is_file():
        raise TagsError("does not exist, but labels of the data set must name a file; check it")
    return None if path.suffix.lower() in (".npy", ".npz", ".json") else parse_table(read_text(path), there)


def _labels(data: Folder, there: Photographs, table: Table | None) -> tuple[Labels, Sequence[str]]:
    """The labels of each photograph that has any said of it, and the names of the classes where something orders them.

    Raises:
        TagsError: the source cannot be read.
    """
    if data.labels is None:
        return _of_folders(there), data.classes
    path = Path(data.labels)
    if path.suffix.lower() in (".npy", ".npz"):
        return _of_dictionary(path, there, data.classes)
    rows, names = _of_coco(path) if table is None else labels_of(table, data.classes)
    labels: dict[str, list[str]] = {}
    for name, found in rows:
        labels.setdefault(there.get(name), []).extend(found)
    return labels, data.classes or names


def _of_folders(there: Photographs) -> Labels:
    """One sub-folder a class, or below those of splits; copies of one photograph in several make one with several labels."""
    depth, same = class_depth(there.paths), defaultdict(list)
    labels: dict[str, list[str]] = {}
    for path in there.paths:
        if path.count("/") > depth:
            same[(there.root / path).stat().st_size].append(path)
    for paths in same.values():
        copies = defaultdict(list)
        for path in paths:
            copies[digest(there.root / path) if len(paths) > 1 else ""].append(path)
        labels |= {group[0]: [PurePosixPath(path).parts[depth] for path in group] for group in copies.values()}
    return labels


def _of_dictionary(path: Path, there: Photographs, classes: Sequence[str]) -> tuple[Labels, Sequence[str]]:
    """The labels of the photographs that the field's dictionary of vectors knows, and the classes its numbers stand for.

    Unlike a table it may name photographs that are not there: it is made for whole data sets, and not by its user.
    """
    vectors = read_label_dictionary(path)
    names, length = named_classes(tuple(map(class_name, classes))) if classes else (), len(next(iter(vectors.values())))
    if length != len(names):
        given = f"has vectors of {length} numbers, but classes of the data set names {len(names)}"
        raise TagsError(f"{given}; name one a number, or voc or coco for theirs")
    found = {photo: vector for name, vector in vectors.items() if (photo := there.find(name)) is not None}
    if not found:
        raise TagsError(f"knows none of the photographs below {there.root}, but such as {next(iter(vectors))!r}; check both")
    return {photo: [name for name, one in zip(names, vector, strict=True) if one] for photo, vector in found.items()}, names


def _of_coco(path: Path) -> tuple[list[tuple[str, list[str]]], list[str]]:
    """The labels of every image that COCO's JSON lists, none for one without annotations, and the classes by category id."""
    try:
        content = json.loads(read_text(path))
        names = {item["id"]: item["name"] for item in sorted(content["categories"], key=lambda item: item["id"])}
        labels: dict[Any, tuple[str, list[str]]] = {image["id"]: (image["file_name"], []) for image in content["images"]}
        for item in content["annotations"]:
            labels[item["image_id"]][1].append(names[item["category_id"]])
    except (ValueError, KeyError, TypeError) as error:
        raise TagsError(f"is not COCO's JSON of images, annotations and categories ({error!r}); check it") from None
    return list(labels.values()), list(names.values())


def _splits(data: Folder, there: Photographs, labels: Labels, table: Table | None) -> dict[str, list[str]]:
    """The labelled photographs of train and val: as a table or the folders say, else drawn by lot."""
    if data.train == data.val:
        return {data.train: [*labels]}
    said = _said_splits(data, there, table)
    if not {data.train, data.val} <= {*said.values()}:  # in other words, such as validation
        words = {"train": data.train, "val": data.val}
        said = {path: words.get(SPLIT_FOLDERS.get(split.casefold(), ""), split) for path, split in said.items()}
    if not said:
        val = drawn_by_lot(labels, data.val_share)
        said = {path: data.val if path in val else data.train for path in labels}
    splits = {name: [path for path in labels if said.get(path) == name] for name in (data.train, data.val)}
    for name, paths in splits.items():
        if not paths:
            found = ", ".join(sorted({*said.values()} - {""}))
            source = f"the split {name!r} of {data.splits or data.labels or data.root}, whose splits are {found}"
            way_out = "label at least two photographs, or name the splits in the keys train and val of the data set"
            raise ValueError(f"no labelled photograph is in {source}; {way_out}")
    return splits


def _said_splits(data: Folder, there: Photographs, table: Table | None) -> dict[str, str]:
    """The split of each photograph, as far as a table of its own, that of the labels or the folders say it."""
    if data.splits is None and (table is None or table.column(*SPLIT_COLUMNS) is None):
        tops = top_folders(there.paths)
        return tops if split_folders({*tops.values()}) else {}
    source = data.splits or data.labels
    assert source is not None  # a table of labels is in a file
    path, said = Path(source), dict[str, str]()
    if not path.is_file():
        raise ValueError(f"{path} does not exist, but splits of the data set must name a table image,split; check it")
    try:
        own = table if data.splits is None else parse_table(read_text(path), there)
        assert own is not None
        for name, split in splits_of(own):
            if said.setdefault(there.get(name), split) != split:
                raise TagsError(f"has {name!r} in {said[there.get(name)]} and in {split}; list it once")
    except TagsError as error:
        raise ValueError(f"{path} {error}") from None
    return said


def _masks(data: Folder, known: Known) -> dict[str, Path]:
    """The mask of each photograph that has one: of the same path below the masks' folder, or of its bare name or id.

    Raises:
        ValueError: there is none, one belongs to two photographs, or all have 255, which is void, for their class.
    """
    if data.masks is None:
        return {}
    folder = Path(data.masks)
    there = {composed(path): folder / path for path in listed(folder, [".png"])}
    there = {path.casefold(): mask for path, mask in there.items()} | there  # as it is written comes first
    masks: dict[str, Path] = {}
    for path in known.labels:
        plain = composed(str(PurePosixPath(path).with_suffix(".png")))
        names = [plain, f"{known.ids[path]}.png", PurePosixPath(plain).name]
        found = [there[form] for name in names for form in (name, name.casefold()) if form in there]
        if found:
            masks[path] = found[0]
    if not masks:
        raise ValueError(f"{folder} holds no mask of any photograph, such as {folder / plain}; check masks of the data set")
    owner: dict[Path, str] = {}
    for path, mask in masks.items():
        if owner.setdefault(mask, path) != path:
            raise ValueError(f"{mask} may be the mask of {owner[mask]} or of {path}; give masks the paths of their photographs")
    values = {int(value) for mask in [*masks.values()][:SAMPLED] for value in np.unique(read_true_mask(mask))}
    if VOID in values and values <= {BACKGROUND, VOID}:
        raise ValueError(f"masks in {folder} hold 0 and 255 only, but 255 is void; write 1 for the class")
    return masks
