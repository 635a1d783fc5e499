"""What surrounds the one call of a script: a log file, errors as one sentence, and the provenance of what was made."""

import errno
import logging
import os
import re
import resource
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from acr import extensions
from acr.files import PROVENANCE, read_json
from acr.provenance import source, write_provenance

STORAGE = {
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "make room within your quota",
    errno.EROFS: "make the folder writable",
    errno.EACCES: "make the folder writable",
    errno.EPERM: "make the folder writable",
}
LAST = 5  # lines of a log that a failed job shows


@contextmanager
def job(snakemake: Any) -> Iterator[dict[str, Any]]:
    """Runs the block as the job that snakemake describes and yields what it is made from (`acr.provenance.source`).

    Extensions that the script can use are run first. The log is flushed line by line, so that `tail -f` shows where a long
    job is. Last of all the output `provenance` is written: where it is, everything is. An error ends the process with the
    last lines of the log and a sentence; its traceback stays in the log.
    """
    log, started = Path(snakemake.log[0]), time.monotonic()
    try:
        start_log(log)
        extensions.load(extensions.needed(snakemake.config.get("extensions") or ()))
        made_from = source(snakemake.params.get("recipe"), _upstream(snakemake.input), snakemake.params.get("code"))
        yield made_from
        parts = [read_json(part) for part in snakemake.input.get("parts", [])]
        outputs = [path for path in snakemake.output if path != snakemake.output.provenance]
        write_provenance(
            snakemake.output.provenance, {**made_from, "code": _code(made_from, parts)}, outputs, _cost(started, parts)
        )
    except Exception as error:
        lines = last_lines(log)
        logging.error("%s", traceback.format_exc())
        sys.exit("\n".join([*lines, f"error: {_sentence(error) or _fault(error)} (log: {log})"]))
    except BaseException as error:
        logging.error("ended by %r", error)
        raise
    logging.info("done")


def start_log(log: Path) -> None:
    """Sends all messages of this process to the file `log`, which begins anew."""
    logging.raiseExceptions = False  # a full disk says one sentence, not one a message
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("")
    append_to_log(log)
    logging.captureWarnings(capture=True)
    logging.info("process %d starts", os.getpid())


def append_to_log(log: Path) -> None:
    """Adds all messages of this process to the file `log`, to which processes that train together write as well."""
    logging.basicConfig(filename=log, filemode="a", level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", force=True)


def _upstream(inputs: Any) -> list[str]:
    """What an artefact is made from: the inputs but for shards, whose number leaves no trace, and for provenance of inputs."""
    own = {*inputs.get("shards", []), *inputs.get("parts", [])}
    files = [path for path in inputs if path not in own]
    places = {Path(path).parent for path in files if not path.endswith(PROVENANCE)}
    return [path for path in files if not (path.endswith(PROVENANCE) and Path(path).parent in places)]


def _code(made_from: Mapping[str, Any], parts: list[Mapping[str, Any]]) -> str | None:
    """The code of this job, after that of the shards it merges."""
    codes = [*sorted({part["code"] for part in parts if part.get("code")}), made_from["code"]]
    return "; ".join(filter(None, codes)) or None


def _cost(started: float, parts: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Devices, seconds and largest memory of this job and of the shards it merges."""
    own = {"device": _device(), "seconds": round(time.monotonic() - started, 2), "peak_memory_mb": _peak_memory()}
    jobs = [*parts, own]
    return {
        "device": ", ".join(sorted({each["device"] for each in parts or [own]})),
        "seconds": round(sum(each["seconds"] for each in jobs), 2),
        "peak_memory_mb": max(each["peak_memory_mb"] for each in jobs),
    }


def _device() -> str:
    """The GPU that this process has used, if any; jobs without torch do not load it for this."""
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch and torch.cuda.is_initialized() else "cpu"


def _peak_memory() -> int:
    """The largest resident memory of this process or of one that it waited for, in MiB."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return round(max(resource.getrusage(who).ru_maxrss for who in whose) / unit)


def last_lines(log: Path) -> list[str]:
    """What a log ends with, indented under its name; nothing where the job had not said anything yet."""
    said = log.read_text(errors="replace").splitlines()[1:] if log.is_file() else []  # the first says that it starts
    return [f"the log {log} ends with:", *(f"    {line}" for line in said[-LAST:])] if said else []


def _fault(error: Exception) -> str:
    """What to say of an error that is nobody's to mend but ours: what it is, and where in this package it came up."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(Path(__file__).parent)] or frames
    place = f"{Path(own[-1].filename).name}, line {own[-1].lineno}"
    return f"unexpected {type(error).__name__} in {place}: {error}; the traceback is in the log"


def _sentence(error: BaseException | None) -> str | None:
    """What to tell the user of an error that is theirs to mend; None of any other."""
    if isinstance(error, ValueError) and str(error).strip():
        # a worker process hands its error over as a traceback, which ends with the kind of error and the sentence
        return re.sub(r"^[\w.]+Error: ", "", str(error).strip().splitlines()[-1])
    if isinstance(error, RuntimeError) and "out of memory" in str(error):
        advice = "lower training.batch_size, image_size or crop_size of the recipe, or execution.batch"
        return f"{str(error).splitlines()[0].rstrip('.')}; {advice}"
    while error is not None:
        if isinstance(error, OSError) and error.errno in STORAGE:
            where = f"{error.filename} cannot be written" if error.filename else "a file cannot be written"
            advice = f"{STORAGE[error.errno]} and give the same command again, which goes on from what is there"
            return f"{where} ({error.strerror}); {advice}"
        error = error.__cause__ or error.__context__  # torch wraps what its writer meets
    return None
