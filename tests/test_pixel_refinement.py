import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from acr.pixel_refinement import neighbour_mean, neighbour_weights, refine_by_pixels
from acr.recipes import PixelRefinement

CPU = torch.device("cpu")
NEAR = PixelRefinement(iterations=1, dilations=(1,), stride=1)


def test_weights_by_hand():
    """A dark cell among eight of which two are dark: with the sd of the eight, 0.4629, the bright ones weigh e^-51.9 of it."""
    image = torch.ones(3, 3, 3, dtype=torch.float64)
    image[:, 1, 0:3] = 0
    weights = neighbour_weights(image, NEAR)[:, 1, 1]
    bright = np.exp(-((1 / (0.3 * np.std([0, 0, 1, 1, 1, 1, 1, 1], ddof=1))) ** 2))
    expected = np.full(8, bright)
    expected[[3, 4]] = 1  # left and right of it
    assert np.allclose(weights, expected / expected.sum(), atol=1e-7)


def test_one_step_by_hand():
    """Where all cells are of one colour, each takes the mean of its eight neighbours; the border goes on as it ends."""
    maps = np.zeros((1, 3, 3), np.float32)
    maps[0, 0, 0] = 1
    made = refine_by_pixels(np.full((3, 3, 3), 90, np.uint8), maps, NEAR, CPU)
    # of the corner's own neighbours three lie beyond the border and repeat it
    assert np.allclose(8 * made[0], [[3, 2, 0], [2, 1, 0], [0, 0, 0]])


def test_scores_stay_on_their_side_of_an_edge():
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, 25:] = (200, 60, 30)
    maps = np.zeros((1, 10, 15), np.float32)
    maps[0, :, 4:9] = 1  # over the edge, to both sides
    settings = PixelRefinement(iterations=40, dilations=(1, 2, 4), stride=1)
    made = refine_by_pixels(image, maps, settings, CPU)[0]
    step = np.abs(np.diff(made, axis=1)).max(0)
    assert step.argmax() == 24
    assert step[24] > 3 * np.delete(step, 24).max()


@given(st.integers(0, 10_000), st.integers(1, 3))
def test_a_constant_stays_and_no_map_leaves_its_range(state, stride):
    rng = np.random.default_rng(state)
    image = rng.integers(0, 256, (13, 10, 3), dtype=np.uint8)
    maps = np.stack([np.full((4, 3), 0.25), rng.random((4, 3))]).astype(np.float32)
    settings = PixelRefinement(iterations=3, dilations=(1, 3), stride=stride)
    made = refine_by_pixels(image, maps, settings, CPU)
    assert made.shape == (2, -(-13 // stride), -(-10 // stride))
    assert np.allclose(made[0], 0.25)
    assert maps[1].min() - 1e-6 <= made[1].min() <= made[1].max() <= maps[1].max() + 1e-6


@given(st.integers(0, 10_000))
def test_a_mirrored_photograph_has_mirrored_scores(state):
    rng = np.random.default_rng(state)
    image, maps = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8), rng.random((1, 3, 4), dtype=np.float32)
    settings = PixelRefinement(iterations=2, dilations=(1, 2))
    mirrored = refine_by_pixels(image[:, ::-1].copy(), maps[..., ::-1].copy(), settings, CPU)
    assert np.allclose(mirrored[..., ::-1], refine_by_pixels(image, maps, settings, CPU), atol=1e-5)


def test_the_mean_is_a_product_with_the_matrix_of_weights():
    """An independent form: a matrix with a row a cell, filled neighbour by neighbour."""
    rng = np.random.default_rng(3)
    image = torch.from_numpy(rng.random((3, 5, 6)))
    settings = PixelRefinement(dilations=(1, 2))
    weights = neighbour_weights(image, settings).numpy()
    matrix = np.zeros((30, 30))
    places = [(d * y, d * x) for d in (1, 2) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
    for number, (y, x) in enumerate(places):
        for row, column in np.ndindex(5, 6):
            neighbour = np.clip(row + y, 0, 4) * 6 + np.clip(column + x, 0, 5)
            matrix[row * 6 + column, neighbour] += weights[number, row, column]
    assert np.allclose(matrix.sum(1), 1)
    maps = rng.random((2, 5, 6))
    found = neighbour_mean(torch.from_numpy(maps), torch.from_numpy(weights), settings.dilations)
    assert np.allclose(found.numpy().reshape(2, 30), maps.reshape(2, 30) @ matrix.T)
