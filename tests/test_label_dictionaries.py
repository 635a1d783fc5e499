"""Dictionaries of labels: pickled ones against numpy's own reader, and hostile ones, which must not run."""

import builtins
import csv
import io
import os
import pickle
import re
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision.models._meta import _COCO_CATEGORIES  # with gaps in the ids named N/A

from acr.__main__ import main
from acr.datasets import voc12
from acr.datasets.label_dictionaries import COCO, read_label_dictionary, write_labels
from acr.datasets.pickled_arrays import ARRAYS, array_of
from acr.pickles import RefusedError, inert

VECTORS = {"2007_000032": (1, 0, 1), "a b.c'é": (0, 0, 0), "日本": (0, 1, 0)}
NUMBERS = [np.float32, np.float64, np.uint8, np.int64, np.bool_, ">f4"]
PROTOCOLS = [0, 1, 2, 3, 4, 5]


def saved(path: Path, content: Any, protocol: int = 4) -> Path:
    """Writes what np.save writes, with a pickle of any protocol: an object array without dimensions."""
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": ()})
        array = np.empty((), object)
        array[()] = content
        pickle.dump(array, stream, protocol)
    return path


def by_numpy(path: Path) -> dict[str, tuple[int, ...]]:
    """The independent oracle, which runs whatever the file says."""
    loaded = np.load(path, allow_pickle=True).item()
    return {str(name): tuple(int(value) for value in vector) for name, vector in loaded.items()}


def refusal(path: Path) -> str:
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        read_label_dictionary(path)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence.removeprefix(str(path)).strip()


@pytest.mark.parametrize("number", NUMBERS)
def test_what_numpy_saves_is_read_as_numpy_reads_it(tmp_path: Path, number: Any) -> None:
    path = tmp_path / "cls_labels.npy"
    np.save(path, {name: np.array(vector, number) for name, vector in VECTORS.items()}, allow_pickle=True)
    assert read_label_dictionary(path) == by_numpy(path) == VECTORS
    assert list(read_label_dictionary(path)) == list(VECTORS)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("number", NUMBERS)
def test_every_protocol_is_read(tmp_path: Path, number: Any, protocol: int) -> None:
    vectors = {name: np.array(vector, number) for name, vector in VECTORS.items()}
    path = saved(tmp_path / "a.npy", vectors, protocol)
    assert read_label_dictionary(path) == by_numpy(path) == VECTORS


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_ids_may_be_scalars_of_numpy(tmp_path: Path, protocol: int) -> None:
    path = saved(tmp_path / "a.npy", {np.str_(name): np.float32(vector) for name, vector in VECTORS.items()}, protocol)
    assert read_label_dictionary(path) == by_numpy(path) == VECTORS


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_vectors_may_be_columns_of_one_matrix(tmp_path: Path, protocol: int) -> None:
    matrix = np.array(list(VECTORS.values()), np.float32).T
    path = saved(tmp_path / "a.npy", {name: matrix[:, place] for place, name in enumerate(VECTORS)}, protocol)
    assert read_label_dictionary(path) == by_numpy(path) == VECTORS


