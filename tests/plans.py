"""Many runs of snakemake for the price of one start: reads runs as JSON lines and writes a JSON list of what came of each.

A run is {"arguments": [...], "folder": working directory, "checkout": whose acr package is imported}. Each is a fork of
this process, which has imported snakemake, and the package where all runs have the same; two are under way at a time.
"""

import json
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import IO

import snakemake.cli

AT_A_TIME = 2


def answers(lines: list[str]) -> list[dict]:
    """The exit status and the output of each run, in order."""
    found: dict[int, dict] = {}
    under_way: dict[int, tuple[int, IO[bytes]]] = {}
    waiting = list(enumerate(lines))
    while waiting or under_way:
        if waiting and len(under_way) < AT_A_TIME:
            number, line = waiting.pop(0)
            output = tempfile.TemporaryFile()  # noqa: SIM115, it is read once the run has ended
            if not (pid := os.fork()):
                _become(json.loads(line), output.fileno())
            under_way[pid] = number, output
            continue
        pid, status = os.wait()
        number, output = under_way.pop(pid)
        output.seek(0)
        found[number] = {"status": os.waitstatus_to_exitcode(status), "output": output.read().decode()}
    return [found[number] for number in range(len(lines))]


def prepare(lines: list[str]) -> None:
    """Does once what every run begins with: snakemake looks for its plugins, and the code of the one checkout is read."""
    snakemake.cli.get_argument_parser()
    checkouts = {json.loads(line)["checkout"] for line in lines}
    if len(checkouts) != 1:
        return
    sys.path.insert(0, *checkouts)
    from acr.provenance import fingerprint

    for script in Path(*checkouts, "workflow", "scripts").glob("*.py"):
        fingerprint(script)


def _become(wanted: dict, output: int) -> None:
    os.dup2(output, 1)
    os.dup2(output, 2)
    status = 1
    try:
        os.chdir(wanted["folder"])
        sys.path.insert(0, wanted["checkout"])
        sys.argv = ["snakemake", *wanted["arguments"]]
        snakemake.cli.main(wanted["arguments"])
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    runs = sys.stdin.read().splitlines()
    prepare(runs)
    json.dump(answers(runs), sys.stdout)
