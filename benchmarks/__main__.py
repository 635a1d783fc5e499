"""`python -m benchmarks`: measures all pairs, or those named, and prints the table; `make bench` writes docs/speed.md."""

import argparse
import os
import sys

import torch

from benchmarks import inputs, pairs
from benchmarks.table import PAIRS, SIZES, markdown, write


def main(arguments: list[str]) -> None:
    """Measures, prints, and with --write renews docs/speed.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join([*PAIRS, *SIZES])}; none: all")
    parser.add_argument("--photographs", metavar="FOLDER", help="photographs to measure on; none: generated ones")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="of torch, on the CPU")
    parser.add_argument("--repeats", type=int, default=pairs.REPEATS)
    parser.add_argument("--write", action="store_true", help="renew the table of docs/speed.md")
    parser.add_argument("--peak", nargs=2, metavar=("NAME", "SIDE"), help=argparse.SUPPRESS)
    wanted = parser.parse_args(arguments)
    if wanted.photographs:
        os.environ[inputs.ROOT] = wanted.photographs
    torch.set_num_threads(wanted.threads)
    device = torch.device(wanted.device)
    if wanted.peak:
        name, side = wanted.peak
        sys.stdout.write(str(pairs.peak(getattr(PAIRS[name](device), side), device)))
        return
    rows = []
    for name in wanted.names or [*PAIRS, *SIZES]:
        rows.append(SIZES[name]() if name in SIZES else pairs.measured(name, PAIRS[name](device), device, wanted.repeats))
        sys.stdout.write(f"{rows[-1]}\n")
    sys.stdout.write(markdown(rows, device))
    if wanted.write:
        write(markdown(rows, device))


if __name__ == "__main__":
    main(sys.argv[1:])
