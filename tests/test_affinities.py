"""The pairs, the loss and the walk of PSA and the boundaries of IRN, against loops, dense matrices and cases by hand."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from acr import affinities
from acr.affinities import (
    TOLERANCE,
    Objective,
    Sample,
    affinity,
    affinity_loss,
    affinity_without_gradient,
    boundary_affinity,
    boundary_affinity_without_gradient,
    chebyshev,
    majority,
    neighbours,
    pair_labels,
    random_walk,
    train_affinity,
    transition,
    way,
)
from acr.config import canonical
from acr.files import read_json, write_arrays
from acr.models.affinity_net import AffinityNet
from acr.recipes import Affinity, Training
from acr.shapes import VOID, Grid
from benchmarks import reference
from tests.test_confident_labels import make_labels, scene, scenes

WINDOW = Grid(6, 5)
RADIUS = 3


def each_pair(grid, radius):
    """All pairs of cells nearer than `radius`, by four loops, in the order of `affinities`."""
    for y, x in neighbours(radius):
        for row, column in itertools.product(range(grid.height), range(grid.width)):
            if 0 <= row + y < grid.height and 0 <= column + x < grid.width:
                yield (row, column), (row + y, column + x)


def random_features(grid, count=1, seed=0):
    return torch.randn(count, 7, *grid, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def walk_matrix(grid, radius, exponent=2.0, seed=0):
    offsets = neighbours(radius)
    return transition(affinity(random_features(grid, seed=seed), offsets)[0].numpy(), grid, offsets, exponent)


def test_psa_has_34_neighbours():
    assert len(neighbours(5)) == 34
    assert neighbours(2) == ((0, 1), (1, -1), (1, 0), (1, 1))
    with pytest.raises(ValueError, match="radius is 1, which leaves a cell without neighbours"):
        neighbours(1)


@given(st.integers(2, 7))
def test_neighbours_and_their_opposites_fill_the_disc_without_its_centre(radius):
    half = set(neighbours(radius))
    opposite = {(-y, -x) for y, x in half}
    span = range(-radius, radius + 1)
    assert not half & opposite
    assert half | opposite == {(y, x) for y in span for x in span if 0 < math.hypot(y, x) < radius}


def test_affinities_are_those_of_four_loops():
    features = random_features(WINDOW)
    found = affinity(features, neighbours(RADIUS))[0]
    expected = [torch.exp(-(features[0, :, *i] - features[0, :, *j]).abs().mean()) for i, j in each_pair(WINDOW, RADIUS)]
    torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize("grid", [WINDOW, Grid(4, 2), Grid(1, 1)], ids=str)
def test_gradients_of_affinities_are_those_of_four_loops(grid):
    count, generator = len(list(each_pair(grid, RADIUS))), torch.Generator().manual_seed(1)
    weights = torch.randn(2, count, dtype=torch.float64, generator=generator)
    ours, plain = (random_features(grid, count=2).requires_grad_() for _ in range(2))
    (affinity(ours, neighbours(RADIUS)) * weights).sum().backward()
    distances = [(plain[:, :, *i] - plain[:, :, *j]).abs().mean(1) for i, j in each_pair(grid, RADIUS)]
    expected = torch.exp(-torch.stack([*distances, torch.zeros_like(plain[:, 0, 0, 0])], dim=1))[:, :-1]
    ((expected * weights).sum() + 0 * plain.sum()).backward()  # a single cell has no pairs
    torch.testing.assert_close(ours.grad, plain.grad, rtol=0, atol=1e-14)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(2, 6), st.sampled_from([8, 60, 10**6]))
def test_affinities_without_gradient_are_those_of_gathered_features(height, width, radius, cached):
    features = random_features(Grid(height, width))[0].float()
    expected = reference.psa_affinities(features, neighbours(radius))
    torch.testing.assert_close(affinity(features[None], neighbours(radius))[0], expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(affinities, "CACHED", cached)
        found = affinity_without_gradient(features.numpy(), neighbours(radius))
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-7)


def test_the_way_to_a_neighbour():
    assert way((0, 1)) == ((0, 0), (0, 1))
    assert way((2, -3)) == ((0, 0), (1, -1), (1, -2), (2, -3))
    assert way((1, 2)) == ((0, 0), (0, 1), (1, 1), (1, 2))  # the line runs between two cells
    assert way((3, 3)) == ((0, 0), (1, 1), (2, 2), (3, 3))


@given(st.integers(0, 9), st.integers(-9, 9))
def test_the_way_back_is_the_same_way(y, x):
    if (y, x) > (0, 0):
        assert {(y - row, x - column) for row, column in way((y, x))} == set(way((y, x)))
        assert {(row, -column) for row, column in way((y, x))} == set(way((y, -x)))


def random_boundaries(grid, seed=0):
    return torch.rand(1, 1, *grid, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def between(first, second):
    """The cells of the rectangle of two cells that lie within half a cell of their line, along its shorter side."""
    (y, x), (to_y, to_x) = first, second
    for cell in itertools.product(range(min(y, to_y), max(y, to_y) + 1), range(min(x, to_x), max(x, to_x) + 1)):
        beside = abs((cell[0] - y) * (to_x - x) - (cell[1] - x) * (to_y - y))
        if 2 * beside <= max(abs(to_x - x), abs(to_y - y)):
            yield cell


@pytest.mark.parametrize("grid", [WINDOW, Grid(9, 11), Grid(4, 2), Grid(1, 7), Grid(7, 1), Grid(1, 1)], ids=str)
@pytest.mark.parametrize("radius", [2, 3, 5])
def test_boundary_affinities_are_those_of_loops_over_the_cells_between(grid, radius):
    boundaries = random_boundaries(grid)
    expected = [1 - max(boundaries[0, 0][cell].item() for cell in between(*pair)) for pair in each_pair(grid, radius)]
    assert boundary_affinity(boundaries, neighbours(radius))[0].tolist() == pytest.approx(expected)
    single = boundary_affinity_without_gradient(boundaries[0].float().numpy(), neighbours(radius))
    np.testing.assert_allclose(single, expected, rtol=0, atol=1e-6)


def test_gradients_of_boundary_affinities_are_those_of_differences():
    boundaries = random_boundaries(WINDOW).requires_grad_()
    assert torch.autograd.gradcheck(lambda each: boundary_affinity(each, neighbours(RADIUS)), boundaries)


def test_without_boundaries_all_cells_belong_together():
    assert (boundary_affinity(torch.zeros(1, 1, *WINDOW), neighbours(5)) == 1).all()
    assert (boundary_affinity(torch.ones(1, 1, *WINDOW), neighbours(5)) == 0).all()


@pytest.mark.parametrize("turn", [lambda a: a.flip(-1), lambda a: a.flip(-2), lambda a: a.transpose(-1, -2)])
def test_the_walk_between_boundaries_turns_with_the_image(turn):
    boundaries, offsets = random_boundaries(WINDOW), neighbours(5)
    order = turn(torch.arange(WINDOW.patches).reshape(WINDOW)).flatten().numpy()
    matrix = transition(boundary_affinity(boundaries, offsets)[0].numpy(), WINDOW, offsets, 2.0).toarray()
    grid = Grid(*turn(boundaries).shape[-2:])
    turned = transition(boundary_affinity(turn(boundaries), offsets)[0].numpy(), grid, offsets, 2.0).toarray()
    np.testing.assert_allclose(turned, matrix[np.ix_(order, order)], rtol=0, atol=1e-14)


def test_walks_do_not_cross_a_boundary():
    boundaries, offsets = torch.zeros(1, 1, 6, 9), neighbours(5)
    boundaries[..., 4] = 1
    matrix = transition(boundary_affinity(boundaries, offsets)[0].numpy(), Grid(6, 9), offsets, 1.0)
    maps = np.zeros((1, 6, 9), np.float32)
    maps[0, 0, 0] = 1
    walked = random_walk(maps, matrix, 300)
    assert (walked[0, :, :4] > 0.01).all()
    assert (walked[0, :, 4:] < 1e-7).all()  # the wall itself, and all behind it


def test_pair_labels_are_those_of_four_loops():
    labels = torch.tensor(np.random.default_rng(0).choice([0, 1, 2, VOID], (1, *WINDOW)))
    found = [chosen[0].tolist() for chosen in pair_labels(labels, neighbours(RADIUS))]
    expected = [[], [], []]
    for i, j in each_pair(WINDOW, RADIUS):
        first, second = labels[0, *i].item(), labels[0, *j].item()
        known = VOID not in (first, second)
        expected[0].append(known and first == second == 0)
        expected[1].append(known and first == second > 0)
        expected[2].append(known and first != second)
    assert found == expected
    assert all(sum(chosen) > 5 for chosen in found)


def test_the_loss_is_that_of_a_loop():
    rng = np.random.default_rng(1)
    labels = torch.tensor(rng.choice([0, 1, 2, VOID], (2, *WINDOW)))
    values = affinity(random_features(WINDOW, count=2), neighbours(RADIUS))
    sums, counts = dict.fromkeys("bfn", 0.0), dict.fromkeys("bfn", 0)
    for image in range(2):
        for value, (i, j) in zip(values[image].tolist(), each_pair(WINDOW, RADIUS), strict=True):
            first, second = labels[image, *i].item(), labels[image, *j].item()
            if VOID in (first, second):
                continue
            kind = "n" if first != second else "f" if first else "b"
            sums[kind] -= math.log(1 + 1e-5 - value if kind == "n" else value + 1e-5)
            counts[kind] += 1
    background, foreground, negative = (sums[kind] / counts[kind] for kind in "bfn")
    terms = affinity_loss(values, pair_labels(labels, neighbours(RADIUS)))
    assert terms["background"].item() == pytest.approx(background, rel=1e-12)
    assert terms["foreground"].item() == pytest.approx(foreground, rel=1e-12)
    assert terms["negative"].item() == pytest.approx(negative, rel=1e-12)
    assert terms["loss"].item() == pytest.approx(background / 4 + foreground / 4 + negative / 2, rel=1e-12)


def test_the_loss_of_three_cells_by_hand():
    # cells 0 0 1: one background pair of affinity 1, one negative of affinity e^-2
    features = torch.tensor([0.0, 0.0, 2.0], dtype=torch.float64).view(1, 1, 1, 3)
    labels = torch.tensor([0, 0, 1]).view(1, 1, 3)
    terms = affinity_loss(affinity(features, ((0, 1),)), pair_labels(labels, ((0, 1),)))
    assert terms["background"].item() == pytest.approx(0, abs=2e-5)
    assert terms["foreground"].item() == 0
    assert terms["negative"].item() == pytest.approx(-math.log(1 - math.exp(-2)), abs=2e-5)


def test_void_everywhere_gives_no_loss_and_no_gradient():
    features = random_features(WINDOW).requires_grad_()
    labels = torch.full((1, *WINDOW), VOID)
    loss = affinity_loss(affinity(features, neighbours(RADIUS)), pair_labels(labels, neighbours(RADIUS)))["loss"]
    loss.backward()
    assert loss.item() == 0
    assert not features.grad.any()


def test_equal_features_have_affinity_one_and_finite_gradients():
    features = torch.ones(1, 7, *WINDOW, requires_grad=True)
    found = affinity(features, neighbours(RADIUS))
    assert (found == 1).all()
    labels = torch.tensor(np.random.default_rng(0).choice([0, 1], (1, *WINDOW)))
    affinity_loss(found, pair_labels(labels, neighbours(RADIUS)))["loss"].backward()
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("grid", [WINDOW, Grid(1, 1), Grid(2, 2), Grid(1, 7), Grid(7, 1), Grid(3, 4)])
@pytest.mark.parametrize("radius", [2, 5])
def test_the_transition_is_that_of_the_dense_matrix(grid, radius):
    values = affinity(random_features(grid), neighbours(radius))[0]
    found = transition(values.numpy(), grid, neighbours(radius), 3.0)
    assert isinstance(found, sparse.dia_array)
    expected = reference.psa_transition(values, grid, neighbours(radius), 3.0).numpy().T
    np.testing.assert_allclose(found.toarray(), expected, rtol=0, atol=1e-14)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-14)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(2, 5),
    st.sampled_from([0, 1, 2, 7, 40, 64, 256, 1000]),
    st.integers(0, 99),
)
def test_the_walk_equals_powers_of_the_dense_matrix(height, width, radius, steps, seed):
    grid = Grid(height, width)
    matrix = walk_matrix(grid, radius, seed=seed)
    maps = np.random.default_rng(seed).random((3, *grid))
    stepwise = maps.reshape(3, -1).T
    for _ in range(steps):
        stepwise = matrix @ stepwise
    found = random_walk(maps, matrix, steps).reshape(3, -1)
    np.testing.assert_allclose(found, stepwise.T, rtol=0, atol=1e-7)
    dense = np.linalg.matrix_power(matrix.toarray(), steps)
    np.testing.assert_allclose(found, maps.reshape(3, -1) @ dense.T, rtol=0, atol=1e-7)


def test_the_walk_is_that_of_psa():
    grid, offsets = Grid(20, 28), neighbours(5)
    values = affinity(random_features(grid).float(), offsets)[0]
    maps = torch.rand(3, *grid, generator=torch.Generator().manual_seed(1))
    found = random_walk(maps.numpy(), transition(values.numpy(), grid, offsets, 8.0), 256)
    densely = reference.psa_walk(maps.double(), values.double(), offsets, 8.0)
    np.testing.assert_allclose(found, densely, rtol=0, atol=5e-6)
    assert (found.argmax(0) == densely.argmax(0).numpy()).all()
    stepwise = reference.stepwise_walk(maps.double().numpy(), values.double().numpy(), offsets, 8.0, 256)
    np.testing.assert_allclose(stepwise, densely, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("steps", "products"), [(0, 0), (1, 1), (2, 2), (16, 16), (64, 44), (256, 90), (1000, 180)])
def test_a_power_is_a_short_sum_of_chebyshev_polynomials(steps, products):
    weights = chebyshev(steps)
    assert len(weights) - 1 == products
    eigenvalues = np.linspace(-1, 1, 2001)
    found = np.polynomial.chebyshev.chebval(eigenvalues, weights)
    np.testing.assert_allclose(found, eigenvalues**steps, rtol=0, atol=TOLERANCE)


def test_a_walk_keeps_constants_and_stays_in_range():
    maps = np.random.default_rng(0).random((3, *WINDOW))
    maps[1] = 0.37
    walked = random_walk(maps, walk_matrix(WINDOW, RADIUS), steps=40)
    assert (walked[1] == 0.37).all()
    for before, after in zip(maps[[0, 2]], walked[[0, 2]], strict=True):
        assert before.min() < after.min() < after.max() < before.max()


def test_a_walk_in_single_precision_stays_in_it():
    matrix = transition(np.full(len(list(each_pair(WINDOW, RADIUS))), 0.5, np.float32), WINDOW, neighbours(RADIUS), 8.0)
    assert random_walk(np.ones((2, *WINDOW), np.float32), matrix, 3).dtype == np.float32
    assert random_walk(np.ones((0, *WINDOW), np.float32), matrix, 3).shape == (0, *WINDOW)


def test_a_large_exponent_stops_the_walk_and_zero_forgets_the_image():
    maps = np.random.default_rng(0).random((2, *WINDOW)).astype(np.float32)
    features = 5 * random_features(WINDOW).float()
    values = affinity(features, neighbours(RADIUS))[0].numpy()
    still = transition(values, WINDOW, neighbours(RADIUS), 1e4)
    np.testing.assert_allclose(random_walk(maps, still, 50), maps, rtol=0, atol=1e-6)
    blind = transition(values, WINDOW, neighbours(RADIUS), 0.0)
    # the 5 x 5 cells nearer than 3 to (3, 2) all lie inside the grid
    np.testing.assert_allclose(random_walk(maps, blind, 1)[:, 3, 2], maps[:, 1:6].mean((1, 2)), rtol=1e-6)


def test_walks_do_not_cross_a_wall():
    features = torch.zeros(1, 1, 4, 8)
    features[..., 4:] = 1000.0
    offsets = neighbours(5)
    matrix = transition(affinity(features, offsets)[0].numpy(), Grid(4, 8), offsets, 1.0)
    maps = np.zeros((1, 4, 8), np.float32)
    maps[0, 0, 0] = 1
    walked = random_walk(maps, matrix, 300)
    assert (walked[0, :, :4] > 0.01).all()
    assert (walked[0, :, 4:] < 1e-7).all()


def test_the_majority_of_a_cell():
    labels = np.array([[0, 3, 3, 3], [3, 3, 3, 255], [255, 255, 1, 2], [255, 0, 2, 1]], np.uint8)
    assert majority(labels, 2).tolist() == [[3, 3], [255, 1]]
    assert majority(labels, 1).tolist() == labels.tolist()


@pytest.fixture
def data(tmp_path):
    return scenes(tmp_path)


RECIPE = Affinity(
    seeds="acr",
    backbone="resnet10t",
    freeze_norm=False,
    stride=8,
    crop_size=24,
    training=Training(steps=3, batch_size=2, optimiser="adamw", learning_rate=1e-3),
)


@pytest.mark.parametrize("size", [24, 40])
def test_a_sample_is_a_window_with_the_labels_of_its_cells(data, size):
    folder, split = data
    dark = scene()[0][..., 0] == 30
    write_arrays(folder / "labels.npz", [("image_0", np.where(dark, np.uint8(2), np.uint8(0)))])
    sample = Sample(split, folder / "labels.npz", Affinity(seeds="acr", stride=4, crop_size=size), (1, 2, 3))
    found = sample(0, np.random.default_rng(5))
    assert found["image"].shape == (3, size, size)
    colours = found["image"].transpose(1, 2, 0)
    padded = (colours == (1, 2, 3)).all(-1)
    assert padded.sum() == size**2 - min(size, 32) ** 2
    expected = np.select([padded, (colours == 30).all(-1)], [VOID, 2], 0).astype(np.uint8)
    assert (found["labels"] == majority(expected, 4)).all()
    assert (found["labels"] == 2).any()
    again = sample(0, np.random.default_rng(5))
    assert all((found[key] == again[key]).all() for key in found)


def test_training_writes_a_network_that_can_be_read_and_is_reproducible(data):
    folder, _ = data
    make_labels(folder, "labels.npz")
    for name in ("a", "b"):
        train_affinity(
            split=folder / "train.csv",
            labels=folder / "labels.npz",
            weights=None,
            recipe=canonical(RECIPE),
            execution={"workers": 0, "device": "cpu"},
            folder=folder / name,
            made_from={},
        )
    assert sorted(path.name for path in (folder / "a").iterdir()) == ["history.csv", "model.json", "model.safetensors"]
    assert (folder / "a/model.safetensors").read_bytes() == (folder / "b/model.safetensors").read_bytes()
    description = read_json(folder / "a/model.json")
    statistics = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    assert description.pop("input") == {"channels": "RGB", "range": [0, 1], **statistics}
    built = {"method": "psa", "backbone": "resnet10t", "stride": 8, "normalisation": "native", "options": {}, "radius": 5}
    assert description == {"kind": "affinity", **built}
    header, row = (folder / "a/history.csv").read_text().splitlines()
    assert header == "step,learning_rate,loss,background,foreground,negative"
    assert float(row.split(",")[0]) == 3


def test_a_crop_that_is_no_whole_number_of_cells_is_refused(data):
    folder, _ = data
    recipe = canonical(Affinity(seeds="acr", crop_size=100, stride=8))
    with pytest.raises(ValueError, match="crop_size is 100, but must be a multiple of stride 8"):
        train_affinity(
            split=folder / "train.csv",
            labels="",
            weights=None,
            recipe=recipe,
            execution={},
            folder=folder / "network",
            made_from={},
        )


def trained_on_a_square(method, steps):
    """An objective after some steps on a dark square of 2 x 4 cells, and the batch and its losses."""
    torch.manual_seed(0)
    image = np.full((64, 64, 3), 220, np.uint8)
    image[24:40, 16:48] = 30
    labels = np.zeros((8, 8), np.int64)
    labels[3:5, 2:6] = 1
    objective = Objective(AffinityNet("resnet10t", 8, "native", {}, method), neighbours(5)).train()
    batch = {"image": torch.from_numpy(image).permute(2, 0, 1)[None], "labels": torch.from_numpy(labels)[None]}
    optimiser = torch.optim.AdamW(objective.parameters(), 1e-3)
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        loss = objective(batch)["loss"]
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return objective, batch, losses


def test_training_tells_the_square_from_its_ground():
    _, _, losses = trained_on_a_square("psa", 15)
    assert losses[-1] < 0.3 * losses[0]


def test_training_draws_the_boundary_around_the_square():
    objective, batch, losses = trained_on_a_square("irn", 30)
    assert losses[-1] < 0.6 * losses[0]
    boundaries = objective.network(batch["image"].float() / 255)[0, 0].detach()
    assert boundaries[3:5, 2:6].max() < 0.1
    assert min(boundaries[side, 2:6].min() for side in (2, 5)) > 0.5
    assert min(boundaries[3:5, side].min() for side in (1, 6)) > 0.5
    assert boundaries[6:].max() < 0.2
