"""The shipped profile on a real SLURM of one node: the bytes of a local run, two GPUs at a time, a cancelled job again.

The cluster is Debian's slurmctld, slurmd and munge, started by root in a folder of the test and ended with it. Its two
GPUs are clones of /dev/null: SLURM hands them out as real ones, torch finds none and computes on the CPU.
"""

import os
import re
import shutil
import socket
import stat
import string
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import pytest
import yaml

from tests.running import MICRO, ROOT, environment, final

PROFILE = ROOT / "workflow" / "profiles" / "slurm"
SETTINGS = yaml.safe_load((PROFILE / "config.yaml").read_text())
RULES = {
    name: body
    for path in sorted((ROOT / "workflow" / "rules").glob("*.smk"))
    for name, body in re.findall(r"^rule (\w+):\n((?:    .*\n|\n)*)", path.read_text(), re.MULTILINE)
}
DAEMONS = ("munged", "slurmctld", "slurmd")
# the one place where the inner srun, whose environment the plugin clears, finds its configuration
INSTALLED = Path("/etc/slurm/slurm.conf")
# what the test's cluster needs and others do not: it has no accounting database, and every second counts
HERE = ["--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "1"]
# one of the rules that may be submitted as arrays, though the profile does not do it by itself; shards are kept, since a
# task of an array waits for those of the array's first task, which may have been merged and removed by then
ARRAY = ["--slurm-array-jobs", "prediction_shard", "--notemp"]


def program(name: str) -> str | None:
    return shutil.which(name, path=os.environ["PATH"] + os.pathsep + "/usr/sbin")


def left_over(link: Path) -> bool:
    """Whether a link is one that a killed test left behind."""
    if not link.is_symlink():
        return False
    owner = re.match(r"# started by tests/test_slurm.py, process (\d+)\n", link.read_text()) if link.exists() else None
    return not link.exists() or (owner is not None and not Path("/proc", owner[1]).exists())


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def write_configuration(folder: Path) -> Path:
    host, ports = socket.gethostname().partition(".")[0], free_ports(2)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "key").touch(mode=0o600)
    (folder / "key").write_bytes(os.urandom(1024))
    for index in range(2):
        os.mknod(folder / f"gpu{index}", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    values = {"host": host, "folder": folder, "process": os.getpid(), "controller_port": ports[0], "node_port": ports[1]}
    template = string.Template((ROOT / "tests" / "slurm" / "slurm.conf").read_text())
    (folder / "slurm.conf").write_text(template.substitute(values))
    (folder / "gres.conf").write_text(f"NodeName={host} Name=gpu File={folder}/gpu[0-1]\n")
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # so that it does not look for one
    return folder / "slurm.conf"


def start(stack: ExitStack, folder: Path, name: str, *arguments: str) -> None:
    """A daemon that ends with the stack, and with this process if that is killed."""
    command = ["setpriv", "--pdeathsig", "TERM", program(name), *arguments]
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)

    def end() -> None:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    stack.callback(end)


def wait_until(condition, seconds: float, folder: Path) -> None:
    until = time.monotonic() + seconds
    while not condition():
        logs = "\n".join(log.read_text()[-2000:] for log in folder.glob("*.log"))
        assert time.monotonic() < until, f"the cluster does not start\n{logs}"
        time.sleep(0.1)


@dataclass(frozen=True)
class Cluster:
    environment: Mapping[str, str]

    def ask(self, *command: str) -> str:
        run = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        return run.stdout.strip()

    def jobs(self) -> list[dict[str, str]]:
        """All jobs, ended ones too, as SLURM describes them; array tasks that wait are one entry."""
        lines = self.ask("scontrol", "--oneliner", "--details", "show", "job").splitlines()
        return [dict(part.split("=", 1) for part in line.split() if "=" in part) for line in lines if "JobId=" in line]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    missing = [name for name in DAEMONS if program(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)} on this machine (Debian: apt install slurmctld slurmd slurm-client munge)")
    if os.geteuid() != 0:
        pytest.skip("only root can start a SLURM cluster")
    if left_over(INSTALLED):
        INSTALLED.unlink()
    if os.path.lexists(INSTALLED):
        pytest.skip(f"this machine has a SLURM already: {INSTALLED}")
    folder = tmp_path_factory.mktemp("slurm")
    with ExitStack() as stack:
        yield start_cluster(stack, folder)


