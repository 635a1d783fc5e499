"""Training: one loop for every network, of which the result is a function of the recipe alone.

Nothing depends on what happened before: the images of a step and all randomness of a sample are drawn from
(random_state, step, position), so that the number of workers, a stop and a resume change nothing.
"""

import functools
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from acr.config import Execution, Training
from acr.files import atomic
from acr.models.weights import save_model
from acr.provenance import write_provenance

log = logging.getLogger(__name__)
History = list[dict[str, float]]  # one row each LOG_EVERY steps: step, learning_rate and every loss term
Sample = Callable[[int, np.random.Generator], dict[str, np.ndarray]]
NO_HISTORY = {"step": [], "learning_rate": [], "loss": []}  # of a network left as it was built
SAVE_EVERY = 120.0  # seconds between two checkpoints
LOG_EVERY = 50  # steps between two lines of the history


def device_of(execution: Execution) -> torch.device:
    """The device asked for; `auto` is the first GPU where there is one, else the CPU."""
    if execution.device != "auto":
        if execution.device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"execution.device is {execution.device!r}, but torch sees no GPU; set it to auto or cpu")
        return torch.device(execution.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def freeze_norm(module: nn.Module) -> None:
    """Puts every batch norm of `module` in evaluation mode, where it stays, and freezes its scale and shift."""
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.requires_grad_(False)
            layer.eval()
            layer.train = lambda mode=True, layer=layer: layer  # train() of a parent leaves it as it is


def step_count(training: Training, count: int) -> int:
    """The number of optimiser steps: `steps` where given, else `epochs` over `count` images."""
    if training.steps is not None:
        return training.steps
    return math.ceil(training.epochs * count / training.batch_size)


def batch_indices(training: Training, count: int, step: int) -> list[int]:
    """The images of a step: consecutive places in an endless row of shuffled epochs, each image once an epoch."""
    first = step * training.batch_size
    places = range(first, first + training.batch_size)
    return [_shuffled(training.random_state, place // count, count)[place % count] for place in places]


@functools.lru_cache(maxsize=2)
def _shuffled(random_state: int, epoch: int, count: int) -> list[int]:
    return np.random.default_rng([random_state, epoch]).permutation(count).tolist()


def learning_rate_factor(training: Training, step: int, steps: int) -> float:
    """The learning rate of a step relative to the recipe's: poly decay, one cycle with 20 % warm-up, or constant."""
    progress = step / max(steps, 1)
    if training.schedule == "poly":
        return (1 - progress) ** training.power
    if training.schedule == "one_cycle":
        warm = 0.2
        if progress < warm:
            return 0.04 + 0.96 * (1 - math.cos(math.pi * progress / warm)) / 2
        return (1 + math.cos(math.pi * (progress - warm) / (1 - warm))) / 2
    return 1.0


def parameter_groups(module: nn.Module, training: Training) -> list[dict]:
    """Trainable parameters by factor: `head_factor` in submodules named head, twice that for their biases, 1 elsewhere."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        new, bias = "head" in name.split("."), name.endswith("bias")
        factor = training.head_factor * (2 if bias else 1) if new and training.head_factor != 1 else 1.0
        # what a transformer learns once for all images is no matrix, though it may have its shape
        single = parameter.ndim < 2 or name.endswith(("pos_embed", "cls_token"))
        decay = 0.0 if single and (training.optimiser == "adamw" or new) else training.weight_decay
        groups.setdefault((factor, decay), []).append(parameter)
    return [{"params": group, "factor": factor, "weight_decay": decay} for (factor, decay), group in groups.items()]


def build_optimiser(module: nn.Module, training: Training) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW, over `parameter_groups`.

    deviates: the official code hands its weight decay to SGD as momentum, and so trains with neither.
    """
    groups = parameter_groups(module, training)
    if training.optimiser == "sgd":
        return torch.optim.SGD(groups, training.learning_rate, momentum=training.momentum)
    return torch.optim.AdamW(groups, training.learning_rate)


class _Steps(Dataset):
    """Item `step` is the whole batch of that step."""

    def __init__(self, count: int, sample: Sample, training: Training) -> None:
        self.count, self.sample, self.training = count, sample, training

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        indices = batch_indices(self.training, self.count, step)
        samples = [
            self.sample(index, np.random.default_rng([self.training.random_state, step, position]))
            for position, index in enumerate(indices)
        ]
        batch = {key: torch.from_numpy(np.stack([sample[key] for sample in samples])) for key in samples[0]}
        return {**batch, "step": torch.tensor(step)}


def _batches(dataset: _Steps, steps: range, execution: Execution) -> Iterator[dict[str, Tensor]]:
    return iter(DataLoader(dataset, sampler=steps, batch_size=None, num_workers=execution.workers))


@dataclass(frozen=True)
class Checkpoint:
    """Where an interrupted run is kept, and the `acr.provenance.source` of which it must be to be continued."""

    path: Path
    made_from: Mapping[str, Any]


def fit(
    objective: nn.Module, count: int, sample: Sample, training: Training, execution: Execution, checkpoint: Checkpoint
) -> History:
    """Trains `objective` in place and returns its history, one row every 50 steps.

    Args:
        objective: maps a batch to named loss terms, of which `loss` is minimised; a batch also holds its `step`.
        count: number of training images.
        sample: one image's arrays from its index and a generator, the only source of its randomness.
        training: what to do.
        execution: how to do it; changes no result.
        checkpoint: where an interrupted run of the same source is continued from; removed at the end.
    """
    steps, device = step_count(training, count), device_of(execution)
    objective.to(device, memory_format=torch.channels_last).train()
    optimiser = build_optimiser(objective, training)
    start, history = _resume(checkpoint, objective, optimiser)
    if start:
        log.info("resumed at step %d of %d", start, steps)
    terms: list[dict[str, Tensor]] = []
    saved = time.monotonic()
    progress = tqdm(
        _batches(_Steps(count, sample, training), range(start, steps), execution), total=steps, initial=start, disable=None
    )
    for step, batch in enumerate(progress, start):
        for group in optimiser.param_groups:
            group["lr"] = training.learning_rate * group["factor"] * learning_rate_factor(training, step, steps)
        batch = {key: value.to(device) for key, value in batch.items()}
        terms.append(_step(objective, optimiser, batch, training.clip_norm))
        if (step + 1) % LOG_EVERY == 0 or step + 1 == steps:
            history.append({"step": float(step + 1), "learning_rate": optimiser.param_groups[0]["lr"], **_means(terms, step)})
            terms.clear()
            progress.set_postfix(loss=f"{history[-1]['loss']:.4f}")
            log.info("step %d of %d: %s", step + 1, steps, {key: round(value, 5) for key, value in history[-1].items()})
            if time.monotonic() - saved > SAVE_EVERY and step + 1 < steps:
                _save(checkpoint, objective, optimiser, step + 1, history)
                saved = time.monotonic()
    checkpoint.path.unlink(missing_ok=True)
    objective.eval()
    return history


def _step(
    objective: nn.Module, optimiser: torch.optim.Optimizer, batch: dict[str, Tensor], clip: float | None
) -> dict[str, Tensor]:
    optimiser.zero_grad(set_to_none=True)
    terms = objective(batch)
    terms["loss"].backward()
    if clip is not None:
        nn.utils.clip_grad_norm_(objective.parameters(), clip)
    optimiser.step()
    return {key: value.detach() for key, value in terms.items()}


def _means(terms: list[dict[str, Tensor]], step: int) -> dict[str, float]:
    means = {key: float(torch.stack([item[key] for item in terms]).mean()) for key in terms[0]}
    if not math.isfinite(means["loss"]):
        raise ValueError(f"the loss is {means['loss']} at step {step + 1}; lower training.learning_rate")
    return means


def _save(checkpoint: Checkpoint, objective: nn.Module, optimiser: torch.optim.Optimizer, step: int, history: History) -> None:
    state = {"made_from": json.dumps(checkpoint.made_from, sort_keys=True), "step": step, "history": history}
    with atomic(checkpoint.path) as temporary:
        torch.save({**state, "objective": objective.state_dict(), "optimiser": optimiser.state_dict()}, temporary)


def _resume(checkpoint: Checkpoint, objective: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[int, History]:
    if not checkpoint.path.exists():
        return 0, []
    state = torch.load(checkpoint.path, map_location="cpu", weights_only=True)
    if state["made_from"] != json.dumps(checkpoint.made_from, sort_keys=True):
        log.info("%s is of another recipe or of other inputs and is not used", checkpoint.path)
        return 0, []
    objective.load_state_dict(state["objective"])
    optimiser.load_state_dict(state["optimiser"])
    return state["step"], state["history"]


def save_trained(
    folder: str | Path,
    module: nn.Module,
    description: Mapping[str, Any],
    history: History,
    made_from: Mapping[str, Any],
) -> None:
    """Writes what a training run leaves in `folder`: model.safetensors, model.json, history.csv and provenance.json."""
    save_model(folder, module, description)
    with atomic(Path(folder) / "history.csv") as temporary:
        pd.DataFrame(history or NO_HISTORY).to_csv(temporary, index=False)
    write_provenance(Path(folder) / "provenance.json", made_from)
