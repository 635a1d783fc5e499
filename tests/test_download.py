"""Archives arrive whole or not at all: from a small server on this machine that cuts, forgets, lies and is absent."""

import hashlib
import io
import re
import tarfile
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from acr.datasets import download as module
from acr.datasets.download import Archive, download, provide, unpack

FILES = {"set/images/a.txt": np.random.default_rng(0).bytes(1000), "set/list.txt": b"a\n", "other/b.txt": b"b"}


def _tgz(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _zip(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


class Server:
    """`/good`, `/cut` (breaks off after 100 bytes each time), `/forgetful` (no ranges), `/page` (a firewall's), `/wrong`."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.requests: list[tuple[str, str | None]] = []
        handler = type("Handler", (_Handler,), {"server_of_test": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/{path}"

    def archive(self, *paths: str, checksum: str | None = None) -> Archive:
        checksum = checksum or f"sha256:{hashlib.sha256(self.content).hexdigest()}"
        urls = tuple(self.url(path) for path in paths)
        return Archive("set.tgz", len(self.content), checksum, "set", "set/images", urls)


class _Handler(BaseHTTPRequestHandler):
    server_of_test: Server

    def do_GET(self):
        test, path, wanted = self.server_of_test, self.path.lstrip("/"), self.headers["Range"]
        test.requests.append((path, wanted))
        if path == "missing":
            self.send_error(404)
            return
        content = {"page": b"blocked by policy", "wrong": test.content[::-1]}.get(path, test.content)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and path not in ("forgetful", "page") else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : start + 100] if path == "cut" else content[start:])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(module, "BACK_OFF", 0)
    server = Server(_tgz(FILES))
    yield server
    server.http.shutdown()
    server.http.server_close()


def test_the_next_mirror_is_asked_when_one_lacks_the_file(server, tmp_path):
    path = download(server.archive("missing", "good"), tmp_path)
    assert path == tmp_path / "set.tgz"
    assert path.read_bytes() == server.content
    assert server.requests == [("missing", None), ("good", None)]
    assert list(tmp_path.iterdir()) == [path]


def test_a_cut_connection_is_resumed_where_it_broke_off(server, tmp_path):
    assert len(server.content) > 200
    assert download(server.archive("cut"), tmp_path).read_bytes() == server.content
    starts = [wanted for _, wanted in server.requests]
    assert starts == [None] + [f"bytes={start}-" for start in range(100, len(server.content), 100)]


def test_a_partial_file_of_an_earlier_run_is_resumed(server, tmp_path):
    (tmp_path / "set.tgz.part").write_bytes(server.content[:50])
    assert download(server.archive("good"), tmp_path).read_bytes() == server.content
    assert server.requests == [("good", "bytes=50-")]


def test_a_server_without_ranges_begins_anew(server, tmp_path):
    (tmp_path / "set.tgz.part").write_bytes(server.content[:50])
    assert download(server.archive("forgetful"), tmp_path).read_bytes() == server.content


def test_a_partial_file_that_is_too_long_is_thrown_away(server, tmp_path):
    (tmp_path / "set.tgz.part").write_bytes(server.content + b"!")
    assert download(server.archive("good"), tmp_path).read_bytes() == server.content
    assert server.requests == [("good", None)]


def test_a_firewalls_page_does_not_replace_what_is_there(server, tmp_path):
    (tmp_path / "set.tgz.part").write_bytes(server.content[:50])
    with pytest.raises(ValueError, match=f"the file there has 17 bytes instead of {len(server.content)}"):
        download(server.archive("page"), tmp_path)
    assert (tmp_path / "set.tgz.part").read_bytes() == server.content[:50]


def test_a_wrong_file_is_asked_for_once_and_never_taken(server, tmp_path):
    archive = server.archive("wrong")
    with pytest.raises(ValueError, match="cannot be downloaded") as error:
        download(archive, tmp_path)
    found = hashlib.sha256(server.content[::-1]).hexdigest()
    assert f"has the sha256 checksum {found} instead of {archive.checksum.removeprefix('sha256:')}" in str(error.value)
    assert "\n" not in str(error.value)
    assert server.requests == [("wrong", None)]
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_mirror_does_not_keep_the_right_one_from_being_asked(server, tmp_path):
    assert download(server.archive("wrong", "good"), tmp_path).read_bytes() == server.content


def test_all_mirrors_are_asked_again_and_their_reasons_are_told(server, tmp_path):
    with pytest.raises(ValueError, match=r"set\.tgz cannot be downloaded \(.*/missing: HTTP Error 404.*by hand"):
        download(server.archive("missing"), tmp_path)
    assert len(server.requests) == module.ROUNDS


def test_md5_is_a_checksum_too(server, tmp_path):
    checksum = f"md5:{hashlib.md5(server.content).hexdigest()}"
    assert download(server.archive("good", checksum=checksum), tmp_path).exists()


def test_an_archive_put_there_by_hand_is_used_when_it_is_right(server, tmp_path):
    (tmp_path / "set.tgz").write_bytes(server.content)
    assert download(server.archive("good"), tmp_path) == tmp_path / "set.tgz"
    (tmp_path / "set.tgz").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"set\.tgz has the sha256 checksum .* delete it"):
        download(server.archive("good"), tmp_path)
    assert server.requests == []


@pytest.mark.parametrize("pack", [_tgz, _zip])
def test_the_wanted_folder_and_nothing_else_is_unpacked(tmp_path, pack):
    (tmp_path / "archive").write_bytes(pack(FILES))
    unpack(tmp_path / "archive", "set", tmp_path / "root" / "set")
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"archive", "root/set/images/a.txt", "root/set/list.txt"}
    assert (tmp_path / "root/set/images/a.txt").read_bytes() == FILES["set/images/a.txt"]


@pytest.mark.parametrize("pack", [_tgz, _zip])
@pytest.mark.parametrize("name", ["../outside.txt", "set/../../outside.txt"])
def test_members_outside_of_the_folder_are_refused(tmp_path, pack, name):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "archive").write_bytes(pack({"set/a.txt": b"a", name: b"evil"}))
    with pytest.raises(ValueError, match="outside"):
        unpack(tmp_path / "inner" / "archive", "set", tmp_path / "inner" / "set")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["archive"]


def test_absolute_names_in_a_zip_are_refused(tmp_path):
    (tmp_path / "archive").write_bytes(_zip({"/set/a.txt": b"a"}))
    with pytest.raises(ValueError, match=r"holds '/set/a\.txt', which lies outside"):
        unpack(tmp_path / "archive", "set", tmp_path / "set")


def test_links_that_lead_outside_are_refused(tmp_path):
    link = tarfile.TarInfo("set/link")
    link.type, link.linkname = tarfile.SYMTYPE, "../../.."
    with tarfile.open(tmp_path / "archive", "w") as archive:
        archive.addfile(link)
    with pytest.raises(ValueError, match=r"cannot be unpacked .*outside"):
        unpack(tmp_path / "archive", "set", tmp_path / "set")


@pytest.mark.parametrize("pack", [_tgz, _zip])
def test_damaged_archives_leave_nothing(tmp_path, pack):
    content = pack(FILES)
    (tmp_path / "archive").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="archive cannot be unpacked"):
        unpack(tmp_path / "archive", "set", tmp_path / "set")
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


def test_another_archive_is_told_apart(tmp_path):
    (tmp_path / "archive").write_bytes(_zip(FILES))
    with pytest.raises(ValueError, match="holds no folder absent"):
        unpack(tmp_path / "archive", "absent", tmp_path / "absent")


def test_an_old_python_is_told(tmp_path, monkeypatch):
    (tmp_path / "archive").write_bytes(_tgz(FILES))
    monkeypatch.delattr(tarfile, "data_filter")
    with pytest.raises(ValueError, match=r"use 3\.11\.4 or later"):
        unpack(tmp_path / "archive", "set", tmp_path / "set")


def test_a_missing_root_is_downloaded_whole(server, tmp_path):
    root = tmp_path / "data" / "devkit"
    archive = server.archive("good")
    assert provide(root, (archive,)) == {"set.tgz": archive.checksum}
    assert (root / "set" / "list.txt").read_bytes() == b"a\n"
    assert list((tmp_path / "data").iterdir()) == [root]


def test_the_root_does_not_appear_before_its_last_archive(server, tmp_path):
    first = server.archive("good")
    second = replace(first, name="other.tgz", folder="other", sign="other")
    with pytest.raises(ValueError, match=r"other\.tgz cannot be downloaded"):
        provide(tmp_path / "devkit", (first, replace(second, urls=(server.url("missing"),))))
    assert not (tmp_path / "devkit").exists()

    server.requests.clear()
    assert set(provide(tmp_path / "devkit", (first, second))) == {"set.tgz", "other.tgz"}
    assert server.requests == [("good", None)]  # the first archive was kept
    assert {path.name for path in (tmp_path / "devkit").iterdir()} == {"set", "other"}


def test_an_existing_root_is_used_as_it_is(server, tmp_path):
    root = tmp_path / "devkit"
    (root / "set" / "images").mkdir(parents=True)
    assert provide(root, (server.archive("good"),)) == {}
    assert server.requests == []


def test_an_existing_root_without_the_folder_is_refused(server, tmp_path):
    (tmp_path / "devkit").mkdir()
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'devkit'} exists but lacks set/images")):
        provide(tmp_path / "devkit", (server.archive("good"),))
    assert server.requests == []
    assert list(Path(tmp_path).iterdir()) == [tmp_path / "devkit"]
