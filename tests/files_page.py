"""docs/files.md read as data: which files it lists, what it says is in them, and where the files of a run differ from that."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from tests.running import MARK, ROOT

PAGE = (ROOT / "docs" / "files.md").read_text()
OF_THE_RUN = ("data/", "logs/", ".")  # how paths begin that do not lie below results/{dataset}
WITHOUT_DOTS = ("recipe", "split")
TYPES = {"text": str, "integer": int, "number": (int, float), "object": dict, "list": list, "null": type(None)}


@dataclass(frozen=True)
class Name:
    """A column or key, with its types where the page gives them."""

    text: str
    optional: bool
    types: tuple[str, ...] = ()

    def fits(self, found: str) -> bool:
        return re.fullmatch(_expression(self.text, {}, ".+"), found) is not None


@dataclass(frozen=True)
class Listed:
    """One line of a table of files."""

    pattern: str  # from the folder of the run
    marked: bool  # as none of the default configuration's
    names: tuple[Name, ...]
    arrays: tuple[tuple[str, ...], ...]  # dtype, shape, and the bounds of its values where they are given
    rule: str
    reader: str

    def fits(self, path: str) -> bool:
        kinds = dict.fromkeys(WITHOUT_DOTS, "[^/.]+") | {"path": ".+"}
        return re.fullmatch(_expression(self.pattern, kinds), path) is not None

    def read(self, path: Path, **names: str) -> Any:
        return eval(self.reader, {**IMPORTED, "path": path, **names})


def _expression(pattern: str, kinds: Mapping[str, str], other: str = "[^/]+") -> str:
    parts = re.split(r"\{(\w+)\}", pattern)
    return "".join(kinds.get(part, other) if place % 2 else re.escape(part) for place, part in enumerate(parts))


def _tables(section: str) -> Iterator[tuple[str, list[list[str]]]]:
    """The first heading and the rows of each table."""
    for table in re.findall(r"^\| (?:file|key|column) \|(?:.*\n\|)*.*$", section, re.MULTILINE):
        head, _, *rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]
        yield head[0].strip("| "), rows


def _names(cell: str, types: str = "") -> list[Name]:
    given = tuple(types.split(" or ")) if types else ()
    return [Name(text, bool(mark), given) for text, mark in re.findall(r"`([^`]+)`(\?)?", cell)]


def _fields(section: str) -> list[Name]:
    """The names of a table of keys or columns; those after a star stand behind each of the names."""
    rows = [row for kind, table in _tables(section) if kind != "file" for row in table]
    names = [name for cell, types, _ in rows for name in _names(cell, types)]
    plain = [name for name in names if not name.text.startswith("*")]
    behind = [name.text.removeprefix("*") for name in names if name.text.startswith("*")]
    return plain + [Name(f"{name.text}{suffix}", optional=True) for name in plain for suffix in behind]


def _listed(section: str) -> Iterator[Listed]:
    fields = _fields(section)
    for cell, content, rule, reader in (row for kind, rows in _tables(section) if kind == "file" for row in rows):
        pattern, marked = re.fullmatch(r"`([^`]+)`( †)?", cell).groups()
        table = pattern.endswith((".csv", ".json", ".tsv"))
        names = [*_names(content if table else ""), *(fields if " below" in content else ())]
        arrays = re.findall(r'`(\w+)` "([^"]+)"(?: in \[(\S+), (\S+)\])?', "" if table else content)
        arrays = arrays or [(dtype, "") for dtype in re.findall(r"`(\w+)`", "" if table else content)]
        place = pattern if pattern.startswith(OF_THE_RUN) else f"results/{{dataset}}/{pattern}"
        yield Listed(place, bool(marked), tuple(names), tuple(arrays), rule, reader.strip("`"))


FILES = [each for section in PAGE.split("\n## ") for each in _listed(section)]
IMPORTED: dict[str, Any] = {}
exec(re.search(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[1], IMPORTED)


def meant(path: str) -> list[Listed]:
    """What the page lists a path as: of those that fit, those with the fewest braces."""
    fitting = [each for each in FILES if each.fits(path)]
    fewest = min((each.pattern.count("{") for each in fitting), default=0)
    return [each for each in fitting if each.pattern.count("{") == fewest]


def files(run: Path, below: Collection[str]) -> list[str]:
    found = (path for folder in below for path in (run / folder).rglob("*") if path.is_file() and path.name != MARK)
    return sorted(path.relative_to(run).as_posix() for path in found)


def faults(run: Path, below: Collection[str] = ("results", "logs")) -> list[str]:
    """A sentence for each file below these folders of a run that is not as the page says."""
    found = []
    for path in files(run, below):
        listed = meant(path)
        if len(listed) != 1:
            found.append(f"{path} is listed {len(listed)} times")
        else:
            found += [f"{path}: {fault}" for fault in _of_content(listed[0], run / path)]
    return found


def _of_content(listed: Listed, path: Path) -> Iterator[str]:
    if path.suffix == ".npz":
        for image_id in np.load(path).files:
            yield from _of_array(listed, listed.read(path, image_id=image_id))
        return
    content = listed.read(path)
    if isinstance(content, pd.DataFrame):
        yield from _of_names(list(content), listed.names)
        yield from _of_columns(content, listed.names)
    elif path.suffix == ".json":
        yield from _of_keys(content, listed.names)
        yield from _of_types(content, listed.names)
    elif isinstance(content, np.ndarray):
        yield from _of_array(listed, content)
    elif isinstance(content, nn.Module):
        dtypes = {str(tensor.dtype).removeprefix("torch.") for tensor in content.state_dict().values()}
        if not dtypes <= {dtype for dtype, *_ in listed.arrays}:
            yield f"it holds {dtypes}"
    elif not content:
        yield "it is empty"


def _of_array(listed: Listed, array: np.ndarray) -> Iterator[str]:
    ((dtype, shape, *bounds),) = listed.arrays
    letters = shape.split()
    known = [(size, int(letter)) for size, letter in zip(array.shape, letters, strict=False) if letter.isdigit()]
    if str(array.dtype) != dtype or array.ndim != len(letters) or any(size != letter for size, letter in known):
        yield f"it is {array.dtype} of shape {array.shape} instead of {dtype} {shape}"
    if any(bounds) and array.size and not float(bounds[0]) <= array.min() <= array.max() <= float(bounds[1]):
        yield f"its values go from {array.min()} to {array.max()}"


def _of_names(found: list[str], names: Collection[Name], inside: str = "") -> Iterator[str]:
    yield from (f"{inside}{name} is not listed" for name in found if not any(each.fits(name) for each in names))
    needed = [each for each in names if not each.optional and "{" not in each.text]
    yield from (f"{inside}{each.text} is missing" for each in needed if each.text not in found)


def _of_columns(table: pd.DataFrame, names: Collection[Name]) -> Iterator[str]:
    numbers = [name for name in names if name.types == ("number",)]
    for column in table:
        if any(name.fits(column) for name in numbers) and not pd.api.types.is_numeric_dtype(table[column]):
            yield f"{column} holds {table[column].dropna().tolist()[:3]}"


def _of_keys(content: Mapping[str, Any], names: Collection[Name], inside: str = "") -> Iterator[str]:
    """What is not listed or missing; an object of which nothing is listed inside may hold anything."""
    heads: dict[str, list[Name]] = {}
    for name in names:
        head, dot, rest = name.text.partition(".")
        heads.setdefault(head, []).extend([Name(rest, name.optional)] if dot else [])
    optional = {head: all(each.optional for each in names if each.text.partition(".")[0] == head) for head in heads}
    yield from _of_names(list(content), [Name(head, optional[head]) for head in heads], inside)
    for key, value in content.items():
        within = next((heads[head] for head in heads if Name(head, optional=False).fits(key)), [])
        for item in value if isinstance(value, list) else [value]:
            if within and isinstance(item, dict):
                yield from _of_keys(item, within, f"{inside}{key}.")


def _of_types(content: Mapping[str, Any], names: Collection[Name]) -> Iterator[str]:
    for name in names:
        key = name.text.partition(".")[0]
        if name.types and key in content:
            kinds = tuple(kind for each in name.types for kind in np.atleast_1d(TYPES[each]))
            if not isinstance(content[key], kinds) or isinstance(content[key], bool):
                yield f"{key} is {content[key]!r}"
