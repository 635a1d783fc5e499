"""Archives are unpacked safely: what would leave the folder is refused by name, and a folder is whole or absent."""

import io
import re
import tarfile

import numpy as np
import pytest

from acr.datasets.archives import unpack
from tests.packing import tar, tgz, zipped

FILES = {"set/images/a.txt": np.random.default_rng(0).bytes(1000), "set/list.txt": b"a\n", "other/b.txt": b"b"}
PACKS = pytest.mark.parametrize("pack", [tar, tgz, zipped])


def _files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@PACKS
def test_the_wanted_folder_and_nothing_else_is_unpacked(tmp_path, pack):
    (tmp_path / "archive").write_bytes(pack(FILES))
    unpack(tmp_path / "archive", "set", tmp_path / "root" / "mine", tmp_path / "scratch")
    assert _files(tmp_path) == {"archive", "root/mine/images/a.txt", "root/mine/list.txt"}
    assert (tmp_path / "root/mine/images/a.txt").read_bytes() == FILES["set/images/a.txt"]


def test_a_folder_inside_a_folder_is_unpacked_alone(tmp_path):
    (tmp_path / "archive").write_bytes(tgz(FILES))
    unpack(tmp_path / "archive", "set/images", tmp_path / "deep" / "images", tmp_path / "scratch")
    assert _files(tmp_path) == {"archive", "deep/images/a.txt"}


@PACKS
@pytest.mark.parametrize(
    "name", ["../outside.txt", "set/../../outside.txt", "/etc/outside.txt", "C:/outside.txt", "..\\outside.txt"]
)
def test_members_outside_of_the_folder_are_refused_by_name(tmp_path, pack, name):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "archive").write_bytes(pack({"set/a.txt": b"a", name: b"evil"}))
    with pytest.raises(ValueError, match=re.escape(f"holds {name!r}, which would be written outside of its folder")):
        unpack(tmp_path / "inner" / "archive", "set", tmp_path / "inner" / "set", tmp_path / "inner" / "scratch")
    assert _files(tmp_path) == {"inner/archive"}


def _special(tmp_path, kind, link=""):
    entry = tarfile.TarInfo("set/special")
    entry.type, entry.linkname = kind, link
    with tarfile.open(tmp_path / "archive", "w") as archive:
        content = tarfile.TarInfo("set/a.txt")
        content.size = 1
        archive.addfile(content, io.BytesIO(b"a"))
        archive.addfile(entry)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("link", ["../../..", "../../etc/passwd", "/etc/passwd", "absent.txt"])
def test_links_that_lead_outside_are_refused_by_name(tmp_path, kind, link):
    _special(tmp_path, kind, link)
    with pytest.raises(ValueError, match=re.escape(f"the link 'set/special' to {link!r}, which leads outside")):
        unpack(tmp_path / "archive", "set", tmp_path / "set", tmp_path / "scratch")
    assert _files(tmp_path) == {"archive"}


@pytest.mark.parametrize(("kind", "link"), [(tarfile.SYMTYPE, "a.txt"), (tarfile.LNKTYPE, "set/a.txt")])
def test_a_link_inside_becomes_a_copy(tmp_path, kind, link):
    _special(tmp_path, kind, link)
    unpack(tmp_path / "archive", "set", tmp_path / "set", tmp_path / "scratch")
    assert not (tmp_path / "set/special").is_symlink()
    assert (tmp_path / "set/special").stat().st_nlink == 1
    assert (tmp_path / "set/special").read_bytes() == b"a"


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_and_pipes_are_refused_by_name(tmp_path, kind):
    _special(tmp_path, kind)
    with pytest.raises(ValueError, match="holds 'set/special', which is a device or a pipe"):
        unpack(tmp_path / "archive", "set", tmp_path / "set", tmp_path / "scratch")
    assert _files(tmp_path) == {"archive"}


@PACKS
def test_damaged_archives_leave_nothing(tmp_path, pack):
    content = pack(FILES)
    (tmp_path / "archive").write_bytes(content[: len(content) // 2] if pack is not tar else content[:700])
    with pytest.raises(ValueError, match="archive cannot be unpacked"):
        unpack(tmp_path / "archive", "set", tmp_path / "set", tmp_path / "scratch")
    assert _files(tmp_path) == {"archive"}


def test_a_zip_whose_content_is_damaged_is_refused(tmp_path):
    content = zipped(FILES)
    place = content.index(FILES["set/images/a.txt"]) + 500
    (tmp_path / "archive").write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(ValueError, match=r"archive cannot be unpacked .*CRC"):
        unpack(tmp_path / "archive", "set", tmp_path / "set", tmp_path / "scratch")
    assert _files(tmp_path) == {"archive"}


def test_another_archive_is_told_apart(tmp_path):
    (tmp_path / "archive").write_bytes(zipped(FILES))
    with pytest.raises(ValueError, match="holds no folder absent"):
        unpack(tmp_path / "archive", "absent", tmp_path / "absent", tmp_path / "scratch")


def test_what_a_killed_process_left_does_not_get_into_the_folder(tmp_path):
    (tmp_path / "archive").write_bytes(tgz(FILES))
    (tmp_path / "scratch" / ".unfinished-set.folder").mkdir(parents=True)
    (tmp_path / "scratch" / ".unfinished-set.folder" / "half.jpg").write_bytes(b"half")
    unpack(tmp_path / "archive", "set", tmp_path / "set", tmp_path / "scratch")
    assert _files(tmp_path / "set") == {"images/a.txt", "list.txt"}
