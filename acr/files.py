"""Files that are either whole or absent: everything is written under a temporary name and renamed."""

import hashlib
import json
import uuid
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block succeeds and removed when it fails.

    The temporary name keeps the suffix, because writers such as OpenCV choose the format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def digest(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal; of a folder, that of the names and digests of the files in it."""
    path = Path(path)
    if path.is_dir():
        files = sorted(item for item in path.iterdir() if item.is_file() and not item.name.startswith("."))
        return hashlib.sha256("".join(f"{item.name} {digest(item)}\n" for item in files).encode()).hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(path: str | Path, content: Any) -> None:
    """Writes `content` as indented JSON with a final newline; NaN is refused, since JSON has none."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """The content of a JSON file, or a ValueError that names the file when it is damaged."""
    try:
        return json.loads(Path(path).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); delete it and run again") from None


class Arrays:
    """Reads an archive of named arrays (.npz without objects) one array at a time."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._archive = np.load(self.path, allow_pickle=False)
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is not a whole npz archive ({error}); delete it and run again") from None

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._archive:
            raise ValueError(f"{self.path} holds no array {name!r}; delete it and run again")
        return self._archive[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._archive.files)

    def __len__(self) -> int:
        return len(self._archive.files)


def write_arrays(path: str | Path, arrays: Iterable[tuple[str, np.ndarray]]) -> None:
    """Writes named arrays, one after the other, as a compressed .npz; equal arrays give equal bytes."""
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays:
            # a ZipInfo made by hand has a fixed date
            entry = zipfile.ZipInfo(f"{name}.npy")
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)


def merge_arrays(shards: Iterable[str | Path], names: Sequence[str], path: str | Path) -> None:
    """Writes the arrays `names`, in that order, from whichever shard holds each: the number of shards leaves no trace."""
    archives = [Arrays(shard) for shard in shards]
    where = {name: archive for archive in archives for name in archive}
    missing = [name for name in names if name not in where]
    if missing:
        raise ValueError(f"no shard holds {missing[0]!r} ({len(missing)} of {len(names)} are missing); run the shards again")
    write_arrays(path, ((name, where[name][name]) for name in names))
