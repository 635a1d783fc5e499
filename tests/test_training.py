"""The training loop: its result is a function of the recipe alone."""

import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from acr import training
from acr.recipes import Execution, Training
from acr.training import (
    Run,
    batch_indices,
    fit,
    freeze_norm,
    learning_rate_factor,
    parameter_groups,
    save_trained,
    step_count,
)

CPU = Execution(device="cpu", workers=0, checkpoint_seconds=0.0)
RECIPE = Training(epochs=3.0, batch_size=4, optimiser="adamw", learning_rate=0.1, weight_decay=0.0, schedule="poly")


class Line(nn.Module):
    """Least squares on one weight and one bias, of inputs of which some are dropped at random."""

    def __init__(self, drop: float = 0.0) -> None:
        super().__init__()
        self.head, self.drop = nn.Linear(1, 1), nn.Dropout(drop)
        with torch.no_grad():
            self.head.weight.fill_(0)
            self.head.bias.fill_(0)

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"loss": (self.head(self.drop(batch["x"])) - batch["y"]).square().mean()}


def sample(index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    x = np.array([index + rng.normal()], np.float32)
    return {"x": x, "y": 2 * x + 1}


def run_in(folder: Path, execution: Execution = CPU, recipe: str = "this") -> Run:
    return Run(folder / "run", {"recipe": recipe}, execution)


def weights(model: nn.Module) -> list[float]:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).tolist()


class Counted:
    """`sample`, which remembers what was asked for and fails once that is more than `end` images."""

    def __init__(self, end: int | None = None) -> None:
        self.end, self.seen = end, []

    def __call__(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        if len(self.seen) == self.end:
            raise KeyboardInterrupt
        self.seen.append(index)
        return sample(index, rng)


def trained(
    folder: Path, execution: Execution = CPU, recipe: Training = RECIPE, drop: float = 0.0, draw=sample
) -> tuple[list[float], list[dict]]:
    model = Line(drop)
    history = fit(model, 10, draw, recipe, run_in(folder, execution))
    return weights(model), history


def test_steps_override_epochs() -> None:
    assert step_count(RECIPE, 10) == 8  # 30 images in fours
    assert step_count(Training(epochs=3.0, steps=5), 10) == 5


def test_each_epoch_shows_each_image_once() -> None:
    order = [index for step in range(5) for index in batch_indices(RECIPE, 10, step)]
    assert sorted(order[:10]) == list(range(10))
    assert sorted(order[10:]) == list(range(10))
    assert order[:10] != order[10:]


def test_schedules_by_hand() -> None:
    assert learning_rate_factor(Training(schedule="poly", power=0.9), 5, 10) == pytest.approx(0.5**0.9)
    assert [learning_rate_factor(Training(schedule="one_cycle"), step, 10) for step in (0, 2, 6, 10)] == pytest.approx(
        [0.04, 1, 0.5, 0]
    )
    assert learning_rate_factor(Training(schedule="constant"), 7, 10) == 1


def test_the_head_learns_faster_and_its_biases_twice_as_fast() -> None:
    model = nn.Module()
    model.body, model.head, model.frozen = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False)
    groups = parameter_groups(model, Training(head_factor=10.0, weight_decay=5e-4))
    found = {id(parameter): (group["factor"], group["weight_decay"]) for group in groups for parameter in group["params"]}
    expected = {
        id(model.body.weight): (1.0, 5e-4),
        id(model.body.bias): (1.0, 5e-4),
        id(model.head.weight): (10.0, 5e-4),
        id(model.head.bias): (20.0, 0.0),
    }
    assert found == expected


