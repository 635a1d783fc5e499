"""Views: what a network without positions does to a transformed image must be undone exactly by `restore`."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from acr import views
from acr.shapes import Grid
from acr.views import (
    FIXED,
    HFLIP,
    IDENTITY,
    ROT90,
    ROT180,
    ROT270,
    TRANSPOSE,
    VFLIP,
    VIEWS,
    View,
    compose,
    draw,
    hide,
    moved,
    resize,
    restore,
)

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


def vec(matrix: torch.Tensor) -> torch.Tensor:
    """Eq. 10: the columns of a matrix below each other, the first on top."""
    return torch.cat(list(matrix.unbind(1)))


def commutation(rows: int, columns: int) -> torch.Tensor:
    """C of Eq. 11, from its definition: C vec(H) = vec(H^T) for every H of `rows` x `columns`."""
    units = torch.eye(rows * columns, dtype=torch.float64)
    # vec is linear, so that column k of C is its value where vec(H) is the k-th unit vector
    return torch.stack([vec(unit.view(columns, rows)) for unit in units], 1)


def reversal(size: int) -> torch.Tensor:
    """The permutation matrix that turns the order of rows (from the left) or columns (from the right) around."""
    return torch.eye(size, dtype=torch.float64).flip(0)


def factors(transposed: bool, rows: bool, columns: bool, grid: Grid) -> tuple[bool, torch.Tensor, torch.Tensor]:
    """Whether X is transposed first, P_h and P_w of Eq. 3, X' = P_h X P_w, or Eq. 4, X' = P_h X^T P_w.

    P_h has the height of X' and P_w its width; `rows` and `columns` say which of the two turns an order around.
    """
    height, width = reversed(grid) if transposed else grid
    unit = torch.eye(height, dtype=torch.float64), torch.eye(width, dtype=torch.float64)
    return transposed, reversal(height) if rows else unit[0], reversal(width) if columns else unit[1]


def equation_5(transposed: bool, p_h: torch.Tensor, p_w: torch.Tensor, attention: torch.Tensor, grid: Grid) -> torch.Tensor:
    """C^T (P_w (x) P_h^T) A' (P_w (x) P_h^T)^T C for patches that are listed column by column, as vec lists them."""
    c = commutation(*grid) if transposed else torch.eye(grid.patches, dtype=torch.float64)
    kronecker = torch.kron(p_w, p_h.T.contiguous())
    return c.T @ kronecker @ attention @ kronecker.T @ c


def by_columns(attention: torch.Tensor, grid: Grid) -> torch.Tensor:
    """An attention over tokens, which list the patches X of `grid` row by row, in the order of vec, column by column.

    Row by row is vec(X^T) = C vec(X), so that C turns an attention of the paper's order into A = C B C^T of ours, and
    C^T, which is the inverse of C, turns it back: B = C^T A C.
    """
    c = commutation(*grid)
    return c.T @ attention @ c


def by_rows(attention: torch.Tensor, grid: Grid) -> torch.Tensor:
    c = commutation(*grid)
    return c @ attention @ c.T


# (transposed, rows turned around, columns turned around); a quarter turn is a transpose and one reversal
DIHEDRAL = {
    IDENTITY: (False, False, False),
    HFLIP: (False, False, True),
    VFLIP: (False, True, False),
    ROT180: (False, True, True),
    TRANSPOSE: (True, False, False),
    ROT90: (True, True, False),
    ROT270: (True, False, True),
    compose(TRANSPOSE, ROT180): (True, True, True),
}
SHAPES = [Grid(3, 3), Grid(2, 4), Grid(5, 3), Grid(1, 4)]


