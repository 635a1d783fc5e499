"""Pairs of masks: confident labels and predictions, both after dense CRFs."""

import functools
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from acr.confident_labels import confident_labels
from acr.crf import masks
from acr.recipes import ConfidentLabels, Crf
from benchmarks import inputs, reference
from benchmarks.pairs import Pair

CLASSES = 20
PRESENT = (7, 14)  # class indices of the photograph
photograph = functools.cache(inputs.photograph)


def share_that_differs(one: UInt8[np.ndarray, "H W"], other: UInt8[np.ndarray, "H W"]) -> float:
    """Of all pixels."""
    return float((one != other).mean())


def scores(labels: int, believed: int, number: int = 0) -> Float32[np.ndarray, "{labels} H W"]:
    """Probabilities of a network that is sure of `believed` of the labels and gives little to each of the others."""
    rng = np.random.default_rng(number)
    logits = 4 * inputs.smooth(rng, labels, *inputs.PHOTOGRAPH) - 10
    logits[rng.choice(labels, believed, replace=False)] += 10
    powers = np.exp(logits)
    return powers / powers.sum(0)


def _confident(device: torch.device) -> Pair:
    settings, maps = ConfidentLabels(), inputs.smooth(np.random.default_rng(0), len(PRESENT), *inputs.PHOTOGRAPH)
    values = np.full(256, 255, np.uint8)
    values[: len(PRESENT) + 1] = [0, *(index + 1 for index in PRESENT)]
    by_class = dict(zip(PRESENT, maps, strict=True))
    exponents = (settings.low, settings.high)
    return Pair(
        name="confident labels",
        inputs=f"375 x 500, two CRFs, {len(PRESENT)} classes present of {CLASSES}; reference: all labels, from scratch",
        reference=lambda number: reference.confident_of_all_labels(
            photograph(number), by_class, CLASSES, exponents, settings.crf
        ),
        ours=lambda number: values[confident_labels(photograph(number), maps, settings)],
        difference=share_that_differs,
        tolerance=1e-3,
        goal="2",
    )


def _prediction(device: torch.device) -> Pair:
    settings, given = Crf(), scores(CLASSES + 1, 3)
    return Pair(
        name="CRF of a prediction",
        inputs=f"375 x 500, a network that is sure of 3 of {CLASSES + 1} labels; reference: all labels",
        reference=lambda number: reference.crf_of_all_labels(photograph(number), given, settings),
        ours=lambda number: next(masks([(photograph(number), given)], settings, 0)),
        difference=share_that_differs,
        tolerance=1e-3,
        goal="2",
    )


PAIRS: dict[str, Callable[[torch.device], Pair]] = {"crf_confident": _confident, "crf_prediction": _prediction}
