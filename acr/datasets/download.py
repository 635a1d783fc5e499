"""Archives from the web: several mirrors, resumed, verified, unpacked safely; a folder appears whole or not at all."""

import hashlib
import logging
import shutil
import tarfile
import time
import uuid
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from urllib.request import Request, urlopen

from tqdm import tqdm

logger = logging.getLogger(__name__)

TIMEOUT = 30  # seconds without a byte
ROUNDS = 4  # over the mirrors
BACK_OFF = 2.0  # seconds before the second round, doubled before each further one
CHUNK = 1 << 20  # bytes


@dataclass(frozen=True)
class Archive:
    """A .tar, .tgz or .zip file of the web and the one folder in it that is wanted."""

    name: str
    size: int  # bytes
    checksum: str  # algorithm:hexadecimal digest
    folder: str  # path in the archive; its last component becomes a folder of the data set's root
    sign: str  # path below that root that tells whether the archive has been unpacked there
    urls: tuple[str, ...]


# ---- disk ----------------------------------------------------------------------------------------------------------------


def provide(root: Path, archives: Sequence[Archive]) -> dict[str, str]:
    """Makes `root` hold all `archives`; an existing `root` is used as it is and never written to.

    A missing one is built up beside it, in `{root}.download`, and renamed when it is whole. An interrupted call is taken
    up again there, and an archive that was put there by hand is not downloaded.

    Returns:
        name to checksum of the archives that were downloaded; empty where `root` existed.

    Raises:
        ValueError: `root` exists without a folder that it must hold, or an archive cannot be had.
    """
    if root.exists():
        for archive in archives:
            if not (root / archive.sign).exists():
                raise ValueError(
                    f"{root} exists but lacks {archive.sign}; put {archive.folder} of {archive.urls[0]} there, "
                    "or let root name a folder that does not exist yet to have all of it downloaded"
                )
        return {}
    staging = root.with_name(f"{root.name}.download")
    logger.info("%s does not exist: downloading %s into it", root, ", ".join(archive.name for archive in archives))
    for archive in archives:
        target = staging / "whole" / PurePosixPath(archive.folder).name
        if not target.exists():
            file = download(archive, staging)
            unpack(file, archive.folder, target)
            file.unlink()  # at once: with COCO's zips kept the disk would have to hold everything twice
    (staging / "whole").replace(root)
    shutil.rmtree(staging)
    return {archive.name: archive.checksum for archive in archives}


def download(archive: Archive, folder: Path) -> Path:
    """The file of `archive` in `folder`, verified; a partial one (`.part`) is resumed, by whichever mirror answers.

    Raises:
        ValueError: no mirror delivers it, or a file that is there already has the wrong checksum.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target, part = folder / archive.name, folder / f"{archive.name}.part"
    if target.exists():
        if fault := _fault(target, archive.checksum):
            raise ValueError(f"{target} {fault}; delete it and run again")
        return target
    failures: dict[str, str] = {}
    mirrors = list(archive.urls)
    for attempt in range(ROUNDS):
        time.sleep(BACK_OFF * (2**attempt // 2) if mirrors else 0)
        for url in tuple(mirrors):
            try:
                _receive(url, part, archive.size)
                failures[url] = _fault(part, archive.checksum)
                if not failures[url]:
                    part.replace(target)
                    return target
                # what a mirror delivers whole but wrong, it will deliver again
                part.unlink()
                mirrors.remove(url)
            except (OSError, HTTPException) as error:
                failures[url] = str(error) or type(error).__name__
            logger.warning("%s: %s", url, failures[url])
    reasons = "; ".join(f"{url}: {reason}" for url, reason in failures.items())
    raise ValueError(f"{archive.name} cannot be downloaded ({reasons}); put the file at {target} by hand, or run again later")


def unpack(file: Path, folder: str, target: Path) -> None:
    """The folder `folder` of the archive `file` becomes `target`, whole or not at all.

    Raises:
        ValueError: the archive is damaged, lacks the folder, or holds a member that would be written outside of it.
    """
    temporary = file.with_name(f".{uuid.uuid4().hex}")
    temporary.mkdir()
    try:
        extract = _extract_zip if zipfile.is_zipfile(file) else _extract_tar
        extract(file, temporary)
        if not (temporary / folder).is_dir():
            raise ValueError(f"{file} holds no folder {folder}, so it is another archive than was expected; delete it")
        target.parent.mkdir(parents=True, exist_ok=True)
        (temporary / folder).replace(target)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise ValueError(f"{file} cannot be unpacked ({error}); make room on the disk or delete it, and run again") from None
    finally:
        shutil.rmtree(temporary)


def _receive(url: str, part: Path, size: int) -> None:
    """Brings `part` to `size` bytes, over as many connections as it takes while each of them brings something."""
    while (before := _size(part)) != size:
        if before > size:
            part.unlink()
        try:
            _connect(url, part, size)
        except (OSError, HTTPException) as error:
            if _size(part) <= before:
                raise
            logger.warning("%s: %s; resuming at %d of %d bytes", url, error, _size(part), size)


def _connect(url: str, part: Path, size: int) -> None:
    """Appends to `part` what one connection brings; a server that ignores the range begins anew."""
    have = _size(part)
    headers = {"User-Agent": "acr"} | ({"Range": f"bytes={have}-"} if have else {})
    with urlopen(Request(url, headers=headers), timeout=TIMEOUT) as response:
        start = have if response.status == 206 else 0
        offered = start + int(response.headers.get("Content-Length", size - start))
        if offered != size:
            # a firewall's page, say: it must not replace what is there already
            raise OSError(f"the file there has {offered} bytes instead of {size}")
        progress = tqdm(total=size, initial=start, desc=part.stem, unit="B", unit_scale=True, disable=None)
        with part.open("ab" if start else "wb") as file, progress:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                progress.update(len(chunk))
    if _size(part) != size:
        raise OSError(f"the connection ended after {_size(part)} of {size} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _fault(path: Path, checksum: str) -> str:
    """What is wrong with the file, in words; nothing is when it has the checksum."""
    algorithm, _, expected = checksum.partition(":")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    return "" if found == expected else f"has the {algorithm} checksum {found} instead of {expected}"


def _extract_tar(file: Path, folder: Path) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise ValueError(f"{file} cannot be unpacked safely by this Python, whose tarfile has no filters; use 3.11.4 or later")
    with tarfile.open(file) as archive:
        # the filter refuses absolute names, `..`, links that lead outside and devices
        archive.extractall(folder, members=tqdm(archive, desc=file.name, unit="file", disable=None), filter="data")


def _extract_zip(file: Path, folder: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            path = PurePosixPath(name.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"{file} holds {name!r}, which lies outside of the archive's own folder; do not use it")
        for member in tqdm(archive.infolist(), desc=file.name, unit="file", disable=None):
            archive.extract(member, folder)
