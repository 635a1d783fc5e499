"""How tests run snakemake: as people do, in a folder of their own, on the workflow of this checkout or of another."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from acr.files import PROVENANCE, UNFINISHED

ROOT = Path(__file__).parent.parent
MICRO = ROOT / "tests" / "data" / "micro.yaml"
MICRO_ABLATIONS = MICRO.with_name("micro-ablations.yaml")  # laid over it, with these targets
ABLATIONS = ("table_4", "table_5", "table_6", "table_9", "table_10", "figure_8")
MARK = ".snakemake_timestamp"  # snakemake's, in folders that a rule declares as a whole
# one thread a job, two jobs at a time: the number of threads changes the order of sums, and with it the last bits
SETTINGS = ("--cores", "2", "--max-threads", "1")


def arguments(folder: Path, config: Sequence[Path] = (MICRO,), checkout: Path = ROOT) -> list[str]:
    """What every run is given: whose workflow, which folder, which configuration."""
    files = [str(path) for path in config]
    return ["-s", str(checkout / "workflow" / "Snakefile"), "--directory", str(folder), "--configfile", *files, *SETTINGS]


def environment(checkout: Path = ROOT) -> dict[str, str]:
    """The variables of a run: programs of this environment first, and the package of the checkout."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(checkout)}


def snakemake(
    folder: Path, *options: str, config: Sequence[Path] = (MICRO,), checkout: Path = ROOT
) -> subprocess.CompletedProcess:
    """Runs snakemake in `folder` to its end."""
    command = [sys.executable, "-m", "snakemake", *arguments(folder, config, checkout), *options]
    return subprocess.run(command, capture_output=True, text=True, env=environment(checkout), check=False)


class DefaultRun:
    """The default run, which takes ten minutes and mostly one core: begun early, beside other tests, and politely."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="acr-default-"))
        self._log = self.folder / "run.out"
        command = ["nice", "-n", "10", sys.executable, "-m", "snakemake"]
        command += arguments(self.folder, [ROOT / "config" / "config.yaml"])
        with self._log.open("w") as stream:
            how = {"stdout": stream, "stderr": subprocess.STDOUT, "env": environment(), "start_new_session": True}
            self._process = subprocess.Popen(command, **how)

    def finished(self) -> Path:
        """Its folder, once it is done."""
        assert self._process.wait() == 0, self._log.read_text()
        return self.folder

    def end(self) -> None:
        """Ends it where nobody waited for it, with its jobs, and takes its folder away."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def final(folder: Path) -> dict[str, bytes]:
    """Every artefact of a micro run by its path, but for what holds dates: provenance, and the report, which shows it."""
    results = folder / "results" / "micro"
    return {
        str(path.relative_to(results)): path.read_bytes()
        for path in sorted(results.rglob("*"))
        if path.is_file() and not path.name.startswith((UNFINISHED, MARK)) and not _passes(path)
    }


def _passes(path: Path) -> bool:
    """Whether a file holds dates, or is a shard, which is not kept."""
    return path.name.endswith(PROVENANCE) or path.name == "report.html" or "shards" in path.parent.name


def plans(runs: Sequence[dict]) -> list[dict]:
    """The status and output of many short runs; see tests/plans.py."""
    lines = "\n".join(json.dumps(run) for run in runs)
    command = [sys.executable, str(ROOT / "tests" / "plans.py")]
    finished = subprocess.run(command, input=lines, capture_output=True, text=True, env=environment(), check=True)
    return json.loads(finished.stdout)


def short_run(folder: Path, *options: str, config: Sequence[Path] = (MICRO,), checkout: Path = ROOT) -> dict:
    """A run for `plans`."""
    given = arguments(folder, config, checkout)
    return {"arguments": [*given, *options], "folder": str(folder), "checkout": str(checkout)}


def dry_run(folder: Path, *options: str, config: Sequence[Path] = (MICRO,), checkout: Path = ROOT) -> dict:
    """A run for `plans` that only says what it would do."""
    return short_run(folder, "--dry-run", *options, config=config, checkout=checkout)
