"""Files are whole or absent, and equal contents give equal bytes; what was computed before an interruption is kept."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from acr.files import (
    UNFINISHED,
    Arrays,
    atomic,
    atomic_folder,
    digest,
    hold,
    read_json,
    sweep,
    unfinished,
    write_arrays,
    write_json,
    write_resumably,
)

ARRAYS = {"a": np.arange(3), "folder/b": np.ones((2, 2), np.float16), "c d": np.zeros((0, 1, 1), np.uint8)}


def test_a_failed_block_leaves_the_old_file_and_nothing_else(tmp_path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def cut_short() -> None:
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        cut_short()
    assert [item.name for item in tmp_path.iterdir()] == ["file.txt"]
    assert path.read_text() == "old"


def test_a_folder_appears_whole_and_takes_the_place_of_an_empty_one_only(tmp_path) -> None:
    for name in ("new/folder", "empty"):
        if name == "empty":
            (tmp_path / name).mkdir()
        with atomic_folder(tmp_path / name) as temporary:
            (temporary / "a").write_text("whole")
            assert not (tmp_path / name / "a").exists()
        assert (tmp_path / name / "a").read_text() == "whole"
    with pytest.raises(OSError, match="not empty"), atomic_folder(tmp_path / "empty") as temporary:
        (temporary / "b").write_text("other")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "failed") as temporary:
        raise RuntimeError
    assert {path.name for path in tmp_path.rglob("*")} == {"new", "folder", "empty", "a"}


def test_a_successful_block_replaces_the_file(tmp_path) -> None:
    with atomic(tmp_path / "new" / "file.png") as temporary:
        assert temporary.suffix == ".png"
        temporary.write_text("whole")
    assert [item.name for item in (tmp_path / "new").iterdir()] == ["file.png"]
    assert (tmp_path / "new" / "file.png").read_text() == "whole"


def test_arrays_come_back_as_they_were(tmp_path) -> None:
    write_arrays(tmp_path / "a.npz", ARRAYS.items())
    archive = Arrays(tmp_path / "a.npz")
    assert list(archive) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert archive[name].dtype == array.dtype
        assert np.array_equal(archive[name], array)


def test_a_missing_array_is_named(tmp_path) -> None:
    write_arrays(tmp_path / "a.npz", ARRAYS.items())
    with pytest.raises(ValueError, match="holds no array 'x'; delete it and run again"):
        Arrays(tmp_path / "a.npz")["x"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"no archive at all"])
def test_a_damaged_archive_is_named(tmp_path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"a.npz is not a whole npz archive .*; delete it and run again$"):
        Arrays(tmp_path / "a.npz")


def test_objects_are_neither_written_nor_read(tmp_path) -> None:
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        write_arrays(tmp_path / "a.npz", [("a", np.array([{}], object))])
    np.savez(tmp_path / "b.npz", a=np.array([{}], object))
    with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
        Arrays(tmp_path / "b.npz")["a"]


def test_json_refuses_what_it_cannot_say(tmp_path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    (tmp_path / "b.json").write_text('{"a": ')
    with pytest.raises(ValueError, match=r"b.json is not valid JSON .*; delete it and run again"):
        read_json(tmp_path / "b.json")


def test_digest_is_sha256(tmp_path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert digest(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_digest_of_a_folder_is_that_of_its_files_names_and_contents(tmp_path) -> None:
    folder = tmp_path / "masks"
    folder.mkdir()
    (folder / "a").write_bytes(b"abc")
    (folder / "b").write_bytes(b"")
    # of "a {digest}\nb {digest}\n", by sha256sum
    expected = "e04ca64d0f15de5304da376cd08073ca5e8df9567212938ecdc317bf2fd37f2a"
    assert digest(folder) == expected
    (folder / "provenance.json").write_text("made today")
    (folder / ".unfinished-c.png").touch()
    (folder / "below").mkdir()
    assert digest(folder) == digest(folder / "provenance.json") == expected
    (folder / "b").rename(folder / "c")
    assert digest(folder) != expected


def test_only_what_is_of_no_further_use_is_swept(tmp_path) -> None:
    kept = ["maps.npz", ".snakemake_timestamp", "a/model.safetensors", "b/provenance.json", "b/model.json"]
    kept += [".unfinished-maps.npz.journal", ".unfinished-a.checkpoint"]
    gone = [".unfinished-maps.npz.1f.npz", "b/.unfinished-model.json.2e.json", ".unfinished-b.checkpoint"]
    gone += [".unfinished-val.3d/x.png", ".unfinished-val.3d/.unfinished-y.png.4c.png", ".unfinished-old"]
    for name in [*kept, *gone]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    sweep(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)
    assert not (tmp_path / ".unfinished-val.3d").exists()


def test_a_file_is_held_by_one_process_until_it_ends(tmp_path) -> None:
    path = tmp_path / "folder" / "a.lock"
    code = (
        f"from acr.files import hold; held = hold({str(path)!r}); held.write('me'); held.flush(); print(1, flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"1\n"
        assert hold(path) is None
        assert path.read_text() == "me"
        process.kill()
    with hold(path) as held:
        assert held.read() == "me"
        assert hold(path) is None
    hold(path).close()


# ---- journals ------------------------------------------------------------------------------------------------------------

NAMES = [*ARRAYS, "d"]
VALUES = [*ARRAYS.values(), np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))]
SOURCE = {"recipe": {"layers": 2}, "code": "code of a.py: 1"}


class Computed:
    """The arrays from a position on, which fails before it has computed number `end`; it remembers what it computed."""

    def __init__(self, end: int | None = None) -> None:
        self.end, self.made = end, []

    def __call__(self, first: int) -> Iterator[np.ndarray]:
        for index in range(first, len(VALUES)):
            if index == self.end:
                raise InterruptedError
            self.made.append(index)
            yield VALUES[index]


@pytest.fixture
def whole(tmp_path) -> bytes:
    """The archive that an uninterrupted call writes."""
    write_arrays(tmp_path / "whole" / "a.npz", zip(NAMES, VALUES, strict=True))
    return (tmp_path / "whole" / "a.npz").read_bytes()


def interrupt(path: Path, end: int, source=SOURCE, names=NAMES) -> Path:
    """The journal that is left of a call that fails before array number `end`."""
    with pytest.raises(InterruptedError):
        write_resumably(path, source, names, Computed(end))
    assert not path.exists()
    return unfinished(path, "journal")


def finish(path: Path, source=SOURCE, names=NAMES) -> list[int]:
    """The arrays that a call had to compute; it left the archive and nothing else."""
    computed = Computed()
    write_resumably(path, source, names, computed)
    assert [item.name for item in path.parent.iterdir()] == [path.name]
    return computed.made


@pytest.mark.parametrize("end", range(len(NAMES)))
def test_what_an_interrupted_call_computed_is_not_computed_again(tmp_path, whole, end: int) -> None:
    path = tmp_path / "run" / "a.npz"
    assert interrupt(path, end).name == f"{UNFINISHED}a.npz.journal"
    assert finish(path) == list(range(end, len(NAMES)))
    assert path.read_bytes() == whole


def test_a_call_may_be_interrupted_again_and_again(tmp_path, whole) -> None:
    path = tmp_path / "run" / "a.npz"
    for end in (0, 1, 1, 3):
        interrupt(path, end)
    assert finish(path) == [3]
    assert path.read_bytes() == whole


def test_nothing_is_computed_again_when_only_the_archive_is_missing(tmp_path, whole, monkeypatch) -> None:
    path = tmp_path / "run" / "a.npz"

    def full(*arguments: object) -> None:
        raise OSError("full")

    with monkeypatch.context() as patch:
        patch.setattr("acr.files.write_arrays", full)
        with pytest.raises(OSError, match="full"):
            write_resumably(path, SOURCE, NAMES, Computed())
    assert not path.exists()
    assert finish(path) == []
    assert path.read_bytes() == whole


@pytest.mark.parametrize("tail", [b"", b"\0" * 300, b"\x93NUMPY\1\0v\0{'descr': '<f4', \0\0", bytes(range(256))], ids=len)
def test_a_journal_cut_anywhere_is_taken_for_its_whole_entries(tmp_path, whole, tail: bytes) -> None:
    """As a kill cuts it, and as a machine that goes down leaves it: with other bytes behind the cut."""
    path = tmp_path / "run" / "a.npz"
    ends = [interrupt(path, end).stat().st_size for end in range(len(NAMES))]
    content = unfinished(path, "journal").read_bytes()
    assert len(content) == ends[-1]
    for cut in range(len(content) + 1):
        left = content[:cut] + tail
        unfinished(path, "journal").write_bytes(left)
        # the tail may happen to be what was cut off
        whole_entries = max(0, sum(left[:end] == content[:end] for end in ends) - 1)
        assert finish(path) == list(range(whole_entries, len(NAMES))), cut
        assert path.read_bytes() == whole
        path.unlink()


def test_a_changed_byte_ends_a_journal(tmp_path, whole) -> None:
    path = tmp_path / "run" / "a.npz"
    ends = [interrupt(path, end).stat().st_size for end in range(len(NAMES))]
    content = unfinished(path, "journal").read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 0x10
        unfinished(path, "journal").write_bytes(changed)
        assert finish(path) == list(range(max(0, sum(end <= place for end in ends) - 1), len(NAMES))), place
        assert path.read_bytes() == whole


@pytest.mark.parametrize(("source", "names"), [({**SOURCE, "code": "code of a.py: 2"}, NAMES), (SOURCE, [*NAMES[:-1], "e"])])
def test_a_journal_of_anything_else_is_thrown_away(tmp_path, source, names) -> None:
    path = tmp_path / "run" / "a.npz"
    interrupt(path, 3)
    assert finish(path, source, names) == [0, 1, 2, 3]
    assert list(Arrays(path)) == list(names)


def test_a_shard_may_be_empty(tmp_path) -> None:
    write_resumably(tmp_path / "run" / "a.npz", SOURCE, [], lambda first: iter(()))
    assert len(Arrays(tmp_path / "run" / "a.npz")) == 0
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["a.npz"]
