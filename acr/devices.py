"""Which device a job computes on. Jobs that share a machine claim a GPU each: snakemake counts them and does not say which.

A claim is a lock on a file, which the kernel lets go of when the process ends, however it ends.
"""

import functools
import logging
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import torch

from acr.files import hold
from acr.recipes import Execution

log = logging.getLogger(__name__)
PATIENCE = 1.0  # seconds between two looks for a free GPU
_claims: list[TextIO] = []  # open as long as this process lives


@functools.cache
def device_of(execution: Execution) -> torch.device:
    """The device asked for; `auto` is a GPU that no other job holds, waited for where all are held, else the CPU.

    Raises:
        ValueError: a GPU is asked for that torch does not see.
    """
    if execution.device == "auto":
        return devices_of(execution, 1)[0]
    device, count = torch.device(execution.device), torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ValueError(
            f"execution.device is {execution.device!r}, but torch sees {count or 'no'} GPU{'s' if count > 1 else ''}; "
            "set it to auto or cpu"
        )
    return device


def devices_of(execution: Execution, count: int) -> list[torch.device]:
    """The devices of `count` processes: as many GPUs, or fewer where fewer are seen; without any the CPU `count` times.

    A device that is asked for by name is not claimed, and serves one process; the CPU serves all.
    """
    if execution.device not in ("auto", "cpu"):
        return [device_of(execution)]
    visible = [] if execution.device == "cpu" else visible_gpus()
    if not visible:
        if execution.device == "auto":
            log.info("torch sees no GPU (CUDA_VISIBLE_DEVICES=%s): on the CPU", os.environ.get("CUDA_VISIBLE_DEVICES", ""))
        return [torch.device("cpu")] * count
    if len(visible) < count:
        log.info("execution.processes is %d, but there are %d GPUs: as many processes", count, len(visible))
    chosen = claim(visible, min(count, len(visible)))
    log.info("on GPU %s of %s", ", ".join(visible[index] for index in chosen), ", ".join(visible))
    return [torch.device("cuda", index) for index in chosen]


def visible_gpus() -> list[str]:
    """The names of the GPUs that torch sees, in its order: those of CUDA_VISIBLE_DEVICES where it is set, else numbers."""
    count = torch.cuda.device_count()
    listed = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return listed[:count] if listed else [str(index) for index in range(count)]


def claim(names: Sequence[str], count: int) -> list[int]:
    """The indices of `count` GPUs that no other process holds, from now on held by this one; it waits until there are.

    A single GPU is not claimed: whoever narrowed the view to it has shared them out.
    """
    if len(names) == 1:
        return [0]
    held = _free(names, count)
    if not held:
        log.info("all of the GPUs %s are held by other jobs: waiting", ", ".join(names))
    while not held:
        time.sleep(PATIENCE)
        held = _free(names, count)
    _claims.extend(held.values())
    return list(held)


def _free(names: Sequence[str], count: int) -> dict[int, TextIO]:
    """The locks of the first `count` free GPUs by their index; none where fewer are free."""
    held: dict[int, TextIO] = {}
    for index, name in enumerate(names):
        if len(held) < count and (lock := hold(_lock(name))) is not None:
            held[index] = lock
    if len(held) == count:
        return held
    for lock in held.values():
        lock.close()
    return {}


def _lock(name: str) -> Path:
    """The file that stands for a GPU, where all users of the machine find it.

    Jobs of SLURM count the GPUs they were given from 0, each its own: another job's 0 is another GPU.
    """
    allocation = os.environ.get("SLURM_JOB_ID")
    names = ["acr-gpu", *([allocation] if allocation else []), name.replace("/", "_")]
    return Path(tempfile.gettempdir(), f"{'-'.join(names)}.lock")
