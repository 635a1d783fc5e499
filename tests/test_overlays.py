import numpy as np
import pytest

from acr.overlays import SIDE, coloured, display_size, heat_map, marked, outline, overlay, painted, sheet, thumbnail
from acr.shapes import Grid

GREY_IMAGE = np.full((8, 16, 3), 100, np.uint8)


def test_pictures_keep_their_proportions():
    assert display_size(96, 96) == (SIDE, SIDE)
    assert display_size(500, 250) == (SIDE, SIDE // 2)
    assert display_size(1, 4000) == (1, SIDE)


def test_an_overlay_colours_objects_and_leaves_the_background_grey():
    mask = np.zeros((8, 16), np.uint8)
    mask[:, 6:10], mask[:, 10:] = 1, 255
    picture = overlay(GREY_IMAGE, mask)
    assert picture.shape == (128, SIDE, 3)
    assert picture[64, 40].tolist() == [100, 100, 100]
    assert picture[64, 128].tolist() == [117, 40, 40]  # 0.4 * 100 + 0.6 * 128: VOC's first colour is (128, 0, 0)
    assert picture[64, 220].tolist() == [193, 193, 193]  # void: white
    assert picture[64, 95].tolist() == [255, 255, 255]  # the outline


def test_an_outline_stands_between_different_values():
    mask = np.array([[0, 0, 1], [0, 0, 1], [2, 2, 2]], np.uint8)
    assert outline(mask).tolist() == [[False, True, False], [True, True, True], [False, False, False]]


def test_a_heat_map_goes_from_violet_to_yellow():
    picture = heat_map(GREY_IMAGE, np.array([[0.0, 1.0]], np.float32), opacity=1.0)
    red, green, blue = picture[64, 5].tolist()
    assert blue > red > green
    red, green, blue = picture[64, 250].tolist()
    assert red > 230
    assert green > 230
    assert blue < 50


def test_a_painted_photograph_has_its_size_and_the_colours_of_the_classes():
    photograph = np.empty((4, 6, 3), np.uint8)
    photograph[:] = (200, 50, 0)  # grey: 0.299 * 200 + 0.587 * 50, rounded 89
    mask = np.zeros((4, 6), np.uint8)
    mask[:, 2:4], mask[:, 4:] = 2, 255
    picture = painted(photograph, mask, opacity=0.5)
    grey, green, white = [89, 89, 89], [44, 108, 44], [172, 172, 172]  # VOC's second colour is (0, 128, 0)
    assert picture[0].tolist() == [grey, [255] * 3, green, [255] * 3, white, white]  # between them the outline
    assert (picture == picture[0]).all()
    assert (painted(photograph, mask, opacity=1.0)[0, [0, 2, 4]] == [grey, [0, 128, 0], [255] * 3]).all()


def test_a_mask_of_background_alone_leaves_a_grey_photograph_as_it_is():
    assert (painted(GREY_IMAGE, np.zeros((8, 16), np.uint8)) == GREY_IMAGE).all()


def test_colours_of_a_map_are_those_of_plasma_and_end_at_0_and_1():
    levels = np.array([[-1.0, 0.0, 0.5, 1.0, 2.0]], np.float32)
    lowest, low, middle, high, highest = coloured(levels)[0].tolist()
    assert lowest == low == [13, 8, 135]
    assert middle == pytest.approx([204, 71, 120], abs=2)
    assert high == highest == [240, 249, 33]


@pytest.mark.parametrize(("cell", "centre"), [((0, 0), (16, 16)), ((1, 2), (48, 80)), ((2, 4), (80, 144))])
def test_a_ring_stands_around_the_middle_of_a_cell(cell, centre):
    picture = np.full((96, 160, 3), 100, np.uint8)
    ringed = marked(picture, cell, Grid(3, 5))
    touched = np.argwhere((ringed != 100).any(-1))
    assert (touched.min(0) + touched.max(0)).tolist() == [2 * side for side in centre]
    row, column = centre
    assert ringed[row, column].tolist() == [100] * 3  # the middle stays to be seen
    assert ringed[row, column + 7].tolist() == [255] * 3
    assert ringed[row, [column + 4, column + 10]].max() < 60  # white between black
    assert (picture == 100).all()


def test_a_thumbnail_has_the_means_of_what_it_leaves_out():
    image = np.random.default_rng(0).integers(0, 256, (4 * SIDE, 2 * SIDE, 3), np.uint8)
    means = image.reshape(SIDE, 4, SIDE // 2, 4, 3).mean((1, 3))
    assert np.abs(thumbnail(image) - means).max() <= 0.51


def test_a_sheet_holds_every_picture_under_its_title():
    colours = {"photograph": 10, "truth with a title that is far too long to stand above it": 200}
    page = sheet({title: np.full((20, 60, 3), value, np.uint8) for title, value in colours.items()})
    assert page.shape == (42, 126, 3)
    assert (page[22:, :60] == 10).all()
    assert (page[22:, 66:] == 200).all()
    assert (page[:22] < 128).any()
    assert (page[:, 60:66] == 255).all()
