"""Work in processes of its own. Nothing here imports torch: the processes that run CRFs start quickly and stay small."""

import ctypes
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from acr import extensions

AHEAD = 2  # results per process that may wait to be fetched
PR_SET_PDEATHSIG = 1  # of Linux's prctl
Result = TypeVar("Result")


def in_processes(function: Callable[..., Result], tasks: Iterable[tuple[Any, ...]], workers: int) -> Iterator[Result]:
    """`function(*task)` for each task, in order, computed by `workers` processes while the tasks are still being made.

    At most `AHEAD` tasks a process are under way, so that memory stays bounded. No workers: everything happens in this
    process.
    """
    if workers == 0:
        yield from (function(*task) for task in tasks)
        return
    # spawned: a process forked after torch has started its threads may hang
    spawn = multiprocessing.get_context("spawn")
    start = (os.getpid(), extensions.defining(function))
    pool = ProcessPoolExecutor(workers, mp_context=spawn, initializer=_begin, initargs=start)
    with main_hidden(), pool:
        waiting: deque[Future[Result]] = deque()
        for task in tasks:
            waiting.append(pool.submit(function, *task))
            if len(waiting) > AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _begin(parent: int, files: list[str]) -> None:
    """What a process does first: only by the names of its module does it find the function of an extension."""
    die_with(parent)
    extensions.load(files)


def die_with(parent: int) -> None:
    """Has this process killed when `parent` ends, however it ends; elsewhere than on Linux it may outlive a killed one."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before this was said
            os._exit(1)


@contextmanager
def main_hidden() -> Iterator[None]:
    """Keeps spawned processes from running the main script, which they would import by its path or name, and the whole job."""
    main = vars(sys.modules["__main__"])
    hidden = {"__file__", "__spec__"} & main.keys()
    kept = {key: main.pop(key) for key in hidden}
    main["__spec__"] = None  # where it is looked for
    try:
        yield
    finally:
        main.update(kept)
