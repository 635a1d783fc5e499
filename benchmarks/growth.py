"""`python -m benchmarks.growth --write`: how time and memory of each stage grow with the side of a photograph and their number.

Each stage has a process of its own, in which sizes come in rising order, so that the peak is always that of the last one.
"""

import argparse
import ctypes
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch

from acr.affinities import affinity_without_gradient, neighbours, random_walk, transition
from acr.confident_labels import confident_labels
from acr.costs import peak_memory
from acr.datasets.base import Record, Split, read_split, write_split
from acr.files import write_arrays
from acr.images import write_mask
from acr.measures import score_histogram
from acr.metrics import measure_seeds
from acr.models.deeplab import build_deeplab
from acr.recipes import ConfidentLabels, Segmenter
from acr.segmenters import scores
from acr.shapes import Grid
from acr.shards import merge_maps
from benchmarks.inputs import mask, photograph, smooth
from benchmarks.table import PAGE
from benchmarks.throughput import NETWORKS, localising, training

CPU = torch.device("cpu")
SIDES = (224, 320, 448, 640, 896, 1024)  # pixels
COUNTS = (100, 300, 1000, 3000, 10_000)  # photographs
BEGIN, END = "<!-- growth -->\n", "<!-- /growth -->"
Work = Callable[[], object]


class Stage(NamedTuple):
    """The work of a stage at a size, and the largest exponents that its algorithm has there, of time and of memory."""

    build: Callable[[int], Work]
    time: int
    memory: int


def _network(build: Callable[..., NamedTuple], side: int) -> Work:
    NETWORKS["growing"] = ("deit_tiny_patch16_224", side)
    return build("growing", 1, "float32", CPU).timed


def _confident(side: int) -> Work:
    maps = smooth(np.random.default_rng(0), 2, side, side)
    return lambda: confident_labels(photograph(0, side, side), maps, ConfidentLabels())


