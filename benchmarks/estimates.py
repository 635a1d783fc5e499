"""`python -m benchmarks.estimates`: what a photograph costs each stage of the paper's presets, and so a whole data set.

Rates are measured on the device at hand with random weights and photographs of 375 x 500 pixels, hours are computed from them.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml

from acr import config
from acr.affinities import Objective as AffinityObjective
from acr.affinities import describe, neighbours
from acr.confident_labels import confident_labels
from acr.config import Plan
from acr.crf import crf_mask
from acr.images import upsample
from acr.models.affinity_net import build_affinity_net
from acr.models.deeplab import build_deeplab
from acr.pseudo_labels import Walk
from acr.segmenters import Objective as SegmenterObjective
from acr.segmenters import scores
from acr.shapes import VOID
from benchmarks.inputs import mask, photograph, smooth
from benchmarks.throughput import localising, seconds, training

CONFIG = Path(__file__).parent.parent / "config"
IMAGES = {"voc12": (10_582, 1_449), "coco14": (82_081, 40_137)}  # training photographs and those of val
MAPS = smooth(np.random.default_rng(0), 2, 24, 32)  # seeds of two classes


class Stage(NamedTuple):
    """Seconds on the device and on one CPU core for one photograph, and how many photographs of a data set there are."""

    name: str
    device_seconds: float
    core_seconds: float
    photographs: Callable[[Plan, int, int], float]


def stages(plan: Plan, device: torch.device, repeats: int) -> Iterator[Stage]:
    """Every stage of a preset whose cost grows with the photographs; trainings are not shared out among shards."""
    maps = upsample(MAPS, 375, 500)
    classifier = plan.recipe("classifiers", "acr")
    batch = classifier.training.batch_size
    step = seconds(training("hybrid", batch, "float32", device).timed, device, repeats) / batch
    yield Stage("classifier, training", step, 0, lambda plan, train, val: classifier.training.epochs * train)
    many = 16 if device.type == "cuda" else 1
    made = seconds(localising("hybrid", many, "float32", device).timed, device, repeats) / many
    yield Stage("seeds, two recipes", 2 * made, 0, lambda plan, train, val: train)
    affinity = plan.recipe("affinities", "psa")
    sure = seconds(lambda: confident_labels(photograph(0), maps, affinity.labels), torch.device("cpu"), repeats)
    yield Stage("confident labels", 0, sure, lambda plan, train, val: train)
    network = build_affinity_net(describe(affinity)).to(device, memory_format=torch.channels_last)
    crops = _crops(affinity.training.batch_size, affinity.crop_size, device)
    labels = {"labels": crops["mask"][:, :: affinity.stride, :: affinity.stride].long()}
    learning = seconds(_step(AffinityObjective(network, neighbours(affinity.radius)), {**crops, **labels}), device, repeats)
    learning /= affinity.training.batch_size
    yield Stage("affinity network, training", learning, 0, lambda plan, train, val: affinity.training.epochs * train)
    walk = Walk(network.eval(), neighbours(affinity.radius), plan.recipe("pseudo_labels", "acr"))
    walked = seconds(lambda: walk(photograph(0), MAPS), device, repeats)
    yield Stage("pseudo labels", walked, 0, lambda plan, train, val: train)
    yield from _segmenter(plan, device, repeats)


def _segmenter(plan: Plan, device: torch.device, repeats: int) -> Iterator[Stage]:
    recipe, predictions = plan.recipe("segmenters", "deeplab"), plan.recipe("predictions", "deeplab_crf")
    keys = ("backbone", "options", "stride", "normalisation", "dilations")
    network = build_deeplab({"classes": range(20), **{key: getattr(recipe, key) for key in keys}})
    network = network.to(device, memory_format=torch.channels_last)
    batch = recipe.training.batch_size
    step = _step(SegmenterObjective(network, recipe.loss_scales), _crops(batch, recipe.crop_size, device))
    learning = seconds(step, device, repeats) / batch
    yield Stage("segmenter, training", learning, 0, lambda plan, train, val: recipe.training.steps * batch)
    network.eval()
    predicted = seconds(lambda: scores(network, photograph(0), predictions.scales), device, repeats)
    found = scores(network, photograph(0), predictions.scales)
    crf = seconds(lambda: crf_mask(photograph(0), found, predictions.crf), torch.device("cpu"), min(repeats, 3))
    yield Stage("predictions with CRF", predicted, crf, lambda plan, train, val: val)
    yield Stage("predictions without", predicted, 0, lambda plan, train, val: val)


def _crops(count: int, size: int, device: torch.device) -> dict[str, torch.Tensor]:
    images = np.stack([photograph(number, size, size) for number in range(count)]).transpose(0, 3, 1, 2)
    masks = np.stack([mask(number, (0, 1), size, size) for number in range(count)])
    assert (masks == VOID).any()
    return {"image": torch.from_numpy(images).to(device), "mask": torch.from_numpy(masks).to(device)}


def _step(objective: torch.nn.Module, batch: dict[str, torch.Tensor]) -> Callable[[], Any]:
    optimiser = torch.optim.SGD(objective.parameters(), 1e-6)

    def step() -> None:
        optimiser.zero_grad()
        objective(batch)["loss"].backward()
        optimiser.step()

    return step


def table(found: list[Stage], plan: Plan, gpus: int, cores: int) -> Iterator[tuple[str, ...]]:
    """Hours of each stage with so many devices, beside each of which so many cores run CRFs; a training has one device."""
    for stage in found:
        photographs = stage.photographs(plan, *IMAGES[plan.dataset])
        shared = 1 if "training" in stage.name else gpus
        hours = photographs * max(stage.device_seconds, stage.core_seconds / cores) / shared / 3600
        yield (
            stage.name,
            f"{photographs:,.0f}",
            f"{1000 * stage.device_seconds:.1f}",
            f"{1000 * stage.core_seconds:.0f}",
            f"{hours:.2f}",
        )


def main(arguments: list[str]) -> None:
    """Prints a table for each preset and number of devices."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.estimates", description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cores", type=int, default=8, help="CPU cores that a device has")
    parser.add_argument("--repeats", type=int, default=5)
    wanted = parser.parse_args(arguments)
    device = torch.device(wanted.device)
    plans = [config.check(yaml.safe_load((CONFIG / f"{name}.yaml").read_text())) for name in IMAGES]
    found = list(stages(plans[0], device, wanted.repeats))
    for plan in plans:
        for gpus in (1, 64):
            head = ("stage", "photographs", "device ms", "core ms", f"hours, {plan.dataset}, {gpus} device(s)")
            lines = list(table(found, plan, gpus, wanted.cores))
            total = f"{math.fsum(float(line[-1]) for line in lines):.1f}"
            for line in (head, ["---"] * len(head), *lines, ("all", "", "", "", total)):
                sys.stdout.write(f"| {' | '.join(line)} |\n")
            sys.stdout.write("\n")


if __name__ == "__main__":
    main(sys.argv[1:])
