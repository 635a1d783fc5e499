"""Archives unpacked safely: nothing is written outside of one folder, and that folder is whole or absent."""

import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from acr.files import unfinished
from acr.progress import Progress

Member = tuple[PurePosixPath, Any]  # its path and a stream of its content


def unpack(file: Path, folder: str, target: Path, scratch: Path) -> None:
    """The folder `folder` of the .tar, .tgz or .zip `file` becomes `target`, by way of the folder `scratch` on its disk.

    Only plain files and folders are made; a link within the archive becomes a copy of what it names. Our own checks,
    since tarfile has its filters only from Python 3.11.4 on.

    Raises:
        ValueError: the archive is damaged, lacks the folder, or holds a device, a link that leads outside, or a member
            that would be written outside.
    """
    temporary = unfinished(scratch / target.name, "folder")
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process
    temporary.mkdir(parents=True)
    members = _zip_members if zipfile.is_zipfile(file) else _tar_members
    try:
        for path, stream in Progress(members(file), file.name, unit="file"):
            if path.is_relative_to(folder):
                _write(stream, temporary / path.relative_to(folder))
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{file} cannot be unpacked ({error}); delete it and run again") from None
    else:
        if not any(temporary.iterdir()):
            raise ValueError(f"{file} holds no folder {folder}, so it is another archive than was expected; delete it")
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _tar_members(file: Path) -> Iterator[Member]:
    """Path and content of each file of a tar archive, in its order."""
    with tarfile.open(file) as archive:
        for member in archive:
            path = _inside(member.name, file)
            if member.isdir():
                continue
            if not (member.isfile() or member.issym() or member.islnk()):
                raise ValueError(f"{file} holds {member.name!r}, which is a device or a pipe; do not use this archive")
            try:
                content = archive.extractfile(member)
            except KeyError:  # tarfile looks for what a link names among the members
                leads = f"the link {member.name!r} to {member.linkname!r}, which leads outside"
                raise ValueError(f"{file} holds {leads}; do not use this archive") from None
            if content is not None:  # a link to a folder has none
                yield path, content


def _zip_members(file: Path) -> Iterator[Member]:
    """Path and content of each file of a zip archive, in its order."""
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            path = _inside(member.filename, file)
            if not member.is_dir():
                with archive.open(member) as content:
                    yield path, content


def _inside(name: str, file: Path) -> PurePosixPath:
    """The path of a member, or a ValueError that names it where it would lie outside of the folder it is unpacked into."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or PureWindowsPath(name).drive:
        raise ValueError(f"{file} holds {name!r}, which would be written outside of its folder; do not use this archive")
    return path


def _write(content: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        shutil.copyfileobj(content, stream, 1 << 20)
