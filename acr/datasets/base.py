"""What every data set looks like to the pipeline: a split is a named list of records and the names of its classes."""

import csv
import io
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from acr.files import atomic
from acr.images import UnreadableError, check_mask, read_image, read_mask
from acr.processes import in_processes
from acr.progress import Progress
from acr.shapes import VOID

COLUMNS = ("image_id", "image", "mask", "labels")
LONGEST_ID = 180  # bytes: files are written under longer temporary names, of which a file system takes 255


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


class Skipped(NamedTuple):
    """A photograph that was left out of its split; `reason` is what follows "because"."""

    split: str
    image_id: str
    image: str
    reason: str


def places_of(shard: str) -> slice:
    """Which items of a list are those of a shard such as `1-of-4`: every fourth from the second on."""
    index, count = map(int, shard.split("-of-"))
    assert 0 <= index < count, shard
    return slice(index, None, count)


def shard_of(split: Split, shard: str) -> Split:
    """The records of a shard; all shards share out the split."""
    return replace(split, records=split.records[places_of(shard)])


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
        check_id(record.image_id, f"split {split.name!r}")
        seen.add(record.image_id)
        check_labels(record.labels, split.classes, f"image {record.image_id!r} of split {split.name!r}")


def check_id(image_id: str, where: str) -> None:
    """Refuses an image id that cannot name files of its own folder, with a ValueError that says `where` it is listed."""
    unprintable = any(unicodedata.category(letter) == "Cc" for letter in image_id)
    if not image_id or image_id != Path(image_id).name or image_id.startswith(".") or unprintable:
        raise ValueError(
            f"{where} lists the image {image_id!r}, which cannot name files; leave out folders, leading dots and line ends"
        )
    if (size := len(image_id.encode())) > LONGEST_ID:
        raise ValueError(f"{where} lists the image {image_id!r} of {size} bytes; give it a name of at most {LONGEST_ID}")


def check_classes(classes: Sequence[str], where: str) -> None:
    """Refuses names of classes that tables cannot hold or masks have no room for; a ValueError says `where` they stand."""
    if not 0 < len(classes) < VOID:
        raise ValueError(f"{where} holds {len(classes)} classes, but an 8-bit mask has room for 1 to {VOID - 1}")
    for name in classes:
        if not name or name.split() != [name] or classes.count(name) > 1:
            raise ValueError(f"{where} holds the class {name!r}, but each must be one distinct name without spaces")


def check_labels(labels: Iterable[str], classes: Sequence[str], where: str) -> None:
    """Refuses a label that is no class with a ValueError that says `where` it was found."""
    for label in labels:
        if label not in classes:
            raise ValueError(f"{where} has the label {label!r}, which is no class; it must be one of {', '.join(classes)}")


# ---- disk ----------------------------------------------------------------------------------------------------------------


def check_files(splits: Sequence[Split], workers: int) -> tuple[list[Split], list[Skipped]]:
    """The splits without the photographs that cannot be read, and those; each file is decoded once, by `workers` processes.

    Raises:
        ValueError: names the first file that is missing, or the first mask that is unreadable, of another size than its
            photograph, in colour or with a value that is no class; or no photograph of a split is left.
    """
    distinct = list({(record.image, record.mask): len(split.classes) for split in splits for record in split.records}.items())
    tasks = ((*files, classes) for files, classes in distinct)
    found = list(Progress(in_processes(_fault, tasks, workers), "checking files", total=len(distinct)))
    reasons = {files: reason for (files, _), reason in zip(distinct, found, strict=True)}
    kept, skipped = [], []
    for split in splits:
        faults = [(record, reason) for record in split.records if (reason := reasons[record.image, record.mask])]
        skipped += [Skipped(split.name, record.image_id, str(record.image), _unreadable(reason)) for record, reason in faults]
        kept.append(replace(split, records=tuple(each for each in split.records if not reasons[each.image, each.mask])))
        if faults and not kept[-1].records:
            first = f"{faults[0][0].image}: {faults[0][1]}"
            raise ValueError(
                f"none of the {len(faults)} photographs of split {split.name!r} can be read ({first}); replace them"
            )
    return kept, skipped


def _unreadable(reason: str) -> str:
    return f"it cannot be read as an image ({reason})"


def _fault(image: Path, mask: Path | None, classes: int) -> str:
    """Why a photograph cannot be read, nothing where it can; a mask that cannot be used is a ValueError."""
    try:
        size = read_image(image).shape[:2]
    except UnreadableError as error:
        return error.reason
    if mask is not None:
        check_mask(read_true_mask(mask), size, classes, mask)
    return ""


def read_true_mask(path: Path) -> np.ndarray:
    """`read_mask` of a mask that the user has: a ValueError says what to do about a damaged one."""
    try:
        return read_mask(path)
    except UnreadableError as error:
        raise ValueError(f"mask {path} cannot be read as an image ({error.reason}); replace it") from None


def write_skipped(path: str | Path, skipped: Iterable[Skipped]) -> None:
    """Writes the table of the photographs that were left out; only its header where none was."""
    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows((Skipped._fields, *skipped))


def read_skipped(path: str | Path) -> list[Skipped]:
    """What `write_skipped` wrote."""
    with Path(path).open(newline="", encoding="utf-8") as file:
        return [Skipped(**row) for row in csv.DictReader(file)]


def read_text(path: str | Path) -> str:
    """The text of a file that the user has; a byte order mark is dropped and every line ends with a line feed.

    Raises:
        ValueError: it is not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start} is none); save it as UTF-8") from None


def read_classes(path: str | Path) -> tuple[str, ...]:
    """The names of the classes, one a line, in the order of their mask values.

    Raises:
        ValueError: the file is missing, or its names are none, too many, not distinct or hold white space.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist, but must hold the names of the classes, one a line")
    classes = tuple(read_text(path).splitlines())
    check_classes(classes, str(path))
    return classes


def read_split(csv_path: str | Path) -> Split:
    """The split of a table image_id,image,mask,labels with `classes.txt` beside it; its name is the file's stem.

    Raises:
        ValueError: a file is missing, a column is missing, or `check_split` refuses the records.
    """
    path = Path(csv_path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist, but must be the table of a split; run the splits' rule first")
    reader = csv.DictReader(io.StringIO(read_text(path)))
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise ValueError(f"{path} has the columns {reader.fieldnames}, but must have {','.join(COLUMNS)}")
    records = tuple(_record(row, path, line) for line, row in enumerate(reader, start=2))
    split = Split(path.stem, read_classes(path.with_name("classes.txt")), records)
    check_split(split)
    return split


def write_split(csv_path: str | Path, split: Split) -> None:
    """Writes the table that `read_split` reads; `classes.txt` is written apart, since splits share it."""
    with atomic(csv_path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for record in split.records:
            writer.writerow((record.image_id, record.image, record.mask or "", " ".join(record.labels)))


def write_classes(path: str | Path, classes: Sequence[str]) -> None:
    """Writes the names that `read_classes` reads."""
    with atomic(path) as temporary:
        temporary.write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")


def _record(row: dict[str, Any], path: Path, line: int) -> Record:
    if None in row or None in row.values():
        raise ValueError(f"line {line} of {path} has not exactly {len(COLUMNS)} columns; write it again")
    mask = Path(row["mask"]) if row["mask"] else None
    return Record(row["image_id"], Path(row["image"]), mask, tuple(row["labels"].split()))
