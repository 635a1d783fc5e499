"""Pairs of walks: PSA's affinities and random walk, on the grid of one cell every eight pixels."""

import functools
import math
from collections.abc import Callable

import cv2
import numpy as np
import torch
from jaxtyping import Float32

from acr.affinities import affinity_without_gradient, neighbours, random_walk, transition
from acr.images import upsample
from acr.models.affinity_net import AffinityNet
from acr.pseudo_labels import Walk
from acr.recipes import Affinity, PseudoLabels
from acr.shapes import Grid
from benchmarks import inputs, reference
from benchmarks.pairs import Pair

OFFSETS = neighbours(5)
RECIPE = PseudoLabels(seeds="")  # PSA's: exponent 8, 256 steps
LARGE = (1000, 1500)
ROWS = 3  # maps of an image
FEATURES = 448  # of a cell


def _grid(height: int, width: int) -> Grid:
    return Grid(math.ceil(height / 8), math.ceil(width / 8))


def _maps(grid: Grid) -> Float32[np.ndarray, "K h w"]:
    return inputs.smooth(np.random.default_rng(0), ROWS, *grid)


def _affinities(grid: Grid) -> Float32[np.ndarray, " E"]:
    """Those of the colours of a photograph."""
    colours = cv2.resize(inputs.photograph(0), grid[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 64
    return affinity_without_gradient(colours.transpose(2, 0, 1).copy(), OFFSETS)


def _walked(maps: Float32[np.ndarray, "K h w"], affinities: Float32[np.ndarray, " E"]) -> Float32[np.ndarray, "K h w"]:
    steps = transition(affinities, Grid(*maps.shape[1:]), OFFSETS, RECIPE.exponent)
    return random_walk(maps, steps, RECIPE.walk_steps)


def _apart(one: Float32[np.ndarray, "K h w"], other: Float32[np.ndarray, "K h w"]) -> float:
    """The largest difference, endless where the best map of a cell is another one."""
    return float(np.abs(one - other).max()) if (one.argmax(0) == other.argmax(0)).all() else math.inf


def _walk(device: torch.device) -> Pair:
    grid = _grid(*inputs.PHOTOGRAPH)
    maps, affinities = _maps(grid), _affinities(grid)
    tensors = torch.from_numpy(maps), torch.from_numpy(affinities)
    return Pair(
        name="random walk, 256 steps",
        inputs=f"375 x 500 at stride 8, radius 5, {ROWS} maps; reference: the dense matrix squared eight times",
        reference=lambda number: reference.psa_walk(*tensors, OFFSETS, RECIPE.exponent).numpy(),
        ours=lambda number: _walked(maps, affinities),
        difference=_apart,
        tolerance=1e-5,
        goal="≥ 120, memory ≤ 1/20",
    )


def _walk_large(device: torch.device) -> Pair:
    grid = _grid(*LARGE)
    maps, affinities = _maps(grid), _affinities(grid)
    dense = grid.patches**2 * 4 / 2**30
    return Pair(
        name="random walk, large",
        inputs=f"1000 x 1500, as above; reference: 256 sparse products, since dense matrices take {dense:.1f} GiB each",
        reference=lambda number: reference.stepwise_walk(maps, affinities, OFFSETS, RECIPE.exponent, RECIPE.walk_steps),
        ours=lambda number: _walked(maps, affinities),
        difference=_apart,
        tolerance=2e-5,  # 256 steps in single precision have errors of 1e-5 themselves
        goal="seconds",
    )


def _gather(device: torch.device) -> Pair:
    features = torch.randn(FEATURES, *_grid(*inputs.PHOTOGRAPH), generator=torch.Generator().manual_seed(0))
    return Pair(
        name="affinities",
        inputs=f"375 x 500 at stride 8, radius 5, {FEATURES} features; reference: the features of all pairs gathered",
        reference=lambda number: reference.psa_affinities(features, OFFSETS).numpy(),
        ours=lambda number: affinity_without_gradient(features.numpy(), OFFSETS),
        difference=lambda one, other: float(np.abs(one - other).max()),
        tolerance=5e-7,
        goal="≥ 20",
    )


def _inference(backbone: str, goal: str, device: torch.device) -> Pair:
    """What PSA does with one photograph: its network's features, affinities, the walk."""
    torch.manual_seed(0)
    network = AffinityNet(backbone, 8, "native", {}).requires_grad_(False).eval().to(device)
    walk = Walk(network, OFFSETS, RECIPE)

    image, maps = inputs.photograph(0), _maps(Grid(24, 24))
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].to(device).float() / 255

    def plainly(number: int) -> Float32[np.ndarray, "K h w"]:
        features = network(tensor)[0].cpu()
        large = torch.from_numpy(upsample(maps, *features.shape[1:]))
        return reference.psa_walk(large, reference.psa_affinities(features, OFFSETS), OFFSETS, RECIPE.exponent).numpy()

    return Pair(
        name=f"PSA inference, {backbone}",
        inputs=f"375 x 500 at stride 8, {ROWS} maps; the network's features are the floor of both",
        reference=torch.inference_mode()(plainly),
        ours=lambda number: walk(image, maps),
        difference=_apart,
        tolerance=1e-5,
        goal=goal,
    )


PAIRS: dict[str, Callable[[torch.device], Pair]] = {
    "walk": _walk,
    "walk_large": _walk_large,
    "gather": _gather,
    "psa_inference": functools.partial(_inference, Affinity(seeds="").backbone, "walk and affinities ≤ 5 % of ours"),
    "psa_inference_small": functools.partial(_inference, "mobilenetv2_100", ""),
}
