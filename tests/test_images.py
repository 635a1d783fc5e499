"""Pixels come out as they went in; windows and sizes by hand; damaged files are named."""

import pickle

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from acr.images import (
    LARGEST,
    UnreadableError,
    at_full_size,
    check_mask,
    crop,
    image_size,
    palette,
    read_image,
    read_mask,
    read_working_image,
    resize_image,
    resize_mask,
    working_size,
    write_image,
    write_mask,
)
from acr.shapes import VOID


@pytest.fixture
def rgb():
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


def test_palette_has_the_published_colours():
    colours = palette()
    # VOCdevkit: aeroplane, bicycle, boat, bus, sheep, tvmonitor, void
    assert colours[0].tolist() == [0, 0, 0]
    assert colours[1].tolist() == [128, 0, 0]
    assert colours[2].tolist() == [0, 128, 0]
    assert colours[4].tolist() == [0, 0, 128]
    assert colours[6].tolist() == [0, 128, 128]
    assert colours[17].tolist() == [128, 64, 0]
    assert colours[20].tolist() == [0, 64, 128]
    assert colours[VOID].tolist() == [224, 224, 192]
    assert len({tuple(colour) for colour in colours.tolist()}) == 256


def test_png_keeps_every_pixel_in_the_order_red_green_blue(tmp_path, rgb):
    write_image(tmp_path / "a" / "image.png", rgb)
    np.testing.assert_array_equal(read_image(tmp_path / "a" / "image.png"), rgb)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a" / "image.png"))[..., ::-1], rgb)
    assert image_size(tmp_path / "a" / "image.png") == (5, 7)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["image.png"]


def test_grey_transparent_and_palette_photographs_become_rgb(tmp_path, rgb):
    Image.fromarray(rgb[..., 0]).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.repeat(rgb[..., :1], 3, axis=2))
    Image.fromarray(np.dstack([rgb, rgb[..., :1]])).save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.png"), rgb)
    write_mask(tmp_path / "palette.png", np.array([[1, 2]], np.uint8))
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), [[[128, 0, 0], [0, 128, 0]]])


def test_exif_orientation_is_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(np.zeros((4, 8, 3), np.uint8)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (4, 8, 3)
    assert image_size(tmp_path / "turned.jpg") == (4, 8)


def test_masks_keep_all_values_in_voc_colours(tmp_path):
    mask = np.arange(256, dtype=np.uint8).reshape(8, 32)
    write_mask(tmp_path / "mask.png", mask)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), mask)
    with Image.open(tmp_path / "mask.png") as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.array(picture.convert("RGB")), palette()[mask])


def test_grey_masks_are_read_as_values(tmp_path):
    mask = np.array([[0, 1, 255]], np.uint8)
    Image.fromarray(mask).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), mask)


def test_coloured_masks_are_refused(tmp_path, rgb):
    write_image(tmp_path / "mask.png", rgb)
    with pytest.raises(ValueError, match=r"mask\.png has pixels of mode RGB, but a mask must be an 8-bit palette or grey PNG"):
        read_mask(tmp_path / "mask.png")


@pytest.mark.parametrize("read", [read_image, read_mask, image_size])
def test_missing_and_damaged_files_are_named(tmp_path, read):
    with pytest.raises(ValueError, match=r"none\.png does not exist"):
        read(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"text\.png cannot be read as an image"):
        read(tmp_path / "text.png")


def test_an_unreadable_file_says_why_and_what_to_do_in_every_process(tmp_path):
    for content, reason in ((b"", "it is empty"), (b"no image", "it is in no format of images")):
        (tmp_path / "a.jpg").write_bytes(content)
        with pytest.raises(UnreadableError) as caught:
            read_image(tmp_path / "a.jpg")
        assert caught.value.reason == reason
        sentence = (
            f"{tmp_path}/a.jpg cannot be read as an image ({reason}); replace it, "
            "or run snakemake with --forcerun splits, which leaves unreadable photographs out"
        )
        # processes hand errors over pickled, those of torch build them anew from their text
        again = pickle.loads(pickle.dumps(caught.value))
        assert str(caught.value) == str(again) == str(type(again)(str(again))) == sentence
        assert again.reason == reason


def test_the_other_colour_spaces_of_photographs_become_rgb(tmp_path, rgb):
    Image.fromarray(np.zeros((4, 5), np.uint8) + 7).convert("CMYK").save(tmp_path / "cmyk.jpg")
    assert np.abs(read_image(tmp_path / "cmyk.jpg").astype(int) - 7).max() <= 2
    Image.fromarray(rgb[:1, :1]).save(tmp_path / "one.png")
    np.testing.assert_array_equal(read_image(tmp_path / "one.png"), rgb[:1, :1])


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1, 1), (1, 1)),
        ((375, 500), (375, 500)),
        ((1000, 2000), (1000, 2000)),
        ((2000, 4000), (1000, 2000)),
        ((3648, 5472), (1154, 1732)),
        ((1, 8_000_000), (1, 4_000_000)),
    ],
)
def test_the_working_size_is_the_own_one_up_to_two_million_pixels(size, expected):
    assert working_size(*size) == expected