def start_cluster(stack: ExitStack, folder: Path) -> Cluster:
    """A cluster whose every trace is gone with the stack, but for its folder."""
    configuration = write_configuration(folder)
    INSTALLED.parent.mkdir(exist_ok=True)
    INSTALLED.symlink_to(configuration)
    stack.callback(INSTALLED.unlink)
    found = Cluster({**environment(), "SLURM_CONF": str(configuration)})
    files = [f"--{name}-file={folder}/{rest}" for name, rest in (("key", "key"), ("pid", "munged.pid"), ("seed", "seed"))]
    start(stack, folder, "munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *files)
    wait_until((folder / "munge.socket").exists, 10, folder)
    start(stack, folder, "slurmctld", "-D", "-f", str(configuration))
    start(stack, folder, "slurmd", "-D", "-f", str(configuration), "-N", socket.gethostname().partition(".")[0])
    stack.callback(lambda: wait_until(lambda: found.ask("squeue", "--noheader") == "", 20, folder))
    stack.callback(lambda: found.ask("scancel", "--partition=cpu,gpu"))
    wait_until(lambda: found.ask("sinfo", "--noheader", "--partition=gpu", "--format=%T") == "idle", 30, folder)
    return found


@dataclass
class Finished:
    folder: Path
    output: str
    cancelled: str
    jobs: list[dict[str, str]]
    running: list[list[dict[str, str]]] = field(default_factory=list)  # once a second


def rule_of(job: Mapping[str, str]) -> str:
    return re.match(r"rule_(\w+?)(_wildcards_.*)?$", job["Comment"])[1]


def gpu_of(job: Mapping[str, str]) -> str:
    return re.search(r"gpu:1\(IDX:(\d)\)", job["GRES"])[1]


def identifier(job: Mapping[str, str]) -> str:
    return f"{job['ArrayJobId']}_{job['ArrayTaskId']}" if "ArrayTaskId" in job else job["JobId"]


@pytest.fixture(scope="module")
def far(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The micro run through SLURM, in which one of the first two seed shards that ran together was cancelled.

    It is submitted by a process that ends with this one, and asks for states more often than the plugin does.
    """
    folder = tmp_path_factory.mktemp("far")
    (folder / "overlay.yaml").write_text("execution: {device: auto, shards: 2}\n")
    program = [sys.executable, str(ROOT / "tests" / "slurm" / "impatient.py"), "-s", str(ROOT / "workflow" / "Snakefile")]
    command = ["setpriv", "--pdeathsig", "KILL", *program]
    options = ["--directory", str(folder), "--configfile", str(MICRO), str(folder / "overlay.yaml"), "--max-threads", "1"]
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(
            [*command, *options, "--profile", str(PROFILE), *HERE, *ARRAY],
            env=cluster.environment,
            cwd=folder,
            stdout=output,
            stderr=output,
        )
    try:
        cancelled, running = watch(cluster, process)
    finally:
        process.kill()
        process.wait()
    output = (folder / "output").read_text()
    assert process.returncode == 0, output
    return Finished(folder, output, cancelled, cluster.jobs(), running)


def watch(cluster: Cluster, process: subprocess.Popen) -> tuple[str, list[list[dict[str, str]]]]:
    """What ran together, second by second, until the process ends; the first of two seed shards is cancelled."""
    cancelled, running, until = "", [], time.monotonic() + 1200
    while process.poll() is None:
        assert time.monotonic() < until, "the run through SLURM does not end"
        running.append([job for job in cluster.jobs() if job["JobState"] == "RUNNING" and job.get("GRES")])
        shards = [job for job in running[-1] if rule_of(job) == "seed_shard"]
        if not cancelled and len(shards) == 2:
            cancelled = identifier(shards[0])
            cluster.ask("scancel", cancelled)
        time.sleep(1)
    return cancelled, running


@pytest.mark.slow
@pytest.mark.slurm
def test_the_bytes_are_those_of_a_local_run(run: Path, far: Finished) -> None:
    here, there = final(run), final(far.folder)
    assert there.keys() == here.keys()
    assert [name for name in here if there[name] != here[name]] == []
    for stage in ("classifiers/acr/model", "seeds/acr/maps", "affinities/psa/labels", "segmenters/deeplab/model"):
        assert [name for name in here if name.startswith(stage)] != [], stage
    assert len([name for name in here if name.startswith("pseudo_labels/acr/")]) == 12
    assert len([name for name in here if name.startswith("predictions/deeplab_crf/val/")]) == 6
    assert len([name for name in here if name.startswith("metrics/")]) == 8
    assert (far.folder / "results" / "micro" / "report.html").exists()


@pytest.mark.slow
@pytest.mark.slurm
def test_two_shards_run_at_a_time_each_on_its_own_gpu(far: Finished) -> None:
    together = [{(rule_of(job), gpu_of(job)) for job in jobs} for jobs in far.running]
    assert {("seed_shard", "0"), ("seed_shard", "1")} in together
    for jobs in far.running:
        assert all(gpu_of(one) != gpu_of(other) for one, other in combinations(jobs, 2))
    logs = sorted((far.folder / "logs" / "micro" / "seeds").glob("*/*-of-2.log"))
    assert len(logs) == 6
    devices = [re.search(r"torch sees no GPU \(CUDA_VISIBLE_DEVICES=(.*)\): on the CPU", log.read_text())[1] for log in logs]
    assert set(devices) == {"0", "1"}


@pytest.mark.slow
@pytest.mark.slurm
def test_a_cancelled_job_runs_again_with_more_memory_and_time(far: Finished) -> None:
    shards = [job for job in far.jobs if rule_of(job) == "seed_shard"]
    (first,) = [job for job in shards if identifier(job) == far.cancelled]
    assert first["JobState"] == "CANCELLED"
    assert first["TimeLimit"] == "04:00:00"
    (again,) = [job for job in shards if job["TimeLimit"] == "08:00:00"]
    assert again["JobState"] == "COMPLETED"
    memory = [int(re.search(r"mem=(\d+)M", job["TRES"])[1]) for job in (first, again)]
    assert memory == [8000, 16000]
    assert far.output.count("Trying to restart job") == 1
    assert len(shards) == 7


@pytest.mark.slow
@pytest.mark.slurm
def test_jobs_go_to_their_partition_and_array_tasks_are_told_apart(far: Finished) -> None:
    assert {job["JobState"] for job in far.jobs if identifier(job) != far.cancelled} == {"COMPLETED"}
    for job in far.jobs:
        needs = re.search(r"^ +gpu=", RULES[rule_of(job)], re.MULTILINE) is not None
        assert (job["Partition"], "TresPerJob" in job) == (("gpu", True) if needs else ("cpu", False)), rule_of(job)
    arrays = {rule_of(job) for job in far.jobs if "ArrayTaskId" in job}
    assert arrays == {"prediction_shard"}


def test_the_profile_names_the_rules_that_there_are() -> None:
    shards = {name for name in RULES if name.endswith("_shard")}
    arrays = re.search(r"^# slurm-array-jobs: (.*)$", (PROFILE / "config.yaml").read_text(), re.MULTILINE)
    assert set(arrays[1].split(",")) == shards
    gpus = {name for name, body in RULES.items() if re.search(r"^ +gpu=", body, re.MULTILINE)}
    assert {name for name, resources in SETTINGS["set-resources"].items() if resources["slurm_partition"] == "gpu"} == gpus
    assert len(shards) == 7
    assert len(gpus) == 11


def test_every_rule_that_is_submitted_says_what_it_needs_and_more_when_it_failed() -> None:
    submitted = {name: body for name, body in RULES.items() if "localrule: True" not in body}
    assert len(submitted) == 26
    for name, body in submitted.items():
        assert re.search(r"mem_mb=growing\(\d+\),\n +runtime=growing\(\d+\),", body), name
        assert "retries:" not in body, f"{name} would repeat inside the same allocation"
    assert SETTINGS["retries"] == 2


def test_every_setting_of_the_profile_is_explained() -> None:
    lines = (PROFILE / "config.yaml").read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"[a-z]", line):
            assert lines[number - 1].startswith("#"), line
