"""Jobs that share a machine take a GPU each; nothing else is decided here. No GPU is needed."""

import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import torch

from acr import devices
from acr.devices import claim, device_of, devices_of, visible_gpus
from acr.files import hold
from acr.recipes import Execution

AUTO, CPU, CUDA = Execution(device="auto"), torch.device("cpu"), "cuda"
CLAIM = """
import sys, torch
from acr import devices
from acr.recipes import Execution

torch.cuda.device_count = lambda: 2
devices.PATIENCE = 0.02
print(*devices.devices_of(Execution(device="auto"), int(sys.argv[1])), flush=True)
input()
"""


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A machine of its own: no GPU is seen or held; `machine(count, visible)` says how many torch sees, and of which."""

    def see(count: int, visible: str | None = None) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(devices, "_claims", [])
    device_of.cache_clear()
    see(0)
    yield see
    for held in devices._claims:
        held.close()
    device_of.cache_clear()


def locks(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("acr-gpu-*"))


class Holder:
    """Another process that claims GPUs of "3,5" and holds them until it ends."""

    def __init__(self, folder: Path, count: int = 1) -> None:
        environment = {**os.environ, "TMPDIR": str(folder), "CUDA_VISIBLE_DEVICES": "3,5"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([sys.executable, "-c", CLAIM, str(count)], env=environment, **pipes)

    def devices(self) -> list[str]:
        """What it claimed, once it has."""
        return self.process.stdout.readline().split()

    def end(self) -> None:
        """Ends as jobs end that are killed."""
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def test_a_gpu_that_is_not_there_is_named(machine) -> None:
    for count, seen in ((0, "no GPU"), (1, "1 GPU")):
        machine(count)
        expected = f"^execution.device is 'cuda:1', but torch sees {seen}; set it to auto or cpu$"
        with pytest.raises(ValueError, match=expected):
            device_of(Execution(device="cuda:1"))
    machine(2)
    with pytest.raises(ValueError, match=r"^execution.device is 'cuda:2', but torch sees 2 GPUs; set it to auto or cpu$"):
        devices_of(Execution(device="cuda:2"), 2)


def test_a_device_asked_for_by_name_is_taken_as_it_is(machine, tmp_path) -> None:
    machine(2)
    assert device_of(Execution(device="cuda:1")) == torch.device(CUDA, 1)
    assert device_of(Execution(device="cuda")) == torch.device(CUDA)
    assert devices_of(Execution(device="cuda:1"), 2) == [torch.device(CUDA, 1)]
    assert device_of(Execution(device="cpu")) == CPU
    assert devices_of(Execution(device="cpu"), 2) == [CPU, CPU]
    assert locks(tmp_path) == []


def test_without_a_gpu_the_cpu_serves_all_and_the_log_says_so_once(caplog) -> None:
    caplog.set_level(logging.INFO)
    assert [device_of(AUTO), device_of(AUTO)] == [CPU, CPU]
    assert caplog.messages == ["torch sees no GPU (CUDA_VISIBLE_DEVICES=): on the CPU"]
    assert devices_of(AUTO, 3) == [CPU] * 3


def test_what_the_cpu_is_asked_for_needs_no_word(caplog) -> None:
    caplog.set_level(logging.INFO)
    device_of(Execution(device="cpu"))
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("count", "visible", "expected"),
    [
        (3, None, ["0", "1", "2"]),
        (2, "", ["0", "1"]),
        (2, "3,5", ["3", "5"]),
        (2, " GPU-1f , GPU-2e ", ["GPU-1f", "GPU-2e"]),
        (1, "3,99", ["3"]),  # those behind one that is not there are not seen
        (0, "-1", []),
    ],
)
def test_gpus_go_by_the_names_they_have_on_the_machine(machine, count, visible, expected) -> None:
    machine(count, visible)
    assert visible_gpus() == expected


def test_a_single_gpu_is_taken_without_a_lock(machine, tmp_path) -> None:
    machine(1, "3")
    assert device_of(AUTO) == torch.device(CUDA, 0)
    assert claim(["3"], 1) == [0]
    assert locks(tmp_path) == []


def test_gpus_of_one_number_in_two_jobs_of_slurm_are_two(machine, tmp_path, monkeypatch) -> None:
    machine(2, "0,1")
    for job in ("7", "8"):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        assert claim(["0", "1"], 2) == [0, 1]
    assert locks(tmp_path) == [f"acr-gpu-{job}-{name}.lock" for job in ("7", "8") for name in ("0", "1")]


def test_a_process_asks_once_and_keeps_what_it_got(machine, tmp_path, caplog) -> None:
    caplog.set_level(logging.INFO)
    machine(2, "3,5")
    assert device_of(AUTO) == device_of(AUTO) == torch.device(CUDA, 0)
    assert locks(tmp_path) == ["acr-gpu-3.lock"]
    assert caplog.messages == ["on GPU 3 of 3, 5"]


def test_several_gpus_are_claimed_for_several_processes_and_no_more_than_there_are(machine, tmp_path, caplog) -> None:
    caplog.set_level(logging.INFO)
    machine(2, "3,5")
    assert devices_of(AUTO, 4) == [torch.device(CUDA, 0), torch.device(CUDA, 1)]
    assert locks(tmp_path) == ["acr-gpu-3.lock", "acr-gpu-5.lock"]
    assert caplog.messages == ["execution.processes is 4, but there are 2 GPUs: as many processes", "on GPU 3, 5 of 3, 5"]


def test_all_or_none_are_claimed(tmp_path) -> None:
    """Two jobs that want two GPUs each would else wait for each other for ever."""
    with hold(tmp_path / "acr-gpu-3.lock"):
        assert devices._free(["3", "5"], 2) == {}
        held = devices._free(["3", "5"], 1)
        assert list(held) == [1]
        held[1].close()
    assert claim(["3", "5"], 2) == [0, 1]


def test_jobs_take_a_gpu_each_and_wait_where_all_are_held(machine, tmp_path, monkeypatch, caplog) -> None:
    caplog.set_level(logging.INFO)
    holders = [Holder(tmp_path), Holder(tmp_path)]
    found = [holder.devices() for holder in holders]
    assert sorted(found) == [["cuda:0"], ["cuda:1"]]
    monkeypatch.setattr(devices, "PATIENCE", 0.02)
    machine(2, "3,5")
    started, timer = time.monotonic(), threading.Timer(0.5, holders[1].process.kill)
    timer.start()
    assert [str(device_of(AUTO))] == found[1]
    assert time.monotonic() - started > 0.4
    name = {"cuda:0": "3", "cuda:1": "5"}[found[1][0]]
    assert caplog.messages == ["all of the GPUs 3, 5 are held by other jobs: waiting", f"on GPU {name} of 3, 5"]
    timer.join()
    for holder in holders:
        holder.end()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_the_gpus_are_shared_with_other_users_of_the_machine() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        path = Path(folder, "acr-gpu-3.lock")
        Path(folder).chmod(0o1777)  # as /tmp is, where a file of another user cannot be opened for writing
        held = hold(path)
        os.seteuid(65534)
        try:
            assert hold(path) is None
            held.close()
            hold(path).close()
        finally:
            os.seteuid(0)
