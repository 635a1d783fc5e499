"""What several files of tests share."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from acr.classifiers import build_classifier, describe
from acr.config import canonical
from acr.datasets.base import read_split
from acr.datasets.catalogue import fetch_dataset, write_splits
from acr.files import read_json
from acr.models.weights import save_model
from acr.recipes import Classifier, Textures
from acr.segmenters import read_segmenter
from tests.running import ABLATIONS, MICRO, MICRO_ABLATIONS, DefaultRun, snakemake

DEFAULT = pytest.StashKey[DefaultRun]()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the default run come last: until then it runs beside the others."""
    items.sort(key=_waits)


def _waits(item: pytest.Item) -> bool:
    return "default_run" in getattr(item, "fixturenames", ())


def pytest_runtestloop(session: pytest.Session) -> None:
    """Begins the default run with the first test where one of the chosen tests is of it."""
    if not session.config.option.collectonly and any(map(_waits, session.items)):
        session.config.stash[DEFAULT] = DefaultRun()


def pytest_sessionfinish(session: pytest.Session) -> None:
    if DEFAULT in session.config.stash:
        session.config.stash[DEFAULT].end()


@pytest.fixture(scope="session")
def default_run(pytestconfig: pytest.Config) -> DefaultRun:
    """The default run, which began with the session."""
    return pytestconfig.stash[DEFAULT]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system of its own with room for `size`, such as 1m."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can mount a small file system")
    with ExitStack() as mounted:

        def mount(size: str) -> Path:
            folder = tmp_path / "disk"
            folder.mkdir()
            command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
            if refusal := subprocess.run(command, capture_output=True, text=True, check=False).stderr:
                pytest.skip(f"a small file system cannot be mounted here: {refusal.strip()}")
            # lazily: something may still look at it
            mounted.callback(subprocess.run, ["umount", "--lazy", str(folder)], check=True)
            return folder

        yield mount


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished micro run, which nobody changes."""
    folder = tmp_path_factory.mktemp("micro")
    finished = snakemake(folder)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "report: results/micro/report.html" in finished.stdout + finished.stderr
    return folder


@pytest.fixture(scope="session")
def varied(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run's segmenter with another head: its own, hardly trained, sees nothing but background."""
    folder, made = tmp_path_factory.mktemp("varied"), run / "results/micro/segmenters/deeplab"
    network = read_segmenter(made / "model.safetensors")
    torch.manual_seed(0)
    for layer in network.head:
        torch.nn.init.normal_(layer.weight, std=0.3)
    save_model(folder, network, read_json(made / "model.json"))
    return folder


@pytest.fixture(scope="session")
def ablated(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`results/micro` of a copy of the micro run to which tables and figures of the paper were added; nobody changes it."""
    folder = tmp_path_factory.mktemp("ablated")
    shutil.copytree(run, folder, dirs_exist_ok=True)
    made = snakemake(folder, "--", *ABLATIONS, config=[MICRO, MICRO_ABLATIONS])
    assert made.returncode == 0, made.stdout + made.stderr
    return folder / "results" / "micro"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A few scenes of 32 pixels, and a classifier of them that has learnt nothing: `split` and `model`."""
    folder = tmp_path_factory.mktemp("trained")
    data = canonical(Textures(root=str(folder / "data"), train_images=4, val_images=2, size=32))
    fetch_dataset(recipe=data, execution={}, manifest=folder / "source.json")
    write_splits(recipe=data, execution={"workers": 0}, manifest=folder / "source.json", drawn=None, folder=folder)
    split, recipe = read_split(folder / "train.csv"), Classifier(backbone="vit_stem8_96", image_size=32)
    description = describe(recipe, split.classes)
    torch.manual_seed(0)
    save_model(folder, build_classifier(description), description)
    return {"split": str(folder / "train.csv"), "model": str(folder / "model.safetensors")}
