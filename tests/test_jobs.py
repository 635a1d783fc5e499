"""Jobs: what fails says one sentence on the screen and everything in the log."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from acr.config import Execution, Training
from acr.images import read_image, write_image
from acr.jobs import job
from acr.training import Checkpoint, fit


def refuse() -> None:
    raise ValueError("a is 1, but must be 2; write 2")


def interrupt() -> None:
    raise KeyboardInterrupt


def run(log: Path, function: object) -> None:
    with job(log):
        function()


def test_a_value_error_is_one_sentence_and_the_traceback_is_in_the_log(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        run(tmp_path / "logs/a.log", refuse)
    assert caught.value.code == f"error: a is 1, but must be 2; write 2 (log: {tmp_path / 'logs/a.log'})"
    assert "Traceback" in (tmp_path / "logs/a.log").read_text()


def test_an_interruption_is_logged_and_goes_on(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a.log", interrupt)
    assert "KeyboardInterrupt" in (tmp_path / "a.log").read_text()


def test_what_is_logged_stands_in_the_file(tmp_path: Path) -> None:
    run(tmp_path / "a.log", lambda: logging.getLogger("acr.test").info("fifty steps"))
    text = (tmp_path / "a.log").read_text()
    assert "acr.test: fifty steps" in text
    assert text.rstrip().endswith("done")


class Mean(torch.nn.Module):
    """A loss that needs no more than an image."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"loss": self.weight * batch["image"].float().mean()}


class Photograph:
    """A sample that reads a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {"image": read_image(self.path)}


def test_a_photograph_that_a_worker_cannot_read_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    write_image(path, np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:3000])
    recipe, checkpoint = Training(steps=1, batch_size=1), Checkpoint(tmp_path / "c", {})
    with pytest.raises(SystemExit) as caught:
        run(tmp_path / "a.log", lambda: fit(Mean(), 1, Photograph(path), recipe, Execution(workers=1), checkpoint))
    assert str(path) in caught.value.code
    assert "\n" not in caught.value.code
