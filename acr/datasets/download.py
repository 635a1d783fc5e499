"""Archives from the web or from a disk: several mirrors, resumed and verified; a file is whole or absent."""

import hashlib
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.request import Request, urlopen

from acr.datasets.archives import unpack
from acr.datasets.published import Archive
from acr.files import hold, read_json, write_json
from acr.progress import Progress

logger = logging.getLogger(__name__)

TIMEOUT = 30  # seconds without a byte
SLOWEST = 1000  # bytes a second, over SLOW_AFTER seconds, below which another mirror is asked
SLOW_AFTER = 60
ROUNDS = 4  # over the mirrors
BACK_OFF = 2.0  # seconds before the second round, doubled before each further one
CHUNK = 1 << 20  # bytes
RECORD = ".archives.json"  # what a root was unpacked from


class SlowError(OSError):
    """A mirror delivers, but so slowly that another one is worth asking."""


# ---- disk ----------------------------------------------------------------------------------------------------------------


def provide(root: Path, archives: Sequence[Archive], mirrors: Sequence[str] = ()) -> dict[str, str]:
    """Makes `root` hold the folders of all `archives`, each whole or not at all; a folder that is there is left alone.

    Downloads lie in `root`/.download while they last, where an interrupted call is taken up again.

    Returns:
        name to checksum of the archives that were ever unpacked here; empty for a root that somebody else filled.

    Raises:
        ValueError: `root` holds something, but not the first archive's folder; an archive cannot be had; or another process
            is downloading.
    """
    staging = root / ".download"
    _check_root(root, archives)
    absent = _absent(root, archives)
    if absent or staging.exists():
        with _held(staging) as held:
            if absent and not held:
                raise ValueError(f"another process is downloading into {staging}; wait until it ends, then run again")
            if held:
                for archive in _absent(root, archives):  # asked again: another process may have been at it until now
                    _add(root, archive, staging, mirrors)
                shutil.rmtree(staging)
    return _unpacked(root)


def _absent(root: Path, archives: Sequence[Archive]) -> list[Archive]:
    return [archive for archive in archives if not (root / archive.sign).exists()]


def _unpacked(root: Path) -> dict[str, str]:
    return read_json(root / RECORD) if (root / RECORD).exists() else {}


def _add(root: Path, archive: Archive, staging: Path, mirrors: Sequence[str]) -> None:
    """The record comes before the folder, so that no folder is without one."""
    logger.info("%s lacks %s: fetching %s", root, archive.sign, archive.name)
    file = obtain(archive, staging, mirrors)
    write_json(root / RECORD, {**_unpacked(root), archive.name: archive.checksum})
    unpack(file, archive.folder, root / archive.becomes, scratch=staging)
    if file.parent == staging:
        file.unlink()  # at once: with COCO's zips kept the disk would have to hold everything twice


def _check_root(root: Path, archives: Sequence[Archive]) -> None:
    """Refuses a root that is something else than it must be, before anything is downloaded."""
    absent = _absent(root, archives)
    if archives[0] in absent and root.exists() and any(path.name[0] != "." for path in root.iterdir()):
        first = archives[0]
        raise ValueError(
            f"{root} exists but lacks {first.sign}; put {first.folder} of {first.name} there as {first.becomes}, "
            "or let root name a folder that is empty or absent to have all of it downloaded"
        )
    for archive in absent:
        if (root / archive.becomes).exists():
            raise ValueError(f"{root / archive.becomes} lacks {archive.sign} of {archive.name}; complete it or take it away")


@contextmanager
def _held(staging: Path) -> Iterator[bool]:
    """Whether this process alone is at work in the folder while the block lasts."""
    held = hold(staging / "lock")
    with held or nullcontext():
        yield held is not None


