"""Archives arrive whole or not at all: from a server on this machine that cuts, forgets, lies, drips and is absent."""

import hashlib
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from acr.datasets import download as module
from acr.datasets.download import obtain, provide
from acr.datasets.published import Archive, published
from acr.files import hold
from tests.packing import tgz
from tests.running import environment
from tests.server import CUT, Server

FILES = {"set/images/a.txt": np.random.default_rng(0).bytes(1000), "set/list.txt": b"a\n", "other/b.txt": b"b"}
CONTENT = tgz(FILES)
SUM = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(module, "BACK_OFF", 0)
    server = Server({"set.tgz": CONTENT})
    yield server
    server.close()


def _archive(server: Server, *hows: str) -> Archive:
    """The archive, which the mirrors deliver one way each."""
    return Archive(
        "set.tgz", len(CONTENT), SUM, "set", "set", "set/images", tuple(server.url(f"{how}/set.tgz") for how in hows)
    )


def _asked(server: Server) -> list[tuple[str, str | None]]:
    return [(path.removesuffix("/set.tgz"), wanted) for path, wanted in server.requests]


# ---- one file ------------------------------------------------------------------------------------------------------------


def test_the_next_mirror_is_asked_when_one_lacks_the_file(server, tmp_path):
    path = obtain(_archive(server, "missing", "good"), tmp_path)
    assert path == tmp_path / "set.tgz"
    assert path.read_bytes() == CONTENT
    assert _asked(server) == [("missing", None), ("good", None)]
    assert list(tmp_path.iterdir()) == [path]


def test_a_cut_connection_is_resumed_where_it_broke_off(server, tmp_path):
    step = max(CUT, len(CONTENT) // 5)
    assert obtain(_archive(server, "cut"), tmp_path).read_bytes() == CONTENT
    assert [wanted for _, wanted in _asked(server)] == [None, *(f"bytes={n}-" for n in range(step, len(CONTENT), step))]


def test_a_partial_file_of_an_earlier_run_is_resumed(server, tmp_path):
    (tmp_path / "set.tgz.part").write_bytes(CONTENT[:50])
    assert obtain(_archive(server, "good"), tmp_path).read_bytes() == CONTENT
    assert _asked(server) == [("good", "bytes=50-")]


def test_a_partial_file_of_something_else_is_not_taken_for_a_beginning(server, tmp_path):
    (tmp_path / "set.tgz.part").write_bytes(b"!" * 50)
    assert obtain(_archive(server, "good"), tmp_path).read_bytes() == CONTENT
    assert _asked(server) == [("good", "bytes=50-"), ("good", None)]


def test_a_server_without_ranges_begins_anew(server, tmp_path):
    (tmp_path / "set.tgz.part").write_bytes(CONTENT[:50])
    assert obtain(_archive(server, "forgetful"), tmp_path).read_bytes() == CONTENT


def test_a_partial_file_that_is_too_long_is_thrown_away(server, tmp_path):
    (tmp_path / "set.tgz.part").write_bytes(CONTENT + b"!")
    assert obtain(_archive(server, "good"), tmp_path).read_bytes() == CONTENT
    assert _asked(server) == [("good", None)]


@pytest.mark.parametrize(
    ("how", "size"),
    [("page", 30), ("chunked", "an unknown number of"), ("long", len(CONTENT) + 1), ("short", len(CONTENT) - 1)],
)
def test_a_file_of_another_length_does_not_replace_what_is_there(server, tmp_path, how, size):
    (tmp_path / "set.tgz.part").write_bytes(CONTENT[:50])
    with pytest.raises(ValueError, match=f"the file there has {size} bytes instead of {len(CONTENT)}"):
        obtain(_archive(server, how), tmp_path)
    assert (tmp_path / "set.tgz.part").read_bytes() == CONTENT[:50]
    assert not (tmp_path / "set.tgz").exists()
    server.requests.clear()
    assert obtain(_archive(server, how, "good"), tmp_path).read_bytes() == CONTENT
    assert _asked(server) == [(how, "bytes=50-"), ("good", "bytes=50-")]


def test_a_wrong_file_is_asked_for_once_and_never_taken(server, tmp_path):
    with pytest.raises(ValueError, match="cannot be downloaded") as error:
        obtain(_archive(server, "wrong"), tmp_path)
    found = hashlib.sha256(CONTENT[::-1]).hexdigest()
    assert f"has the sha256 checksum {found} instead of {SUM.removeprefix('sha256:')}" in str(error.value)
    assert "\n" not in str(error.value)
    assert _asked(server) == [("wrong", None)]
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_mirror_does_not_keep_the_right_one_from_being_asked(server, tmp_path):
    assert obtain(_archive(server, "wrong", "good"), tmp_path).read_bytes() == CONTENT


def test_a_busy_server_is_asked_again(server, tmp_path):
    assert obtain(_archive(server, "busy"), tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == 3


def test_the_pauses_between_rounds_grow(server, tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr(module, "BACK_OFF", 2.0)
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    with pytest.raises(ValueError, match="404"):
        obtain(_archive(server, "missing"), tmp_path)
    assert pauses == [0, 2, 4, 8]


def test_a_drip_is_left_for_another_mirror_and_what_it_brought_is_kept(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SLOW_AFTER", 0.25)
    assert obtain(_archive(server, "drip", "good"), tmp_path).read_bytes() == CONTENT
    (first, none), (second, wanted) = _asked(server)
    assert (first, none, second) == ("drip", None, "good")
    assert 1 <= int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) <= 10


def test_all_mirrors_are_asked_again_and_their_reasons_are_told(server, tmp_path):
    with pytest.raises(ValueError, match=r"set\.tgz cannot be downloaded \(.*/missing/set.tgz: HTTP Error 404.*mirrors"):
        obtain(_archive(server, "missing"), tmp_path)
    assert len(server.requests) == module.ROUNDS


def test_md5_is_a_checksum_too(server, tmp_path):
    checksum = f"md5:{hashlib.md5(CONTENT).hexdigest()}"
    assert obtain(replace(_archive(server, "good"), checksum=checksum), tmp_path).exists()


def test_an_archive_put_there_by_hand_is_used_when_it_is_right(server, tmp_path):
    (tmp_path / "set.tgz").write_bytes(CONTENT)
    assert obtain(_archive(server, "good"), tmp_path) == tmp_path / "set.tgz"
    (tmp_path / "set.tgz").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"set\.tgz has the sha256 checksum .* delete or replace it"):
        obtain(_archive(server, "good"), tmp_path)
    assert server.requests == []


def test_mirrors_of_ones_own_come_first(server, tmp_path):
    mine = server.url("cut") + "/"
    assert obtain(_archive(server, "good"), tmp_path, [mine, str(tmp_path)]).read_bytes() == CONTENT
    assert {path for path, _ in _asked(server)} == {"cut"}


def test_a_mirror_that_is_no_folder_is_refused(server, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"execution\.mirrors names '.*/absent', which is no folder"):
        obtain(_archive(server, "good"), tmp_path, [str(tmp_path / "absent")])
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "set.tgz").write_bytes(CONTENT)
    assert obtain(_archive(server, "good"), tmp_path / "root", ["~"]) == tmp_path / "set.tgz"


def test_a_folder_of_archives_is_used_in_place_and_left_alone(server, tmp_path):
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    (shelf / "set.tgz").write_bytes(CONTENT)
    assert provide(tmp_path / "root", [_archive(server, "good")], [server.url("cut"), str(shelf)]) == {"set.tgz": SUM}
    assert [path.name for path in shelf.iterdir()] == ["set.tgz"]
    assert server.requests == []
    (shelf / "set.tgz").write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match=r"shelf/set\.tgz has the sha256 checksum"):
        provide(tmp_path / "another", [_archive(server, "good")], [str(shelf)])


