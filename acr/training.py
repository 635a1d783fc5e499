"""Training: one loop for every network, of which the result is a function of the recipe alone.

Nothing depends on what happened before: the images of a step and all randomness of a sample are drawn from
(random_state, step, position), so that the number of workers, a stop and a resume change nothing.
"""

import csv
import functools
import json
import logging
import math
import signal
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from acr.devices import device_of
from acr.distributed import mean_over_processes, rank, synchronise_norms, world_size
from acr.files import atomic, unfinished
from acr.models.weights import save_model
from acr.progress import Progress
from acr.recipes import Execution, Training

log = logging.getLogger(__name__)
History = list[dict[str, float]]  # one row each LOG_EVERY steps: step, learning_rate and every loss term
Sample = Callable[[int, np.random.Generator], dict[str, np.ndarray]]
NO_HISTORY = ("step", "learning_rate", "loss")  # columns of the history of a network left as it was built
LOG_EVERY = 50  # steps between two lines of the history


def freeze_norm(module: nn.Module) -> None:
    """Puts every batch norm of `module` in evaluation mode, where it stays, and freezes its scale and shift."""
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            layer.requires_grad_(False)
            layer.eval()
            # train() of a parent leaves it as it is
            layer.train = functools.partial(_unchanged, layer)  # type: ignore[method-assign]


def _unchanged(layer: _BatchNorm, mode: bool = True) -> _BatchNorm:
    return layer


def freeze_stem(network: nn.Module) -> None:
    """Leaves the layers that a backbone names as `frozen`, if it does, as they are, the moments of their batch norms too."""
    for name in getattr(network, "frozen", ()):
        freeze_norm(network.get_submodule(name).requires_grad_(False))


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
    """Item `step` is this process's share of the batch of that step."""

    def __init__(self, count: int, sample: Sample, training: Training) -> None:
        self.count, self.sample, self.training = count, sample, training
        share = training.batch_size // world_size()
        self.positions = range(rank() * share, (rank() + 1) * share)

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        indices = batch_indices(self.training, self.count, step)
        samples = [
            self.sample(indices[position], np.random.default_rng([self.training.random_state, step, position]))
            for position in self.positions
        ]
        batch = {key: torch.from_numpy(np.stack([sample[key] for sample in samples])) for key in samples[0]}
        return {**batch, "step": torch.tensor(step)}


@contextmanager
def _batches(dataset: _Steps, steps: range, execution: Execution) -> Iterator[Iterator[dict[str, Tensor]]]:
    """The batches of the steps; the processes that read them end with the block.

    Where an error ends it, torch would send them SIGTERM at the very end and wait for ever, since they outlive that.
    """
    loader = DataLoader(dataset, sampler=steps, batch_size=None, num_workers=execution.workers, worker_init_fn=_outlive_sigterm)
    batches = iter(loader)
    try:
        yield batches
    finally:
        if isinstance(batches, _MultiProcessingDataLoaderIter):
            batches._shutdown_workers()