def test_one_step_of_sgd_by_hand(tmp_path) -> None:
    recipe = Training(steps=1, batch_size=1, learning_rate=0.25, weight_decay=0.0, momentum=0.9, schedule="constant")

    def fixed(index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {"x": np.array([3], np.float32), "y": np.array([1], np.float32)}

    model = Line()
    history = fit(model, 1, fixed, recipe, run_in(tmp_path))
    # the gradient of (0 - 1)^2 is -2 x = -6 for the weight and -2 for the bias
    assert weights(model) == [1.5, 0.5]
    assert history == [{"step": 1, "learning_rate": 0.25, "loss": 1.0}]


def test_the_number_of_workers_changes_nothing(tmp_path) -> None:
    assert trained(tmp_path / "none") == trained(tmp_path / "two", Execution(device="cpu", workers=2))


def interrupted(folder: Path, stop: int, drop: float = 0.0, execution: Execution = CPU) -> Path:
    """The checkpoint of a run that fails after `stop` steps."""
    with pytest.raises(KeyboardInterrupt):
        trained(folder, execution, drop=drop, draw=Counted(4 * stop))
    return run_in(folder).checkpoint


@pytest.mark.parametrize("drop", [0.0, 0.5])
@pytest.mark.parametrize("stop", range(1, 8))
def test_an_interrupted_run_ends_as_if_it_had_not_been(tmp_path, monkeypatch, stop: int, drop: float) -> None:
    """At a row of the history (every third step) and between two, with and without randomness inside the network."""
    monkeypatch.setattr(training, "LOG_EVERY", 3)
    expected = trained(tmp_path / "whole", drop=drop)
    assert [row["step"] for row in expected[1]] == [3, 6, 8]
    assert interrupted(tmp_path, stop, drop).name == ".unfinished-run.checkpoint"
    rest = Counted()
    assert trained(tmp_path, drop=drop, draw=rest) == expected
    assert len(rest.seen) == 4 * (8 - stop)


def test_randomness_inside_the_network_is_that_of_the_step(tmp_path) -> None:
    assert trained(tmp_path / "a", drop=0.5) == trained(tmp_path / "b", drop=0.5)
    assert trained(tmp_path / "a", drop=0.5) != trained(tmp_path / "c", drop=0.0)


def test_a_run_that_is_killed_goes_on_from_its_last_checkpoint(tmp_path, monkeypatch) -> None:
    times = iter([0, *([1] * 3), 130, *([131] * 100)])  # of the start, and of each step
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: next(times)))
    interrupted(tmp_path, 6, execution=Execution(device="cpu", workers=0, checkpoint_seconds=120.0))
    monkeypatch.undo()
    rest = Counted()
    assert trained(tmp_path, draw=rest) == trained(tmp_path / "whole")
    assert len(rest.seen) == 4 * (8 - 4)


def test_a_finished_run_is_not_run_again(tmp_path) -> None:
    expected, again = trained(tmp_path), Counted()
    assert trained(tmp_path, draw=again) == expected
    assert again.seen == []


@pytest.mark.parametrize("source", [{"recipe": "other"}, {"recipe": "this", "code": "code of a.py: 2"}, {}])
def test_a_checkpoint_of_another_source_is_not_used(tmp_path, monkeypatch, caplog, source) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(KeyboardInterrupt):
        fit(Line(), 10, Counted(20), RECIPE, Run(tmp_path / "run", source, CPU))
    every = Counted()
    assert trained(tmp_path, draw=every) == trained(tmp_path / "whole")
    assert len(every.seen) == 32
    assert (
        f"{run_in(tmp_path).checkpoint} is of another recipe, of other inputs or of other code, and is not used" in caplog.text
    )


