"""Photographs of one's own: every way to say what is in them, masks or none, a table of splits or lots."""

import json
import os
import re
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from acr.config import canonical
from acr.datasets import folder
from acr.datasets.base import read_skipped, read_split
from acr.datasets.catalogue import fetch_dataset, write_splits
from acr.files import outline, read_json
from acr.images import write_image, write_mask
from acr.recipes import PHOTOGRAPHS, WHOLE, Folder

SOME = ("deep/one.jpg", "deep/two.png", "three.WEBP", "four.bmp", "five.tif", "six.jpeg")


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """Six photographs of six formats, beside what is none; paths are relative to where the run is."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(SOME):
        write_image(Path("photos") / name, np.full((4, 6, 3), 40 * number, np.uint8))
    for name in (".hidden.jpg", "._one.jpg", ".cache/a.jpg", "__MACOSX/deep/one.jpg", "notes.txt", "deep/Thumbs.db"):
        path = Path("photos") / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(b"no photograph")
    return Folder(root="photos", val_share=0.34)


def _splits(data: Folder, *names: str):
    """The named splits, and the photographs that are left out with the reason."""
    fetch_dataset(recipe=canonical(data), execution={}, manifest="source.json")
    write_splits(recipe=canonical(data), execution={"workers": 0}, manifest="source.json", drawn=None, folder="splits")
    splits = [read_split(f"splits/{name}.csv") for name in names or ("train", "val", WHOLE)]
    return *splits, {item.image_id: item.reason for item in read_skipped("splits/skipped.csv")}


def _labels(*splits) -> dict[str, tuple[str, ...]]:
    return {record.image_id: record.labels for split in splits for record in split.records}


TABLE = "image,labels\none,dog;big cat\ndeep/two.png,\nthree,dog\nfour,big cat\nfive,dog\n"
TAGS = {
    "deep__one": ("big_cat", "dog"),
    "deep__two": (),
    "three": ("dog",),
    "four": ("big_cat",),
    "five": ("dog",),
}
COCO = {
    "images": [{"id": 7 * i, "file_name": name} for i, name in enumerate(SOME[:5])],
    "categories": [{"id": 9, "name": "dog"}, {"id": 2, "name": "big cat"}],
    "annotations": [
        {"image_id": image, "category_id": category, "bbox": [0, 0, 1, 1]}
        for image, category in ((0, 9), (0, 2), (0, 9), (14, 9), (21, 2), (28, 9))
    ],
}
FLAGS = "file;big cat;dog\none;1;1\ntwo;0;0\nthree;0;1\nfour;1;0\nfive;;1\n"


@pytest.mark.parametrize(("name", "content"), [("t.csv", TABLE), ("t.json", json.dumps(COCO)), ("t.txt", FLAGS)])
def test_labels_come_from_a_table_or_columns_or_cocos_json(photographs, name, content):
    Path(name).write_text("\ufeff" + content if name.endswith("txt") else content)
    turned, *_ = _splits(replace(photographs, labels=name, classes=("dog", "big cat")), "train")
    assert turned.classes == ("dog", "big_cat")
    train, val, whole, left_out = _splits(replace(photographs, labels=name))
    assert train.classes == ("big_cat", "dog")
    assert _labels(train, val) == TAGS
    assert _labels(whole) == {**TAGS, "six": ()}
    assert left_out == {"six": "nothing says what is in it"}
    assert len(val.records) == 2
    assert {record.image_id for record in train.records}.isdisjoint(record.image_id for record in val.records)
    assert whole.records[0].image == Path("photos/deep/one.jpg")
    assert read_json("source.json") == {"kind": "folder", "root": "photos", "photographs": 6}


def test_labels_come_from_the_fields_dictionary(photographs):
    vectors = {"one": [1, 1], "two": [0, 0], "three": [0, 1], "four": [1, 0], "five": [0, 1], "2007_000032": [1, 0]}
    np.save("cls_labels.npy", {name: np.array(vector, np.float32) for name, vector in vectors.items()})
    data = replace(photographs, labels="cls_labels.npy")
    train, val, left_out = _splits(replace(data, classes=("big cat", "dog")), "train", "val")
    assert _labels(train, val) == TAGS
    assert left_out == {"six": "nothing says what is in it"}
    with pytest.raises(ValueError, match="has vectors of 2 numbers, but classes of the data set names 0; name one a number"):
        _splits(data)
    np.save("others.npy", {"z": np.array([1, 0])})
    with pytest.raises(ValueError, match=r"others\.npy knows none of the photographs below photos, but such as 'z'"):
        _splits(replace(data, labels="others.npy", classes=("big cat", "dog")))
    with pytest.raises(ValueError, match="has vectors of 2 numbers, but classes of the data set names 20"):
        _splits(replace(data, classes=("voc",)))


def test_one_subfolder_a_class_and_a_copy_in_two_has_two_labels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = {
        "dog/a.png": 1,
        "dog/deep/b.png": 2,
        "big cat/c.png": 3,
        "big cat/copy of a.png": 1,
        "Background/d.png": 4,
        "e.png": 5,
    }
    for name, grey in places.items():
        write_image(Path("photos") / name, np.full((4, 6, 3), grey, np.uint8))
    train, val, whole, left_out = _splits(Folder(root="photos"))
    assert train.classes == ("big_cat", "dog")
    assert _labels(train, val) == {
        "big cat__copy of a": ("big_cat", "dog"),
        "dog__deep__b": ("dog",),
        "big cat__c": ("big_cat",),
        "Background__d": (),
    }
    assert len(whole.records) == 6
    assert left_out == {"dog__a": "it is a copy of a photograph in another sub-folder", "e": "nothing says what is in it"}


def test_one_class_is_enough(photographs):
    Path("t.csv").write_text("image,labels\none,dog\ntwo,dog\nthree,dog\n")
    train, val, *_ = _splits(replace(photographs, labels="t.csv"))
    assert train.classes == ("dog",)
    assert (len(train.records), len(val.records)) == (2, 1)


def test_masks_are_found_beside_by_path_or_by_name_and_say_the_order_of_classes(photographs):
    Path("t.csv").write_text(TABLE)
    for place, value in (("deep/one.png", 1), ("two.png", 2), ("three.png", 0)):
        write_mask(Path("photos/masks") / place, np.full((4, 6), value, np.uint8))
    data = replace(photographs, labels="t.csv", masks="photos/masks", classes=("dog", "big cat"))
    train, val, whole, _ = _splits(data)
    assert train.classes == ("dog", "big_cat")
    assert len(whole.records) == 6  # the masks are no photographs, though they lie among them
    masks = {record.image_id: record.mask for split in (train, val) for record in split.records}
    assert masks == {
        "deep__one": Path("photos/masks/deep/one.png"),
        "deep__two": Path("photos/masks/two.png"),
        "three": Path("photos/masks/three.png"),
        "four": None,
        "five": None,
    }


def test_a_table_of_splits_is_followed(photographs):
    Path("t.csv").write_text("image,labels,split\none,dog,train\ntwo,cat,test\nthree,dog,train\nfour,cat,val\nfive,cat,spare\n")
    train, test, left_out = _splits(replace(photographs, labels="t.csv", splits="t.csv", val="test"), "train", "test")
    assert [record.image_id for record in train.records] == ["deep__one", "three"]
    assert [record.image_id for record in test.records] == ["deep__two"]
    assert left_out == {"six": "nothing says what is in it", "four": "it is in no split", "five": "it is in no split"}
    Path("s.csv").write_text("one.jpg train\n".replace(" ", "\t") + "four\tval\n")
    train, val, _ = _splits(replace(photographs, labels="t.csv", splits="s.csv"), "train", "val")
    assert [record.image_id for split in (train, val) for record in split.records] == ["deep__one", "four"]


def test_a_column_of_the_table_of_labels_says_the_splits_too(photographs):
    Path("t.csv").write_text("image,labels,split\none,dog,Train\ntwo,cat,validation\nthree,dog,training\nfour,cat,test\n")
    train, val, left_out = _splits(replace(photographs, labels="t.csv"), "train", "val")
    assert [record.image_id for record in train.records] == ["deep__one", "three"]
    assert [record.image_id for record in val.records] == ["deep__two"]
    assert left_out["four"] == "it is in no split"


def test_folders_say_the_splits_of_a_table_of_labels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("train/a.png", "train/b.png", "val/c.png"):
        write_image(Path("photos") / name, np.zeros((4, 6, 3), np.uint8))
    Path("t.csv").write_text("image,labels\na,dog\nb,cat\nc,dog\n")
    train, val, *_ = _splits(Folder(root="photos", labels="t.csv"))
    assert (_labels(train), _labels(val)) == ({"train__a": ("dog",), "train__b": ("cat",)}, {"val__c": ("dog",)})


def test_another_folder_beside_those_of_splits_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("train/cat/1.png", "val/cat/2.png", "extra/3.png"):
        write_image(Path("photos") / name, np.zeros((4, 6, 3), np.uint8))
    with pytest.raises(ValueError, match="photos holds the folders train and val and beside them extra; take it out, or say"):
        _splits(Folder(root="photos"))


def test_copies_share_a_mask(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, grey in {"dog/1.png": 1, "cat/1.png": 1, "cat/2.png": 2, "dog/3.png": 3}.items():
        write_image(Path("photos") / name, np.full((4, 6, 3), grey, np.uint8))
    write_mask(Path("m/1.png"), np.ones((4, 6), np.uint8))
    train, val, *_ = _splits(Folder(root="photos", masks="m"))
    masks = {record.image_id: record.mask for split in (train, val) for record in split.records}
    assert masks == {"cat__1": Path("m/1.png"), "cat__2": None, "dog__3": None}


def test_train_and_val_may_be_one(photographs):
    Path("t.csv").write_text(TABLE)
    both, _ = _splits(replace(photographs, labels="t.csv", train="both", val="both"), "both")
    assert _labels(both) == TAGS


def test_the_lots_stay_where_they_are_when_photographs_are_added():
    paths = [f"{number}.jpg" for number in range(200)]
    few = folder.drawn_by_lot(dict.fromkeys(paths[:150], ("dog",)), 0.2)
    many = folder.drawn_by_lot(dict.fromkeys(paths, ("dog",)), 0.2)
    assert (len(few), len(many)) == (30, 40)
    assert len(few - many) <= 4  # of 30: the share of the first 150 among the 40 lowest lots moves with the sample
    assert few == folder.drawn_by_lot(dict.fromkeys(reversed(paths[:150]), ("dog",)), 0.2)


def test_every_class_stays_in_train():
    labels = {str(number): (f"class {number}",) if number < 5 else ("common",) for number in range(20)}
    for share in (0.1, 0.5, 0.9):
        val = folder.drawn_by_lot(labels, share)
        assert {name for path in labels if path not in val for name in labels[path]} == {*chain(*labels.values())}
        assert val
    assert len(folder.drawn_by_lot({"1": ("a",), "2": ("b",)}, 0.5)) == 1


def test_folders_of_splits_with_a_folder_a_class_in_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = ["train/cat/1.png", "train/dog/2.png", "Valid/dog/3.png", "test/cat/4.png", "train/5.png"]
    for grey, name in enumerate(places):
        write_image(Path("photos") / name, np.full((4, 6, 3), grey, np.uint8))
    train, val, whole, left_out = _splits(Folder(root="photos"))
    assert train.classes == ("cat", "dog")
    assert _labels(train) == {"train__cat__1": ("cat",), "train__dog__2": ("dog",)}
    assert _labels(val) == {"Valid__dog__3": ("dog",)}
    assert len(whole.records) == 5
    assert left_out == {"test__cat__4": "it is in no split", "train__5": "nothing says what is in it"}


def test_a_background_is_no_class_wherever_it_stands(photographs):
    Path("t.csv").write_text("image,background,dog\none,0,1\ntwo,1,0\nthree,0,1\n")
    Path("t.json").write_text(json.dumps({**COCO, "categories": [{"id": 0, "name": "Background"}, *COCO["categories"]]}))
    for name, classes in {"t.csv": ("dog",), "t.json": ("big_cat", "dog")}.items():
        train, _ = _splits(replace(photographs, labels=name), "train")
        assert train.classes == classes


def test_linked_folders_are_followed_and_ways_round_do_not_matter(photographs, tmp_path):
    Path("t.csv").write_text(TABLE)
    (tmp_path / "more").mkdir()
    write_image(tmp_path / "more/linked.png", np.zeros((4, 6, 3), np.uint8))
    Path("photos/link").symlink_to(tmp_path / "more")
    Path("photos/loop").symlink_to(tmp_path / "photos")
    write_mask(Path("photos/masks/one.PNG".replace("PNG", "png")), np.ones((4, 6), np.uint8))
    Path("photos/masks/one.png").rename("photos/masks/one.PNG")
    data = replace(photographs, labels="t.csv", masks="photos/../photos/masks")
    train, val, whole, _ = _splits(data)
    assert {record.image_id for record in whole.records} == {*TAGS, "six", "link__linked"}
    assert [record.image_id for split in (train, val) for record in split.records if record.mask] == ["deep__one"]


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take no such name")
def test_a_name_that_is_not_utf8_is_told(photographs, tmp_path):
    (tmp_path / os.fsdecode(b"photos/caf\xe9.jpg")).write_bytes(b"")
    with pytest.raises(ValueError, match=r"photos holds the file b'caf\\xe9\.jpg', whose name is not UTF-8; give it another"):
        folder.photographs(photographs)


def test_a_link_that_leads_nowhere_is_told(photographs):
    Path("t.csv").write_text(TABLE)
    Path("photos/lost.jpg").symlink_to("nowhere.jpg")
    assert outline({"photos": PHOTOGRAPHS}, [])
    with pytest.raises(ValueError, match=r"photos/lost\.jpg is a link that leads nowhere; mend it or take it away"):
        _splits(replace(photographs, labels="t.csv"))


def test_what_lies_in_the_folder_beside_photographs_is_not_seen(photographs):
    def seen() -> str:
        return outline({"photos": PHOTOGRAPHS}, ["t.csv"])

    Path("t.csv").write_text(TABLE)
    before = seen()
    for name in (".DS_Store", "Thumbs.db", "deep/notes.txt"):
        (Path("photos") / name).write_text("whatever")
    Path("photos/four.bmp").touch()
    assert seen() == before
    Path("t.csv").write_text(TABLE.replace("dog", "cow"))
    other = seen()
    write_image(Path("photos/seven.png"), np.zeros((4, 6, 3), np.uint8))
    assert len({before, other, seen()}) == 3


def test_a_mask_that_two_photographs_may_have_is_refused(photographs):
    Path("t.csv").write_text(TABLE)
    write_image(Path("photos/else/one.jpg"), np.zeros((4, 6, 3), np.uint8))
    Path("t.csv").write_text(TABLE.replace("one", "deep/one.jpg") + "else/one.jpg,dog\n")
    write_mask(Path("m/one.png"), np.ones((4, 6), np.uint8))
    data = replace(photographs, labels="t.csv", masks="m")
    with pytest.raises(ValueError, match=r"m/one\.png may be the mask of deep/one\.jpg or of else/one\.jpg; give"):
        _splits(data)
    write_mask(Path("m/deep/one.png"), np.ones((4, 6), np.uint8))
    Path("m/one.png").unlink()
    train, val, _ = _splits(data, "train", "val")
    assert [record.mask for split in (train, val) for record in split.records if record.mask] == [Path("m/deep/one.png")]


@pytest.mark.parametrize(
    ("changes", "files", "sentence"),
    [
        ({"root": "absent"}, {}, "absent is no folder, but root of the data set must name that of your photographs"),
        ({"root": "empty"}, {"empty/a.txt": ""}, "empty holds no photograph, that is no file that ends in .bmp, .jpeg, .jpg"),
        ({"labels": "t.csv"}, {}, "t.csv does not exist, but labels of the data set must name a file"),
        ({"labels": "t.csv"}, {"t.csv": ""}, "t.csv is empty, but must be a table; write a row for each"),
        ({"labels": "t.csv"}, {"t.csv": "image,labels\none,\n"}, "t.csv gives no photograph a class"),
        ({"labels": "t.csv"}, {"t.csv": "image,labels\nnine,dog\n"}, "t.csv names the photograph 'nine', which is not below"),
        ({"labels": "t.csv"}, {"t.csv": "image,dog\none,2\n"}, "t.csv holds '2' in the column 'dog' for 'one', but"),
        (
            {"labels": "t.csv", "classes": ("cat",)},
            {"t.csv": TABLE},
            "'deep/one.jpg' has the label 'dog', which is no",
        ),
        ({"labels": "t.json"}, {"t.json": "[]"}, "t.json is not COCO's JSON of images, annotations and categories"),
        ({"labels": "t.npy"}, {"t.npy": "no"}, "t.npy is cut short or no dictionary of labels; it must be what np.save writes"),
        ({"labels": "t.json"}, {"t.json": "{"}, "t.json is not COCO's JSON"),
        ({"labels": "t.csv", "splits": "s.csv"}, {"t.csv": TABLE}, "s.csv does not exist, but splits of the data set must"),
        ({"labels": "t.csv", "splits": "s.csv"}, {"t.csv": TABLE, "s.csv": "image,fold\none,1\n"}, "must have image and split"),
        (
            {"labels": "t.csv", "splits": "s.csv"},
            {"t.csv": TABLE, "s.csv": "image,split\none,train\n"},
            "no labelled photograph is in the split 'val' of s.csv, whose splits are train; label at least two",
        ),
        (
            {"labels": "t.csv", "splits": "s.csv"},
            {"t.csv": TABLE, "s.csv": "image,split\none,train\ndeep/one.jpg,val\n"},
            "s.csv has 'deep/one.jpg' in train and in val; list it once",
        ),
        (
            {"labels": "t.csv"},
            {"t.csv": "image,labels\none,dog\n"},
            "in the split 'train' of t.csv, whose splits are val;",
        ),
        (
            {"labels": "t.csv", "masks": "photos"},
            {"t.csv": TABLE},
            "masks of the data set is photos, where the photogr",
        ),
        ({"labels": "t.csv", "masks": "m"}, {"t.csv": TABLE}, "m holds no mask of any photograph, such as m/"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(photographs, changes, files, sentence):
    for name, content in files.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(content)
    with pytest.raises(ValueError, match=rf"^[^\n]*{re.escape(sentence)}[^\n]*$"):
        _splits(replace(photographs, **changes))
    assert not Path("splits").exists()


def test_a_table_that_is_not_utf8_is_named_once(photographs):
    Path("t.csv").write_bytes("image,labels\none,Käse\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"^t\.csv is not UTF-8 text \(byte 18 is none\); save it as UTF-8$"):
        _splits(replace(photographs, labels="t.csv"))


def test_too_many_classes_for_a_mask_are_refused(photographs):
    names = ";".join(f"c{number}" for number in range(255))
    Path("t.csv").write_text(f"image,labels\none,{names}\ntwo,{names}\n")
    with pytest.raises(ValueError, match="holds 255 classes, but an 8-bit mask has room for 1 to 254"):
        _splits(replace(photographs, labels="t.csv"))


def test_masks_of_0_and_255_are_refused(photographs):
    Path("t.csv").write_text(TABLE)
    write_mask(Path("m/three.png"), np.repeat([[0, 255]], 4, axis=0).repeat(3, axis=1).astype(np.uint8))
    with pytest.raises(ValueError, match="masks in m hold 0 and 255 only, but 255 is void; write 1 for the class"):
        _splits(replace(photographs, labels="t.csv", masks="m"))
