import subprocess
import sys

import numpy as np
import pytest

from acr.crf import crf_mask, dense_crf, masks
from acr.recipes import Crf

SETTINGS = Crf(gaussian_xy=1.0, gaussian_weight=3.0, bilateral_xy=20.0, bilateral_rgb=5.0, bilateral_weight=5.0)


def random_probabilities(labels: int, height: int, width: int) -> np.ndarray:
    raw = np.random.default_rng(0).random((labels, height, width), np.float32) + 0.01
    return raw / raw.sum(0)


def random_image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)


def two_colours() -> tuple[np.ndarray, np.ndarray]:
    """A grey image whose right half is brighter, and the label of each pixel."""
    truth = np.zeros((16, 20), np.int64)
    truth[:, 10:] = 1
    return np.repeat((60 + 120 * truth)[..., None], 3, axis=2).astype(np.uint8), truth


def believed(labels: np.ndarray, count: int, belief: float = 0.7) -> np.ndarray:
    """Probabilities that give `belief` to the label of each pixel and share the rest among the others."""
    chosen = labels[None] == np.arange(count)[:, None, None]
    return np.where(chosen, belief, (1 - belief) / (count - 1)).astype(np.float32)


@pytest.mark.parametrize("iterations", [0, 1, 10])
def test_without_weights_the_posterior_is_the_probabilities(iterations):
    probabilities = random_probabilities(3, 7, 11)
    settings = Crf(iterations=iterations, gaussian_weight=0.0, bilateral_weight=0.0)
    posterior = dense_crf(random_image(7, 11), 5 * probabilities, settings)
    assert np.allclose(posterior, probabilities, atol=1e-6)


def test_probabilities_of_zero_stay_finite():
    probabilities = np.zeros((2, 4, 5), np.float32)
    probabilities[0] = 1
    posterior = dense_crf(random_image(4, 5), probabilities, Crf(gaussian_weight=0.0, bilateral_weight=0.0))
    assert np.allclose(posterior[1], 1e-5 / (1 + 1e-5), rtol=1e-3)


@pytest.mark.parametrize("labels", [1, 2, 21])
@pytest.mark.parametrize(("height", "width"), [(7, 11), (11, 7), (1, 1)])
def test_the_posterior_is_a_distribution(labels, height, width):
    posterior = dense_crf(random_image(height, width), random_probabilities(labels, height, width), SETTINGS)
    assert posterior.shape == (labels, height, width)
    assert posterior.min() >= 0
    assert np.allclose(posterior.sum(0), 1, atol=1e-5)


def test_noisy_labels_are_cleaned_and_the_edge_is_kept():
    image, truth = two_colours()
    noisy = truth.copy()
    noisy[4, 3], noisy[12, 7], noisy[2, 15], noisy[9, 11] = 1, 1, 0, 0
    assert (crf_mask(image, believed(noisy, 2), SETTINGS) == truth).all()
    # without a difference in colour nothing tells the right half from noise but its extent; the lone pixels still go
    cleaned = crf_mask(np.full_like(image, 90), believed(noisy, 2), Crf(gaussian_xy=1.0, bilateral_weight=0.0))
    assert (cleaned == truth).all()


def test_height_and_width_are_not_mistaken_for_each_other():
    image, truth = two_colours()
    probabilities = believed(truth, 3)
    upright = dense_crf(image, probabilities, SETTINGS)
    lying = dense_crf(image.swapaxes(0, 1), probabilities.swapaxes(1, 2), SETTINGS)
    assert np.allclose(upright, lying.swapaxes(1, 2), atol=0.02)
    assert (upright.argmax(0) == truth).all()


def test_equal_input_gives_equal_output_whatever_the_memory_layout():
    image, probabilities = random_image(9, 13), random_probabilities(4, 9, 13)
    first = dense_crf(image, probabilities, SETTINGS)
    assert (dense_crf(image, probabilities, SETTINGS) == first).all()
    backwards = dense_crf(image[::-1].copy()[::-1], np.asfortranarray(probabilities), SETTINGS)
    assert (backwards == first).all()
    image.flags.writeable = probabilities.flags.writeable = False
    assert (dense_crf(image, probabilities, SETTINGS) == first).all()


def test_the_input_is_left_as_it_was():
    image, probabilities = random_image(5, 6), random_probabilities(2, 5, 6)
    copies = image.copy(), probabilities.copy()
    dense_crf(image, probabilities, SETTINGS)
    assert (image == copies[0]).all()
    assert (probabilities == copies[1]).all()


def test_masks_are_the_best_labels_after_the_crf_where_there_is_one():
    image, truth = two_colours()
    noisy = truth.copy()
    noisy[4, 3] = 1
    scored = [(image, believed(noisy, 2)), (image, believed(truth, 2))]
    plain, sharpened = list(masks(scored, None, 0)), list(masks(scored, SETTINGS, 0))
    assert [(mask != truth).sum() for mask in plain] == [1, 0]
    assert [(mask != truth).sum() for mask in sharpened] == [0, 0]


def test_the_processes_do_without_torch():
    code = "import sys, acr.crf; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
