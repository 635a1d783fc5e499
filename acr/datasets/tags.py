"""What people's own tables and file names say: photographs found by name, labels in a column or in one column a class."""

import csv
import hashlib
import io
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path, PurePosixPath

from acr.datasets.base import LONGEST_ID

SEPARATORS = "\t;,|"  # of the cells of a table
BETWEEN_LABELS = ";|,"
IMAGE_COLUMNS = {
    *("image", "images", "image_id", "imageid", "image_name", "image_path", "img", "photo", "photograph"),
    *("file", "filename", "file_name", "path", "name", "id"),
}
LABEL_COLUMNS = {"labels", "tags", "classes", "categories"}  # labels may be separated by white space
ONE_LABEL_COLUMNS = {"label", "tag", "class", "category"}  # a label may hold white space
SPLIT_COLUMNS = {"split", "subset", "set"}
KNOWN_COLUMNS = IMAGE_COLUMNS | LABEL_COLUMNS | ONE_LABEL_COLUMNS | SPLIT_COLUMNS
YES, NO = {"1", "1.0", "true", "yes"}, {"0", "0.0", "false", "no", ""}
NO_LABEL = {"", "background", "none", "nan", "null", "-"}  # says that a photograph shows none of the classes


class TagsError(ValueError):
    """What people wrote cannot be read; the message is the end of a sentence that begins with the name of their file."""


# ---- names ---------------------------------------------------------------------------------------------------------------


def class_name(text: str) -> str:
    """The name of a class as the pipeline writes it: outer space dropped, underscores for inner."""
    return "_".join(text.split())


def class_names(labels: Iterable[str]) -> list[str]:
    """The names of the classes among labels, each once, in their order; words of NO_LABEL are none.

    Raises:
        TagsError: a name looks like a list in some language's brackets or quotes, or differs from another in capitals only.
    """
    names: dict[str, str] = {}
    for name in dict.fromkeys(map(class_name, labels)):
        if re.search(r"""^[\[{'"]|[\]}'"]$""", name):
            raise TagsError(f"holds the label {name!r}; write plain names, separated by semicolons")
        if name.casefold() in names:
            raise TagsError(f"holds the labels {names[name.casefold()]!r} and {name!r}; write one in the same way everywhere")
        if name.casefold() not in NO_LABEL:
            names[name.casefold()] = name
    return list(names.values())


def composed(text: str) -> str:
    """A name in the one of several equal forms that most keyboards write: a Mac's archives hold letters and dots apart."""
    return unicodedata.normalize("NFC", text)


def image_ids(paths: Sequence[str]) -> list[str]:
    """A distinct name for each path below the root that can name files; that of `dog/a b.jpg` is `dog__a b`.

    What would be two photographs' or too long for a file system is cut and gets eight digits of a digest of the path.
    """
    plain = [_plain(path) for path in paths]
    counts: defaultdict[str, int] = defaultdict(int)
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
    def _roots(self) -> tuple[str, ...]:
        """What may stand before a path below the root."""
        whole = self.root.absolute()
        return tuple(f"{root}/" for root in (whole.as_posix(), self.root.as_posix().removeprefix("./"), whole.name))

    @cached_property
    def _named(self) -> dict[str, list[str]]:
        named = defaultdict(list)
        for path in self.paths:
            whole = PurePosixPath(path)
            for name in {path, str(whole.with_suffix("")), whole.name, whole.stem}:
                named[composed(name)].append(path)
        return named

    def find(self, name: str) -> str | None:
        """The photograph that `name` names: by its path below the root or with the root, or its bare name if no other has it.

        All of them may lack the suffix. None: there is none.

        Raises:
            TagsError: several photographs have the name.
        """
        for wanted in self._paths(name):
            found = self._named.get(wanted, [])
            for path in found:
                if composed(path) == wanted:
                    return path
            if len(found) > 1:
                either = f"{found[0]} or {found[1]} below {self.root}"
                raise TagsError(f"names the photograph {name!r}, which may be {either}; write its path below that folder")
            if found:
                return found[0]
        return None

    def surely(self, name: str) -> int:
        """How surely a cell names a photograph: 2 where it holds a whole file name, 1 without suffix, 0 where there is none."""
        found = [(wanted, path) for wanted in self._paths(name) for path in self._named.get(wanted, [])]
        return 2 if any(composed(path).endswith(wanted) for wanted, path in found) else min(len(found), 1)

    def get(self, name: str) -> str:
        """`find`, or a TagsError where the photograph is not there."""
        path = self.find(name)
        if path is None:
            raise TagsError(f"names the photograph {name!r}, which is not below {self.root}; add it or delete the row")
        return path

    def _paths(self, name: str) -> list[str]:
        """The name as a path below the root: as it stands, and without the root before it."""
        wanted = composed(name.strip().replace("\\", "/").removeprefix("./"))
        return [wanted, *(wanted.removeprefix(root) for root in self._roots if wanted.startswith(root))]


# ---- tables --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """The rows of a table, which column names the photograph, and the names of the columns; none where no row is a header."""

    rows: list[list[str]]
    names: list[str]
    image: int

    def column(self, *known: str) -> int | None:
        """The first column that has one of the `known` names, however it is written."""
        return next((place for place, name in enumerate(self.names) if _column_name(name) in known), None)


