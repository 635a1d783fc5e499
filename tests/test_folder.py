"""Photographs of one's own: every way to say what is in them, masks or none, a table of splits or lots."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from acr.config import WHOLE, Folder, canonical
from acr.datasets import folder
from acr.datasets.base import read_skipped, read_split
from acr.datasets.catalogue import fetch_dataset, write_splits
from acr.files import read_json
from acr.images import write_image, write_mask

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
    with pytest.raises(ValueError, match="has vectors of 2 numbers, but classes of the data set names 20"):
        _splits(replace(data, classes=("voc",)))


def test_one_subfolder_a_class_and_a_copy_in_two_has_two_labels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = {
        "dog/a.png": 1,
        "dog/deep/b.png": 2,
        "big cat/c.png": 3,
        "big cat/copy of a.png": 1,
        "background/d.png": 4,
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
        "background__d": (),
    }
    assert len(whole.records) == 6
    assert left_out == dict.fromkeys(["dog__a", "e"], "nothing says what is in it")


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


def test_train_and_val_may_be_one(photographs):
    Path("t.csv").write_text(TABLE)
    both, _ = _splits(replace(photographs, labels="t.csv", train="both", val="both"), "both")
    assert _labels(both) == TAGS


def test_the_lots_stay_where_they_are_when_photographs_are_added():
    paths = [f"{number}.jpg" for number in range(200)]
    ids = {path: path for path in paths}
    few = folder.drawn_by_lot(dict.fromkeys(paths[:150], ("dog",)), ids, 0.2)
    many = folder.drawn_by_lot(dict.fromkeys(paths, ("dog",)), ids, 0.2)
    assert (len(few), len(many)) == (30, 40)
    assert len(few - many) <= 4  # of 30: the share of the first 150 among the 40 lowest lots moves with the sample
    assert few == folder.drawn_by_lot(dict.fromkeys(reversed(paths[:150]), ("dog",)), ids, 0.2)


def test_every_class_stays_in_train():
    ids = {str(number): str(number) for number in range(20)}
    labels = {path: (f"class {path}",) if int(path) < 5 else ("common",) for path in ids}
    for share in (0.1, 0.5, 0.9):
        val = folder.drawn_by_lot(labels, ids, share)
        assert {name for path in labels if path not in val for name in labels[path]} == {
            n for names in labels.values() for n in names
        }
        assert val
    assert len(folder.drawn_by_lot({"1": ("a",), "2": ("b",)}, {"1": "1", "2": "2"}, 0.5)) == 1


@pytest.mark.parametrize(
    ("changes", "files", "sentence"),
    [
        ({"root": "absent"}, {}, "absent is no folder, but root of the data set must name that of your photographs"),
        ({"root": "empty"}, {"empty/a.txt": ""}, "empty holds no photograph, that is no file that ends in .bmp, .jpeg, .jpg"),
        ({"labels": "t.csv"}, {}, "t.csv does not exist, but labels of the data set must name a file"),
        ({"labels": "t.csv"}, {"t.csv": ""}, "t.csv gives no photograph a class; see docs/own-data.md"),
        ({"labels": "t.csv"}, {"t.csv": "image,labels\none,\n"}, "t.csv gives no photograph a class"),
        ({"labels": "t.csv"}, {"t.csv": "image,labels\nnine,dog\n"}, "t.csv names the photograph 'nine', which is not below"),
        ({"labels": "t.csv"}, {"t.csv": "image,dog\none,2\n"}, "t.csv holds '2' for 'one', but must have columns image and"),
        (
            {"labels": "t.csv", "classes": ("cat",)},
            {"t.csv": TABLE},
            "'deep/one.jpg' has the label 'dog', which is no",
        ),
        ({"labels": "t.json"}, {"t.json": "[]"}, "t.json is not COCO's JSON of images, annotations and categories"),
        ({"labels": "t.json"}, {"t.json": "{"}, "t.json is not COCO's JSON"),
        ({"labels": "t.csv", "splits": "s.csv"}, {"t.csv": TABLE}, "s.csv does not exist, but splits of the data set must"),
        ({"labels": "t.csv", "splits": "s.csv"}, {"t.csv": TABLE, "s.csv": "image,fold\none,1\n"}, "must have image and split"),
        (
            {"labels": "t.csv", "splits": "s.csv"},
            {"t.csv": TABLE, "s.csv": "image,split\none,train\n"},
            "split 'val' is empty, but must list at least one image",
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


def test_too_many_classes_for_a_mask_are_refused(photographs):
    Path("t.csv").write_text("image,labels\none," + ";".join(f"c{number}" for number in range(255)) + "\n")
    with pytest.raises(ValueError, match="holds 255 classes, but an 8-bit mask has room for 1 to 254"):
        _splits(replace(photographs, labels="t.csv"))
