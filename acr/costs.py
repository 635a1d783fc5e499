"""Table 9: what training a classifier and making its seeds cost on the device at hand, measured by running them."""

import json
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
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

MIB = 2**20


def training_memory(model: VitClassifier, split: Split, recipe: Classifier, steps: int, device: torch.device) -> float:
    """The largest memory of some training steps in MiB: the GPU's, or what the process grew by on the CPU."""
    sample, objective = Sample(split, recipe, model.normalise.fill), Objective(model.train(), recipe)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=recipe.training.momentum)
    records = cycle(range(len(split.records)))
    rng = np.random.default_rng(0)
    with peak_memory(device) as peak:
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
    """Under `mib`, once the block is left: the GPU's peak, or by how much the process's peak exceeds what it held before."""
    measured: dict[str, float] = {}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield measured
        measured["mib"] = torch.cuda.max_memory_allocated(device) / MIB
    else:
        before = _resident()
        yield measured
        measured["mib"] = max(0.0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before)


def _resident() -> float:
    """What this process holds now in MiB; where the system does not say, what it has held at most."""
    status = Path("/proc/self/statm")
    if status.is_file():
        return int(status.read_text().split()[1]) * resource.getpagesize() / MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB


def seeds_per_second(model: VitClassifier, split: Split, recipe: Seeds, images: int, device: torch.device) -> float:
    """Photographs a second that are read and localised for the classes of their tags, one by one, after an untimed one."""
    records = [record for record in split.records if split.class_indices(record)]
    chosen = list(islice(cycle(records), images + 1))
    model, recipe = model.eval().requires_grad_(False), with_depth(recipe, model)
    started = 0.0
    for place, record in enumerate(chosen):
        if place == 1:
            started = time.perf_counter()
        localise_photograph(model, read_image(record.image), split.class_indices(record), recipe)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return images / (time.perf_counter() - started)


def _as_costed(cost: Cost, classifier: Classifier, seeds: Seeds) -> tuple[Classifier, Seeds]:
    size = {} if cost.image_size is None else {"image_size": cost.image_size}
    training = replace(classifier.training, batch_size=cost.batch_size)
    classifier = replace(classifier, backbone=cost.backbone or classifier.backbone, training=training, **size)
    return classifier, replace(seeds, **size)


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
    model = build_classifier(describe(classifier, records.classes)).to(device)
    measured: dict[str, Any] = {
        "training_memory_mb": round(training_memory(model, records, classifier, cost.steps, device)),
        "images_per_second": seeds_per_second(model, records, seeds, cost.images, device),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "backbone": classifier.backbone,
        "resolution": classifier.image_size,
    }
    write_json(output, identity(records, "costs", recipe, dataset, name, cost.images) | measured)
