"""What every data set looks like to the pipeline: a split is a named list of records and the names of its classes."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from tqdm import tqdm

from acr.files import atomic
from acr.images import image_size
from acr.shapes import VOID

COLUMNS = ("image_id", "image", "mask", "labels")


@dataclass(frozen=True)
class Record:
    """One image: the file of its photograph, of its mask where there is a true one, and the names of the classes in it."""

    image_id: str
    image: Path
    mask: Path | None
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Split:
    """Records in a fixed order; the class at index i of `classes` has the mask value i + 1."""

    name: str
    classes: tuple[str, ...]
    records: tuple[Record, ...]

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.classes)}

    def class_indices(self, record: Record) -> tuple[int, ...]:
        """The indices of the record's labels among `classes`, in increasing order, each once."""
        return tuple(sorted({self._index[label] for label in record.labels}))

    def tags(self, record: Record) -> Float32[np.ndarray, "C"]:
        """One number a class: 1 where the record has the label, else 0."""
        tags = np.zeros(len(self.classes), np.float32)
        tags[list(self.class_indices(record))] = 1
        return tags


def shard_of(split: Split, shard: str) -> Split:
    """The records of a shard such as `1-of-4`: every fourth from the second on; all shards share out the split."""
    index, count = map(int, shard.split("-of-"))
    assert 0 <= index < count, shard
    return replace(split, records=split.records[index::count])


def check_split(split: Split) -> None:
    """Refuses a split that some later stage could not work with.

    Raises:
        ValueError: the first of: no records, an image twice, a name that cannot be a file's, an unknown class.
    """
    if not split.records:
        raise ValueError(f"split {split.name!r} is empty, but must list at least one image; check the data set's lists")
    seen = set()
    for record in split.records:
        if record.image_id in seen:
            raise ValueError(f"split {split.name!r} lists image {record.image_id!r} twice; each image must be listed once")
        if record.image_id != Path(record.image_id).name:
            raise ValueError(f"split {split.name!r} lists {record.image_id!r}, which cannot name a file; leave out its folder")
        seen.add(record.image_id)
        check_labels(record.labels, split.classes, f"image {record.image_id!r} of split {split.name!r}")


def check_labels(labels: Iterable[str], classes: Sequence[str], where: str) -> None:
    """Refuses a label that is no class with a ValueError that says `where` it was found."""
    for label in labels:
        if label not in classes:
            raise ValueError(f"{where} has the label {label!r}, which is no class; it must be one of {', '.join(classes)}")


# ---- disk ----------------------------------------------------------------------------------------------------------------


def check_files(split: Split) -> None:
    """Refuses a split whose photographs or masks are missing, unreadable by their headers or of different sizes.

    Raises:
        ValueError: names the first such file.
    """
    for record in tqdm(split.records, desc=f"checking {split.name}", unit="image", disable=None):
        size = image_size(record.image)
        if record.mask is not None and image_size(record.mask) != size:
            height, width = image_size(record.mask)
            raise ValueError(
                f"mask {record.mask} is {height} x {width} pixels, but its image is {size[0]} x {size[1]}; they must be equal"
            )


def read_classes(path: str | Path) -> tuple[str, ...]:
    """The names of the classes, one a line, in the order of their mask values.

    Raises:
        ValueError: the file is missing, or its names are none, too many, not distinct or hold white space.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist, but must hold the names of the classes, one a line")
    classes = tuple(path.read_text().splitlines())
    if not 0 < len(classes) < VOID:
        raise ValueError(f"{path} holds {len(classes)} classes, but an 8-bit mask has room for 1 to {VOID - 1}")
    for name in classes:
        if not name or name.split() != [name] or classes.count(name) > 1:
            raise ValueError(f"{path} holds the class {name!r}, but each line must be one distinct name without spaces")
    return classes


def read_split(csv_path: str | Path) -> Split:
    """The split of a table image_id,image,mask,labels with `classes.txt` beside it; its name is the file's stem.

    Raises:
        ValueError: a file is missing, a column is missing, or `check_split` refuses the records.
    """
    path = Path(csv_path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist, but must be the table of a split; run the splits' rule first")
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(f"{path} has the columns {reader.fieldnames}, but must have {','.join(COLUMNS)}")
        records = tuple(_record(row, path, line) for line, row in enumerate(reader, start=2))
    split = Split(path.stem, read_classes(path.with_name("classes.txt")), records)
    check_split(split)
    return split


def write_split(csv_path: str | Path, split: Split) -> None:
    """Writes the table that `read_split` reads; `classes.txt` is written apart, since splits share it."""
    with atomic(csv_path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for record in split.records:
            writer.writerow((record.image_id, record.image, record.mask or "", " ".join(record.labels)))


def write_classes(path: str | Path, classes: Sequence[str]) -> None:
    """Writes the names that `read_classes` reads."""
    with atomic(path) as temporary:
        temporary.write_text("".join(f"{name}\n" for name in classes))


def _record(row: dict[str, str | None], path: Path, line: int) -> Record:
    if None in row or None in row.values():
        raise ValueError(f"line {line} of {path} has not exactly {len(COLUMNS)} columns; write it again")
    mask = Path(row["mask"]) if row["mask"] else None
    return Record(row["image_id"], Path(row["image"]), mask, tuple(row["labels"].split()))
