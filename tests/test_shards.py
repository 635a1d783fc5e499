"""Merged shards are what one shard would have been, in the order of the split."""

from pathlib import Path

import numpy as np
import pytest

from acr.datasets.base import Record, Split, write_classes, write_split
from acr.files import Arrays, write_arrays
from acr.images import read_mask
from acr.shards import gathered, merge_maps, merge_masks

NAMES = ("b", "a", "c.2")


@pytest.fixture
def split(tmp_path):
    records = tuple(Record(name, Path(f"{name}.png"), None, ()) for name in NAMES)
    write_classes(tmp_path / "classes.txt", ["cat"])
    write_split(tmp_path / "train.csv", Split("train", ("cat",), records))
    return str(tmp_path / "train.csv")


def shards(folder: Path, count: int, names: tuple[str, ...] = NAMES) -> list[str]:
    masks = {name: np.full((3, 4 + index), index, np.uint8) for index, name in enumerate(NAMES)}
    paths = [str(folder / f"{count}_{shard}.npz") for shard in range(count)]
    for shard, path in enumerate(paths):
        write_arrays(path, [(name, masks[name]) for name in names[shard::count]])
    return paths


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_merged_maps_are_those_of_one_shard(split, tmp_path, count: int):
    (whole,) = shards(tmp_path, 1)
    merge_maps(split=split, shards=shards(tmp_path, count), output=str(tmp_path / "deep" / "maps.npz"))
    assert (tmp_path / "deep" / "maps.npz").read_bytes() == Path(whole).read_bytes()
    assert list(Arrays(whole)) == list(NAMES)


def test_arrays_are_gathered_from_whichever_shard_holds_them(split, tmp_path):
    found = list(gathered(split, shards(tmp_path, 2)[::-1]))
    assert [(name, mask.shape, int(mask.max())) for name, mask in found] == [
        ("b", (3, 4), 0),
        ("a", (3, 5), 1),
        ("c.2", (3, 6), 2),
    ]


def test_journals_of_interrupted_shards_go_once_all_is_merged(split, tmp_path):
    folder = tmp_path / "acr.shards"
    folder.mkdir()
    (folder / ".unfinished-1-of-7.npz.journal").touch()
    with pytest.raises(ValueError, match="no shard holds"):
        merge_maps(split=split, shards=shards(folder, 1, ("b",)), output=str(tmp_path / "maps.npz"))
    assert (folder / ".unfinished-1-of-7.npz.journal").exists()
    merge_maps(split=split, shards=shards(folder, 2), output=str(tmp_path / "maps.npz"))
    assert sorted(path.name for path in folder.iterdir()) == ["1_0.npz", "2_0.npz", "2_1.npz"]


def test_every_image_gets_its_mask(split, tmp_path):
    merge_masks(split=split, shards=shards(tmp_path, 2), folder=str(tmp_path / "deep" / "masks"))
    assert sorted(content(tmp_path / "deep" / "masks")) == ["a.png", "b.png", "c.2.png"]
    assert (read_mask(tmp_path / "deep" / "masks" / "c.2.png") == np.full((3, 6), 2)).all()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["masks"]


def test_the_number_of_shards_leaves_no_trace(split, tmp_path):
    for count in (1, 3):
        merge_masks(split=split, shards=shards(tmp_path, count), folder=str(tmp_path / f"masks{count}"))
    assert content(tmp_path / "masks1") == content(tmp_path / "masks3")


def test_what_the_folder_held_before_is_gone(split, tmp_path):
    folder = tmp_path / "masks"
    folder.mkdir()
    (folder / "old.png").touch()
    merge_masks(split=split, shards=shards(tmp_path, 1), folder=str(folder))
    assert sorted(content(folder)) == ["a.png", "b.png", "c.2.png"]


def test_a_missing_mask_is_named_and_nothing_is_written(split, tmp_path):
    before = set(tmp_path.iterdir())
    paths = shards(tmp_path, 1, ("b", "a"))
    with pytest.raises(ValueError, match=r"^no shard holds 'c\.2' \(1 of 3 are missing\); run the shards again$"):
        merge_masks(split=split, shards=paths, folder=str(tmp_path / "masks"))
    assert set(tmp_path.iterdir()) - before == {Path(paths[0])}


def test_others_may_read_the_folder(split, tmp_path):
    (tmp_path / "plain").mkdir()
    merge_masks(split=split, shards=shards(tmp_path, 1), folder=str(tmp_path / "masks"))
    assert (tmp_path / "masks").stat().st_mode == (tmp_path / "plain").stat().st_mode
