"""Several processes that train together end where one process on the whole batch does; one that fails ends all."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from acr import training
from acr.distributed import mean_count, on_all_devices
from acr.recipes import Classifier, Execution, Training
from acr.training import Run, fit

SIZE, CLASSES, IMAGES = 32, 3, 6
RECIPE = Training(steps=5, batch_size=4, learning_rate=0.01, head_factor=2.0, clip_norm=5.0)
TINY = {"channels": [8, 8, 16, 16], "stem_width": 8}


class ManyClassTokens(nn.Module):
    """What MCTformer looks like to a trainer: one class token a class, and a convolution over the patches."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 8, 8)
        self.class_tokens = nn.Parameter(torch.randn(1, CLASSES, 16) / 4)
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True) for _ in range(2))
        self.head = nn.Conv2d(16, CLASSES, 3, padding=1)

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        patches = self.embed(batch["image"].double() / 255)
        tokens = torch.cat([self.class_tokens.expand(len(patches), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        grid = tokens[:, CLASSES:].transpose(1, 2).unflatten(2, patches.shape[-2:])
        logits = tokens[:, :CLASSES].mean(-1), self.head(grid).mean((-2, -1))
        tags, patch_tags = (functional.multilabel_soft_margin_loss(each, batch["tags"]) for each in logits)
        return {"loss": tags + patch_tags, "tags": tags, "patch_tags": patch_tags}


def vit(backbone: str) -> nn.Module:
    from acr import classifiers
    from acr.models.vit import VitClassifier

    recipe = Classifier(backbone=backbone, image_size=SIZE, activation=10.0, affinity=10.0, training=RECIPE)
    return classifiers.Objective(VitClassifier(backbone, CLASSES, "imagenet"), recipe)


def affinity_network() -> nn.Module:
    from acr import affinities
    from acr.models.affinity_net import AffinityNet

    return affinities.Objective(AffinityNet("resnet10t", 8, "imagenet", TINY), affinities.neighbours(3))


def segmenter() -> nn.Module:
    from acr import segmenters
    from acr.models.deeplab import DeepLabV2

    network = DeepLabV2("resnet10t", 8, "imagenet", TINY, classes=CLASSES + 1, dilations=(1, 2))
    return segmenters.Objective(network, (0.5,))


OBJECTIVES = {
    "vit": lambda: vit("test_vit"),
    "vit with batch norms": lambda: vit("vit_stem8_96"),
    "many class tokens": ManyClassTokens,
    "affinity network": affinity_network,
    "segmenter": segmenter,
}
APART = "many class tokens, gradients not joined"  # what the official code does: the gradients of each process stay its own


def sample(index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """An image and labels of which each image leaves out another share: no two processes count alike."""
    labels = rng.integers(0, CLASSES + 1, (SIZE, SIZE), dtype=np.uint8)
    labels[: 4 * index] = 255
    return {
        "image": rng.integers(0, 256, (3, SIZE, SIZE), dtype=np.uint8),
        "tags": (rng.random(CLASSES) < 0.5).astype(np.float32),
        "mask": labels,
        "labels": labels[::8, ::8].astype(np.int64),
    }


@on_all_devices
def train(*, execution: dict, output: str) -> None:
    """Trains every objective for five steps and keeps their states and histories.

    In double precision: losses have kinks, at which the rounding errors of single precision grow beyond 1e-6 in five steps.
    """
    joined, found = training._joined, {}
    for name in (*OBJECTIVES, APART):
        torch.manual_seed(0)
        objective = (ManyClassTokens() if name == APART else OBJECTIVES[name]()).double()
        training._joined = (lambda objective, device: objective) if name == APART else joined
        run = Run(Path(f"{output}.{name}"), {}, Execution(**execution))
        history = fit(objective, IMAGES, sample, RECIPE, run)
        found[name] = {"state": objective.state_dict(), "history": history}
    training._joined = joined
    if training.rank() == 0:
        torch.save(found, output)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What one process and what two processes arrived at, by objective."""
    found = []
    for processes in (1, 2):
        output = tmp_path_factory.mktemp("trained") / "states.pt"
        train(execution={"device": "cpu", "workers": 0, "processes": processes}, output=str(output))
        found.append(torch.load(output, weights_only=True))
    return found


def difference(one: dict, other: dict) -> float:
    return max(float((one[key].double() - other[key].double()).abs().max()) for key in one)


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_processes_end_where_one_does(trained: list[dict], name: str) -> None:
    one, two = (found[name] for found in trained)
    assert difference(one["state"], two["state"]) < 1e-9
    assert two["history"][0] == pytest.approx(one["history"][0], rel=1e-5)


@pytest.mark.slow
def test_without_the_wrapper_s_forward_they_do_not(trained: list[dict]) -> None:
    one, two = (found[APART] for found in trained)
    assert difference(one["state"], two["state"]) > 1e-4


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_shares_of_a_batch_are_the_batch(monkeypatch: pytest.MonkeyPatch, processes: int) -> None:
    """Every image once an epoch, whoever reads it, and the same random draws for it."""
    recipe, images = Training(epochs=1.0, batch_size=4), 12
    seen = []

    def note(index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        seen.append((index, float(rng.random())))
        return {"index": np.array(index)}

    def epoch(processes: int) -> list[tuple[int, float]]:
        seen.clear()
        monkeypatch.setattr(training, "world_size", lambda: processes)
        for step in range(3):
            for rank in range(processes):
                monkeypatch.setattr(training, "rank", lambda rank=rank: rank)
                training._Steps(images, note, recipe)[step]
        return list(seen)

    assert sorted(index for index, _ in epoch(processes)) == list(range(images))
    assert epoch(processes) == epoch(1)


def test_a_batch_that_cannot_be_shared_out_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(training, "world_size", lambda: 3)
    with pytest.raises(ValueError, match=r"^batch_size is 4, which 3 processes cannot share out equally$"):
        fit(ManyClassTokens(), IMAGES, sample, RECIPE, Run(tmp_path / "run", {}, Execution(device="cpu")))


def test_one_process_counts_for_itself() -> None:
    assert float(mean_count(torch.tensor([True, False, True]))) == 2
    assert float(mean_count(torch.tensor([False]))) == 1


@on_all_devices
def fail(*, execution: dict, how: str) -> None:
    """Process 1 fails while the other waits for it."""
    if training.rank() == 1:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise {"refused": ValueError("a is 1, but must be 2; write 2"), "broken": ZeroDivisionError("broken")}[how]
    torch.distributed.all_reduce(torch.zeros(1))
    time.sleep(600)


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("refused", ValueError, "^a is 1, but must be 2; write 2$"),
        ("killed", ValueError, "^process 1 of 2 was ended by SIGKILL; see whether memory ran out, and run again$"),
        ("broken", Exception, "ZeroDivisionError: broken"),
    ],
)
def test_one_failing_process_ends_all_at_once(how: str, error: type[Exception], message: str) -> None:
    started = time.monotonic()
    with pytest.raises(error, match=message):
        fail(execution={"device": "cpu", "processes": 2}, how=how)
    assert time.monotonic() - started < 120  # the library's own patience is half an hour


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_processes_end_with_the_job_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, time\nfrom acr.distributed import on_all_devices\n"
        "@on_all_devices\ndef wait(*, execution, folder):\n"
        "    pathlib.Path(folder, str(os.getpid())).touch()\n    time.sleep(600)\n"
    )
    (tmp_path / "waiting.py").write_text(code)
    call = f"import waiting; waiting.wait(execution={{'device': 'cpu', 'processes': 2}}, folder={str(tmp_path / 'pids')!r})"
    (tmp_path / "pids").mkdir()
    job = subprocess.Popen([sys.executable, "-c", call], cwd=tmp_path)
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "pids").iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    pids = [int(path.name) for path in (tmp_path / "pids").iterdir()]
    assert len(pids) == 2
    job.kill()
    job.wait()
    time.sleep(1)
    assert not [pid for pid in pids if alive(pid)]
