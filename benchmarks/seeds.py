"""Pairs of the making of seeds."""

import functools
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from acr.classifiers import build_classifier, describe
from acr.layer_sweeps import localise_from_each
from acr.models.vit import VitClassifier
from acr.recipes import Classifier, Seeds
from acr.seeds import as_input, localise, with_depth
from benchmarks import reference
from benchmarks.inputs import CLASSES, photograph
from benchmarks.pairs import Pair

RECIPE = Seeds(classifier="", affinity_layers="all", product="affinity_times_map")
SHARPER = 3.0  # random queries and keys attend to everything alike: all maps would be constant but for rounding


def pair(backbone: str, size: int, classes: int, goal: str, device: torch.device) -> Pair:
    """Seeds of one photograph at a square size, as the official code has them: two layers, affinity of all, two flips."""
    models = [_built(backbone, size, device) for _ in range(2)]
    models[0].requires_grad_(True)
    models[1].requires_grad_(False)
    recipe, grid = with_depth(RECIPE, models[1]), (size // models[1].patch,) * 2

    def chosen(number: int) -> list[int]:
        return [(number + 7 * index) % len(CLASSES) for index in range(classes)]

    @functools.cache
    def image(number: int) -> Tensor:
        return as_input(photograph(number), size, size, models[1])

    return Pair(
        "seeds",
        f"{backbone}, {size}, {classes} class{'es' if classes > 1 else ''}",
        lambda number: reference.seed(models[0].network, models[0].normalise(image(number)), chosen(number), 2, grid),
        lambda number: localise(models[1], image(number)[None], [chosen(number)], recipe)[:, 0],
        difference=lambda one, other: float((one - other).abs().max()),
        tolerance=1e-3,
        goal=goal,
    )


def sweep(device: torch.device) -> Pair:
    """Seeds from every start layer at once (Fig. 8) beside those of all layers alone, which are the dearest of them."""
    size, classes = 224, [(3, 7)]
    model = _built("deit_small_patch16_224", size, device).requires_grad_(False)
    recipe = with_depth(replace(RECIPE, layers=None), model)

    @functools.cache
    def image(number: int) -> Tensor:
        return as_input(photograph(number), size, size, model)[None]

    return Pair(
        "seeds of all layers, and from every start layer",
        f"deit_small_patch16_224, {size}, 2 classes",
        lambda number: localise(model, image(number), classes, recipe),
        lambda number: localise_from_each(model, image(number), classes, recipe),
        difference=lambda one, other: float((one - other[-1]).abs().max()),
        tolerance=1e-3,
        goal="0.77",
    )


def _built(backbone: str, size: int, device: torch.device) -> VitClassifier:
    torch.manual_seed(0)
    model = build_classifier(describe(Classifier(backbone=backbone, image_size=size), CLASSES)).eval().to(device)
    with torch.no_grad():
        for block in model.network.blocks:
            block.attn.qkv.weight[: 2 * block.attn.qkv.in_features] *= SHARPER
        model.network.head.weight.normal_(std=0.1)
    return model


PAIRS: dict[str, Callable[[torch.device], Pair]] = {
    **{
        f"seeds_hybrid_{count}": functools.partial(pair, "vit_base_r50_s16_384", 384, count, goal)
        for count, goal in ((1, "5.5"), (2, "9"), (3, "12"))
    },
    **{f"seeds_deit_{size}": functools.partial(pair, "deit_small_patch16_224", size, 2, "6") for size in (224, 384)},
    "sweep": sweep,
}
