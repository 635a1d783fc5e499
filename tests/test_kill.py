"""SIGKILL at random moments: the same command again, once, ends with the bytes of a run that nothing happened to.

ACR_KILLS says how many moments are tried; docs/log.md has the result of 30.
"""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from acr.files import UNFINISHED, Arrays
from tests.running import MICRO, arguments, environment, final

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("ACR_KILLS", "3"))
STAGES = ("splits", "classifiers", "seeds", "affinities", "pseudo_labels", "segmenters", "predictions")
# which jobs of a stage a moment is looked for in, by their logs, and how long such a job may take
TRAINERS = ("classifiers/acr.log", "classifiers/untrained.log", "affinities/psa.log", "segmenters/deeplab.log")
SHARDS = tuple(
    f"{artefact}/{shard}-of-2.log"
    for artefact in ("seeds/acr", "affinities/psa", "pseudo_labels/acr", "predictions/deeplab_crf/val")
    for shard in (0, 1)
)
MERGES = ("seeds/acr/merge.log", "affinities/psa/merge.log", "pseudo_labels/acr/merge.log", "predictions/deeplab/val/merge.log")


@pytest.fixture(scope="module")
def expected(run: Path) -> dict[str, bytes]:
    return final(run)


@pytest.fixture(scope="module")
def folder(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that is taken back by some stages before each moment."""
    folder = tmp_path_factory.mktemp("killed")
    shutil.copytree(run, folder, dirs_exist_ok=True)
    configuration = yaml.safe_load(MICRO.read_text())
    configuration["execution"] |= {"shards": 2, "checkpoint_seconds": 0}
    (folder / "killed.yaml").write_text(yaml.safe_dump(configuration))
    return folder


def take_back(results: Path, first: int) -> None:
    """Removes what the stages from `first` on made, what was measured of it, and what shows it."""
    for stage in STAGES[first:]:
        shutil.rmtree(results / stage)
        shutil.rmtree(results / "metrics" / stage, ignore_errors=True)
    shutil.rmtree(results / "figures")
    (results / "report.html").unlink()


def start(folder: Path) -> subprocess.Popen:
    """Snakemake in a process group of its own, which its jobs belong to."""
    command = [sys.executable, "-m", "snakemake", *arguments(folder, [folder / "killed.yaml"])]
    output = (folder / "output.txt").open("w")
    return subprocess.Popen(command, stdout=output, stderr=output, env=environment(), start_new_session=True)


def kill_job(draw: random.Random, process: subprocess.Popen, log: Path) -> str:
    """Kills one job some time after its log begins; snakemake goes on with what does not need it, and ends."""
    while process.poll() is None:
        started = re.search(r"process (\d+) starts", log.read_text()) if log.exists() else None
        if started:
            time.sleep(draw.uniform(0, 0.2 if log.name == "merge.log" else 1.0))  # about as long as such a job takes
            with contextlib.suppress(ProcessLookupError):  # it may be quicker
                os.kill(int(started[1]), signal.SIGKILL)
            process.wait()
            return f"{log} after: {log.read_text().splitlines()[-1]}"
        time.sleep(0.01)
    return f"{log} never ran"


def kill_all(draw: random.Random, process: subprocess.Popen, log: Path) -> str:
    """Kills snakemake and all its jobs at once, as a machine that goes down does."""
    return _after(draw, process, lambda: os.killpg(process.pid, signal.SIGKILL))


def kill_snakemake(draw: random.Random, process: subprocess.Popen, log: Path) -> str:
    """Kills snakemake alone: its jobs go on beside those that the next one starts."""
    return _after(draw, process, process.kill)


def _after(draw: random.Random, process: subprocess.Popen, kill: Callable[[], None]) -> str:
    seconds = draw.uniform(1, 30)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        kill()
        process.wait()
    return f"after {seconds:.1f} s"


WAYS: dict[str, tuple[Callable[[random.Random, subprocess.Popen, Path], str], tuple[str, ...]]] = {
    "trainer": (kill_job, TRAINERS),
    "shard": (kill_job, SHARDS),
    "everything": (kill_all, TRAINERS + SHARDS),
    "merge": (kill_job, MERGES),
    "snakemake alone": (kill_snakemake, TRAINERS + SHARDS),
}


def check_nothing_is_cut_short(folder: Path, expected: dict[str, bytes]) -> None:
    """What has its final name is whole: the bytes it will have in the end, and shards that can be read to theirs."""
    for name, content in final(folder).items():
        assert content == expected[name], f"{name} is not whole"
    for shard in (folder / "results").rglob("*-of-2.npz"):
        if not shard.name.startswith(UNFINISHED):
            archive = Arrays(shard)
            assert all(archive[name].size >= 0 for name in archive)


@pytest.mark.parametrize("moment", range(KILLS))
def test_the_same_command_again_ends_as_if_nothing_had_happened(folder: Path, expected: dict[str, bytes], moment: int) -> None:
    draw = random.Random(moment)
    way = list(WAYS)[moment % len(WAYS)]
    kill, logs = WAYS[way]
    log = draw.choice(logs)
    if moment == 0:  # a second run from scratch
        for name in ("results", "data", ".snakemake"):
            shutil.rmtree(folder / name)
    else:  # taken back to before the stage of the job, or further
        take_back(folder / "results" / "micro", draw.randint(0, STAGES.index(log.split("/")[0])))
    shutil.rmtree(folder / "logs")
    process = start(folder)
    told = kill(draw, process, folder / "logs" / "micro" / log)
    status = process.returncode
    check_nothing_is_cut_short(folder, expected)
    again = start(folder)
    print(f"{way}, {told}: {status}, then {again.wait()}")  # noqa: T201
    assert again.returncode == 0, (folder / "output.txt").read_text()
    assert final(folder) == expected
    left = [path for path in (folder / "results").rglob("*") if path.name.startswith(UNFINISHED) or "shards" in path.name]
    assert not left
