"""Views: what a network without positions does to a transformed image must be undone exactly by `restore`."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from acr import views
from acr.shapes import Grid
from acr.views import FIXED, HFLIP, IDENTITY, ROT90, VFLIP, VIEWS, View, compose, draw, hide, moved, resize, restore

PERMUTATIONS = [view for view in FIXED if view.name != "grey"] + [compose(HFLIP, VFLIP), compose(ROT90, HFLIP)]
GRIDS = [Grid(4, 4), Grid(3, 5), Grid(1, 6)]


def attention_of(tokens: torch.Tensor) -> torch.Tensor:
    """Softmax attention of tokens with themselves: it knows contents, not positions."""
    return torch.softmax(tokens @ tokens.transpose(-1, -2), -1)


def tokens_of(image: torch.Tensor, special: torch.Tensor) -> torch.Tensor:
    """Special tokens, then each pixel of "B 3 h w" as a token."""
    return torch.cat([special.expand(len(image), -1, -1), image.flatten(2).transpose(1, 2)], 1)


def grid_of(image: torch.Tensor) -> Grid:
    return Grid(*image.shape[-2:])


@pytest.mark.parametrize("special", [0, 1, 2, 5])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("view", PERMUTATIONS, ids=lambda view: view.name)
def test_restore_is_exact_for_permutations(view: View, grid: Grid, special: int) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 3, *grid, generator=generator, dtype=torch.float64)
    tokens = torch.randn(1, special, 3, generator=generator, dtype=torch.float64)
    viewed = view.forward(image)
    restored = restore(view, attention_of(tokens_of(viewed, tokens)), grid_of(viewed), special)
    assert torch.allclose(restored, attention_of(tokens_of(image, tokens)), atol=1e-12, rtol=0)


@pytest.mark.parametrize("wrong", [IDENTITY, VFLIP, ROT90], ids=lambda view: view.name)
def test_a_wrong_inverse_is_rejected(wrong: View) -> None:
    image = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    none = torch.zeros(1, 0, 3, dtype=torch.float64)
    viewed = HFLIP.forward(image)
    restored = restore(View("wrong", HFLIP.forward, wrong.inverse), attention_of(tokens_of(viewed, none)), Grid(4, 4), 0)
    assert (restored - attention_of(tokens_of(image, none))).abs().max() > 0.1


def permutation_matrix(view: View, grid: Grid) -> np.ndarray:
    """The matrix that orders the row-major patches of the image as the view orders them."""
    places = torch.arange(grid.patches).view(grid)
    return np.eye(grid.patches)[view.forward(places).flatten().numpy()]


@pytest.mark.parametrize("grid", [Grid(3, 5), Grid(4, 4)], ids=str)
@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("columns", [False, True])
def test_flips_equal_the_kronecker_form_of_equation_5(grid: Grid, rows: bool, columns: bool) -> None:
    """X' = P_h X P_w; with the paper's column-major vec, f^-1(A') = (P_w (x) P_h^T) A' (P_w (x) P_h^T)^T."""
    attention = np.random.default_rng(0).random((grid.patches, grid.patches))
    left = np.eye(grid.height)[::-1] if rows else np.eye(grid.height)
    right = np.eye(grid.width)[::-1] if columns else np.eye(grid.width)
    kronecker = np.kron(right, left.T)
    # attention matrices here list patches row by row, the paper's column by column
    order = np.arange(grid.patches).reshape(grid).T.flatten()
    expected = np.empty_like(attention)
    expected[np.ix_(order, order)] = kronecker @ attention[np.ix_(order, order)] @ kronecker.T
    dims = [axis for axis, used in ((-2, rows), (-1, columns)) if used]
    view = View("flip", lambda x: x.flip(dims), lambda x: x.flip(dims))
    assert np.array_equal(restore(view, torch.from_numpy(attention), grid, 0).numpy(), expected)


@pytest.mark.parametrize("grid", [Grid(3, 5), Grid(4, 4)], ids=str)
@pytest.mark.parametrize("view", PERMUTATIONS, ids=lambda view: view.name)
def test_restore_equals_conjugation_by_the_permutation(view: View, grid: Grid) -> None:
    """Eq. 5 for every permutation, the commutation matrix of rotations included: A = Q^T A' Q where x' = Q x."""
    attention = np.random.default_rng(1).random((grid.patches, grid.patches))
    order = permutation_matrix(view, grid)
    target = grid_of(view.forward(torch.zeros(1, 1, *grid)))
    restored = restore(view, torch.from_numpy(attention), target, 0).numpy()
    assert np.array_equal(restored, order.T @ attention @ order)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2))
def test_resized_attention_keeps_its_rows_mass(height: int, width: int, rows: int, columns: int, special: int) -> None:
    source, target = Grid(height, width), Grid(rows, columns)
    raw = np.random.default_rng(0).random((special + target.patches,) * 2)
    attention = torch.from_numpy(raw / raw.sum(-1, keepdims=True))
    restored = restore(resize(target, source), attention, target, special)
    assert restored.shape == (special + source.patches,) * 2
    assert torch.allclose(restored.sum(-1), torch.ones(special + source.patches, dtype=torch.float64), atol=1e-12)


def test_resize_by_two_averages_queries_and_adds_keys() -> None:
    """Each patch of the image is 2x2 patches of the view: by hand, mean over the four queries of the sum over the four keys."""
    attention = torch.from_numpy(np.random.default_rng(0).random((4, 4)))
    restored = restore(resize(Grid(2, 2), Grid(1, 1)), attention, Grid(2, 2), 0)
    assert torch.allclose(restored, attention.sum(1).mean().view(1, 1), atol=1e-12)


def test_resize_scales_pixels_by_the_ratio_of_the_grids() -> None:
    view = resize(Grid(3, 6), Grid(2, 4))
    assert view.forward(torch.zeros(1, 3, 16, 32)).shape == (1, 3, 24, 48)
    constant = view.forward(torch.full((1, 3, 16, 32), 0.25))
    assert torch.allclose(constant, torch.full_like(constant, 0.25), atol=1e-6)


def test_hidden_patches_are_grey_and_the_others_untouched() -> None:
    visible = torch.tensor([[True, False], [True, True]])
    image = torch.rand(1, 3, 8, 8)
    shown = hide(visible).forward(image)
    assert torch.equal(shown[..., :4, 4:], torch.full((1, 3, 4, 4), 0.5))
    assert torch.equal(shown[..., 4:, :], image[..., 4:, :])


def test_grey_of_a_grey_image_is_the_image() -> None:
    image = torch.rand(1, 1, 4, 4).expand(1, 3, 4, 4)
    assert torch.allclose(views.GREY.forward(image), image, atol=1e-6)


@pytest.mark.parametrize("name", [*VIEWS, "hflip+vflip", "hide+hflip", "hflip+resize"])
def test_every_name_draws_the_same_view_from_the_same_state(name: str) -> None:
    image = torch.rand(1, 3, 32, 32)
    one, two = (draw((name,), np.random.default_rng(5), Grid(4, 4)).forward(image) for _ in range(2))
    assert torch.equal(one, two)


def test_draw_chooses_each_name() -> None:
    rng = np.random.default_rng(0)
    names = [draw(("hflip", "vflip"), rng, Grid(2, 2)).name for _ in range(200)]
    assert 70 < names.count("hflip") < 130


def test_what_a_later_view_hides_is_named_in_the_image() -> None:
    visible = torch.tensor([[True, False], [True, True], [True, True]])
    turned_then_hidden = compose(ROT90, hide(visible))
    # counter-clockwise: the upper right of the turned image was the lower right, of a grid of 2 x 3
    assert turned_then_hidden.visible.tolist() == ROT90.inverse(visible).tolist()
    both = compose(hide(torch.tensor([[False, True, True], [True, True, True]])), turned_then_hidden)
    assert (~both.visible).sum() == 2
    assert not both.visible[0, 0]
    halved = compose(resize(Grid(1, 1), Grid(2, 2)), hide(torch.tensor([[False]])))
    assert halved.visible.tolist() == [[False, False], [False, False]]


@pytest.mark.parametrize("name", ["rot90+hide", "hide+rot90", "resize+hflip+hide", "transpose+resize", "rotation+hide+grey"])
def test_any_composition_by_name_fits_rectangular_grids(name: str) -> None:
    for state in range(5):
        grid = Grid(3, 5)
        view = draw((name,), np.random.default_rng(state), grid)
        images = torch.rand(2, 3, 24, 40)
        target = moved(view, grid)
        viewed = view.forward(images)
        assert viewed.shape[-2:] == (8 * target.height, 8 * target.width)
        assert view.inverse(torch.rand(*target)).shape == grid
        if view.visible is not None:
            assert view.visible.shape == grid
