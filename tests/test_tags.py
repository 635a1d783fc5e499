"""What people's own tables say: names of photographs, labels in a column or in one column a class."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acr.datasets.base import LONGEST_ID, check_id
from acr.datasets.tags import Photographs, TagsError, class_name, class_names, image_ids, labels_of, parse_table, splits_of

PATHS = ["a.jpg", "b c.png", "deep/a.jpg", "deep/d.JPG", "e.webp"]
ROOT = Path("/photos")
THERE = Photographs(PATHS, ROOT)


def _labels(text: str) -> list[tuple[str, list[str]]]:
    return labels_of(parse_table(text, THERE), ())[0]


# ---- names ---------------------------------------------------------------------------------------------------------------


def test_ids_by_hand():
    paths = ["a.jpg", "dog/a b.jpg", "dog/x/1.tif", "same.jpg", "same.png", "Cap.jpg", "cap.jpg", "tab\there.jpg"]
    ids = image_ids(paths)
    assert ids[:3] == ["a", "dog__a b", "dog__x__1"]
    assert re.fullmatch(r"same-[0-9a-f]{8}", ids[3])
    assert re.fullmatch(r"same-[0-9a-f]{8}", ids[4])
    assert ids[5].startswith("Cap-")
    assert ids[6].startswith("cap-")
    assert ids[7] == "tab_here"


PART = st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=120).filter(
    lambda part: not part.startswith(".")
)
FILES = st.lists(st.lists(PART, min_size=1, max_size=3).map(lambda parts: "/".join(parts) + ".jpg"), unique=True, max_size=20)


@given(FILES)
def test_every_file_gets_a_distinct_id_that_can_name_files(paths):
    ids = image_ids(paths)
    assert len({name.casefold() for name in ids}) == len(paths)
    for name in ids:
        check_id(name, "test")
        assert len(name.encode()) <= LONGEST_ID


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a.jpg", "a.jpg"),
        ("deep/a.jpg", "deep/a.jpg"),
        ("deep\\a.jpg", "deep/a.jpg"),
        ("./deep/a", "deep/a.jpg"),
        ("/photos/deep/d.JPG", "deep/d.JPG"),
        ("photos/deep/d.JPG", "deep/d.JPG"),
        ("photos\\deep\\d", "deep/d.JPG"),
        ("d.JPG", "deep/d.JPG"),
        (" b c ", "b c.png"),
        ("e", "e.webp"),
        ("f", None),
        ("/elsewhere/e.webp", None),
    ],
)
def test_a_photograph_is_found_by_whatever_names_it(name, found):
    assert THERE.find(name) == found


def test_a_name_of_two_photographs_is_refused():
    with pytest.raises(ValueError, match=r"photograph 'a', which may be a\.jpg or deep/a\.jpg below /photos; write its path"):
        THERE.find("a")


def test_a_table_that_names_no_photograph_is_refused():
    with pytest.raises(ValueError, match="names the photograph 'zebra', which is not below /photos; add it or"):
        THERE.get("zebra")


def test_names_of_classes_have_no_spaces():
    assert class_name("  traffic  light ") == "traffic_light"
    assert class_names(["dog", "big  cat", "dog", "Background", "nan", "-"]) == ["dog", "big_cat"]


@pytest.mark.parametrize("label", ["['cat'", "'dog']", "{cat}", '"cat"'])
def test_lists_of_some_language_are_no_labels(label):
    with pytest.raises(ValueError, match=r"holds the label .*; write plain names, separated by semicolons"):
        class_names(["dog", label])


def test_capitals_do_not_make_another_class():
    with pytest.raises(ValueError, match="holds the labels 'Cat' and 'cat'; write one in the same way everywhere"):
        class_names(["Cat", "dog", "cat"])


def test_of_numbered_photographs_the_column_with_file_names_counts():
    there = Photographs([f"{number}.jpg" for number in range(5)], ROOT)
    table = "id,filename,label\n1,3.jpg,cat\n2,4.jpg,dog\n3,1.jpg,cat\n"
    assert labels_of(parse_table(table, there), ())[0] == [("3.jpg", ["cat"]), ("4.jpg", ["dog"]), ("1.jpg", ["cat"])]
    # a photograph that is gone does not let the numbers of rows or classes win
    gone = ",image,labels\n0,3,dog\n1,2,cat dog\n2,1,\n3,7,cat\n"
    assert [name for name, _ in labels_of(parse_table(gone, there), ())[0]] == ["3", "2", "1", "7"]
    numbers = "image,label\n3,0\n2,1\n9,2\n0,1\n"
    assert [name for name, _ in labels_of(parse_table(numbers, there), ())[0]] == ["3", "2", "9", "0"]
    bild = "id;Bild;label\n1;3.jpg;cat\n2;4.jpg;dog\n"
    assert [name for name, _ in labels_of(parse_table(bild, there), ())[0]] == ["3.jpg", "4.jpg"]
    flags = "image,cat,dog\n0,1,0\n1,0,1\n"
    assert labels_of(parse_table(flags, there), ())[0] == [("0", ["cat"]), ("1", ["dog"])]


def test_only_the_columns_of_the_wanted_classes_are_looked_at():
    table = parse_table("image,width,big cat,dog\na,640,1,0\n", THERE)
    assert labels_of(table, ("Dog", "big_cat")) == ([("a", ["big_cat"])], ["Dog", "big_cat"])
    with pytest.raises(TagsError, match="has no column of the class 'cow' that classes of the data set names, but width, "):
        labels_of(table, ("dog", "cow"))


def test_splits_by_hand():
    assert splits_of(parse_table("image,split\na,train\ne,val\n", THERE)) == [("a", "train"), ("e", "val")]
    assert splits_of(parse_table("a\ttrain\n", THERE)) == [("a", "train")]
    with pytest.raises(ValueError, match=r"has the columns \(one\), but must have image and split"):
        splits_of(parse_table("a\ne\n", THERE))


# ---- tables --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_any_separator_separates(separator):
    text = f"image{separator}labels\na.jpg{separator}cat dog\ne.webp{separator}\n"
    assert _labels(text) == [("a.jpg", ["cat", "dog"]), ("e.webp", [])]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("image,labels\na,cat;traffic light\ne,dog\n", [("a", ["cat", "traffic light"]), ("e", ["dog"])]),
        ('image,labels\na,"cat,dog"\ne,cow\n', [("a", ["cat", "dog"]), ("e", ["cow"])]),
        ("image,labels\na,cat,dog\ne,big cow\n", [("a", ["cat", "dog"]), ("e", ["big cow"])]),
        ("image\tlabels\na\tcat|dog\n", [("a", ["cat", "dog"])]),
        ("labels,filename\ncat dog,a\n", [("a", ["cat", "dog"])]),
        ("image,split,tags\na,train,cat\n", [("a", ["cat"])]),
        ("image,label,note\na,cat,very nice\n", [("a", ["cat"])]),
        ("a.jpg,cat dog\ne.webp,cow\n", [("a.jpg", ["cat", "dog"]), ("e.webp", ["cow"])]),
        ("image,label\na,traffic light\ne,stop sign\n", [("a", ["traffic light"]), ("e", ["stop sign"])]),
        ("image,label\na,cat;stop sign\n", [("a", ["cat", "stop sign"])]),
        (",image_path,label\n0,e.webp,cat\n1,a.jpg,dog\n", [("e.webp", ["cat"]), ("a.jpg", ["dog"])]),
        ("\n\nimage,labels\na,cat\n", [("a", ["cat"])]),
        ("cat dog,a\ncow,e\n", [("a", ["cat", "dog"]), ("e", ["cow"])]),
        ("a.jpg,dog;cat\ne.webp,dog\n", [("a.jpg", ["dog", "cat"]), ("e.webp", ["dog"])]),
        ("dog;cat,a.jpg\n", [("a.jpg", ["dog", "cat"])]),
        ("sep=;\nimage;labels\na;cat\n", [("a", ["cat"])]),
        ("photo,e,dog\na.jpg,1,0\n", [("a.jpg", ["e"])]),
        ("label;Bild\ncat;a\n", [("a", ["cat"])]),
        ("image,label\na,cat\na,dog\n", [("a", ["cat"]), ("a", ["dog"])]),
        ("File name,labels\na,cat\n", [("a", ["cat"])]),
        ("Image , LABELS\r\n a , cat \r\n\r\n", [("a", ["cat"])]),
        ("image,labels\ne\n", [("e", [])]),
        ("image,a,e\nb c,1,0\n", [("b c", ["a"])]),
        ("image,cat,traffic light\na,1,0\ne,0,1\nb c,,\n", [("a", ["cat"]), ("e", ["traffic light"]), ("b c", [])]),
        ("image,cat\na,True\ne,no\n", [("a", ["cat"]), ("e", [])]),
        ("cat,dog,file,split\n1,1.0,a,val\n0.0,1,e,train\n", [("a", ["cat", "dog"]), ("e", ["dog"])]),
    ],
)
def test_labels_by_hand(text, expected):
    assert _labels(text) == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "image,cat,dog\na,1,2\n",
            "holds '2' in the column 'dog' for 'a', but must have columns image and labels, or one column a class",
        ),
        ("image,cat\na,perhaps\n", "holds 'perhaps' in the column 'cat' for 'a'"),
        ("image,labels,split\na,cat,dog,train\n", "has more cells than names of columns in the row 'a,cat,dog,train'; quote"),
        ("a.jpg,0,1\ne.webp,1,1\n", "has columns of 0 and 1 without names; write a first row with the names of the classes"),
        ('image,labels\na,"cat\ne,dog\n', "is no table of cells separated by ',' (unexpected end of data); check its quotes"),
        ("", "is empty, but must be a table"),
        ("image\na\n", "has the columns image, but must have columns image and labels"),
        ("image,split\na,train\n", "has the columns image, split, but must"),
    ],
)
def test_other_tables_are_refused(text, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        _labels(text)


NAME = st.text("abcde \u00e4\u732b", min_size=1, max_size=8).map(str.strip).filter(bool)


@given(st.dictionaries(st.sampled_from(PATHS), st.lists(NAME, max_size=4), min_size=1), st.sampled_from(";,\t"))
def test_a_table_and_columns_of_flags_say_the_same(wanted, separator):
    classes = sorted({name for names in wanted.values() for name in names})
    listed = "".join(f"{path}{separator}{'|'.join([*names, ''])}\n" for path, names in wanted.items())
    flags = "".join(
        separator.join([path, *("1" if name in names else "0" for name in classes)]) + "\n" for path, names in wanted.items()
    )
    from_list = dict(_labels(f"image{separator}labels\n{listed}"))
    assert {path: sorted({*names}) for path, names in from_list.items()} == {k: sorted({*v}) for k, v in wanted.items()}
    if classes:
        from_flags = dict(_labels(separator.join(["image", *classes]) + "\n" + flags))
        assert from_flags == {path: [name for name in classes if name in names] for path, names in wanted.items()}


def test_equal_letters_are_equal_however_they_are_composed():
    there = Photographs(["hu\u0308ndin.jpg"], ROOT)
    for name in ("h\u00fcndin.jpg", "hu\u0308ndin", "photos/h\u00fcndin"):
        assert there.find(name) == "hu\u0308ndin.jpg"