def test_a_file_of_numpy_1_names_its_modules_otherwise(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npy", {"a": np.float32([0, 1])}, 2)
    path.write_bytes(path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert read_label_dictionary(path) == {"a": (0, 1)}


def test_a_file_of_python_2_is_read(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npy", {"a": np.float32([0, 1])}, 2)
    content = path.read_bytes().replace(b"X\x01\x00\x00\x00a", b"U\x01a")  # a byte string as the id
    data = np.float32([0, 1]).tobytes()
    disguised = data.decode("latin-1").encode()
    text = b"X" + len(disguised).to_bytes(4, "little") + disguised
    start, end = content.index(b"h\x03" + text), content.index(b"R", content.index(text) + len(text)) + 1
    path.write_bytes(content[:start] + b"U\x08" + data + content[end:])
    loaded = np.load(path, allow_pickle=True, encoding="latin1").item()
    assert {name: tuple(vector) for name, vector in loaded.items()} == read_label_dictionary(path) == {"a": (0, 1)}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_matrices_keep_their_order(protocol: int) -> None:
    for matrix in (np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3))):
        np.testing.assert_array_equal(array_of(inert(pickle.dumps(matrix, protocol), ARRAYS)), matrix)


def test_an_npz_without_objects_is_read(tmp_path: Path) -> None:
    path = tmp_path / "labels.npz"
    np.savez(path, image=list(VECTORS), labels=np.array(list(VECTORS.values()), np.uint8))
    assert read_label_dictionary(path) == VECTORS


class Hostile:
    """Unpickled, it calls `function`."""

    def __init__(self, function: Callable, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("function", "argument", "name"),
    [
        (os.system, "touch {}", "posix.system"),
        (builtins.eval, "open({!r}, 'w')", ".eval"),
        (os.mkdir, "{}", "posix.mkdir"),
        (np.save, "{}", "numpy.save"),
    ],
)
@pytest.mark.parametrize("place", ["whole", "id", "vector", "inside"])
def test_what_a_file_names_is_said_and_not_run(tmp_path, protocol, function, argument, name, place) -> None:
    sign = tmp_path / "sign"
    given = argument.replace("{}", str(sign)).replace("{!r}", repr(str(sign)))
    hostile = Hostile(function, given, 0) if function is np.save else Hostile(function, given)
    inside = np.array([hostile], object)
    content = {"whole": hostile, "id": {hostile: np.zeros(2)}, "vector": {"a": hostile}, "inside": {"a": inside}}[place]
    path = saved(tmp_path / "a.npy", content, protocol)
    sentence = refusal(path)
    assert re.search(rf"^names '[\w.]*{re.escape(name)}', which image ids and numpy vectors never need, and", sentence)
    assert not list(tmp_path.glob("sign*"))


def test_the_hostile_file_is_one(tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    np.load(saved(tmp_path / "a.npy", Hostile(os.system, f"touch {sign}")), allow_pickle=True)
    assert sign.exists()


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("content", [{"a": Path("x")}, OrderedDict(a=np.zeros(2)), {"a": np.datetime64(0, "s")}, {"a": object}])
def test_other_objects_are_refused_by_name(tmp_path: Path, content: Any, protocol: int) -> None:
    assert re.match("(names '|uses )|is cut short or no dictionary", refusal(saved(tmp_path / "a.npy", content, protocol)))


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"(S'touch sign'\nios\nsystem\n.", "INST"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93)\x81.", "'os.system'"),
        (b"cnumpy\nndarray\n)\x81.", "NEWOBJ"),
        (b"\x82\x01.", "EXT1"),
        (b"Pid\n.", "PERSID"),
        (b"X\x02\x00\x00\x00idQ.", "BINPERSID"),
        (b"c os\nsystem\n.", "'.os.system'"),
    ],
)
def test_rare_ways_to_call_are_refused(content: bytes, name: str) -> None:
    with pytest.raises(RefusedError, match=f"^(uses|names) {re.escape(name)}"):
        inert(content, ARRAYS)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_file_cut_anywhere_is_one_sentence(tmp_path: Path, protocol: int) -> None:
    whole = saved(tmp_path / "whole.npy", {"a": np.float32([0, 1]), "b": np.float32([0, 0])}, protocol).read_bytes()
    path = tmp_path / "a.npy"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert refusal(path).startswith("is cut short or no dictionary of labels; it must be what np.save writes of")


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # in damaged text
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_damaged_file_is_one_sentence_or_read(tmp_path: Path, protocol: int) -> None:
    whole = saved(tmp_path / "whole.npy", {"a": np.float32([0, 1]), np.str_("b"): np.float32([0, 0])}, protocol).read_bytes()
    random, path, refused = np.random.default_rng(protocol), tmp_path / "a.npy", 0
    for _ in range(300):
        damaged = bytearray(whole)
        for place in random.integers(0, len(whole), random.integers(1, 4)):
            damaged[place] = random.integers(256)
        path.write_bytes(damaged)
        with suppress(ValueError):
            read_label_dictionary(path)
            continue
        assert "\n" not in refusal(path)
        refused += 1
    assert refused > 150


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"a": np.float32([0, 1]), "b": np.float32([0])}, "gives 'b' 1 numbers, but others 2; have it saved again"),
        ({"a": np.float32([0, 0.5])}, "gives 'a' something else than a vector of 0 and 1; have it saved again"),
        ({"a": np.float32([0, np.nan])}, "gives 'a' something else than a vector of 0 and 1; have it saved again"),
        ({"a": np.array(["0", "1"])}, "gives 'a' something else than a vector of 0 and 1; have it saved again"),
        ({"a": np.array([0, 1], object)}, "gives 'a' something else than a vector of 0 and 1; have it saved again"),
        ({"a": np.zeros((1, 2))}, "gives 'a' something else than a vector of 0 and 1; have it saved again"),
        ({2007000032: np.zeros(2)}, "has the image id 2007000032, which no longer tells a file's name such as 2007_000032"),
        ({np.int32(32): np.zeros(2)}, "has the image id 32, which no longer tells a file's name"),
        ({b"a": np.zeros(2)}, "has the image id b'a', which no longer tells a file's name"),
        ({"../a": np.zeros(2)}, "lists the image '../a', which cannot name files"),
        ({}, "lists no image; have it saved again with one vector an image"),
        ([np.zeros(2)], "is cut short or no dictionary of labels"),
        ({"a": [0, 1]}, "is cut short or no dictionary of labels"),
        ({("a", "b"): np.zeros(2)}, "is cut short or no dictionary of labels"),
        ({np.datetime64(0, "s"): np.zeros(2)}, "is cut short or no dictionary of labels"),
    ],
)
def test_other_content_is_one_sentence(tmp_path: Path, content: Any, sentence: str) -> None:
    assert refusal(saved(tmp_path / "a.npy", content)).startswith(sentence)


