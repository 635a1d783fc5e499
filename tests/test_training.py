"""The training loop: its result is a function of the recipe alone."""

import numpy as np
import pytest
import torch
from torch import nn

from acr import training
from acr.config import Execution, Training
from acr.training import (
    Checkpoint,
    batch_indices,
    device_of,
    fit,
    freeze_norm,
    learning_rate_factor,
    parameter_groups,
    step_count,
)

CPU = Execution(device="cpu", workers=0)
RECIPE = Training(epochs=3.0, batch_size=4, optimiser="adamw", learning_rate=0.1, weight_decay=0.0, schedule="poly")


class Line(nn.Module):
    """Least squares on one weight and one bias."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 1)
        with torch.no_grad():
            self.head.weight.fill_(0)
            self.head.bias.fill_(0)

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"loss": (self.head(batch["x"]) - batch["y"]).square().mean()}


def sample(index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    x = np.array([index + rng.normal()], np.float32)
    return {"x": x, "y": 2 * x + 1}


def kept(folder) -> Checkpoint:
    return Checkpoint(folder / "run.checkpoint", {"recipe": "this"})


def weights(model: nn.Module) -> list[float]:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).tolist()


def trained(tmp_path, execution: Execution = CPU, recipe: Training = RECIPE) -> tuple[list[float], list[dict]]:
    model = Line()
    history = fit(model, 10, sample, recipe, execution, kept(tmp_path))
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
    history = fit(model, 1, fixed, recipe, CPU, kept(tmp_path))
    # the gradient of (0 - 1)^2 is -2 x = -6 for the weight and -2 for the bias
    assert weights(model) == [1.5, 0.5]
    assert history == [{"step": 1, "learning_rate": 0.25, "loss": 1.0}]


def test_the_number_of_workers_changes_nothing(tmp_path) -> None:
    assert trained(tmp_path) == trained(tmp_path, Execution(device="cpu", workers=2))


@pytest.mark.parametrize("stop", [1, 3, 7])
def test_an_interrupted_run_ends_as_if_it_had_not_been(tmp_path, monkeypatch, stop: int) -> None:
    expected = trained(tmp_path)
    monkeypatch.setattr(training, "LOG_EVERY", 1)
    monkeypatch.setattr(training, "SAVE_EVERY", 0.0)
    steps = []

    def interrupted(index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        steps.append(index)
        if len(steps) > 4 * stop:
            raise KeyboardInterrupt
        return sample(index, rng)

    with pytest.raises(KeyboardInterrupt):
        fit(Line(), 10, interrupted, RECIPE, CPU, kept(tmp_path))
    assert kept(tmp_path).path.exists()
    seen = []

    def counted(index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        seen.append(index)
        return sample(index, rng)

    model = Line()
    fit(model, 10, counted, RECIPE, CPU, kept(tmp_path))
    assert weights(model) == expected[0]
    assert len(seen) == 4 * (8 - stop)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_recipe_is_not_used(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(training, "LOG_EVERY", 1)
    expected = trained(tmp_path)
    other = Checkpoint(kept(tmp_path).path, {"recipe": "other"})
    training._save(other, Line(), training.build_optimiser(Line(), RECIPE), 5, [])
    assert trained(tmp_path)[0] == expected[0]


def test_a_loss_that_is_not_a_number_is_refused(tmp_path) -> None:
    def broken(index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {"x": np.array([np.inf], np.float32), "y": np.array([1], np.float32)}

    with pytest.raises(ValueError, match=r"^the loss is nan at step 8; lower training.learning_rate$"):
        fit(Line(), 10, broken, RECIPE, CPU, kept(tmp_path))


def test_no_steps_leave_the_network_as_built(tmp_path) -> None:
    model = Line()
    assert fit(model, 10, sample, Training(steps=0), CPU, kept(tmp_path)) == []
    assert weights(model) == [0, 0]
    training.save_trained(tmp_path, model, {}, [], {})
    assert (tmp_path / "history.csv").read_text() == "step,learning_rate,loss\n"


def test_frozen_batch_norm_stays_frozen_under_train() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    freeze_norm(model)
    model.train()
    model(torch.rand(4, 1, 3, 3) + 5)
    assert model[0].training
    assert not model[1].training
    assert float(model[1].running_mean) == 0
    assert [parameter.requires_grad for parameter in model.parameters()] == [True, True, False, False]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"execution.device is 'cuda:1', but torch sees no GPU; set it to auto or cpu"):
        device_of(Execution(device="cuda:1"))