# ---- a root --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("empty", [False, True])
def test_a_missing_or_empty_root_is_downloaded_into(server, tmp_path, empty):
    root = tmp_path / "data" / "devkit"
    if empty:
        root.mkdir(parents=True)
    assert provide(root, [_archive(server, "good")]) == {"set.tgz": SUM}
    assert (root / "set" / "list.txt").read_bytes() == b"a\n"
    assert {path.name for path in root.iterdir()} == {"set", ".archives.json"}
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["devkit"]


def test_what_is_there_already_is_not_fetched_again(server, tmp_path):
    first = _archive(server, "good")
    second = replace(_archive(server, "missing"), name="other.tgz", folder="other", becomes="other", sign="other")
    with pytest.raises(ValueError, match=r"other\.tgz cannot be downloaded"):
        provide(tmp_path / "devkit", [first, second])
    assert {path.name for path in (tmp_path / "devkit").iterdir()} == {"set", ".archives.json", ".download"}

    server.files["other.tgz"] = CONTENT
    server.requests.clear()
    second = replace(second, urls=(server.url("good/other.tgz"),))
    assert provide(tmp_path / "devkit", [first, second]) == {"set.tgz": SUM, "other.tgz": SUM}
    assert server.requests == [("good/other.tgz", None)]
    assert {path.name for path in (tmp_path / "devkit").iterdir()} == {"set", "other", ".archives.json"}
    assert provide(tmp_path / "devkit", [first, second]) == {"set.tgz": SUM, "other.tgz": SUM}


def test_an_existing_root_is_used_as_it_is(server, tmp_path):
    root = tmp_path / "devkit"
    (root / "set" / "images").mkdir(parents=True)
    assert provide(root, [_archive(server, "good")]) == {}
    assert server.requests == []
    assert [path.name for path in root.iterdir()] == ["set"]


