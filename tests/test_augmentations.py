import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acr.augmentations import augment, random_window

IMAGE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
MASK = IMAGE[..., 0] // 3
CHANGES = {
    "hflip": lambda array: array[:, ::-1],
    "vflip": lambda array: array[::-1],
    "transpose": lambda array: array.swapaxes(0, 1),
}


def results(names: tuple[str, ...], count: int = 400) -> list[tuple[np.ndarray, ...]]:
    return [augment((IMAGE, MASK), names, np.random.default_rng(state)) for state in range(count)]


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_made_to_all_arrays_or_none_half_of_the_time(name):
    changed = 0
    for image, mask in results((name,)):
        if np.array_equal(image, IMAGE):
            assert np.array_equal(mask, MASK)
        else:
            assert np.array_equal(image, CHANGES[name](IMAGE))
            assert np.array_equal(mask, CHANGES[name](MASK))
            changed += 1
    assert 150 < changed < 250


def test_channels_permutes_the_colours_and_leaves_the_mask():
    orders = set()
    for image, mask in results(("channels",)):
        order = tuple(image[0, 0].tolist())
        assert np.array_equal(image, IMAGE[..., list(order)])  # the first pixel of IMAGE is (0, 1, 2)
        assert np.array_equal(mask, MASK)
        orders.add(order)
    assert len(orders) == 6


def test_image_and_mask_stay_together_under_all_changes():
    seen = set()
    for image, mask in results(("hflip", "vflip", "transpose", "channels")):
        assert np.array_equal(image.min(axis=2) // 3, mask)
        seen.add(mask.tobytes() + bytes(mask.shape))
    assert len(seen) == 8


def test_nothing_named_is_nothing_changed():
    image, mask = augment((IMAGE, MASK), (), np.random.default_rng(0))
    assert image is IMAGE
    assert mask is MASK


@given(height=st.integers(1, 30), width=st.integers(1, 30), size=st.integers(1, 30), state=st.integers(0, 1000))
def test_a_window_lies_inside_the_image_or_holds_it(height, width, size, state):
    corner = random_window(np.random.default_rng(state), height, width, size)
    for first, side in zip(corner, (height, width), strict=True):
        if side >= size:
            assert 0 <= first <= side - size
        else:
            assert side - size <= first <= 0


def test_every_window_is_drawn():
    rng = np.random.default_rng(0)
    corners = {random_window(rng, 5, 2, 3) for _ in range(300)}
    assert corners == {(top, left) for top in (0, 1, 2) for left in (-1, 0)}
