"""What an artefact came from: the chain of provenance from it back to the data, as a page of text; no torch."""

import json
import textwrap
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from acr.files import PROVENANCE, digest, read_json

SUFFIX = f".{PROVENANCE}"  # of the provenance of single files, after the stem of the first
DIGITS = 8  # of a digest that are shown
Record = Mapping[str, Any]  # the content of one provenance file


def explain(path: str | Path, width: int = 100) -> str:
    """The artefact, and each one it was made from once, from it back to the data: when, by what, at what cost, from what.

    Each input is marked by what lies on disk now: as recorded, CHANGED SINCE, or missing.

    Args:
        path: a folder that a rule made, a file in one, a single file that one made, or a provenance file itself.
        width: of a line, in characters.

    Raises:
        ValueError: nothing lies there, or no provenance beside it.
    """
    if not Path(path).exists():
        raise ValueError(f"{path} does not exist; give a file or folder below results")
    start = provenance_of(path)
    if start is None:
        raise ValueError(f"{path} has no provenance; give a file or folder that a rule made, such as results/NAME/report.html")
    root = run_folder(start, read_json(start))
    mark = cache(lambda name, recorded: _mark(root / name, recorded))
    chain = _chain(start, root)
    first = _tools(chain[start])
    parts = [textwrap.fill(f"made with {_listed(first)}", width, subsequent_indent="  ")]
    parts += ["\n".join(_lines(record, _name(file, root), first, mark, width)) for file, record in chain.items()]
    return "\n\n".join(parts)


def lineage(path: str | Path) -> list[Record]:
    """The provenance of an artefact and of all it was made from, each once, from it back to the data; none: an empty list."""
    start = provenance_of(path)
    return [] if start is None else list(_chain(start, run_folder(start, read_json(start))).values())


def provenance_of(path: str | Path) -> Path | None:
    """The provenance of an artefact, None where there is none: in the folder, beside the file or in the folder it lies in."""
    path = Path(path).absolute()
    if path.name == PROVENANCE or path.name.endswith(SUFFIX):
        return path if path.is_file() else None
    beside = [path.parent / f"{path.stem}{SUFFIX}"]
    # what is made together is named by the first: summary.txt has report.provenance.json
    beside += [other for other in sorted(path.parent.glob(f"*{SUFFIX}")) if path.name in _outputs(other)]
    places = [path / PROVENANCE, *beside, path.parent / PROVENANCE, path.parent.parent / PROVENANCE]
    return next((place for place in places if place.is_file()), None)


def run_folder(provenance: Path, record: Record) -> Path:
    """The folder that recorded paths start from: that of the run, wherever its results lie now."""
    recorded = next((Path(output).parent for output in record["outputs"]), Path())
    folder, depth = provenance.resolve().parent, len(recorded.parts)
    return Path(*folder.parts[:-depth]) if depth and folder.parts[-depth:] == recorded.parts else Path()


def _chain(start: Path, root: Path) -> dict[Path, Record]:
    """The provenance files of an artefact and of all it was made from: each once, and before those it was made from."""
    done: dict[Path, Record] = {}
    seen: set[Path] = set()

    def visit(provenance: Path) -> None:
        seen.add(provenance.resolve())
        record = read_json(provenance)
        for name in record["inputs"]:
            found = provenance_of(root / name)
            if found is not None and found.resolve() not in seen:
                visit(found)
        done[provenance] = record

    visit(start)
    return dict(reversed(done.items()))


def _name(provenance: Path, root: Path) -> str:
    """An artefact as recorded paths name it: the folder, or the file with those made with it."""
    folder = provenance.resolve().parent
    folder = folder.relative_to(root.resolve()) if folder.is_relative_to(root.resolve()) else folder
    if provenance.name == PROVENANCE:
        return str(folder)
    return ", ".join([str(folder / name) if not index else name for index, name in enumerate(_outputs(provenance))])


def _outputs(provenance: Path) -> list[str]:
    return [Path(output).name for output in read_json(provenance)["outputs"]]


def _lines(record: Record, name: str, first: Mapping[str, str], mark: Callable[[str, str], str], width: int) -> Iterator[str]:
    """What is said of one artefact; of versions and commit what differs from those of the `first`."""
    by = f" by {record['code'].replace('code of ', '')}" if record["code"] else ""
    yield name
    yield f"  {record['made']}{by}; {record['seconds']:g} s, {record['peak_memory_mb']} MiB, {record['device']}"
    if others := {tool: version for tool, version in _tools(record).items() if first.get(tool) != version}:
        yield f"  with {_listed(others)}"
    settings = " ".join(f"{key}={value}" for key, value in _flat(record["recipe"] or {}))
    yield from textwrap.wrap(
        settings, width, initial_indent="  ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    longest = max(map(len, record["inputs"]), default=0)
    for path, recorded in record["inputs"].items():
        yield f"  from {path:{longest}} {recorded[:DIGITS]} {mark(path, recorded)}"
    for path, recorded in record["outputs"].items():
        if (now := mark(path, recorded)) != "as recorded":
            yield f"  made {path} {recorded[:DIGITS]} {now}"


def _mark(path: Path, recorded: str) -> str:
    folder = path.parent if path.name == PROVENANCE else path
    if not folder.exists():
        return "missing"
    return "as recorded" if digest(path) == recorded else "CHANGED SINCE"


def _tools(record: Record) -> dict[str, str]:
    return {"commit": record["commit"] or "unknown", **record["versions"]}


def _listed(tools: Mapping[str, str]) -> str:
    return ", ".join(f"{tool} {version}" for tool, version in tools.items())


def _flat(recipe: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The keys of a recipe, those of a part behind its name and a dot, and their values as JSON or a plain word."""
    for key, value in recipe.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            plain = isinstance(value, str) and not set(value) & set(' ="')
            yield f"{prefix}{key}", value if plain else json.dumps(value, separators=(",", ":"), ensure_ascii=False)
