"""Submissions: predictions of VOC's test as the tarball that the evaluation server takes, checked before it is there."""

import gzip
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from acr.datasets.base import read_split
from acr.files import atomic
from acr.images import image_size, palette
from acr.progress import Progress

FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"  # comp6: trained on more than VOC's own training data


def check_submission(file: Path, sizes: Mapping[str, tuple[int, int]], classes: int) -> None:
    """Refuses a tarball that the server would not take, or would take for something else.

    Args:
        file: the gzipped tarball.
        sizes: height and width of the photograph of each image that must be in it.
        classes: the values of its masks go from 0, the background, to this one.

    Raises:
        ValueError: an image is missing or too many, or is no palette PNG in VOC's colours of the photograph's size with
            such values.
    """
    expected = {f"{FOLDER}/{image_id}.png": size for image_id, size in sizes.items()}
    colours = palette().tobytes()
    with tarfile.open(file, "r:gz") as archive:
        found = [member.name for member in archive if not member.isdir()]
        if sorted(found) != sorted(expected):
            odd = sorted({*found} ^ {*expected}) or sorted(name for name in found if found.count(name) > 1)
            raise ValueError(f"{file} holds {len(found)} files for {len(expected)} images; the first that is odd is {odd[0]}")
        for name in found:
            member = archive.extractfile(name)
            assert member is not None, f"{name} of {file} is no regular file"
            _check_mask(f"{name} of {file}", member.read(), expected[name], classes, colours)


def _check_mask(where: str, content: bytes, size: tuple[int, int], classes: int, colours: bytes) -> None:
    try:
        picture = Image.open(io.BytesIO(content))
        mask = np.array(picture)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{where} cannot be read as an image ({error}); delete the predictions and run again") from None
    if picture.format != "PNG" or picture.mode != "P" or bytes(picture.getpalette() or ()) != colours:
        raise ValueError(f"{where} is no palette PNG in VOC's colours ({picture.format}, mode {picture.mode}); make it again")
    if mask.shape != size or mask.max() > classes:
        raise ValueError(
            f"{where} is {mask.shape} pixels with values up to {mask.max()}, but must be {size} with values up to {classes}; "
            "delete the predictions and run again"
        )


# ---- disk ----------------------------------------------------------------------------------------------------------------


def write_submission(*, split: str | Path, masks: str | Path, output: str | Path) -> None:
    """Writes the tarball of the masks {image_id}.png of a split; equal masks give equal bytes.

    Raises:
        ValueError: a mask is missing, or `check_submission` refuses the result; nothing is written then.
    """
    records = read_split(split)
    with atomic(output) as temporary:
        # without the date and the name that a gzip file has by default
        with (
            temporary.open("wb") as stream,
            gzip.GzipFile("", "wb", 1, stream, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w") as archive,
        ):
            for record in Progress(records.records, "packing"):
                _add(archive, Path(masks) / f"{record.image_id}.png")
        sizes = {record.image_id: image_size(record.image) for record in records.records}
        check_submission(temporary, sizes, len(records.classes))


def _add(archive: tarfile.TarFile, path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"{path} is missing, but its image is in the split; delete its folder and run again")
    entry, content = tarfile.TarInfo(f"{FOLDER}/{path.name}"), path.read_bytes()
    entry.size = len(content)  # made by hand it has neither date nor owner
    archive.addfile(entry, io.BytesIO(content))
