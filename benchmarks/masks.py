"""Pairs of masks."""

from collections.abc import Callable

import torch

from benchmarks.pairs import Pair

PAIRS: dict[str, Callable[[torch.device], Pair]] = {}
