"""The field's `cls_labels.npy`, a pickled dictionary of image ids and vectors of 0 and 1: read without unpickling it."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from acr.datasets.base import check_id
from acr.datasets.classes import COCO, VOC
from acr.datasets.pickled_arrays import ARRAYS, array_of, plain_of
from acr.files import atomic
from acr.pickles import RefusedError, inert

COLUMNS = ("image", "labels")  # of the table that is written, and the names of the arrays in an npz
CLASSES: Mapping[str, tuple[str, ...]] = {"voc": VOC, "coco": COCO}


def named_classes(names: Sequence[str]) -> tuple[str, ...]:
    """The classes that `voc` or `coco` stands for; any other names stand for themselves.

    Raises:
        ValueError: a name is empty, holds white space or comes twice.
    """
    for name in names:
        if name.split() != [name] or names.count(name) > 1:
            raise ValueError(f"the class {name!r} cannot be told from others in a table; name each once and without spaces")
    return CLASSES.get(names[0], tuple(names)) if len(names) == 1 else tuple(names)


def checked(pairs: Iterable[tuple[Any, Any]]) -> dict[str, tuple[int, ...]]:
    """The vectors of 0 and 1 by image id.

    Raises:
        ValueError: no image, an image twice, an id that is no text, or a vector that has another length than the first or
            another number than 0 and 1; the sentence lacks the name of the file.
    """
    found: dict[str, tuple[int, ...]] = {}
    length = None
    for image_id, vector in pairs:
        if not isinstance(image_id, str):
            raise ValueError(
                f"has the image id {image_id!r}, which no longer tells a file's name such as 2007_000032; "
                "have it saved again with names as text"
            )
        if vector.ndim != 1 or vector.dtype.kind not in "biuf" or not np.isin(vector, (0, 1)).all():
            raise ValueError(f"gives {image_id!r} something else than a vector of 0 and 1; have it saved again with one")
        length = len(vector) if length is None else length
        if len(vector) != length:
            raise ValueError(
                f"gives {image_id!r} {len(vector)} numbers, but others {length}; have it saved again with one each"
            )
        if image_id in found:
            raise ValueError(f"lists {image_id!r} twice; have it saved again with each image once")
        found[image_id] = tuple(vector.astype(int).tolist())
    if not found:
        raise ValueError("lists no image; have it saved again with one vector an image")
    return found


# ---- disk ----------------------------------------------------------------------------------------------------------------


def read_label_dictionary(path: str | Path) -> dict[str, tuple[int, ...]]:
    """The vectors of 0 and 1 by image id, in the file's order, all of one length; nothing in the file is ever run.

    Args:
        path: what `np.save(path, {image_id: vector})` writes, or an npz of the arrays `image` (text, M) and `labels`
            (numbers, M x C). Ids that are numbers are refused: they lost the underscores and zeros of file names.

    Raises:
        ValueError: one sentence that names the file; a name in it that is not numpy's is called by that name.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist, but must be a dictionary of labels such as cls_labels.npy")
    try:
        vectors = checked(_pairs(path.read_bytes()))
    except RefusedError as error:
        raise ValueError(f"{path} {error}; get it from where you trust it, or have ids and vectors saved as an npz") from None
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None
    for image_id in vectors:
        check_id(image_id, str(path))
    return vectors


def write_labels(file: str | Path, classes: Sequence[str], output: str | Path) -> None:
    """Writes the table image,labels of a dictionary of labels; labels are separated by spaces, and some images have none.

    Args:
        file: as for `read_label_dictionary`.
        classes: as for `named_classes`, in the order of the vectors.
        output: the CSV.

    Raises:
        ValueError: the file cannot be read, or its vectors have another length than there are classes.
    """
    names, vectors = named_classes(classes), read_label_dictionary(file)
    length = len(next(iter(vectors.values())))
    if length != len(names):
        raise ValueError(f"{file} has vectors of {length} numbers, but {len(names)} classes are named; name one a number")
    with atomic(output) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for image_id, vector in vectors.items():
            writer.writerow((image_id, " ".join(name for name, present in zip(names, vector, strict=True) if present)))


def _pairs(content: bytes) -> Iterable[tuple[Any, Any]]:
    """Image ids and vectors of either kind of file, told apart by how it begins."""
    try:
        if content.startswith(b"PK"):
            return _pairs_of_arrays(content)
        return _pairs_of_dictionary(content)
    except RefusedError:
        raise
    except Exception:  # of any kind: over damaged text numpy raises even SystemError
        raise ValueError(
            "is cut short or no dictionary of labels; it must be what np.save writes of {image id: vector of 0 and 1}, "
            "or an npz of the arrays image (text) and labels (a row each)"
        ) from None


def _pairs_of_arrays(content: bytes) -> list[tuple[Any, Any]]:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        images, labels = (arrays[name] for name in COLUMNS)
    return list(zip(images.tolist(), labels, strict=True))


def _pairs_of_dictionary(content: bytes) -> list[tuple[Any, Any]]:
    stream = io.BytesIO(content)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[np.lib.format.read_magic(stream)]
    _, _, kind = read_header(stream)
    if not kind.hasobject:
        raise TypeError
    dictionary = array_of(inert(stream, ARRAYS)).item()
    return [(plain_of(image_id), array_of(vector)) for image_id, vector in dictionary.items()]
