"""The tarball for VOC's evaluation server: exactly what it takes, or nothing."""

import gzip
import io
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from acr.datasets.base import Record, Split, write_classes, write_split
from acr.datasets.voc12 import CLASSES
from acr.images import read_mask, write_image, write_mask
from acr.submissions import FOLDER, check_submission, write_submission

SIZES = {"2008_1": (4, 6), "2008_2": (5, 3)}


@pytest.fixture
def predicted(tmp_path):
    """The table of two photographs, and a folder of their masks with one more that is not asked for."""
    records = []
    for number, (name, size) in enumerate(SIZES.items()):
        write_image(tmp_path / f"{name}.png", np.zeros((*size, 3), np.uint8))
        write_mask(tmp_path / "masks" / f"{name}.png", np.full(size, 20 * number, np.uint8))
        records.append(Record(name, tmp_path / f"{name}.png", None, ()))
    write_mask(tmp_path / "masks" / "other.png", np.zeros((2, 2), np.uint8))
    write_classes(tmp_path / "classes.txt", CLASSES)
    write_split(tmp_path / "test.csv", Split("test", CLASSES, tuple(records)))
    return {"split": tmp_path / "test.csv", "masks": tmp_path / "masks", "output": tmp_path / "out" / "results.tgz"}


def test_it_holds_the_masks_of_the_split_where_the_server_looks(predicted):
    write_submission(**predicted)
    with tarfile.open(predicted["output"], "r:gz") as archive:
        names = archive.getnames()
        contents = {Path(name).stem: archive.extractfile(name).read() for name in names}
    assert names == [f"results/VOC2012/Segmentation/comp6_test_cls/{name}.png" for name in SIZES]
    for name in SIZES:
        assert contents[name] == (predicted["masks"] / f"{name}.png").read_bytes()
        np.testing.assert_array_equal(
            np.array(Image.open(io.BytesIO(contents[name]))), read_mask(predicted["masks"] / f"{name}.png")
        )


def test_equal_masks_give_equal_bytes(predicted, tmp_path):
    write_submission(**predicted)
    for path in predicted["masks"].iterdir():
        path.touch()
    write_submission(**{**predicted, "output": tmp_path / "again.tgz"})
    assert (tmp_path / "again.tgz").read_bytes() == predicted["output"].read_bytes()
    assert gzip.decompress(predicted["output"].read_bytes())[257:262] == b"ustar"


@pytest.mark.parametrize(
    ("mask", "sentence"),
    [
        (
            np.zeros((6, 4), np.uint8),
            " is (6, 4) pixels with values up to 0, but must be (4, 6) with values up to 20",
        ),
        (np.full((4, 6), 21, np.uint8), "is (4, 6) pixels with values up to 21, but must be (4, 6) with values up to 20"),
        (np.full((4, 6), 255, np.uint8), "with values up to 255, but"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_and_nothing_written(predicted, mask, sentence):
    write_mask(predicted["masks"] / "2008_1.png", mask)
    with pytest.raises(ValueError, match=re.escape(sentence)):
        write_submission(**predicted)
    assert not list(predicted["output"].parent.iterdir())


@pytest.mark.parametrize("kind", ["RGB", "L", "other colours", "JPEG", "text"])
def test_what_is_no_palette_png_in_vocs_colours_is_refused(predicted, kind):
    path, picture = predicted["masks"] / "2008_1.png", Image.new("P", (6, 4))
    picture.putpalette([1, 2, 3] * 256)
    if kind == "text":
        path.write_text("no image")
    elif kind == "JPEG":
        Image.new("L", (6, 4)).save(path, format="JPEG")
    else:
        (picture if kind == "other colours" else Image.new(kind, (6, 4))).save(path)
    with pytest.raises(ValueError, match=r"2008_1\.png of .* (is no palette PNG in VOC's colours|cannot be read as an image)"):
        write_submission(**predicted)


def test_a_missing_mask_is_named(predicted):
    (predicted["masks"] / "2008_2.png").unlink()
    with pytest.raises(ValueError, match=r"2008_2\.png is missing, but its image is in the split"):
        write_submission(**predicted)


def test_a_missing_and_an_extra_and_a_double_image_are_found(predicted):
    write_submission(**predicted)
    with pytest.raises(ValueError, match=r"holds 2 files for 3 images; the first that is odd is .*2008_3.png"):
        check_submission(predicted["output"], {**SIZES, "2008_3": (1, 1)}, 20)
    with pytest.raises(ValueError, match=r"holds 2 files for 1 images; the first that is odd is .*2008_2.png"):
        check_submission(predicted["output"], {"2008_1": (4, 6)}, 20)
    with tarfile.open(predicted["output"], "w:gz") as archive:
        for name in ("2008_1", "2008_2", "2008_2"):
            archive.add(predicted["masks"] / f"{name}.png", f"{FOLDER}/{name}.png")
    with pytest.raises(ValueError, match=r"holds 3 files for 2 images; the first that is odd is .*2008_2.png"):
        check_submission(predicted["output"], SIZES, 20)
