"""Files that are either whole or absent: everything is written under a temporary name and renamed.

What a killed job leaves behind has a name that begins with UNFINISHED. It is either of use to the next attempt (a
checkpoint of a training run, the journal of a shard) or of none, and `sweep` removes it once all is done.
"""

import fcntl
import hashlib
import io
import json
import logging
import os
import shutil
import struct
import uuid
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np

from acr.progress import Progress

log = logging.getLogger(__name__)
UNFINISHED = ".unfinished-"
LEAST_ROOM = 2**20  # bytes that a disk must have free
PROVENANCE = "provenance.json"  # written last into the folder of an artefact, for which it stands
ENTRY = struct.Struct("<II")  # before each array of a journal: length and CRC-32 of what follows


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block succeeds and removed when it fails.

    The temporary name keeps the suffix, because writers such as OpenCV choose the format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = unfinished(path, f"{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder beside `path`, renamed to it when the block succeeds and removed when it fails.

    An empty folder there is replaced; one that holds something is an OSError.
    """
    path = Path(path)
    temporary = unfinished(path, uuid.uuid4().hex)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def unfinished(path: Path, suffix: str) -> Path:
    """The name beside `path` of something that serves to make it."""
    return path.with_name(f"{UNFINISHED}{path.name}.{suffix}")


def sweep(folder: str | Path) -> None:
    """Removes what killed jobs left in `folder` and below, but for what lets an unfinished artefact be gone on with."""
    for path in list(Path(folder).rglob(f"{UNFINISHED}*")):
        name, _, kind = path.name.removeprefix(UNFINISHED).rpartition(".")
        if kind == "journal" or (kind == "checkpoint" and not (path.with_name(name) / PROVENANCE).exists()):
            continue
        # one may lie in another that is gone by now
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def check_room(folder: str | Path) -> None:
    """Refuses a folder that cannot be written to, or whose disk is full.

    Raises:
        ValueError: one sentence that names it.
    """
    folder = Path(folder)
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not os.access(place, os.W_OK):
        raise ValueError(f"{folder} cannot be written to; make it writable, and the same command goes on from what is there")
    if shutil.disk_usage(place).free < LEAST_ROOM:
        raise ValueError(f"the disk that {folder} is on is full; make room, and the same command goes on from what is there")


def hold(path: str | Path) -> TextIO | None:
    """Holds the file `path` for this process as long as the returned stream is open; None where another process does.

    The kernel lets go of it when the process ends, however it ends: nothing is ever left to be unlocked by hand.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # not truncated before it is held: it may tell who holds it
    try:
        stream = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+")
    except PermissionError:  # another user's: it cannot be written, but held
        stream = path.open()
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        return None
    return stream


def digest(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal; of a folder, that of the names and digests of the files in it.

    PROVENANCE, which holds dates, does not count: it stands for its folder.
    """
    path = Path(path)
    path = path.parent if path.name == PROVENANCE else path
    if path.is_dir():
        ignored = (".", PROVENANCE)
        files = sorted(item for item in path.iterdir() if item.is_file() and not item.name.startswith(ignored))
        return hashlib.sha256("".join(f"{item.name} {digest(item)}\n" for item in files).encode()).hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def glance(path: str | Path) -> str:
    """A digest of the size, the first and the last megabyte of a file: enough to tell weights apart, whatever their size."""
    path, part = Path(path), 2**20
    size = path.stat().st_size
    with path.open("rb") as stream:
        first = stream.read(part)
        stream.seek(max(0, size - part))
        return hashlib.sha256(b"%d %b %b" % (size, first, stream.read())).hexdigest()


def listed(root: str | Path, suffixes: Collection[str]) -> list[str]:
    """The paths below `root` of all files of these suffixes, in their order; capitals do not count.

    What is hidden or of a Mac's archives is passed over; a linked folder is followed, once.

    Raises:
        ValueError: a name is not UTF-8, as those in old zip archives are not.
    """
    found, seen = [], set()
    for folder, names, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            names.clear()
            continue
        seen.add(real)
        names[:] = sorted(name for name in names if name[0] != "." and name != "__MACOSX")
        visible = [name for name in files if name[0] != "." and name.lower().endswith(tuple(suffixes))]
        found += [Path(folder, name).relative_to(root).as_posix() for name in visible]
    for path in found:
        if path != path.encode(errors="ignore").decode():
            raise ValueError(f"{root} holds the file {os.fsencode(path)!r}, whose name is not UTF-8; give it another name")
    return sorted(found)


def outline(folders: Mapping[str, Collection[str]], files: Iterable[str]) -> str:
    """A digest of names and sizes of the files that `listed` finds in folders, and of the content of single files.

    Dates do not count, nor does anything else that lies in the folders.
    """
    lines = [
        f"{folder} {path} {_size(Path(folder, path))}"
        for folder, suffixes in folders.items()
        for path in listed(folder, suffixes)
    ]
    lines += [f"{file} {digest(file) if Path(file).is_file() else ''}" for file in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # a link that leads nowhere
        return -1


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


def write_resumably(
    path: str | Path, made_from: Mapping[str, Any], names: Sequence[str], arrays: Callable[[int], Iterable[np.ndarray]]
) -> None:
    """Writes one array a name as `write_arrays` does; what an interrupted call computed is not computed again.

    Args:
        path: the archive.
        made_from: all that the arrays are a function of; a journal of anything else is thrown away.
        names: in the order of the arrays.
        arrays: the arrays from the given position on, computed as they are asked for.
    """
    journal = unfinished(Path(path), "journal")
    journal.parent.mkdir(parents=True, exist_ok=True)
    header = np.frombuffer(json.dumps([made_from, *names], sort_keys=True).encode(), np.uint8)
    with journal.open("a+b") as stream:
        done = _rewind_to_end(stream, header)
        if done:
            log.info("%d of %d were made before this job was interrupted", done, len(names))
        for array in Progress(arrays(done), f"shard {Path(path).stem}", total=len(names), initial=done):
            _append(stream, array)
    with journal.open("rb") as stream:
        _read_entry(stream)
        write_arrays(path, zip(names, _entries(stream), strict=True))
    journal.unlink()


def _rewind_to_end(stream: BinaryIO, header: np.ndarray) -> int:
    """Cuts a journal behind its last whole entry, or begins it anew under `header`; the number of arrays it holds."""
    stream.seek(0)
    found, entries, end = _read_entry(stream), 0, stream.tell()
    if found is None or not np.array_equal(found, header):
        stream.truncate(0)
        _append(stream, header)
        return 0
    for _ in _entries(stream):
        entries, end = entries + 1, stream.tell()
    stream.truncate(end)
    return entries


def _append(stream: BinaryIO, array: np.ndarray) -> None:
    """Adds an entry to a journal: ENTRY, which tells a whole one from one cut short, and the array as .npy."""
    content = io.BytesIO()
    np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
    stream.write(ENTRY.pack(content.tell(), zlib.crc32(content.getbuffer())) + content.getbuffer())
    stream.flush()


def _entries(stream: BinaryIO) -> Iterator[np.ndarray]:
    """The arrays of a journal from here on, up to where it ends or was cut short."""
    while (array := _read_entry(stream)) is not None:
        yield array


def _read_entry(stream: BinaryIO) -> np.ndarray | None:
    """The next array of a journal; None where it ends or was cut short, whatever stands behind the cut."""
    head = stream.read(ENTRY.size)
    if len(head) < ENTRY.size:
        return None
    length, checksum = ENTRY.unpack(head)
    content = stream.read(length)
    if len(content) < max(length, 1) or zlib.crc32(content) != checksum:
        return None
    return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
