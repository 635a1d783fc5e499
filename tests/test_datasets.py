"""Splits of every kind of data set, made from tiny ones that the tests lay out; every refusal is one sentence."""

import json
import logging
import re
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from acr import config, recipes
from acr.datasets import coco14, download, voc12
from acr.datasets.base import (
    Record,
    Skipped,
    Split,
    check_files,
    check_split,
    read_skipped,
    read_split,
    shard_of,
    write_classes,
    write_skipped,
    write_split,
)
from acr.datasets.catalogue import (
    check_count,
    count_classes,
    draw_shard,
    fetch_dataset,
    warn_of_habits,
    write_splits,
    write_test_split,
)
from acr.files import Arrays, read_json, write_json
from acr.images import read_mask, write_image, write_mask
from acr.shapes import VOID
from acr.shards import merge_true_masks

CLASSES = ("cat", "dog", "cow")


def _record(name: str, *labels: str) -> Record:
    return Record(name, Path(f"images/{name}.jpg"), None, labels)


def _raises(*parts: str):
    """One sentence, in which all parts stand in this order."""
    return pytest.raises(ValueError, match=r"^[^\n]*" + r"[^\n]*".join(map(re.escape, parts)) + r"[^\n]*$")


# ---- records and splits --------------------------------------------------------------------------------------------------


@pytest.fixture
def split():
    return Split("train", CLASSES, (_record("a", "cow", "cat"), _record("b", "dog"), _record("c"), _record("d", "cow")))


def test_tags_and_class_indices_by_hand(split):
    assert [split.class_indices(record) for record in split.records] == [(0, 2), (1,), (), (2,)]
    np.testing.assert_array_equal(
        [split.tags(record) for record in split.records], [[1, 0, 1], [0, 1, 0], [0, 0, 0], [0, 0, 1]]
    )
    assert split.tags(split.records[0]).dtype == np.float32
    assert split.class_indices(_record("e", "dog", "dog")) == (1,)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_share_out_the_split(split, count):
    shards = [shard_of(split, f"{index}-of-{count}") for index in range(count)]
    assert sorted(record.image_id for shard in shards for record in shard.records) == ["a", "b", "c", "d"]
    assert all((shard.name, shard.classes) == ("train", CLASSES) for shard in shards)
    assert [record.image_id for record in shard_of(split, "1-of-2").records] == ["b", "d"]


def test_what_is_written_is_read(split, tmp_path):
    masked = Record("m", Path("/data/with, comma.jpg"), Path("masks/m.png"), ("dog", "cat"))
    split = Split("mine", CLASSES, (*split.records, masked))
    write_classes(tmp_path / "classes.txt", CLASSES)
    write_split(tmp_path / "mine.csv", split)
    assert read_split(tmp_path / "mine.csv") == split
    assert (tmp_path / "mine.csv").read_text().splitlines()[:2] == ["image_id,image,mask,labels", "a,images/a.jpg,,cow cat"]


@pytest.mark.parametrize(
    ("records", "parts"),
    [
        ((), ["'train' is empty"]),
        ((_record("a"), _record("a")), ["lists image 'a' twice"]),
        ((_record("x/a"),), ["'x/a', which cannot name files"]),
        ((_record(".."),), ["'..', which cannot name files"]),
        ((_record("/tmp/a"),), ["'/tmp/a', which cannot name files"]),
        ((_record(".hidden"),), ["'.hidden', which cannot name files"]),
        ((_record(""),), ["'', which cannot name files"]),
        ((_record("a\nb"),), ["'a\\nb', which cannot name files"]),
        ((_record("ü" * 100),), ["of 200 bytes; give it a name of at most 180"]),
        ((_record("a", "cat", "mouse"),), ["image 'a'", "'mouse'", "cat, dog, cow"]),
    ],
)
def test_splits_that_cannot_be_used_are_refused(records, parts):
    with _raises(*parts):
        check_split(Split("train", CLASSES, records))


@pytest.mark.parametrize(
    ("table", "classes", "parts"),
    [
        (None, "cat\n", ["train.csv does not exist"]),
        ("image,labels\n", "cat\n", ["train.csv has the columns ['image', 'labels']", "image_id,image,mask,labels"]),
        ("image_id,image,mask,labels\na,b\n", "cat\n", ["line 2 of ", "train.csv has not exactly 4 columns"]),
        (
            "image_id,image,mask,labels\na,b,,cat\na,b,,cat,dog\n",
            "cat\n",
            ["line 3 of ", "train.csv has not exactly 4 columns"],
        ),
        ("image_id,image,mask,labels\na,b,,cat\n", None, ["classes.txt does not exist"]),
        ("image_id,image,mask,labels\na,b,,cat\n", "", ["classes.txt holds 0 classes"]),
        ("image_id,image,mask,labels\na,b,,cat\n", "cat\nbig dog\n", ["classes.txt holds the class 'big dog'"]),
        ("image_id,image,mask,labels\na,b,,cat\n", "cat\ncat\n", ["classes.txt holds the class 'cat'", "distinct"]),
        ("image_id,image,mask,labels\na,b,,cat\n", "\n".join(map(str, range(255))), ["holds 255 classes", "254"]),
        ("image_id,image,mask,labels\n", "cat\n", ["'train' is empty"]),
        ("image_id,image,mask,labels\na,b,,cow\n", "cat\n", ["'a'", "'cow'", "no class"]),
    ],
)
def test_tables_that_cannot_be_used_are_refused(tmp_path, table, classes, parts):
    if table is not None:
        (tmp_path / "train.csv").write_text(table)
    if classes is not None:
        (tmp_path / "classes.txt").write_text(classes)
    with _raises(*parts):
        read_split(tmp_path / "train.csv")


