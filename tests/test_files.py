"""Files are whole or absent, and equal contents give equal bytes."""

import numpy as np
import pytest

from acr.files import Arrays, atomic, digest, merge_arrays, read_json, write_arrays, write_json

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


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_number_of_shards_leaves_no_trace(tmp_path, count: int) -> None:
    write_arrays(tmp_path / "whole.npz", ARRAYS.items())
    names = list(ARRAYS)
    shards = [tmp_path / f"{index}.npz" for index in range(count)]
    for index, shard in enumerate(shards):
        write_arrays(shard, ((name, ARRAYS[name]) for name in names[index::count]))
    merge_arrays(shards, names, tmp_path / "merged.npz")
    assert (tmp_path / "merged.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_a_missing_array_is_named(tmp_path) -> None:
    write_arrays(tmp_path / "a.npz", ARRAYS.items())
    with pytest.raises(ValueError, match=r"^no shard holds 'x' \(1 of 2 are missing\); run the shards again$"):
        merge_arrays([tmp_path / "a.npz"], ["a", "x"], tmp_path / "merged.npz")
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
