"""What people's own tables and file names say: photographs found by name, labels in a column or in one column a class."""

import csv
import hashlib
import io
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from acr.datasets.base import LONGEST_ID

SEPARATORS = "\t;,|"  # of the cells of a table
BETWEEN_LABELS = ";|,"  # where none of these stands in any cell, white space separates labels
IMAGE_COLUMNS = {"image", "images", "image_id", "img", "file", "filename", "file_name", "path", "name", "id"}
LABEL_COLUMNS = {"labels", "label", "tags", "tag", "classes", "class", "categories", "category"}
SPLIT_COLUMNS = {"split", "subset", "set"}
YES, NO = {"1", "1.0", "true", "yes"}, {"0", "0.0", "false", "no", ""}


# ---- names ---------------------------------------------------------------------------------------------------------------


def class_name(text: str) -> str:
    """The name of a class as the pipeline writes it: outer space dropped, underscores for inner."""
    return "_".join(text.split())


def image_ids(paths: Sequence[str]) -> list[str]:
    """A distinct name for each path below the root that can name files; that of `dog/a b.jpg` is `dog__a b`.

    What would be two photographs' or too long for a file system is cut and gets eight digits of a digest of the path.
    """
    plain = [_plain(path) for path in paths]
    counts = defaultdict(int)
    for name in plain:
        counts[name.casefold()] += 1  # some file systems take capitals for small letters
    return [
        name if counts[name.casefold()] == 1 and len(name.encode()) <= LONGEST_ID else _marked(name, path)
        for name, path in zip(plain, paths, strict=True)
    ]


def _plain(path: str) -> str:
    name = str(PurePosixPath(path).with_suffix("")).replace("/", "__")
    return "".join("_" if unicodedata.category(letter) == "Cc" else letter for letter in name)


def _marked(name: str, path: str) -> str:
    room = LONGEST_ID - 9
    return f"{name.encode()[:room].decode(errors='ignore')}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"


class Photographs:
    """The paths of the photographs below a root, as tables may name them."""

    def __init__(self, paths: Sequence[str], root: Path) -> None:
        self.paths, self.root = paths, root

    @cached_property
    def _named(self) -> dict[str, list[str]]:
        named = defaultdict(list)
        for path in self.paths:
            whole = PurePosixPath(path)
            for name in {path, str(whole.with_suffix("")), whole.name, whole.stem}:
                named[name].append(path)
        return named

    def find(self, name: str) -> str | None:
        """The photograph that `name` names: by its path below the root, an absolute one, or its bare name if no other has it.

        All of them may lack the suffix. None: there is none.

        Raises:
            ValueError: several photographs have the name.
        """
        wanted, found = self._having(name)
        if wanted in found:
            return wanted
        if len(found) > 1:
            raise ValueError(f"{name!r} may be {found[0]} or {found[1]} below {self.root}; write its path below that folder")
        return found[0] if found else None

    def knows(self, name: str) -> bool:
        """Whether at least one photograph has the name."""
        return bool(self._having(name)[1])

    def _having(self, name: str) -> tuple[str, list[str]]:
        """The name as a path below the root, and all photographs that have it."""
        wanted = name.strip().replace("\\", "/").removeprefix("./")
        if Path(wanted).is_absolute() and Path(wanted).is_relative_to(self.root.absolute()):
            wanted = Path(wanted).relative_to(self.root.absolute()).as_posix()
        return wanted, self._named.get(wanted, [])

    def get(self, name: str, table: Path) -> str:
        """`find`, or a ValueError that says which `table` names a photograph that is not there."""
        path = self.find(name)
        if path is None:
            raise ValueError(f"{table} names the photograph {name!r}, which is not below {self.root}; add it or delete the row")
        return path


# ---- tables --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """The rows of a table, all of one length, and the names of its columns; none where its first row is no header."""

    rows: list[list[str]]
    names: list[str]

    def column(self, known: set[str]) -> int | None:
        """The first column that has one of the `known` names, however it is written."""
        return next((place for place, name in enumerate(self.names) if _column_name(name) in known), None)

    @property
    def image(self) -> int:
        """The column that names the photograph: the first, unless another one is called so."""
        return self.column(IMAGE_COLUMNS) or 0

    @property
    def class_columns(self) -> list[int]:
        """The columns that are classes where none holds labels."""
        named = enumerate(map(_column_name, self.names))
        return [place for place, name in named if place != self.image and name not in SPLIT_COLUMNS]


def _column_name(cell: str) -> str:
    return class_name(cell).casefold().replace("-", "_")


def parse_table(text: str, photographs: Photographs) -> Table:
    """A table separated by whichever of SEPARATORS stands most often in its first row."""
    separator = max(SEPARATORS, key=text.partition("\n")[0].count)
    rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text), delimiter=separator) if any(row)]
    width = max(map(len, rows), default=0)
    named = any(_column_name(cell) in IMAGE_COLUMNS | LABEL_COLUMNS | SPLIT_COLUMNS for row in rows[:1] for cell in row)
    headless = not named and any(photographs.knows(cell) for row in rows[:1] for cell in row)
    padded = [row + [""] * (width - len(row)) for row in rows[0 if headless else 1 :]]
    return Table(padded, [] if headless or not rows else rows[0])


def labels_of(table: Table) -> list[tuple[str, list[str]]]:
    """What names the photograph, and its labels, of each row.

    A column of labels holds them separated by any of BETWEEN_LABELS, or by white space where none of these stands in it;
    as the last column it may go on into further cells. Where there is none, each column is a class and holds 0 or 1.

    Raises:
        ValueError: neither fits; the message is the end of a sentence about the table.
    """
    column = table.column(LABEL_COLUMNS) if table.names else 1
    if column is None:
        return _flags_of(table)
    end = None if column >= len(table.names) - 1 else column + 1
    return list(zip((row[table.image] for row in table.rows), _separated([row[column:end] for row in table.rows]), strict=True))


def _separated(cells: Sequence[Sequence[str]]) -> list[list[str]]:
    marked = any(mark in cell for row in cells for cell in row for mark in BETWEEN_LABELS)
    several = any(sum(map(bool, row)) > 1 for row in cells)
    pattern = f"[{re.escape(BETWEEN_LABELS)}]" if marked or several else r"\s"
    return [[label for cell in row for label in re.split(pattern, cell) if label.strip()] for row in cells]


def _flags_of(table: Table) -> list[tuple[str, list[str]]]:
    classes = table.class_columns
    for row in table.rows:
        strange = [row[place] for place in classes if row[place].casefold() not in YES | NO]
        if strange or not classes:
            found = f"holds {strange[0]!r} for {row[table.image]!r}" if strange else f"has the columns {', '.join(table.names)}"
            raise ValueError(f"{found}, but must have columns image and labels, or one column a class that holds 0 or 1")
    return [(row[table.image], [table.names[place] for place in classes if row[place].casefold() in YES]) for row in table.rows]
