"""The harness of the benchmarks: nothing is timed before it is equal, and the table goes where it belongs."""

import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import table
from benchmarks.pairs import Measured, Pair, measured
from tests.running import ROOT

CPU = torch.device("cpu")


def work(seconds: float) -> float:
    """Keeps the processor busy for so long."""
    ends = time.process_time() + seconds
    while time.process_time() < ends:
        pass
    return seconds


def pair(reference: float, ours: float, tolerance: float = 1.0) -> Pair:
    sides = (lambda number: work(reference), lambda number: work(ours))
    return Pair("toil", "a loop", *sides, difference=lambda one, other: abs(one - other), tolerance=tolerance, goal="4")


def test_results_that_differ_are_not_timed() -> None:
    with pytest.raises(ValueError, match=r"^name: the two results differ by 0.03, but may by 0.01 at most$"):
        measured("name", pair(0.04, 0.01, tolerance=0.01), CPU)


def test_nothing_known_to_be_a_number_is_a_difference() -> None:
    unknown = replace(pair(0.0, 0.0), difference=lambda one, other: float("nan"))
    with pytest.raises(ValueError, match="differ by nan"):
        measured("name", unknown, CPU)


def test_ratios_are_of_processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.pairs._peaks", lambda name, pair, device: [8.0, 2.0])
    row = measured("name", pair(0.08, 0.02), CPU, repeats=3)
    assert row.reference_seconds == pytest.approx(0.08, rel=0.1)
    assert row.ratio == pytest.approx(4, rel=0.1)
    assert (row.reference_peak, row.our_peak, row.difference) == (8, 2, pytest.approx(0.06))


def test_the_table_is_put_between_its_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "speed.md"
    page.write_text("before\n<!-- bench -->\nold\n<!-- /bench -->\nafter\n")
    monkeypatch.setattr(table, "PAGE", page)
    row = Measured(pair(1.0, 0.5), 1e-7, 4.0, 1.0, 4.0, 3.9, 100.0, 25.0)
    table.write(table.markdown([row], CPU))
    assert page.read_text().startswith("before\n<!-- bench -->\n| what | input |")
    assert page.read_text().endswith("<!-- /bench -->\nafter\n")
    assert "| toil | a loop | 4 s | 1 s | 4 | 4 | 3.9 | 25 of 100 MiB | 1e-07 |" in page.read_text()
    assert "old" not in page.read_text()
    assert torch.__version__.split("+")[0] in page.read_text()


@pytest.mark.slow
def test_a_row_by_its_name() -> None:
    command = [sys.executable, "-m", "benchmarks", "gather", "--repeats", "1"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert finished.returncode == 0, finished.stderr
    assert re.search(r"^\| [^|]*\| [^|]*\| [\d.]+ s \| [\d.]+ s \| \d", finished.stdout, re.MULTILINE)
