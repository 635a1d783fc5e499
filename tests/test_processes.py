"""Work in other processes: in order, bounded, and over when the one that asked for it is."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from acr.processes import AHEAD, in_processes


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_results_come_in_the_order_of_the_tasks(workers):
    tasks = [(2, exponent) for exponent in range(12)]
    assert list(in_processes(pow, tasks, workers)) == [2**exponent for exponent in range(12)]


def test_work_is_done_in_other_processes():
    pids = set(in_processes(os.getpid, [()] * 4, 1))
    assert len(pids) == 1
    assert os.getpid() not in pids


def test_few_tasks_are_made_ahead():
    made = []

    def tasks():
        for index in range(40):
            made.append(index)
            yield (index,)

    results = in_processes(abs, tasks(), 2)
    for count, result in enumerate(results):
        assert result == count
        assert len(made) <= count + 1 + 2 * AHEAD


@pytest.mark.parametrize("workers", [0, 1])
def test_a_failure_of_a_task_is_raised(workers):
    with pytest.raises(ZeroDivisionError):
        list(in_processes(divmod, [(1, 1), (1, 0), (1, 1)], workers))
    assert hasattr(sys.modules["__main__"], "__file__")


def test_a_script_without_a_guard_is_not_run_again_by_its_processes(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"import pathlib\npathlib.Path({str(tmp_path / 'runs')!r}).open('a').write('run ')\n"
        "from acr.processes import in_processes\nprint(list(in_processes(abs, [(-1,), (-2,)], 2)))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout == "[1, 2]\n"
    assert (tmp_path / "runs").read_text() == "run "


def test_a_module_run_by_its_name_is_not_run_again_by_its_processes(tmp_path):
    (tmp_path / "module.py").write_text(
        f"import pathlib\npathlib.Path({str(tmp_path / 'runs')!r}).open('a').write('run ')\n"
        "from acr.processes import in_processes\nprint(list(in_processes(abs, [(-1,), (-2,)], 2)), __spec__.name)\n"
    )
    command = [sys.executable, "-m", "module"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100, cwd=tmp_path)
    assert done.stdout == "[1, 2] module\n"
    assert (tmp_path / "runs").read_text() == "run "


def test_the_module_does_without_torch():
    code = "import sys, acr.processes; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


WAITING = """
import os, time
from acr.processes import in_processes

print(*in_processes(os.getpid, [()], 1), flush=True)
tasks = iter(in_processes(os.getpid, [(), ()] * 50, 2))
pids = {next(tasks) for _ in range(50)}
print(*pids, flush=True)
time.sleep(100)
"""


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent to hear of it does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers may outlive a parent that is killed")
def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    (tmp_path / "script.py").write_text(WAITING)
    with subprocess.Popen([sys.executable, tmp_path / "script.py"], stdout=subprocess.PIPE, text=True) as process:
        (done,) = map(int, process.stdout.readline().split())
        workers = list(map(int, process.stdout.readline().split()))
        assert not alive(done)
        assert all(map(alive, workers))
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [worker for worker in workers if alive(worker)] == []


def test_a_worker_whose_parent_has_ended_before_it_says_so_ends_at_once():
    code = "from acr.processes import die_with; die_with(1); print('goes on')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