def test_a_mask_of_another_size_is_refused(tmp_path):
    write_image(tmp_path / "a.png", np.zeros((4, 6, 3), np.uint8))
    write_mask(tmp_path / "mask.png", np.zeros((6, 4), np.uint8))
    record = Record("a", tmp_path / "a.png", tmp_path / "mask.png", ())
    split = Split("train", CLASSES, (record,))
    with _raises("mask.png is 6 x 4 pixels, but its image is 4 x 6; make it again at the size of its image"):
        check_files([split], 0)
    write_mask(tmp_path / "mask.png", np.full((4, 6), 3, np.uint8))
    assert check_files([split], 0) == ([split], [])
    write_mask(tmp_path / "mask.png", np.full((4, 6), 4, np.uint8))
    with _raises("mask.png holds the value 4, but the values of 3 classes are 0 (background) to 3 and 255 (void)"):
        check_files([split], 0)


@pytest.fixture
def photographs(tmp_path):
    """Five photographs, of which the second is cut short in its pixels and the fourth is text."""
    split = Split("train", CLASSES, tuple(_record(name, "cat") for name in "abcde"))
    records = tuple(replace(record, image=tmp_path / record.image) for record in split.records)
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    for record in records:
        write_image(record.image, noise)
    records[1].image.write_bytes(records[1].image.read_bytes()[:-400])
    records[3].image.write_text("no image")
    return replace(split, records=records)


@pytest.mark.parametrize("workers", [0, 2])
def test_photographs_that_cannot_be_read_are_left_out(photographs, workers):
    (kept,), skipped = check_files([photographs], workers)
    assert [record.image_id for record in kept.records] == ["a", "c", "e"]
    assert [(item.split, item.image_id) for item in skipped] == [("train", "b"), ("train", "d")]
    assert skipped[0].image == str(photographs.records[1].image)
    assert "truncated" in skipped[0].reason
    assert skipped[1].reason == "it cannot be read as an image (it is in no format of images)"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_wrong_mask_is_one_sentence_from_any_process(photographs, tmp_path, workers):
    write_image(tmp_path / "mask.png", np.zeros((40, 40, 3), np.uint8))
    first, *others = photographs.records
    with _raises("mask.png has pixels of mode RGB, but a mask must be an 8-bit palette or grey PNG"):
        check_files([replace(photographs, records=(replace(first, mask=tmp_path / "mask.png"), *others))], workers)


def test_a_split_without_any_readable_photograph_is_refused(photographs):
    with _raises("none of the 2 photographs of split 'train' can be read", "d.jpg: it is in no format of images"):
        check_files([replace(photographs, records=photographs.records[3:4] * 2)], workers=0)


def test_a_photograph_of_two_splits_is_decoded_once(photographs, monkeypatch):
    decoded = []
    monkeypatch.setattr("acr.datasets.base.read_image", lambda path: decoded.append(path) or np.zeros((40, 40, 3), np.uint8))
    some = replace(photographs, name="some", records=photographs.records[:2])
    kept, _ = check_files([photographs, some], workers=0)
    assert kept == [photographs, some]
    assert decoded == [record.image for record in photographs.records]


def test_what_is_left_out_is_written_and_read(photographs, tmp_path):
    _, skipped = check_files([photographs], workers=0)
    skipped.append(Skipped("val", "ü, b", "images/ü, b.jpg", 'a "reason"'))
    write_skipped(tmp_path / "skipped.csv", skipped)
    assert read_skipped(tmp_path / "skipped.csv") == skipped
    write_skipped(tmp_path / "skipped.csv", [])
    assert (tmp_path / "skipped.csv").read_text() == "split,image_id,image,reason\n"


def _write(recipe: str, folder: Path, *shards: str) -> None:
    """The tables of a data set that is there, `archives` of its manifest empty; its masks are drawn by `shards`, if any."""
    manifest, drawn = folder.with_suffix(".json"), folder.with_suffix(".masks")
    write_json(manifest, {"archives": {}})
    archives = [folder.parent / f"{shard}.npz" for shard in shards]
    for shard, archive in zip(shards, archives, strict=True):
        draw_shard(recipe=recipe, shard=shard, output=archive, made_from={})
    if shards:
        merge_true_masks(shards=archives, folder=drawn)
    drawn = drawn if shards else None
    write_splits(recipe=recipe, execution={"workers": 0}, manifest=manifest, drawn=drawn, folder=folder)