def test_other_files_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    assert refusal(path).startswith("does not exist")
    for array in (np.array([{"a": np.zeros(2)}, {}], object), np.zeros(3), np.zeros(2, [("a", "f4")])):
        np.save(path, array, allow_pickle=True)
        assert refusal(path).startswith("is cut short or no dictionary of labels")
    for content in (b"", b"PK", b"image,labels\n", pickle.dumps({"a": np.zeros(2)})):
        path.write_bytes(content)
        assert refusal(path).startswith("is cut short or no dictionary of labels")


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"image": ["a"]}, "is cut short or no dictionary"),
        ({"image": ["a"], "labels": np.zeros((2, 3))}, "is cut short or no dictionary"),
        ({"image": np.array([Path("a")]), "labels": np.zeros((1, 3))}, "is cut short or no dictionary"),
        ({"image": [7], "labels": np.zeros((1, 3))}, "has the image id 7, which"),
        ({"image": ["a", "a"], "labels": np.zeros((2, 3))}, "lists 'a' twice; have it saved again with each image once"),
        ({"image": ["a"], "labels": np.zeros(1)}, "gives 'a' something else than a vector of 0 and 1"),
    ],
)
def test_other_archives_are_one_sentence(tmp_path: Path, arrays: dict, sentence: str) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)
    assert refusal(path).startswith(sentence)


def rows(path: Path) -> list[list[str]]:
    return list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))


def test_the_command_writes_the_table(tmp_path: Path) -> None:
    path, table = saved(tmp_path / "a.npy", {n: np.float32(v) for n, v in VECTORS.items()}), tmp_path / "labels.csv"
    main(["labels", str(path), "--classes", "cat", "dog", "potted_plant", "-o", str(table)])
    expected = [["2007_000032", "cat potted_plant"], ["a b.c'é", ""], ["日本", "dog"]]
    assert rows(table) == [["image", "labels"], *expected]
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.npy", "labels.csv"]


@pytest.mark.parametrize(("name", "classes"), [("voc", voc12.CLASSES), ("coco", COCO)])
def test_the_classes_of_a_data_set_have_a_name(tmp_path: Path, name: str, classes: tuple[str, ...]) -> None:
    path, table = saved(tmp_path / "a.npy", dict(zip(classes, np.eye(len(classes)), strict=True))), tmp_path / "labels.csv"
    write_labels(path, [name], table)
    assert rows(table)[1:] == [[label, label] for label in classes]


def test_the_names_of_coco_are_those_of_its_categories() -> None:
    known = [name.replace(" ", "_") for name in _COCO_CATEGORIES if name not in ("__background__", "N/A")]
    assert list(COCO) == known


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        (["voc"], "{} has vectors of 3 numbers, but 20 classes are named; name one a number"),
        (["a", "b", "a"], "the class 'a' cannot be told from others in a table; name each once and without spaces"),
        (["a", "b", "c d"], "the class 'c d' cannot be told from others in a table; name each once and without spaces"),
    ],
)
def test_classes_that_do_not_fit_are_one_sentence(tmp_path: Path, classes: list[str], sentence: str) -> None:
    path, table = saved(tmp_path / "a.npy", {"a": np.zeros(3)}), tmp_path / "labels.csv"
    with pytest.raises(SystemExit, match=re.escape(f"error: {sentence.format(path)}")):
        main(["labels", str(path), "--classes", *classes, "-o", str(table)])
    assert not table.exists()


def test_converting_loads_no_torch() -> None:
    code = "import sys, acr.datasets.label_dictionaries; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