def _walk(side: int) -> Work:
    grid, offsets, rng = Grid(side // 8, side // 8), neighbours(5), np.random.default_rng(0)
    features, maps = rng.random((448, *grid), np.float32), smooth(rng, 2, *grid)
    return lambda: random_walk(maps, transition(affinity_without_gradient(features, offsets), grid, offsets, 8.0), 256)


def _prediction(side: int) -> Work:
    recipe = Segmenter(labels="", backbone="mobilenetv2_100")
    keys = ("backbone", "options", "stride", "normalisation", "dilations")
    network = build_deeplab({"classes": range(20), **{key: getattr(recipe, key) for key in keys}}).eval()
    return lambda: scores(network, photograph(0, side, side), (1.0,))


def _histogram(side: int) -> Work:
    truth, maps = mask(0, (0, 1), side, side), smooth(np.random.default_rng(1), 2, side, side)
    return lambda: score_histogram(truth, maps, (0, 1), 21)


@functools.cache
def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory()


def _of_many(measure: Callable[[Path], object], count: int) -> Work:
    """A split of so many photographs that share one small mask, and their seeds, before `measure` sees them."""
    folder = Path(_folder().name, str(count))
    folder.mkdir(exist_ok=True)
    write_mask(folder / "mask.png", mask(0, (0, 1), 32, 32))
    records = [Record(f"photograph_{number}", folder / "mask.png", folder / "mask.png", ("a", "b")) for number in range(count)]
    (folder / "classes.txt").write_text("a\nb\n")
    write_split(folder / "train.csv", Split("train", ("a", "b"), tuple(records)))
    maps = smooth(np.random.default_rng(2), 2, 4, 4).astype(np.float16)
    write_arrays(folder / "maps.npz", ((record.image_id, maps) for record in records))
    return lambda: measure(folder)


def _merge(folder: Path) -> None:
    merge_maps(split=str(folder / "train.csv"), shards=[str(folder / "maps.npz")], output=str(folder / "merged.npz"))


def _measure(folder: Path) -> None:
    names = {"recipe": "{}", "dataset": "many", "name": "acr", "output": folder / "metrics.json"}
    measure_seeds(split=folder / "train.csv", maps=folder / "maps.npz", **names)


def _read(folder: Path) -> None:
    assert read_split(folder / "train.csv").records


BY_SIDE = {
    "classifier step": Stage(partial(_network, training), 4, 4),
    "seeds": Stage(partial(_network, localising), 4, 4),
    "confident labels": Stage(_confident, 2, 2),
    "gather and walk": Stage(_walk, 2, 2),
    "prediction": Stage(_prediction, 2, 2),
    "threshold curve": Stage(_histogram, 2, 2),
}
BY_COUNT = {
    "reading a split": Stage(partial(_of_many, _read), 1, 0),
    "merging seeds": Stage(partial(_of_many, _merge), 1, 0),
    "measuring seeds": Stage(partial(_of_many, _measure), 1, 0),
}
STAGES = {**BY_SIDE, **BY_COUNT}


def grown(name: str) -> list[tuple[int, float, float]]:
    """Size, seconds, and the peak in MiB above what the process held before, of the work of a stage at each size."""
    smallest, sizes = (32, SIDES) if name in BY_SIDE else (1, COUNTS)
    STAGES[name].build(smallest)()  # what is loaded once, whatever the size
    found = []
    for size in sizes:
        work, seconds = STAGES[name].build(size), []
        ctypes.CDLL(None).malloc_trim(0)  # memory that was freed and kept would hide what the work takes
        with peak_memory(CPU) as peak:
            while len(seconds) < 3 and sum(seconds) < 5:
                started = time.process_time()
                work()
                seconds.append(time.process_time() - started)
        found.append((size, median(seconds), peak["mib"]))
    return found


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The slope of the values over the sizes, both as logarithms, over the larger half of the sizes."""
    half = len(sizes) // 2
    return float(np.polyfit(np.log(sizes[half:]), np.log(values[half:]), 1)[0])


def table(found: dict[str, list[tuple[int, float, float]]]) -> str:
    """A line a stage: fitted exponents beside those of the algorithm, and what the largest size takes.

    Less than a MiB counts as one: it is not told from none.
    """
    head = ("stage", "against", "time grows as", "at most", "memory grows as", "at most", "at the largest")
    lines = [head, ["---"] * len(head)]
    for name, rows in found.items():
        sizes, seconds, peaks = zip(*rows, strict=True)
        stage, against = STAGES[name], "side" if name in BY_SIDE else "photographs"
        largest = f"{seconds[-1]:.3g} s, {peaks[-1]:.0f} MiB"
        fits = (
            f"{exponent(sizes, seconds):.2f}",
            str(stage.time),
            f"{exponent(sizes, np.maximum(peaks, 1)):.2f}",
            str(stage.memory),
        )
        lines.append((name, against, *fits, f"{sizes[-1]:,}: {largest}"))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def draw(found: dict[str, list[tuple[int, float, float]]], path: Path) -> None:
    """Time and memory of the stages that grow with the side, on logarithmic axes."""
    import matplotlib.pyplot as plt  # its start is slow, and the stages' processes do not need it

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, column, unit in zip(axes, (1, 2), ("seconds of a core", "MiB"), strict=True):
        for name in BY_SIDE:
            axis.loglog([row[0] for row in found[name]], [row[column] for row in found[name]], marker="o", label=name)
        axis.set(xlabel="side of a photograph in pixels", ylabel=unit)
        axis.set_xticks(SIDES, [str(side) for side in SIDES], minor=False)
        axis.minorticks_off()
    axes[0].legend(fontsize="small")
    figure.savefig(path)


def main(arguments: list[str]) -> None:
    """Measures every stage in a process of its own and prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--write", action="store_true", help="renew docs/speed.md and docs/growth.svg")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    wanted = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if wanted.stage:
        sys.stdout.write(json.dumps(grown(wanted.stage)))
        return
    command = [sys.executable, "-m", "benchmarks.growth", "--stage"]
    found = {name: json.loads(subprocess.run([*command, name], capture_output=True, check=True).stdout) for name in STAGES}
    sys.stdout.write(table(found))
    if wanted.write:
        before, rest = PAGE.read_text().split(BEGIN)
        PAGE.write_text(before + BEGIN + table(found) + END + rest.split(END)[1])
        draw(found, PAGE.with_name("growth.svg"))


if __name__ == "__main__":
    main(sys.argv[1:])
