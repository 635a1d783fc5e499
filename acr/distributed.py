"""One training run on several processes, one a device, with the result of one process on the whole batch.

Each process takes an equal share of every batch. Means over a batch are then means of the shares' means, which is how
DistributedDataParallel joins gradients; what is divided by a count that differs between shares divides by `mean_count`,
and batch norms by the moments of the whole batch.
"""

import functools
import logging
import os
import signal
import socket
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm

from acr import config, extensions
from acr.devices import devices_of
from acr.jobs import append_to_log
from acr.processes import die_with, main_hidden
from acr.recipes import Execution

Train = Callable[..., None]


def rank() -> int:
    """The number of this process among those that train together; 0 writes and logs."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def mean_over_processes(values: Tensor) -> Tensor:
    """The mean of a tensor of numbers over all processes, without gradient."""
    if world_size() == 1:
        return values.detach()
    total = values.detach().clone()
    distributed.all_reduce(total)
    return total / world_size()


def mean_count(chosen: Tensor) -> Tensor:
    """How many are chosen of a boolean tensor, averaged over processes and at least 1 over all of them together.

    A sum divided by it, averaged over processes, is the sum over all of them divided by the count over all of them.
    """
    return mean_over_processes(chosen.sum().float()).clamp(min=1 / world_size())


def synchronise_norms(module: nn.Module) -> None:
    """Has every batch norm that is in training mode use the moments of the whole batch instead of its process's share."""
    for layer in module.modules():
        if isinstance(layer, _BatchNorm) and layer.training:
            layer.forward = functools.partial(_norm_of_all, layer)  # type: ignore[method-assign]


def _norm_of_all(layer: _BatchNorm, inputs: Tensor) -> Tensor:
    if not layer.training:
        return type(layer).forward(layer, inputs)
    axes, shape = [0, *range(2, inputs.ndim)], [1, -1, *[1] * (inputs.ndim - 2)]
    mean = all_reduce(inputs.mean(axes)) / world_size()
    centred = inputs - mean.view(shape)
    variance = all_reduce(centred.square().mean(axes)) / world_size()
    count = world_size() * inputs.numel() / inputs.shape[1]
    # every norm of our networks keeps moments
    assert layer.num_batches_tracked is not None
    assert layer.running_mean is not None
    assert layer.running_var is not None
    assert layer.momentum is not None
    with torch.no_grad():
        layer.num_batches_tracked += 1
        layer.running_mean.lerp_(mean, layer.momentum)
        layer.running_var.lerp_(variance * count / (count - 1), layer.momentum)
    normal = centred * (layer.weight * torch.rsqrt(variance + layer.eps)).view(shape) + layer.bias.view(shape)
    for name in ("drop", "act"):  # timm's batch norms drop and activate as well
        if hasattr(layer, name):
            normal = getattr(layer, name)(normal)
    return normal


def on_all_devices(train: Train) -> Train:
    """A training function, of whose keywords `execution` is one, that runs in `execution.processes` processes.

    One device a process, as many as there are. The first process that fails ends all of them at once.
    """

    @functools.wraps(train)
    def everywhere(*, execution: Mapping[str, Any], **arguments: Any) -> None:
        how = config.build(Execution, execution, "execution")
        if how.processes == 1 or distributed.is_initialized():
            train(execution=execution, **arguments)
            return
        devices = [str(device) for device in devices_of(how, how.processes)]
        if len(devices) == 1:
            train(execution={**execution, "device": devices[0]}, **arguments)
        else:
            _spawn(everywhere, devices, {**arguments, "execution": execution})

    return everywhere


def _spawn(train: Train, devices: list[str], arguments: Mapping[str, Any]) -> None:
    log = next((handler.baseFilename for handler in logging.root.handlers if isinstance(handler, logging.FileHandler)), None)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    failures = multiprocessing.get_context("spawn").SimpleQueue()
    with main_hidden():
        start = (os.getpid(), failures, devices, port, log, extensions.loaded(), train, arguments)
        together = multiprocessing.spawn(_process, start, len(devices), join=False)
    try:
        while not together.join():
            pass
    except (multiprocessing.ProcessRaisedException, multiprocessing.ProcessExitedException) as error:
        raise _cause([process.exitcode for process in together.processes], failures) from error


def _cause(exit_codes: list[int], failures: SimpleQueue) -> Exception:
    """The error of the process that failed first: the others fail for want of it, and are ended by SIGTERM."""
    for number, code in enumerate(exit_codes):
        if code < 0 and -code != signal.SIGTERM:
            name = signal.Signals(-code).name
            return ValueError(
                f"process {number} of {len(exit_codes)} was ended by {name}; see whether memory ran out, and run again"
            )
    refusal, text = failures.get()
    return ValueError(refusal) if refusal else RuntimeError(text)


def _process(
    number: int,
    parent: int,
    failures: SimpleQueue,
    devices: list[str],
    port: int,
    log: str | None,
    files: list[str],
    train: Train,
    arguments: Mapping[str, Any],
) -> None:
    """Process `number` of those that train together, from its start to its end."""
    die_with(parent)
    if log and number == 0:
        append_to_log(Path(log))
    device = torch.device(devices[number])
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, init_method=f"tcp://127.0.0.1:{port}", rank=number, world_size=len(devices))
    try:
        extensions.load(files)
        train(**{**arguments, "execution": {**arguments["execution"], "device": str(device)}})
    except Exception as error:
        # before its connections close and the others fail too
        failures.put((str(error) if isinstance(error, ValueError) else None, traceback.format_exc()[-4000:]))
        raise
    distributed.destroy_process_group()