def damaged(content: bytes) -> list[bytes]:
    """A checkpoint as a full disk or a power cut leaves it: cut, with zeros behind the cut or in its middle, and emptied."""
    size = len(content)
    weight = torch.load(io.BytesIO(content), weights_only=True)["objective"]["head.weight"].numpy().tobytes()
    holed = content.replace(weight, bytes(len(weight)))
    cuts = [0, 1, 2, 3, 4, 20, 64, *range(100, size, size // 40), size - 23, size - 1]
    return [content[:cut] for cut in cuts] + [content[:cut].ljust(size, b"\0") for cut in cuts[:-1]] + [holed, b"no checkpoint"]


def test_a_damaged_checkpoint_is_not_used_and_named(tmp_path, caplog) -> None:
    caplog.set_level(logging.WARNING)
    expected = trained(tmp_path / "whole")
    checkpoint = interrupted(tmp_path, 5)
    for content in damaged(checkpoint.read_bytes()):
        checkpoint.write_bytes(content)
        caplog.clear()
        every = Counted()
        assert trained(tmp_path, draw=every) == expected
        assert len(every.seen) == 32
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert caplog.messages[0].startswith(f"{checkpoint} is damaged (")
        assert caplog.messages[0].endswith(") and is not used")
        assert "\n" not in caplog.messages[0]


ENDLESS = """
import json, sys, time
from dataclasses import replace
from pathlib import Path
from tests.test_training import *

def slow(index, rng):
    time.sleep(0.02)
    return sample(index, rng)

print("starts", flush=True)
training.LOG_EVERY = 3
recipe = Training(**{**vars(RECIPE), "steps": 40})
found = trained(Path(sys.argv[1]), Execution(device="cpu", workers=2), recipe, 0.5, slow)
print(json.dumps(found))
"""


def start_endless(folder: Path) -> subprocess.Popen:
    (folder / "script.py").write_text(ENDLESS)
    command = [sys.executable, folder / "script.py", folder]
    how = {"cwd": Path(__file__).parents[1], "env": {**os.environ, "PYTHONPATH": "."}, "start_new_session": True}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how)
    assert process.stdout.readline() == "starts\n"
    return process


@pytest.mark.slow
def test_a_run_told_to_end_saves_where_it_is_and_goes_on_from_there(tmp_path, monkeypatch) -> None:
    """The signal goes to all processes, those that read images included, as scancel sends it."""
    monkeypatch.setattr(training, "LOG_EVERY", 3)
    expected = trained(tmp_path / "whole", recipe=Training(**{**vars(RECIPE), "steps": 40}), drop=0.5)
    process = start_endless(tmp_path)
    time.sleep(0.7)  # of the 1.6 s that two workers take for 160 images
    os.killpg(process.pid, signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    said = re.search(r"told to end by SIGTERM at step (\d+) of 40; the same command goes on from there\n$", errors)
    assert said, errors
    assert (process.returncode, output) == (1, "")
    assert 0 < int(said[1]) < 40
    assert torch.load(run_in(tmp_path).checkpoint, weights_only=True)["step"] == int(said[1])
    output, errors = start_endless(tmp_path).communicate(timeout=60)
    assert json.loads(output) == list(expected), errors


def test_a_loss_that_is_not_a_number_is_refused(tmp_path) -> None:
    def broken(index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {"x": np.array([np.inf], np.float32), "y": np.array([1], np.float32)}

    with pytest.raises(ValueError, match=r"^the loss is nan at step 8; lower training.learning_rate$"):
        fit(Line(), 10, broken, RECIPE, run_in(tmp_path))


def test_no_steps_leave_the_network_as_built(tmp_path) -> None:
    model = Line()
    assert fit(model, 10, sample, Training(steps=0), run_in(tmp_path)) == []
    assert weights(model) == [0, 0]
    save_trained(run_in(tmp_path), model, {}, [])
    assert (tmp_path / "run" / "history.csv").read_text() == "step,learning_rate,loss\n"


def test_a_trained_network_is_saved_with_its_description_and_history(tmp_path) -> None:
    model, rows = Line(), [{"step": 50.0, "learning_rate": 0.1, "loss": 2.0, "affinity": 0.5}]
    save_trained(run_in(tmp_path), model, {"classes": ["cat"]}, rows)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["history.csv", "model.json", "model.safetensors"]
    assert (tmp_path / "run" / "history.csv").read_text() == "step,learning_rate,loss,affinity\n50.0,0.1,2.0,0.5\n"
    assert json.loads((tmp_path / "run" / "model.json").read_text()) == {"classes": ["cat"]}


def test_frozen_batch_norm_stays_frozen_under_train() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    freeze_norm(model)
    model.train()
    model(torch.rand(4, 1, 3, 3) + 5)
    assert model[0].training
    assert not model[1].training
    assert float(model[1].running_mean) == 0
    assert [parameter.requires_grad for parameter in model.parameters()] == [True, True, False, False]


def test_bfloat16_rounds_products_alone(tmp_path: Path) -> None:
    """Three digits of each product of the forward pass: near the same line, whose weights stay in single precision."""
    lines = []
    for precision in ("float32", "bfloat16"):
        line = Line()
        recipe = replace(RECIPE, precision=precision)
        fit(line, 20, sample, recipe, run_in(tmp_path / precision, recipe=precision))
        assert line.head.weight.dtype == torch.float32
        lines.append(weights(line))
    assert lines[0] != lines[1]
    assert np.allclose(lines[0], lines[1], rtol=0.05)