def parse_table(text: str, photographs: Photographs) -> Table:
    """A table separated by whichever of SEPARATORS makes most cells of photographs, or stands most often in the first row.

    Raises:
        TagsError: a quote is not closed, or no row is left.
    """
    text = re.sub(r"^(\s*\n|sep=.\r?\n)*", "", text)  # Excel writes which separator it used
    first = text.partition("\n")[0]
    if not first.strip():
        raise TagsError("is empty, but must be a table; write a row for each photograph")
    used = [separator for separator in SEPARATORS if separator in first] or [","]
    tried = {separator: _rows(text, separator) for separator in used}
    named = {separator: sum(map(photographs.surely, chain(*rows))) for separator, rows in tried.items()}
    rows = tried[max(used, key=lambda separator: (named[separator], first.count(separator)))]
    width = max(map(len, rows))
    image = _image_column(rows, width, photographs)
    header = any(_column_name(cell) in KNOWN_COLUMNS for cell in rows[0]) or not photographs.surely(rows[0][image])
    padded = [row + [""] * (width - len(row)) for row in rows[1 if header else 0 :]]
    return Table(padded, rows[0] if header else [], image)


def _rows(text: str, separator: str) -> list[list[str]]:
    try:
        content = csv.reader(io.StringIO(text), delimiter=separator, strict=True)
        return [[cell.strip() for cell in row] for row in content if any(row)]
    except csv.Error as error:
        raise TagsError(f"is no table of cells separated by {separator!r} ({error}); check its quotes") from None


def _image_column(rows: Sequence[Sequence[str]], width: int, photographs: Photographs) -> int:
    """The column whose cells name photographs most surely; one that is called so counts half as much again.

    Numbers of rows or classes may name numbered photographs as well, and what the right column names may be gone.
    """
    sure = [sum(photographs.surely(cell) for row in rows for cell in row[place : place + 1]) for place in range(width)]
    names = [_column_name(name) for name in rows[0]]
    places = [place for place, name in enumerate(names) if name in IMAGE_COLUMNS or name not in KNOWN_COLUMNS]
    return max(places or range(len(names)), key=lambda place: ((2 + (names[place] in IMAGE_COLUMNS)) * sure[place], -place))


def _column_name(cell: str) -> str:
    return class_name(cell).casefold().replace("-", "_")


def labels_of(table: Table, wanted: Sequence[str]) -> tuple[list[tuple[str, list[str]]], list[str]]:
    """What names the photograph, and its labels, of each row; and the classes where they are columns.

    A column of labels holds them separated by any of BETWEEN_LABELS, or by white space where none of these stands in it
    and its name is no singular; as the last column it may go on into further cells. Where there is no such column, each
    other one is a class and holds 0 or 1, or each of `wanted` if it names any.

    Raises:
        TagsError: neither fits.
    """
    one = table.column(*ONE_LABEL_COLUMNS)
    several = table.column(*LABEL_COLUMNS) if table.names else (table.image + 1) % max(len(table.rows[0]), 1)
    column = one if several is None else several
    if column is None:
        return _flags_of(table, wanted)
    last = column >= len(table.names) - 1 and (column > table.image or bool(table.names))
    too_long = next((row for row in table.rows if any(row[len(table.names) :])), None)
    if table.names and not last and too_long:
        raise TagsError(f"has more cells than names of columns in the row {','.join(too_long)!r}; quote what holds a separator")
    cells = [[cell for cell in row[column : None if last else column + 1] if cell] for row in table.rows]
    labels = _separated(cells, white_space=several is not None)
    if not table.names and {label for row in labels for label in row} <= YES | NO:
        raise TagsError("has columns of 0 and 1 without names; write a first row with the names of the classes")
    return list(zip((row[table.image] for row in table.rows), labels, strict=True)), []


def _separated(cells: Sequence[Sequence[str]], white_space: bool) -> list[list[str]]:
    marked = any(mark in cell for row in cells for cell in row for mark in BETWEEN_LABELS)
    plain = marked or not white_space or any(len(row) > 1 for row in cells)
    pattern = f"[{re.escape(BETWEEN_LABELS)}]" if plain else r"\s"
    return [[label for cell in row for label in re.split(pattern, cell) if label.strip()] for row in cells]


def _flags_of(table: Table, wanted: Sequence[str]) -> tuple[list[tuple[str, list[str]]], list[str]]:
    columns = {
        name: place
        for place, name in enumerate(table.names)
        if name and place != table.image and _column_name(name) not in SPLIT_COLUMNS
    }
    if wanted:
        named = {_column_name(name): name for name in columns}
        for name in wanted:
            if _column_name(name) not in named:
                raise TagsError(
                    f"has no column of the class {name!r} that classes of the data set names, but {', '.join(columns)}"
                )
        columns = {name: columns[named[_column_name(name)]] for name in wanted}
    needed = "must have columns image and labels, or one column a class that holds 0 or 1, which classes may pick out"
    if not columns:
        raise TagsError(f"has the columns {', '.join(table.names)}, but {needed}")
    for row in table.rows:
        for name, place in columns.items():
            if row[place].casefold() not in YES | NO:
                raise TagsError(f"holds {row[place]!r} in the column {name!r} for {row[table.image]!r}, but {needed}")
    flagged = [
        (row[table.image], [name for name, place in columns.items() if row[place].casefold() in YES]) for row in table.rows
    ]
    return flagged, list(columns)


def splits_of(table: Table) -> list[tuple[str, str]]:
    """What names the photograph, and its split, of each row.

    Raises:
        TagsError: no column says the split.
    """
    column = table.column(*SPLIT_COLUMNS) if table.names else (table.image + 1 if len(table.rows[0]) > 1 else None)
    if column is None:
        raise TagsError(f"has the columns {', '.join(table.names) or '(one)'}, but must have image and split")
    return [(row[table.image], row[column]) for row in table.rows]