def _outlive_sigterm(_: int) -> None:
    """A cluster sends SIGTERM to workers too: they must not end before the step they read for is saved."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@dataclass(frozen=True)
class Run:
    """One training run: the folder of what it leaves, all that this is a function of, and how it is executed."""

    folder: Path
    made_from: Mapping[str, Any]
    execution: Execution

    @property
    def checkpoint(self) -> Path:
        """Where an interrupted run of the same source goes on from."""
        return unfinished(self.folder, "checkpoint")


@dataclass
class _State:
    """All that changes while a network is trained. Terms are those of the steps since the last row of the history."""

    objective: nn.Module
    optimiser: torch.optim.Optimizer
    step: int = 0
    history: History = field(default_factory=list)
    terms: list[dict[str, Tensor]] = field(default_factory=list)


def fit(objective: nn.Module, count: int, sample: Sample, training: Training, run: Run) -> History:
    """Trains `objective` in place and returns its history, one row every 50 steps.

    Where several processes train together (`acr.distributed`), each calls this and gets the same result. A run that is
    told to end (SIGTERM) saves where it is.

    Args:
        objective: maps a batch to named loss terms, of which `loss` is minimised; a batch also holds its `step`.
        count: number of training images.
        sample: one image's arrays from its index and a generator, the only source of its randomness.
        training: what to do.
        run: how to do it, which changes no result, and what is continued where it was interrupted.
    """
    if training.batch_size % world_size():
        raise ValueError(f"batch_size is {training.batch_size}, which {world_size()} processes cannot share out equally")
    steps, device = step_count(training, count), device_of(run.execution)
    objective.to(device).to(memory_format=torch.channels_last).train()
    state = _State(objective, build_optimiser(objective, training))
    _resume(run, state)
    model = _joined(objective, device)
    saved, dataset = time.monotonic(), _Steps(count, sample, training)
    with _told_to_end() as told, _batches(dataset, range(state.step, steps), run.execution) as batches:
        progress = Progress(batches, "training", total=steps, unit="step", initial=state.step, quiet=rank() > 0)
        for batch in progress:
            _step(model, state, {key: value.to(device) for key, value in batch.items()}, training, steps)
            if state.step % LOG_EVERY == 0 or state.step == steps:
                _write_row(state, steps)
                progress.note = f"loss {state.history[-1]['loss']:.4f}"
            if state.step < steps and (told or time.monotonic() - saved > run.execution.checkpoint_seconds):
                _save(run, state, state.optimiser)
                saved = time.monotonic()
                if told:
                    sys.exit(f"told to end by SIGTERM at step {state.step} of {steps}; the same command goes on from there")
    _save(run, state, None)  # what is finished is not continued, and takes less room
    objective.eval()
    return state.history


def _joined(objective: nn.Module, device: torch.device) -> nn.Module:
    """The objective, of which DistributedDataParallel.forward has to be called for gradients to be joined."""
    if world_size() == 1:
        return objective
    synchronise_norms(objective)
    return DistributedDataParallel(objective, [device] if device.type == "cuda" else None, broadcast_buffers=False)


def _step(model: nn.Module, state: _State, batch: dict[str, Tensor], training: Training, steps: int) -> None:
    """One step of the optimiser; all randomness inside the network is drawn from (random_state, step, process)."""
    entropy = [training.random_state, state.step, rank()]
    torch.manual_seed(int(np.random.default_rng(entropy).integers(2**62)))
    for group in state.optimiser.param_groups:
        group["lr"] = training.learning_rate * group["factor"] * learning_rate_factor(training, state.step, steps)
    state.optimiser.zero_grad(set_to_none=True)
    with torch.autocast(batch["step"].device.type, torch.bfloat16, enabled=training.precision == "bfloat16"):
        terms = model(batch)
    terms["loss"].backward()
    if training.clip_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), training.clip_norm)
    state.optimiser.step()
    values = mean_over_processes(torch.stack([term.float() for term in terms.values()]))
    state.terms.append(dict(zip(terms, values, strict=True)))
    state.step += 1


def _write_row(state: _State, steps: int) -> None:
    """Adds a row to the history: the means of the terms since the last one."""
    means = {key: float(torch.stack([terms[key] for terms in state.terms]).mean()) for key in state.terms[0]}
    if not math.isfinite(means["loss"]):
        raise ValueError(f"the loss is {means['loss']} at step {state.step}; lower training.learning_rate")
    state.history.append({"step": float(state.step), "learning_rate": state.optimiser.param_groups[0]["lr"], **means})
    state.terms.clear()
    log.info("step %d of %d: %s", state.step, steps, {key: round(value, 5) for key, value in state.history[-1].items()})


@contextmanager
def _told_to_end() -> Iterator[list[int]]:
    """A list that is empty until the process is sent SIGTERM, as clusters do some seconds before they kill.

    Of several processes the others would wait for the one that ends: there the signal ends all at once.
    """
    told: list[int] = []
    if world_size() > 1 or threading.current_thread() is not threading.main_thread():
        yield told
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    try:
        yield told
    finally:
        signal.signal(signal.SIGTERM, before)


def _save(run: Run, state: _State, optimiser: torch.optim.Optimizer | None) -> None:
    if rank() > 0:
        return
    content = {"made_from": json.dumps(run.made_from, sort_keys=True), "step": state.step, "history": state.history}
    content |= {"terms": state.terms, "objective": state.objective.state_dict()}
    content["optimiser"] = optimiser.state_dict() if optimiser else None
    # through Python, whose errors tell a full disk from others
    with atomic(run.checkpoint) as temporary, temporary.open("wb") as stream:
        torch.save(content, stream)


def _resume(run: Run, state: _State) -> None:
    """Brings `state` to where an interrupted run of the same source was; anything else is not used, and the log says so."""
    if not run.checkpoint.exists():
        return
    if damage := _damage(run.checkpoint):
        log.warning("%s is damaged (%s) and is not used", run.checkpoint, damage)
        return
    content = torch.load(run.checkpoint, map_location=device_of(run.execution), weights_only=True)
    if content["made_from"] != json.dumps(run.made_from, sort_keys=True):
        log.info("%s is of another recipe, of other inputs or of other code, and is not used", run.checkpoint)
        return
    state.objective.load_state_dict(content["objective"])
    if content["optimiser"]:
        state.optimiser.load_state_dict(content["optimiser"])
    state.step, state.history, state.terms = content["step"], content["history"], content["terms"]
    log.info("resumed at step %d", state.step)


def _damage(checkpoint: Path) -> str | None:
    """What is wrong with an archive, None of a whole one; torch itself does not look at the checksums."""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            return archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        return str(error) or type(error).__name__


def save_trained(run: Run, module: nn.Module, description: Mapping[str, Any], history: History) -> None:
    """Writes what a training run leaves in its folder: model.safetensors, model.json and history.csv."""
    if rank() > 0:
        return
    save_model(run.folder, module, description)
    with atomic(run.folder / "history.csv") as temporary, temporary.open("w", newline="") as stream:
        rows = csv.DictWriter(stream, history[0] if history else NO_HISTORY, lineterminator="\n")
        rows.writeheader()
        rows.writerows(history)