# ---- textures ------------------------------------------------------------------------------------------------------------


def test_textures_are_generated_once_and_split(tmp_path):
    data = recipes.Textures(root=str(tmp_path / "data"), train="learn", val="hold", train_images=3, val_images=2, size=32)
    for _ in range(2):
        fetch_dataset(recipe=config.canonical(data), execution={}, manifest=tmp_path / "manifest.json")
        dates = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")}
    assert dates == {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")}
    assert read_json(tmp_path / "manifest.json") == {
        "kind": "textures",
        "root": str(tmp_path / "data"),
        "generated": {"train": 3, "val": 2, "size": 32, "random_state": 0},
    }

    _write(config.canonical(data), tmp_path / "splits")
    assert {path.name for path in (tmp_path / "splits").iterdir()} == {
        "learn.csv",
        "hold.csv",
        "classes.txt",
        "skipped.csv",
    }
    learn, hold = (read_split(tmp_path / "splits" / f"{name}.csv") for name in ("learn", "hold"))
    assert [record.image_id for record in learn.records] == ["train_0000", "train_0001", "train_0002"]
    assert [record.image_id for record in hold.records] == ["val_0000", "val_0001"]
    for part in (learn, hold):
        for record in part.records:
            present = set(np.unique(read_mask(record.mask)).tolist()) - {0}
            assert {index + 1 for index in part.class_indices(record)} == present


def test_textures_that_were_not_fetched_are_missed(tmp_path):
    with _raises("labels.csv does not exist"):
        _write(config.canonical(recipes.Textures(root=str(tmp_path))), tmp_path / "splits")


# ---- voc12 ---------------------------------------------------------------------------------------------------------------

OBJECTS = {
    "2007_1": "<object><name>person</name><difficult>1</difficult><part><name>head</name></part></object>"
    "<object><name>bird</name></object><object><name>bird</name></object>",
    "2007_2": "<object><name>tvmonitor</name></object>",
    "2007_3": "<object><name>cat</name></object>",
    "2007_4": "<object><name>sofa</name></object>",
}


@pytest.fixture
def devkit(tmp_path):
    """VOC with train 2007_1 and 2007_2 and val 2007_3; SBD adds 2007_4 and repeats 2007_1 and 2007_3."""
    folder = tmp_path / "devkit" / "VOC2012"
    for name in ("Annotations", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    for name, objects in OBJECTS.items():
        write_image(folder / "JPEGImages" / f"{name}.jpg", np.zeros((4, 6, 3), np.uint8))
        (folder / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")
    for name, values in (("2007_1", [3, 15, VOID, 0]), ("2007_2", [20]), ("2007_3", [8])):
        write_mask(folder / "SegmentationClass" / f"{name}.png", np.resize(np.array(values, np.uint8), (4, 6)))
    (folder / "ImageSets/Segmentation/train.txt").write_text("2007_2\n2007_1\n")
    (folder / "ImageSets/Segmentation/val.txt").write_text("2007_3\n")
    sbd = tmp_path / "devkit" / "benchmark_RELEASE" / "dataset"
    sbd.mkdir(parents=True)
    (sbd / "train.txt").write_text("2007_4\n2007_3\n")
    (sbd / "val.txt").write_text("2007_1\n")
    return tmp_path / "devkit"


def _voc(root: Path, train: str = "train") -> str:
    return config.canonical(recipes.Voc12(root=str(root), train=train))


def _splits(recipe: str, folder: Path, *names: str) -> list[Split]:
    _write(recipe, folder)
    return [read_split(folder / f"{name}.csv") for name in names]


def _labels(split: Split) -> dict[str, tuple[str, ...]]:
    return {record.image_id: record.labels for record in split.records}


def test_voc_lists_keep_their_order_and_annotations_give_the_tags(devkit, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    train, val = _splits(_voc(devkit), tmp_path / "splits", "train", "val")
    assert train.classes == voc12.CLASSES
    assert len(voc12.CLASSES) == 20
    # a difficult object counts, a part does not, and labels stand in the order of the classes
    assert list(_labels(train).items()) == [("2007_2", ("tvmonitor",)), ("2007_1", ("bird", "person"))]
    assert _labels(val) == {"2007_3": ("cat",)}
    assert train.records[0].image == devkit / "VOC2012" / "JPEGImages" / "2007_2.jpg"
    assert train.records[0].mask == devkit / "VOC2012" / "SegmentationClass" / "2007_2.png"
    assert f"tags of train are read from {devkit / 'VOC2012' / 'Annotations'}" in caplog.text


def test_train_aug_is_both_sets_without_val_and_has_vocs_own_masks_only(devkit, tmp_path):
    write_mask(devkit / "VOC2012" / "SegmentationClass" / "2007_4.png", np.zeros((4, 6), np.uint8))
    train, val = _splits(_voc(devkit, "train_aug"), tmp_path / "splits", "train_aug", "val")
    assert [record.image_id for record in train.records] == ["2007_1", "2007_2", "2007_4"]
    assert [record.mask is not None for record in train.records] == [True, True, False]
    assert val.records[0].mask is not None


def test_a_list_of_train_aug_in_the_devkit_makes_sbd_needless(devkit, tmp_path, monkeypatch):
    shutil.rmtree(devkit / "benchmark_RELEASE")
    monkeypatch.setattr(download, "BACK_OFF", 0)
    monkeypatch.setattr(download, "urlopen", lambda request, timeout: (_ for _ in ()).throw(OSError("no network")))
    recipe = _voc(devkit, "train_aug")
    with _raises("benchmark.tgz cannot be downloaded", "www2.eecs.berkeley.edu", "no network", "execution.mirrors"):
        fetch_dataset(recipe=recipe, execution={}, manifest=tmp_path / "manifest.json")
    assert not (tmp_path / "manifest.json").exists()
    (devkit / "VOC2012/ImageSets/Segmentation/train_aug.txt").write_text("2007_4\n2007_1\n")
    fetch_dataset(recipe=recipe, execution={}, manifest=tmp_path / "manifest.json")
    (train,) = _splits(recipe, tmp_path / "splits", "train_aug")
    assert [(record.image_id, record.mask is not None) for record in train.records] == [("2007_4", False), ("2007_1", True)]


# SBD's: a cow (10) and no contour
SBD_MASK = np.array([[0, 0, 10, 10, 0, 0]] * 4, np.uint8)


def _write_sbd(devkit: Path, name: str, mask: np.ndarray) -> Path:
    """SBD's own form: a structure GTcls with the mask, the classes in it and their boundaries."""
    path = devkit / "benchmark_RELEASE" / "dataset" / "cls" / f"{name}.mat"
    path.parent.mkdir(exist_ok=True)
    present = np.setdiff1d(mask, [0]).astype(np.uint8)[:, None]
    content = {"Segmentation": mask, "CategoriesPresent": present, "Boundaries": np.zeros((20, 1), object)}
    savemat(path, {"GTcls": content}, do_compression=True)
    return path


@pytest.mark.parametrize("shards", [1, 3])
def test_segmentation_class_aug_is_vocs_masks_and_sbds_where_there_is_none(devkit, tmp_path, shards):
    for name in ("2007_1", "2007_4"):
        _write_sbd(devkit, name, SBD_MASK)
    recipe = config.canonical(recipes.Voc12(root=str(devkit), train="train_aug", masks="SegmentationClassAug"))
    _write(recipe, tmp_path / "splits", *(f"{shard}-of-{shards}" for shard in range(shards)))
    train, val = (read_split(tmp_path / "splits" / f"{name}.csv") for name in ("train_aug", "val"))
    assert [record.image_id for record in train.records] == ["2007_1", "2007_2", "2007_4"]
    masks = {record.image_id: read_mask(record.mask) for record in (*train.records, *val.records)}
    for name in ("2007_1", "2007_2", "2007_3"):
        np.testing.assert_array_equal(masks[name], read_mask(devkit / f"VOC2012/SegmentationClass/{name}.png"))
    assert (masks["2007_1"] == VOID).any()
    np.testing.assert_array_equal(masks["2007_4"], SBD_MASK)
    assert {path.parent.name for path in (record.mask for record in train.records)} == {"splits.masks"}


def test_a_segmentation_class_aug_that_somebody_has_stands_in_for_sbd(devkit, tmp_path):
    shutil.rmtree(devkit / "benchmark_RELEASE")
    (devkit / "VOC2012/ImageSets/Segmentation/train_aug.txt").write_text("2007_4\n2007_1\n")
    write_mask(devkit / "VOC2012/SegmentationClassAug/2007_4.png", SBD_MASK)
    recipe = config.canonical(recipes.Voc12(root=str(devkit), train="train_aug", masks="SegmentationClassAug"))
    fetch_dataset(recipe=recipe, execution={}, manifest=tmp_path / "manifest.json")
    _write(recipe, tmp_path / "splits", "0-of-1")
    (record, _) = read_split(tmp_path / "splits" / "train_aug.csv").records
    np.testing.assert_array_equal(read_mask(record.mask), SBD_MASK)
    (devkit / "VOC2012/SegmentationClassAug/2007_4.png").unlink()
    with _raises("image '2007_4' has no mask in VOC2012/SegmentationClass, benchmark_RELEASE/dataset/cls or"):
        _write(recipe, tmp_path / "splits", "0-of-1")


def test_sbds_masks_give_tags_where_nothing_else_does(devkit, tmp_path):
    (devkit / "VOC2012" / "Annotations").rename(tmp_path / "away")
    _write_sbd(devkit, "2007_4", SBD_MASK)
    recipe = config.canonical(recipes.Voc12(root=str(devkit), train="train_aug", masks="SegmentationClassAug"))
    _write(recipe, tmp_path / "splits", "0-of-1")
    assert _labels(read_split(tmp_path / "splits" / "train_aug.csv"))["2007_4"] == ("cow",)


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "another"])
def test_a_damaged_mask_of_sbd_is_one_sentence(devkit, damage):
    path = _write_sbd(devkit, "2007_4", SBD_MASK)
    content = path.read_bytes()
    path.write_bytes({"cut": content[: len(content) // 2], "text": b"no mask" * 40, "empty": b"", "another": content}[damage])
    if damage == "another":
        savemat(path, {"GTinst": {"Segmentation": SBD_MASK}})
    with _raises("2007_4.mat holds no mask of SBD", "unpack the data set again"):
        voc12.read_sbd(path)


def test_numbers_of_images_are_compared_with_what_is_published(split, caplog):
    caplog.set_level(logging.INFO)
    check_count(split, 4, whole=True)
    assert "train: 4 images, as published" in caplog.text
    check_count(split, 5, whole=False)
    assert "train: 4 images, but 5 are published: figures do not compare" in caplog.text
    with _raises("split 'train' has 4 images, but 5 are published; unpack the data set again into an empty root"):
        check_count(split, 5, whole=True)


def test_a_downloaded_devkit_must_have_all_images(devkit, tmp_path):
    write_json(tmp_path / "manifest.json", {"archives": {"VOCtrainval_11-May-2012.tar": "sha256:0"}})
    given = {"execution": {"workers": 0}, "manifest": tmp_path / "manifest.json", "drawn": None, "folder": tmp_path / "splits"}
    with _raises("split 'train' has 2 images, but 1464 are published"):
        write_splits(recipe=_voc(devkit), **given)
    with _raises("split 'train_aug' has 3 images, but 10582 are published"):
        write_splits(recipe=_voc(devkit, "train_aug"), **given)


@pytest.mark.parametrize("place", ["VOC2012", "VOC2012test"])
def test_the_test_split_is_listed_in_the_devkit_or_beside_it(devkit, tmp_path, place, caplog):
    listed = devkit / place / "ImageSets/Segmentation/test.txt"
    listed.parent.mkdir(parents=True, exist_ok=True)
    listed.write_text("2008_1\n2008_2\n")
    for name in ("2008_1", "2008_2"):
        write_image(devkit / place / "JPEGImages" / f"{name}.jpg", np.zeros((4, 6, 3), np.uint8))
    write_classes(tmp_path / "classes.txt", voc12.CLASSES)
    write_test_split(recipe=_voc(devkit), execution={"workers": 0}, output=tmp_path / "test.csv")
    records = read_split(tmp_path / "test.csv").records
    assert [(record.image_id, record.mask, record.labels) for record in records] == [("2008_1", None, ()), ("2008_2", None, ())]
    assert records[0].image == devkit / place / "JPEGImages/2008_1.jpg"
    assert "test: 2 images, but 1456 are published" in caplog.text
    (devkit / place / "JPEGImages/2008_2.jpg").write_text("text")
    with _raises("2008_2.jpg cannot be read as an image", "replace it"):
        write_test_split(recipe=_voc(devkit), execution={"workers": 0}, output=tmp_path / "test.csv")


def test_a_downloaded_test_split_must_have_all_images(devkit, tmp_path):
    (devkit / "VOC2012test/ImageSets/Segmentation").mkdir(parents=True)
    (devkit / "VOC2012test/ImageSets/Segmentation/test.txt").write_text("2008_1\n")
    write_image(devkit / "VOC2012test/JPEGImages/2008_1.jpg", np.zeros((4, 6, 3), np.uint8))
    write_json(devkit / ".archives.json", {"VOC2012test.tar": "sha256:0"})
    with _raises("split 'test' has 1 images, but 1456 are published"):
        write_test_split(recipe=_voc(devkit), execution={"workers": 0}, output=tmp_path / "test.csv")


def test_what_is_reported_is_not_learnt_from(devkit, tmp_path):
    (devkit / "VOC2012/ImageSets/Segmentation/train_aug.txt").write_text("2007_1\n2007_3\n")
    with _raises("the splits 'train_aug' and 'val' share 1 photographs, such as '2007_3'; take them out of one"):
        _write(_voc(devkit, "train_aug"), tmp_path / "splits")


def test_images_of_each_class_are_counted(split):
    assert count_classes(split) == "cat 1, dog 1, cow 2, no class 1"


def test_a_class_of_every_photograph_is_told(split, caplog):
    warn_of_habits(split)
    assert not caplog.records
    warn_of_habits(replace(split, records=split.records[::3]))
    assert [record.message for record in caplog.records] == [
        "train: every photograph has the class cow, which cannot be learnt without some that lack it"
    ]


def test_only_voc_has_a_test_split(tmp_path):
    with _raises("the data set is of kind 'coco14', but only voc12"):
        write_test_split(recipe=_coco(tmp_path), execution={}, output=tmp_path / "test.csv")


def test_without_annotations_a_table_and_without_a_table_the_masks_give_the_tags(devkit, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    (devkit / "VOC2012" / "Annotations").rename(tmp_path / "away")
    (train,) = _splits(_voc(devkit), tmp_path / "off_masks", "train")
    assert _labels(train) == {"2007_1": ("bird", "person"), "2007_2": ("tvmonitor",)}
    assert "tags of train are read off the masks" in caplog.text

    (devkit / "VOC2012" / "labels.csv").write_text("image_id,labels\n2007_1,cow cat\n2007_2,bus\n2007_3,\n")
    train, val = _splits(_voc(devkit), tmp_path / "off_table", "train", "val")
    assert _labels(train) == {"2007_1": ("cat", "cow"), "2007_2": ("bus",)}
    assert _labels(val) == {"2007_3": ()}
    assert f"tags of train are read from {devkit / 'VOC2012' / 'labels.csv'}" in caplog.text


def test_an_existing_devkit_is_found_and_not_touched(devkit, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in devkit.rglob("*")}
    fetch_dataset(recipe=_voc(devkit, "train_aug"), execution={}, manifest=tmp_path / "manifest.json")
    _write(_voc(devkit, "train_aug"), tmp_path / "splits")
    assert before == {path: path.stat().st_mtime_ns for path in devkit.rglob("*")}
    assert read_json(tmp_path / "manifest.json") == {"kind": "voc12", "root": str(devkit), "archives": {}}


def test_relative_roots_stay_relative(devkit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (train,) = _splits(_voc(Path("devkit")), Path("splits"), "train")
    assert train.records[0].image == Path("devkit/VOC2012/JPEGImages/2007_2.jpg")


def test_spaces_unicode_byte_order_marks_and_windows_line_ends_are_read(devkit, tmp_path):
    folder = devkit / "VOC2012"
    (folder / "Annotations").rename(tmp_path / "away")
    names = {"2007_1": "Käse 一, no. 1", "2007_2": "日本 e\u0301"}
    for old, new in names.items():
        (folder / f"JPEGImages/{old}.jpg").rename(folder / f"JPEGImages/{new}.jpg")
        (folder / f"SegmentationClass/{old}.png").rename(folder / f"SegmentationClass/{new}.png")
    first, second = names.values()
    listed = "\ufeff" + f"{first}\r\n\r\n{second}  \r\n"
    (folder / "ImageSets/Segmentation/train.txt").write_bytes(listed.encode())
    table = "\ufeff" + f'image_id,labels\r\n"{first}",dog cat\r\n{second},\r\n2007_3,cat\r\n'
    (folder / "labels.csv").write_bytes(table.encode())
    (train,) = _splits(_voc(devkit), tmp_path / "splits", "train")
    assert _labels(train) == {first: ("cat", "dog"), second: ()}


def test_text_that_is_not_utf8_is_refused(devkit, tmp_path):
    (devkit / "VOC2012/ImageSets/Segmentation/train.txt").write_bytes("2007_1\nKäse\n".encode("latin-1"))
    with _raises("train.txt is not UTF-8 text (byte 8 is none); save it as UTF-8"):
        _splits(_voc(devkit), tmp_path / "splits", "train")


def test_an_unreadable_photograph_is_left_out_or_ends_the_run(devkit, tmp_path, caplog):
    (devkit / "VOC2012/JPEGImages/2007_1.jpg").write_text("text")
    (train,) = _splits(_voc(devkit), tmp_path / "splits", "train")
    assert [record.image_id for record in train.records] == ["2007_2"]
    (item,) = read_skipped(tmp_path / "splits" / "skipped.csv")
    assert item[:2] == ("train", "2007_1")
    assert f"train: {item.image} cannot be read as an image (it is in no format of images) and is left out" in caplog.text
    assert item.reason == "it cannot be read as an image (it is in no format of images)"
    recipe = config.canonical(recipes.Voc12(root=str(devkit), train="train", on_unreadable="fail"))
    with _raises("2007_1.jpg cannot be read as an image", "replace it, or set on_unreadable of the data set to skip"):
        _write(recipe, tmp_path / "other")
    assert not (tmp_path / "other").exists()


VOC = "VOC2012"
LISTS = "VOC2012/ImageSets/Segmentation"


@pytest.mark.parametrize(
    ("path", "content", "parts"),
    [
        (f"{LISTS}/train.txt", None, ["train.txt does not exist", "must list the images"]),
        (f"{LISTS}/train.txt", "", ["'train' is empty"]),
        (f"{LISTS}/train.txt", "2007_1\n2007_1", ["'2007_1' twice"]),
        (f"{LISTS}/train.txt", "2007_2\n../2007_1\n", ["train.txt lists the image '../2007_1', which cannot name files"]),
        (f"{LISTS}/train.txt", "2007_9", ["2007_9.xml does not exist"]),
        (f"{VOC}/JPEGImages/2007_1.jpg", None, ["2007_1.jpg does not exist"]),
        (f"{VOC}/JPEGImages/2007_3.jpg", "text", ["none of the 1 photographs of split 'val' can be read", "2007_3.jpg"]),
        (f"{VOC}/SegmentationClass/2007_3.png", "", ["mask", "2007_3.png cannot be read as an image (it is empty)"]),
        (f"{VOC}/SegmentationClass/2007_3.png", None, ["2007_3.png does not exist"]),
        (f"{VOC}/Annotations/2007_1.xml", "<annotation>", ["2007_1.xml is not valid XML"]),
        (
            f"{VOC}/Annotations/2007_1.xml",
            "<annotation><object><name>unicorn</name></object></annotation>",
            ["image '2007_1'", "'unicorn'", "no class", "aeroplane"],
        ),
    ],
)
def test_a_damaged_devkit_is_refused_and_nothing_written(devkit, tmp_path, path, content, parts):
    (devkit / path).unlink()
    if content is not None:
        (devkit / path).write_text(content)
    with _raises(*parts):
        _write(_voc(devkit), tmp_path / "splits")
    assert not (tmp_path / "splits").exists()


@pytest.mark.parametrize(
    ("table", "parts"),
    [
        ("image_id,labels\n2007_1,cat\n", ["labels.csv has no row for image '2007_2'"]),
        ("image_id,labels\n2007_1,cat\n2007_1,dog\n", ["labels.csv lists image '2007_1' twice"]),
        ("image,tags\n2007_1,cat\n", ["labels.csv has the columns ['image', 'tags']"]),
        ("image_id,labels\n2007_1,cat\n2007_2,unicorn\n", ["image '2007_2'", "'unicorn'"]),
        (None, ["2007_2.png holds the value 21", "end at 20"]),
    ],
)
def test_tags_that_cannot_be_had_are_told(devkit, tmp_path, table, parts):
    (devkit / VOC / "Annotations").rename(tmp_path / "away")
    write_mask(devkit / VOC / "SegmentationClass" / "2007_2.png", np.full((4, 6), 21, np.uint8))
    if table is not None:
        (devkit / VOC / "labels.csv").write_text(table)
    with _raises(*parts):
        _write(_voc(devkit), tmp_path / "splits")


def test_sbds_images_have_no_mask_to_read_tags_off(devkit, tmp_path):
    (devkit / VOC / "Annotations").rename(tmp_path / "away")
    with _raises("'2007_4' has no mask to read its tags off"):
        _write(_voc(devkit, "train_aug"), tmp_path / "splits")


def test_a_root_that_is_no_devkit_is_told(tmp_path):
    (tmp_path / "holiday.jpg").touch()
    with _raises(f"{tmp_path} exists but lacks VOC2012/JPEGImages"):
        fetch_dataset(recipe=_voc(tmp_path), execution={}, manifest=tmp_path / "manifest.json")


# ---- coco14 --------------------------------------------------------------------------------------------------------------

CATEGORIES = [{"id": 90, "name": "toothbrush"}, {"id": 3, "name": "car"}, {"id": 13, "name": "stop sign"}]


def _annotation(image: int, category: int, segmentation: object, crowd: int = 0) -> dict:
    return {"image_id": image, "category_id": category, "segmentation": segmentation, "iscrowd": crowd}


def _rectangle(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


# column by column: two pixels off, four on, the remaining 18 of 4 x 6 off
RUNS = {"counts": [2, 4, 18], "size": [4, 6]}


@pytest.fixture
def coco(tmp_path):
    for split in ("train", "val"):
        names = [f"COCO_{split}2014_{number:012d}" for number in (1, 2, 3)]
        images = [{"id": i, "file_name": f"{name}.jpg", "height": 4, "width": 6} for i, name in enumerate(names)]
        annotations = [
            _annotation(0, 90, _rectangle(2, 0, 6, 4)),
            _annotation(0, 13, _rectangle(4, 0, 6, 2)),
            _annotation(0, 3, RUNS, crowd=1),
            _annotation(2, 3, RUNS, crowd=1),
        ]
        content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        path = tmp_path / "coco" / "annotations" / f"instances_{split}2014.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        for name in names:
            write_image(tmp_path / "coco" / f"{split}2014" / f"{name}.jpg", np.zeros((4, 6, 3), np.uint8))
    return tmp_path / "coco"


# the crowd's runs end in column 1, the toothbrush (class 3) covers columns 2 to 5, the stop sign (2) its upper right
MASK = [
    [0, VOID, 3, 3, 2, 2],
    [0, VOID, 3, 3, 2, 2],
    [VOID, 0, 3, 3, 3, 3],
    [VOID, 0, 3, 3, 3, 3],
]


def _coco(root: Path) -> str:
    return config.canonical(recipes.Coco14(root=str(root)))


@pytest.mark.parametrize("shards", [1, 3])
def test_coco_is_drawn_and_split(coco, tmp_path, shards):
    before = {path: path.stat().st_mtime_ns for path in coco.rglob("*")}
    fetch_dataset(recipe=_coco(coco), execution={}, manifest=tmp_path / "manifest.json")
    assert read_json(tmp_path / "manifest.json") == {"kind": "coco14", "root": str(coco), "archives": {}}
    _write(_coco(coco), tmp_path / "splits", *(f"{shard}-of-{shards}" for shard in range(shards)))
    train, val = (read_split(tmp_path / "splits" / f"{name}.csv") for name in ("train", "val"))
    assert train.classes == ("car", "stop_sign", "toothbrush")
    # the image without annotations is left out, a crowd is a tag
    assert _labels(train) == {
        "COCO_train2014_000000000001": ("car", "stop_sign", "toothbrush"),
        "COCO_train2014_000000000003": ("car",),
    }
    assert val.records[0].image == coco / "val2014" / "COCO_val2014_000000000001.jpg"
    left_out = [(item.split, item.image_id, item.reason) for item in read_skipped(tmp_path / "splits" / "skipped.csv")]
    assert left_out == [(name, f"COCO_{name}2014_000000000002", "it has no annotation") for name in ("train", "val")]
    np.testing.assert_array_equal(read_mask(train.records[0].mask), MASK)
    assert before == {path: path.stat().st_mtime_ns for path in coco.rglob("*")}


def test_a_crowd_may_have_the_value_of_its_class(coco, tmp_path):
    _write(config.canonical(recipes.Coco14(root=str(coco), crowd="class")), tmp_path / "splits", "0-of-1")
    first = read_split(tmp_path / "splits" / "train.csv").records[0]
    np.testing.assert_array_equal(read_mask(first.mask), np.where(np.array(MASK) == VOID, 1, MASK))


def test_an_interrupted_shard_goes_on_from_the_last_mask(coco, tmp_path, monkeypatch):
    real, drawn = coco14.rasterise, []

    def draw(*arguments):
        drawn.append(arguments)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(coco14, "rasterise", draw)
    given = {"recipe": _coco(coco), "shard": "0-of-1", "output": tmp_path / "shard.npz", "made_from": {}}
    with pytest.raises(KeyboardInterrupt):
        draw_shard(**given)
    draw_shard(**given)
    assert len(drawn) == 5  # four masks, of which the third was begun twice
    assert len(Arrays(tmp_path / "shard.npz")) == 4


def test_crowds_lie_lowest_and_of_two_objects_the_later_on_top():
    crowd, first, second = (
        _annotation(0, 3, RUNS, crowd=1),
        _annotation(0, 13, _rectangle(0, 0, 6, 4)),
        _annotation(0, 90, _rectangle(0, 0, 3, 4)),
    )
    values = {3: 1, 13: 2, 90: 3}
    np.testing.assert_array_equal(coco14.rasterise([first, second, crowd], values, VOID, 4, 6), [[3, 3, 3, 2, 2, 2]] * 4)
    np.testing.assert_array_equal(coco14.rasterise([second, first, crowd], values, VOID, 4, 6), [[2] * 6] * 4)
    np.testing.assert_array_equal(coco14.rasterise([], values, VOID, 4, 6), np.zeros((4, 6)))


def test_compressed_runs_are_read_like_plain_ones():
    compressed = coco14.outlines.frPyObjects(RUNS, 4, 6)
    objects = [_annotation(0, 3, compressed)], [_annotation(0, 3, RUNS)]
    masks = [coco14.rasterise(item, {3: 1}, None, 4, 6) for item in objects]
    np.testing.assert_array_equal(*masks)
    assert masks[0].sum() == 4


def test_a_large_file_of_annotations_takes_a_few_times_its_size_in_memory(tmp_path):
    """COCO's own two have 332 and 161 MB."""
    generator = np.random.default_rng(0)
    outlines = [np.round(generator.uniform(0, 640, 2 * generator.integers(3, 60)), 2).tolist() for _ in range(20_000)]
    annotations = [
        {"id": i, **_annotation(i // 8, 3, [outline]), "bbox": outline[:4], "area": 1.5} for i, outline in enumerate(outlines)
    ]
    images = [{"id": i, "file_name": f"{i:012d}.jpg", "height": 480, "width": 640} for i in range(2500)]
    path = tmp_path / "annotations" / "instances_train2014.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": CATEGORIES}))
    del outlines, annotations, images
    tracemalloc.start()
    drawers = list(coco14.to_draw(recipes.Coco14(root=str(tmp_path), val="train")))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(drawers) == 2500
    assert path.stat().st_size > 10**7
    assert peak < 4 * path.stat().st_size


def test_a_coco_photograph_outside_its_folder_is_refused(coco, tmp_path):
    path = coco / "annotations" / "instances_train2014.json"
    content = json.loads(path.read_text())
    content["images"][0]["file_name"] = "../val2014/COCO_val2014_000000000001.jpg"
    path.write_text(json.dumps(content))
    with _raises("'../val2014/COCO_val2014_000000000001', which cannot name files"):
        _write(_coco(coco), tmp_path / "splits")


def test_coco_without_a_splits_annotations_is_refused(coco, tmp_path):
    path = coco / "annotations" / "instances_val2014.json"
    path.write_text("{")
    with _raises("instances_val2014.json is not valid JSON", "unpack the data set again"):
        draw_shard(recipe=_coco(coco), shard="0-of-1", output=tmp_path / "shard.npz", made_from={})
    path.unlink()
    with _raises("instances_val2014.json does not exist"):
        draw_shard(recipe=_coco(coco), shard="0-of-1", output=tmp_path / "shard.npz", made_from={})
