"""Two ways to compute the same thing, compared first and timed in turns afterwards."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from acr.costs import MIB, peak_memory

REPEATS = 5


@dataclass(frozen=True)
class Pair:
    """A published formulation and ours, each a function of the number of the repetition, which chooses the input.

    `difference` says how far two results lie apart; more than `tolerance` ends the comparison. Pictures, sizes and the
    like are told by `inputs`; `goal` is the ratio of processor time that was set out for, as the table shows it.
    """

    name: str
    inputs: str
    reference: Callable[[int], Any]
    ours: Callable[[int], Any]
    difference: Callable[[Any, Any], float]
    tolerance: float
    goal: str = ""


@dataclass(frozen=True)
class Measured:
    """Medians over the repetitions: seconds of both sides, and what the reference takes relative to ours.

    Peaks are by how many MiB each side exceeds what its process held before.
    """

    pair: Pair
    difference: float
    reference_seconds: float
    our_seconds: float
    ratio: float
    wall_ratio: float
    reference_peak: float
    our_peak: float


@dataclass(frozen=True)
class Sizes:
    """What the same thing takes on disk in a published format and in ours, in bytes; `difference` is as in `Pair`."""

    name: str
    inputs: str
    reference: float
    ours: float
    difference: float
    tolerance: float
    goal: str

    def __post_init__(self) -> None:
        _check(self.name, self.difference, self.tolerance)


def _check(name: str, difference: float, tolerance: float) -> None:
    if not difference <= tolerance:
        raise ValueError(f"{name}: the two results differ by {difference:.3g}, but may by {tolerance:.3g} at most")


def measured(name: str, pair: Pair, device: torch.device, repeats: int = REPEATS) -> Measured:
    """Both sides in turns, after their results were found equal within the tolerance.

    Processor time counts the children that a side waited for. On a GPU the ratio is that of wall time.

    Raises:
        ValueError: the results differ by more than the pair's tolerance.
    """
    difference = pair.difference(pair.reference(0), pair.ours(0))
    _check(name, difference, pair.tolerance)
    rounds = [[_seconds(side, number, device) for side in (pair.reference, pair.ours)] for number in range(repeats)]
    processor, wall = ([(reference[which], ours[which]) for reference, ours in rounds] for which in (0, 1))
    shown = wall if device.type == "cuda" else processor
    reference, ours = (median(seconds) for seconds in zip(*shown, strict=True))
    ratios = (median(one / other for one, other in each) for each in (shown, wall))
    return Measured(pair, difference, reference, ours, *ratios, *_peaks(name, pair, device))


def _seconds(side: Callable[[int], Any], number: int, device: torch.device) -> tuple[float, float]:
    """Processor and wall time of one call."""
    before, started = processor(), time.perf_counter()
    side(number)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return processor() - before, time.perf_counter() - started


def processor() -> float:
    """Seconds of this process and of the children that it waited for."""
    return time.process_time() + sum(os.times()[2:4])  # the second counts children, in hundredths


def _peaks(name: str, pair: Pair, device: torch.device) -> list[float]:
    """The peak of each side of the pair `name`, on a CPU in a process of its own: a heap that was grown once stays."""
    if device.type == "cuda":
        return [peak(side, device) for side in (pair.reference, pair.ours)]
    options = ["--threads", str(torch.get_num_threads()), "--device", str(device)]
    command = [sys.executable, "-m", "benchmarks", *options, "--peak", name]
    sides = ("reference", "ours")
    return [float(subprocess.run([*command, side], capture_output=True, text=True, check=True).stdout) for side in sides]


def peak(side: Callable[[int], Any], device: torch.device) -> float:
    """By how many MiB the first call of a side exceeds what the process held before."""
    held = torch.cuda.memory_allocated(device) / MIB if device.type == "cuda" else 0
    with peak_memory(device) as measured:
        side(0)
    return measured["mib"] - held
