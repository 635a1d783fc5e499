"""`python -m benchmarks.pools`: how much of several processes' time goes into the CRFs that they are started for."""

import argparse
import os
import sys
import time
from itertools import repeat
from typing import NamedTuple

import numpy as np

from acr.crf import masks
from acr.recipes import Crf
from benchmarks.masks import photograph, scores
from benchmarks.pairs import processor

SURE = 3  # labels of 21 that a photograph's CRF has


class Seconds(NamedTuple):
    """Of this process and of the children that it waited for."""

    wall: float
    processor: float


def seconds(size: tuple[int, int], count: int, workers: int) -> Seconds:
    """What the masks of `count` photographs of a size take."""
    image, probabilities = photograph(0)[: size[0], : size[1]], scores(21, SURE)[:, : size[0], : size[1]]
    started, before = time.perf_counter(), processor()
    for _ in masks(repeat((image, np.ascontiguousarray(probabilities)), count), Crf(), workers):
        pass
    return Seconds(time.perf_counter() - started, processor() - before)


def main(arguments: list[str]) -> None:
    """Prints the start-up, and the share of the time after it that one process alone would have needed for the same CRFs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pools", description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--count", type=int, default=32, help="photographs of 375 x 500")
    wanted = parser.parse_args(arguments)
    whole, load = photograph(0).shape[:2], os.getloadavg()[0]
    seconds(whole, 1, 0)  # loads what is loaded once
    alone = [seconds(whole, 4, 0)]
    start = seconds((8, 8), wanted.workers, wanted.workers)
    pool = seconds(whole, wanted.count, wanted.workers)
    alone.append(seconds(whole, 4, 0))
    each = Seconds(*np.mean(alone, 0) / 4)
    wall = each.wall * wanted.count / ((pool.wall - start.wall) * wanted.workers)
    processor = each.processor * wanted.count / (pool.processor - start.processor)
    sys.stdout.write(
        f"{wanted.count} CRFs of {SURE} labels, {wanted.workers} processes: start-up {start.wall:.2f} s, of processors "
        f"{start.processor:.2f} s, then {pool.wall - start.wall:.2f} s; alone {each.wall:.3f} s each, of processors "
        f"{each.processor:.3f} s. Efficiency by wall {wall:.2f}, by processors {processor:.2f}; load average "
        f"{load:.1f} before, {os.getloadavg()[0]:.1f} after\n"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