@given(st.integers(1, 10**5), st.integers(1, 10**5))
def test_the_working_size_keeps_the_shape(height, width):
    i, j = working_size(height, width)
    assert i * j <= LARGEST or 1 in (i, j)
    assert i == height or abs(i / height - j / width) <= 1 / min(height, width)


def test_large_photographs_are_worked_on_smaller_and_their_masks_come_back(tmp_path):
    pixels = np.zeros((2000, 4000, 3), np.uint8)
    pixels[:, 2000:] = 200
    write_image(tmp_path / "large.png", pixels)
    image = read_working_image(tmp_path / "large.png")
    np.testing.assert_array_equal(image, resize_image(pixels, 1000, 2000))
    mask = at_full_size((image[..., 0] > 100).astype(np.uint8), tmp_path / "large.png")
    np.testing.assert_array_equal(mask, pixels[..., 0] > 100)


def test_a_mask_of_another_size_or_with_unknown_values_is_refused(tmp_path):
    check_mask(np.full((4, 5), VOID, np.uint8), (4, 5), 2, tmp_path)
    check_mask(np.full((4, 5), 2, np.uint8), (4, 5), 2, tmp_path)
    with pytest.raises(ValueError, match="is 5 x 4 pixels, but its image is 4 x 5; make it again at the size of its image"):
        check_mask(np.zeros((5, 4), np.uint8), (4, 5), 2, tmp_path)
    with pytest.raises(ValueError, match=r"holds the value 3, but the values of 2 classes are 0 \(background\) to 2 and 255"):
        check_mask(np.full((4, 5), 3, np.uint8), (4, 5), 2, tmp_path)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_files_cut_short_are_refused(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    write_image(tmp_path / f"whole{suffix}", noise)
    content = (tmp_path / f"whole{suffix}").read_bytes()
    (tmp_path / f"cut{suffix}").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=rf"cut{suffix} cannot be read as an image"):
        read_image(tmp_path / f"cut{suffix}")


def test_shrinking_averages_areas():
    image = np.zeros((2, 4, 3), np.uint8)
    image[:, :2] = [[[10, 0, 100]], [[30, 0, 100]]]
    np.testing.assert_array_equal(resize_image(image, 1, 2), [[[20, 0, 100], [0, 0, 0]]])


def test_shrinking_misses_no_pixel():
    image = np.zeros((4, 4, 3), np.uint8)
    image[0, 0] = 160
    assert resize_image(image, 1, 1).tolist() == [[[10, 10, 10]]]


def test_growing_interpolates_between_pixel_centres():
    image = np.repeat(np.array([[[0], [100]]], np.uint8), 3, axis=2)
    # centres of the four new pixels lie at -0.25, 0.25, 0.75 and 1.25 of the old ones
    np.testing.assert_array_equal(resize_image(image, 1, 4)[0, :, 0], [0, 25, 75, 100])


@given(
    arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12))),
    st.integers(1, 30),
    st.integers(1, 30),
)
def test_a_resized_mask_takes_the_value_under_each_centre(mask, height, width):
    # (i + 1/2) * old / new in whole numbers; a centre on the border of two pixels may fall to either
    rows, columns = (
        ((2 * np.arange(new) + 1) * old // (2 * new), (2 * np.arange(new) + 1) * old % (2 * new) == 0)
        for new, old in ((height, mask.shape[0]), (width, mask.shape[1]))
    )
    inside = ~rows[1][:, None] & ~columns[1][None]
    resized = resize_mask(mask, height, width)
    assert resized.shape == (height, width)
    np.testing.assert_array_equal(resized[inside], mask[np.ix_(rows[0], columns[0])][inside])


def test_crop_by_hand():
    array = np.arange(1, 7, dtype=np.uint8).reshape(2, 3)
    np.testing.assert_array_equal(crop(array, -1, 1, 3, VOID), [[255, 255, 255], [2, 3, 255], [5, 6, 255]])
    np.testing.assert_array_equal(crop(array, 0, 0, 2, 0), [[1, 2], [4, 5]])
    np.testing.assert_array_equal(crop(array, 5, -9, 2, 7), [[7, 7], [7, 7]])


@given(st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 8))
def test_crop_is_a_window_of_the_padded_array(top, left, size):
    array = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float32)
    fill = np.array([0.5, -1, 2], np.float32)
    padded = np.broadcast_to(fill, (4 + 40, 6 + 40, 3)).copy()
    padded[20:24, 20:26] = array
    window = crop(array, top, left, size, fill)
    assert window.dtype == np.float32
    np.testing.assert_array_equal(window, padded[20 + top : 20 + top + size, 20 + left : 20 + left + size])


def test_crop_copies():
    array = np.zeros((2, 2), np.uint8)
    crop(array, 0, 0, 2, 0)[:] = 9
    assert (array == 0).all()


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_a_photograph_of_more_than_8_bits_is_refused_not_cut_off(tmp_path, kind):
    Image.fromarray(np.full((4, 6), 300, kind)).save(tmp_path / "deep.tif")
    with pytest.raises(UnreadableError, match=r"deep\.tif cannot be read .*pixels are of mode .*8 bits a channel"):
        read_image(tmp_path / "deep.tif")
