"""What surrounds the one call of a script: a log file, and errors as one sentence."""

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def job(log: str | Path) -> Iterator[None]:
    """Logs the block to the file `log`; a ValueError ends the process with its one sentence, the traceback stays in the log.

    The log is flushed line by line, so that `tail -f` shows where a long job is.
    """
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(filename=log, filemode="w", level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", force=True)
    logging.captureWarnings(capture=True)
    logging.info("process %d starts", os.getpid())
    try:
        yield
    except ValueError as error:
        logging.error("%s\n%s", error, traceback.format_exc())
        # a worker process hands its error over as a traceback, which ends with the sentence
        sentence = str(error).strip().splitlines()[-1].removeprefix("ValueError: ")
        sys.exit(f"error: {sentence} (log: {log})")
    except BaseException:
        logging.error("%s", traceback.format_exc())
        raise
    logging.info("done")
