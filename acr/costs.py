"""Table 9: what training a classifier and making its seeds cost on the device at hand, measured by running them."""

import json
import re
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from acr import config
from acr.classifiers import Objective, Sample, build_classifier, describe
from acr.datasets.base import Split, read_split
from acr.devices import device_of
from acr.files import write_json
from acr.images import read_image
from acr.measures import identity
from acr.models.vit import VitClassifier
from acr.recipes import Classifier, Cost, Execution, Seeds
from acr.seeds import localise_photograph, with_depth
from acr.training import build_optimiser

MIB = 2**20
WARM_UP = 2  # photographs that are not timed


def training_memory(split: Split, recipe: Classifier, steps: int, device: torch.device) -> float:
    """The largest memory in MiB of some training steps of a new network, the network and its optimiser included."""
    records, rng = cycle(range(len(split.records))), np.random.default_rng(0)
    with peak_memory(device) as peak:
        model = build_classifier(describe(recipe, split.classes)).to(device).train()
        objective, sample = Objective(model, recipe), Sample(split, recipe, model.normalise.fill)
        optimiser = build_optimiser(objective, recipe.training)
        for step in range(steps):
            chosen = islice(records, recipe.training.batch_size)
            batch = {**default_collate([sample(index, rng) for index in chosen]), "step": torch.tensor(step)}
            loss = objective({key: value.to(device) for key, value in batch.items()})["loss"]
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return peak["mib"]


@contextmanager
def peak_memory(device: torch.device) -> Iterator[dict[str, float]]:
    """Under `mib`, once the block is left: the GPU's peak, or by how much the process's peak exceeds what it held before.

    On a CPU without Linux's accounts, where a peak cannot be forgotten, only what exceeds the largest so far is seen.
    """
    measured: dict[str, float] = {}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield measured
        measured["mib"] = torch.cuda.max_memory_allocated(device) / MIB
    else:
        before = _resident("VmRSS") if _forget_peak() else _peak()
        yield measured
        measured["mib"] = max(0.0, _peak() - before)


def _forget_peak() -> bool:
    """Whether the system has made the process's peak what it holds now."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _peak() -> float:
    if Path("/proc/self/status").is_file():
        return _resident("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB  # in bytes where there is no /proc


def _resident(field: str) -> float:
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None, field
    return int(found[1]) / 1024


def seeds_per_second(model: VitClassifier, split: Split, recipe: Seeds, images: int, device: torch.device) -> float:
    """Photographs a second that are read and localised for the classes of their tags: the median, after two untimed ones."""
    records = [record for record in split.records if split.class_indices(record)]
    model, recipe = model.eval().requires_grad_(False), with_depth(recipe, model)
    seconds = []
    for record in islice(cycle(records), images + WARM_UP):
        started = time.perf_counter()
        localise_photograph(model, read_image(record.image), split.class_indices(record), recipe)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return 1 / median(seconds[WARM_UP:])


def _as_costed(cost: Cost, classifier: Classifier, seeds: Seeds) -> tuple[Classifier, Seeds]:
    training = replace(classifier.training, batch_size=cost.batch_size)
    backbone, size = cost.backbone or classifier.backbone, cost.image_size or classifier.image_size
    classifier = replace(classifier, backbone=backbone, image_size=size, training=training)
    return classifier, replace(seeds, image_size=cost.image_size or seeds.image_size)


def measure_cost(*, split: str, recipe: str, execution: Mapping, dataset: str, name: str, output: str) -> None:
    """Writes memory and speed of a cost recipe as a metrics file; the networks have random weights, which cost as much.

    `recipe` is JSON with the keys cost, seeds and classifier, each a resolved recipe; the others are as those of
    `acr.metrics.measure_seeds`.
    """
    wanted, records = json.loads(recipe), read_split(split)
    cost = config.build(Cost, wanted["cost"], "cost")
    classifier, seeds = _as_costed(
        cost, config.build(Classifier, wanted["classifier"], "classifier"), config.build(Seeds, wanted["seeds"], "seeds")
    )
    device = device_of(config.build(Execution, execution, "execution"))
    memory = training_memory(records, classifier, cost.training_steps, device)
    model = build_classifier(describe(classifier, records.classes)).to(device)
    measured: dict[str, Any] = {
        "training_memory_mb": round(memory),
        "images_per_second": seeds_per_second(model, records, seeds, cost.images, device),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "backbone": classifier.backbone,
        "resolution": classifier.image_size,
    }
    write_json(output, identity(records, "costs", recipe, dataset, name, cost.images) | measured)