def test_to_somebodys_root_the_further_archives_are_added(server, tmp_path):
    root = tmp_path / "devkit"
    (root / "main").mkdir(parents=True)
    main = Archive("main.tgz", 1, "sha256:0", "main", "main", "main", ())
    assert provide(root, [main, _archive(server, "good")]) == {"set.tgz": SUM}
    assert {path.name for path in root.iterdir()} == {"main", "set", ".archives.json"}


def test_a_root_that_is_something_else_is_refused(server, tmp_path):
    (tmp_path / "devkit" / "holiday").mkdir(parents=True)
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'devkit'} exists but lacks set/images")):
        provide(tmp_path / "devkit", [_archive(server, "good")])
    assert server.requests == []
    assert [path.name for path in Path(tmp_path / "devkit").iterdir()] == ["holiday"]


def test_a_folder_that_lacks_its_sign_is_told_before_the_download(server, tmp_path):
    (tmp_path / "devkit" / "main").mkdir(parents=True)
    (tmp_path / "devkit" / "set").mkdir()
    main = Archive("main.tgz", 1, "sha256:0", "main", "main", "main", ())
    with pytest.raises(ValueError, match=r"devkit/set lacks set/images of set\.tgz; complete it or take it away"):
        provide(tmp_path / "devkit", [main, _archive(server, "good")])
    assert server.requests == []


@pytest.mark.parametrize("moment", ["write_json", "unpack", "shutil"])
def test_an_end_at_any_moment_leaves_nothing_that_lasts(server, tmp_path, monkeypatch, moment):
    """Killed before the record, before the folder, before the staging area is gone."""
    name = {"shutil": "shutil.rmtree"}.get(moment, moment)
    with monkeypatch.context() as patch:
        patch.setattr(f"acr.datasets.download.{name}", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            provide(tmp_path / "devkit", [_archive(server, "good")])
    assert provide(tmp_path / "devkit", [_archive(server, "good")]) == {"set.tgz": SUM}
    assert {path.name for path in (tmp_path / "devkit").iterdir()} == {"set", ".archives.json"}
    assert len(server.requests) == 1


def test_two_processes_do_not_download_into_one_folder(server, tmp_path):
    with hold(tmp_path / "devkit" / ".download" / "lock"), pytest.raises(ValueError, match="another process is downloading"):
        provide(tmp_path / "devkit", [_archive(server, "good")])
    assert server.requests == []


def test_who_lacks_nothing_does_not_wait_for_who_downloads(server, tmp_path):
    (tmp_path / "devkit" / "set" / "images").mkdir(parents=True)
    with hold(tmp_path / "devkit" / ".download" / "lock"):
        assert provide(tmp_path / "devkit", [_archive(server, "good")]) == {}
    assert provide(tmp_path / "devkit", [_archive(server, "good")]) == {}
    assert [path.name for path in (tmp_path / "devkit").iterdir()] == ["set"]


DOWNLOADING = """
import sys
from pathlib import Path
from acr.datasets.download import provide
from acr.datasets.published import Archive
provide(Path(sys.argv[1]), [Archive("set.tgz", int(sys.argv[2]), sys.argv[3], "set", "set", "set/images", (sys.argv[4],))])
"""


def test_a_killed_download_goes_on_from_what_it_had(server, tmp_path):
    root, url = tmp_path / "devkit", server.url("drip/set.tgz")
    command = [sys.executable, "-c", DOWNLOADING, str(root), str(len(CONTENT)), SUM, url]
    with subprocess.Popen(command, env=environment()) as process:
        part = root / ".download" / "set.tgz.part"
        while process.poll() is None and not (part.exists() and part.stat().st_size):
            time.sleep(0.05)
        process.kill()
    assert {path.name for path in root.iterdir()} == {".download"}
    had = part.stat().st_size
    assert 0 < had < len(CONTENT)
    server.requests.clear()
    assert provide(root, [_archive(server, "good")]) == {"set.tgz": SUM}
    assert _asked(server) == [("good", f"bytes={had}-")]


# ---- what is published ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["voc12", "coco14"])
def test_every_archive_has_mirrors_and_a_checksum(kind):
    for archive in published(kind).archives.values():
        assert re.fullmatch(r"sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}", archive.checksum)
        assert archive.size > 10**8
        assert len(set(archive.urls)) >= 2
        assert all(re.fullmatch(rf"https?://[\w.-]+/.*{re.escape(archive.name)}", url) for url in archive.urls)
        assert f"{archive.sign}/".startswith(f"{archive.becomes}/")


def test_the_numbers_of_images_are_the_fields():
    assert published("voc12").images == {"train": 1464, "val": 1449, "test": 1456, "train_aug": 10582}
    assert published("coco14").images == {"train": 82081, "val": 40137}