def obtain(archive: Archive, folder: Path, mirrors: Sequence[str] = ()) -> Path:
    """The verified file of `archive`: in a folder among `mirrors`, in `folder`, or downloaded there.

    Args:
        archive: what is wanted.
        folder: of downloads; a partial file (`.part`) in it is resumed, by whichever mirror answers.
        mirrors: asked before the archive's own: folders, or addresses that hold a file of its name.

    Raises:
        ValueError: nobody delivers it, or a file that is there already has the wrong checksum.
    """
    target = folder / archive.name
    shelves = [Path(mirror).expanduser() for mirror in mirrors if "://" not in mirror]
    for shelf in shelves:
        if not shelf.is_dir():
            raise ValueError(f"execution.mirrors names {str(shelf)!r}, which is no folder; correct it or take it out")
    for path in (*(shelf / archive.name for shelf in shelves), target):
        if path.exists():
            if fault := _fault(path, archive.checksum):
                raise ValueError(f"{path} {fault}; delete or replace it and run again")
            return path
    own = [f"{mirror.rstrip('/')}/{archive.name}" for mirror in mirrors if "://" in mirror]
    _download(archive, target, [*own, *archive.urls])
    return target


def _download(archive: Archive, target: Path, mirrors: list[str]) -> None:
    """Brings `archive` to `target` from one of `mirrors`, which are asked in rounds with growing pauses."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{archive.name}.part")
    failures: dict[str, str] = {}
    for attempt in range(ROUNDS):
        time.sleep(BACK_OFF * (2**attempt // 2) if mirrors else 0)
        for url in tuple(mirrors):
            try:
                failures[url] = _fetch(url, part, archive)
                if not failures[url]:
                    part.replace(target)
                    return
                mirrors.remove(url)  # what it delivers whole but wrong, it will deliver again
            except (OSError, HTTPException) as error:
                failures[url] = str(error) or type(error).__name__
            logger.warning("%s: %s", url, failures[url])
    reasons = "; ".join(f"{url}: {reason}" for url, reason in failures.items())
    way_out = "put it into a folder that execution.mirrors names, or run again later"
    raise ValueError(f"{archive.name} cannot be downloaded ({reasons}); {way_out}")


def _fetch(url: str, part: Path, archive: Archive) -> str:
    """What is wrong with the whole file that a mirror delivered to `part`, which is then gone; nothing where it is right."""
    for begun in (_size(part), 0):
        _receive(url, part, archive.size)
        if not (fault := _fault(part, archive.checksum)):
            return ""
        part.unlink()
        if not begun:  # else the beginning was another's, and may be what was wrong
            break
    return fault


def _receive(url: str, part: Path, size: int) -> None:
    """Brings `part` to `size` bytes, over as many connections as it takes while each of them brings something."""
    while (before := _size(part)) != size:
        if before > size:
            part.unlink()
        try:
            _connect(url, part, size)
        except (OSError, HTTPException) as error:
            if isinstance(error, SlowError) or _size(part) <= before:
                raise
            logger.warning("%s: %s; resuming at %d of %d bytes", url, error, _size(part), size)


def _connect(url: str, part: Path, size: int) -> None:
    """Appends to `part` what one connection brings; a server that ignores the range begins anew."""
    have = _size(part)
    headers = {"User-Agent": "acr"} | ({"Range": f"bytes={have}-"} if have else {})
    with urlopen(Request(url, headers=headers), timeout=TIMEOUT) as response:
        start = have if response.status == 206 else 0
        length = response.headers.get("Content-Length")
        offered = "an unknown number of" if length is None else start + int(length)
        if offered != size:
            # a firewall's page, say: it must not replace what is there already
            raise OSError(f"the file there has {offered} bytes instead of {size}")
        with part.open("ab" if start else "wb", buffering=0) as file:  # what came is there, even after a kill
            for chunk in Progress(_chunks(response), part.stem, total=size, unit="B", initial=start, amount=len):
                file.write(chunk)
    if _size(part) != size:
        raise OSError(f"the connection ended after {_size(part)} of {size} bytes")


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    """What a connection brings as it comes; SlowError where that is hardly anything."""
    begun, received = time.monotonic(), 0
    while chunk := response.read1(CHUNK):
        yield chunk
        received += len(chunk)
        if (seconds := time.monotonic() - begun) > SLOW_AFTER:
            if received < SLOWEST * seconds:
                raise SlowError(f"it brought only {received} bytes in {seconds:.0f} seconds")
            begun, received = time.monotonic(), 0


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _fault(path: Path, checksum: str) -> str:
    """What is wrong with the file, in words; nothing is when it has the checksum."""
    algorithm, _, expected = checksum.partition(":")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    return "" if found == expected else f"has the {algorithm} checksum {found} instead of {expected}"
