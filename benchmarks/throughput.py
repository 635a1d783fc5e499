"""`python -m benchmarks.throughput`: how many photographs a second a device trains on and localises, at several batch sizes."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain
from statistics import median
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from acr.classifiers import Objective, build_classifier, describe
from acr.costs import peak_memory
from acr.recipes import Classifier, Training
from acr.seeds import localise, with_depth
from benchmarks.inputs import CLASSES
from benchmarks.seeds import RECIPE
from benchmarks.training import batch_of

NETWORKS = {
    "hybrid": ("vit_base_r50_s16_384", 384),
    "small": ("deit_small_patch16_224", 224),
    "tiny": ("deit_tiny_patch16_224", 384),
}
HEAD = ("what", "network", "batch", "precision", "photographs/s", "ms", "peak MiB", "TFLOP/s", "share of peak")
PRECISIONS = ("float32", "tf32", "bfloat16")


def seconds(work: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """The median of several calls after three that are not timed."""
    found = []
    for _ in range(repeats + 3):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - started)
    return median(found[3:])


def largest_rate(precision: str, device: torch.device, side: int = 8192) -> float:
    """TFLOP/s of a product of two large random matrices: what the device can reach."""
    side = side if device.type == "cuda" else 1024
    kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
    one, other = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    return 2 * side**3 / seconds(lambda: one @ other, device, 10) / 1e12


class Work(NamedTuple):
    """What is timed, and the part of it whose arithmetic is counted, which stands for so many times as much."""

    timed: Callable[[], Any]
    counted: Callable[[], Any]
    times: int


def training(network: str, batch: int, precision: str, device: torch.device) -> Work:
    """One step on a batch of crops and their mirror images; the backward pass has twice the arithmetic of the forward pass."""
    backbone, size = NETWORKS[network]
    recipe = Classifier(backbone=backbone, image_size=size, training=Training(batch_size=batch))
    torch.manual_seed(0)
    model = build_classifier(describe(recipe, CLASSES)).to(device, memory_format=torch.channels_last).train()
    objective, optimiser, crops = (
        Objective(model, recipe),
        torch.optim.SGD(model.parameters(), 1e-6),
        batch_of(0, batch, size, device),
    )

    def step() -> None:
        optimiser.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = objective(crops)["loss"]
        loss.backward()
        optimiser.step()

    return Work(step, lambda: objective(crops), 3)


def localising(network: str, batch: int, precision: str, device: torch.device) -> Work:
    """Seeds of a batch of photographs of two classes each."""
    backbone, size = NETWORKS[network]
    torch.manual_seed(0)
    model = build_classifier(describe(Classifier(backbone=backbone, image_size=size), CLASSES)).eval().requires_grad_(False)
    model, images = model.to(device), batch_of(0, batch, size, device)["image"].float() / 255

    def seeds() -> Any:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            return localise(model, images, [(0, 1)] * batch, with_depth(RECIPE, model))

    return Work(seeds, lambda: model(torch.cat([images, images.flip(-1)])), 1)


WORK = {"seeds": localising, "training": training}


def rows(device: torch.device, batches: list[int], repeats: int) -> Iterator[tuple[str, ...]]:
    """The lines of the table."""
    for precision in PRECISIONS if device.type == "cuda" else PRECISIONS[:1]:
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = precision != "float32"
        peak = largest_rate(precision, device)
        for what, build in WORK.items():
            for network in NETWORKS:
                for batch in batches:
                    work = build(network, batch, precision, device)
                    with torch.no_grad(), FlopCounterMode(display=False) as counter:
                        work.counted()
                    with peak_memory(device) as memory:
                        taken = seconds(work.timed, device, repeats)
                    rate = work.times * counter.get_total_flops() / taken / 1e12
                    numbers = (f"{batch / taken:.1f}", f"{1000 * taken:.1f}", f"{memory['mib']:.0f}", f"{rate:.2f}")
                    yield what, network, str(batch), precision, *numbers, f"{100 * rate / peak:.0f} % of {peak:.3g}"


def main(arguments: list[str]) -> None:
    """Prints a line as soon as it is measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--repeats", type=int, default=10)
    wanted = parser.parse_args(arguments)
    device = torch.device(wanted.device)
    if device.type == "cuda":
        sys.stdout.write(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}\n")
    for line in chain((HEAD, ["---"] * len(HEAD)), rows(device, wanted.batches, wanted.repeats)):
        sys.stdout.write(f"| {' | '.join(line)} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
