"""A full disk and a read-only folder: one sentence, and nothing that was computed is lost."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.running import dry_run, final, plans, short_run, snakemake

pytestmark = pytest.mark.slow


@pytest.fixture
def disk(small_disk: Callable[[str], Path]) -> Path:
    """Room for a finished run."""
    return small_disk("64m")


def fill(disk: Path, room: int) -> Path:
    """Leaves so many bytes free."""
    filler = disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(disk).free - room))
    return filler


def dates(folder: Path) -> dict[str, float]:
    results = folder / "results" / "micro"
    return {str(path): path.stat().st_mtime for path in results.rglob("*") if path.is_file()}


def test_a_disk_that_fills_up_ends_in_one_sentence_and_loses_nothing(run: Path, disk: Path) -> None:
    shutil.copytree(run, disk, dirs_exist_ok=True)
    for made_anew in ("classifiers/untrained", "seeds/untrained", "figures"):
        shutil.rmtree(disk / "results" / "micro" / made_anew)
    takes = (run / "results/micro/classifiers/untrained/model.safetensors").stat().st_size
    before, filler = dates(disk), fill(disk, room=takes * 3 // 2)  # its checkpoint and its model take twice as much
    stopped = snakemake(disk)
    output = stopped.stdout + stopped.stderr
    assert stopped.returncode == 1
    assert (
        "error: a file cannot be written (No space left on device); make room on the disk and give the same command again, "
        "which goes on from what is there (log: logs/micro/classifiers/untrained.log)" in output
    )
    assert "Traceback" not in output
    assert not (disk / "results/micro/classifiers/untrained/model.safetensors").exists()
    filler.unlink()
    finished = snakemake(disk)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert final(disk) == final(run)
    redone = {name for name, date in dates(disk).items() if name in before and before[name] != date}
    assert {Path(name).relative_to(disk / "results/micro").parts[0] for name in redone} <= {
        *("metrics", "report.html", "report.provenance.json", "summary.txt")
    }


@pytest.fixture
def read_only(run: Path, disk: Path) -> Path:
    """A finished run whose results cannot be written."""
    shutil.copytree(run, disk, dirs_exist_ok=True)
    results = str(disk / "results")
    subprocess.run(["mount", "--bind", results, results], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", results], check=True)
    return disk


def test_what_cannot_be_written_is_told_before_anything_starts(read_only: Path) -> None:
    refused, looked = plans([short_run(read_only), dry_run(read_only)])
    sentence = "results/micro cannot be written to; make it writable, and the same command goes on from what is there"
    assert refused["status"] == 1
    assert sentence in refused["output"].splitlines()
    assert "Traceback" not in refused["output"]
    assert looked["status"] == 0
    assert "Nothing to be done" in looked["output"]


def test_a_full_disk_is_told_before_anything_starts(run: Path, disk: Path) -> None:
    shutil.copytree(run, disk, dirs_exist_ok=True)
    fill(disk, room=0)
    (answer,) = plans([short_run(disk)])
    sentence = "the disk that results/micro is on is full; make room, and the same command goes on from what is there"
    assert answer["status"] == 1
    assert sentence in answer["output"].splitlines()
    assert "Traceback" not in answer["output"]