def assert_equation_5(view: View, transposed: bool, p_h: torch.Tensor, p_w: torch.Tensor, grid: Grid) -> None:
    """Eq. 3 or 4 is what the view does to the patches, and Eq. 5 what `restore` does to their attention, bit by bit."""
    patches = torch.arange(grid.patches, dtype=torch.float64).view(grid)
    viewed = view.forward(patches)
    assert torch.equal(viewed, p_h @ (patches.T if transposed else patches) @ p_w)
    attention = torch.rand(grid.patches, grid.patches, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = grid_of(viewed)
    expected = by_rows(equation_5(transposed, p_h, p_w, by_columns(attention, target), grid), grid)
    assert torch.equal(restore(view, attention, target, 0), expected)


@pytest.mark.parametrize("grid", SHAPES, ids=str)
@pytest.mark.parametrize("view", DIHEDRAL, ids=lambda view: view.name)
def test_restore_is_equation_5(view: View, grid: Grid) -> None:
    assert_equation_5(view, *factors(*DIHEDRAL[view], grid), grid)


@pytest.mark.parametrize("first", DIHEDRAL, ids=lambda view: view.name)
@pytest.mark.parametrize("second", DIHEDRAL, ids=lambda view: view.name)
def test_restore_of_a_composition_is_equation_5(first: View, second: View) -> None:
    """Two views have one P_h and one P_w: P2 (P1 Y Q1) Q2, or P2 (P1 Y Q1)^T Q2 = (P2 Q1^T) Y^T (P1^T Q2)."""
    for grid in SHAPES:
        turned, p1, q1 = factors(*DIHEDRAL[first], grid)
        again, p2, q2 = factors(*DIHEDRAL[second], Grid(len(p1), len(q1)))
        p_h, p_w = (p2 @ q1.T, p1.T @ q2) if again else (p2 @ p1, q1 @ q2)
        assert_equation_5(compose(first, second), turned != again, p_h, p_w, grid)


@given(st.integers(1, 5), st.integers(1, 5), st.booleans(), st.integers(0, 99))
def test_restore_is_equation_5_for_any_order_of_rows_and_columns(height: int, width: int, transposed: bool, state: int) -> None:
    """Reversals are symmetric; an order that is not tells P from P^T."""
    rng, target = np.random.default_rng(state), (width, height) if transposed else (height, width)
    rows, columns = (torch.from_numpy(rng.permutation(size)) for size in target)

    def forward(maps: torch.Tensor) -> torch.Tensor:
        return (maps.transpose(-1, -2) if transposed else maps)[..., rows, :][..., columns]

    def inverse(maps: torch.Tensor) -> torch.Tensor:
        back = maps[..., rows.argsort(), :][..., columns.argsort()]
        return back.transpose(-1, -2) if transposed else back

    p_h = torch.eye(target[0], dtype=torch.float64)[rows]
    p_w = torch.eye(target[1], dtype=torch.float64)[:, columns]
    assert_equation_5(View("order", forward, inverse), transposed, p_h, p_w, Grid(height, width))


def test_the_commutation_matrix_is_its_own_inverse_on_square_grids_only() -> None:
    """The paper says C^T = C^-1 = C of every C; on other grids C^T is the commutation matrix of the transposed shape."""
    for rows, columns in SHAPES:
        c = commutation(rows, columns)
        assert torch.equal(c.T @ c, torch.eye(rows * columns, dtype=torch.float64))
        assert torch.equal(c.T, commutation(columns, rows))
    assert torch.equal(commutation(3, 3), commutation(3, 3).T)
    assert not torch.equal(commutation(2, 4), commutation(4, 2))


@pytest.mark.parametrize(
    ("printed", "view"),
    [
        (lambda i, j, height, width: (width - j, height - i), compose(TRANSPOSE, ROT180)),  # "90": a reflection
        (lambda i, j, height, width: (j, height - i), ROT270),  # "180": a quarter turn, clockwise
        (lambda i, j, height, width: (width - j, i), ROT90),  # "270": three of these
    ],
    ids=["90", "180", "270"],
)
def test_what_the_printed_coordinates_of_rotations_are(printed: Callable[..., tuple[int, int]], view: View) -> None:
    """Appendix B names (i, j) -> (i', j') of three rotations; `height` and `width` here are the largest i and j."""
    image = torch.arange(15).view(3, 5)
    placed = torch.empty(5, 3, dtype=image.dtype)
    for i, j in np.ndindex(3, 5):
        placed[printed(i, j, 2, 4)] = image[i, j]
    assert torch.equal(placed, view.forward(image))


@pytest.mark.parametrize("grid", [Grid(3, 5), Grid(4, 4)], ids=str)
@pytest.mark.parametrize("view", PERMUTATIONS, ids=lambda view: view.name)
def test_restore_equals_conjugation_by_the_permutation(view: View, grid: Grid) -> None:
    """A = Q^T A' Q where x' = Q x lists the patches row by row: Eq. 5 without its factors."""
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
