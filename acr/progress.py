"""How far a long loop is: a bar where somebody looks on, a plain line now and then in the log where nobody does."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, Generic, TypeVar

from tqdm import tqdm

log = logging.getLogger(__name__)
EVERY = 30.0  # seconds between two lines
Item = TypeVar("Item")


def _one(_: Any) -> int:
    return 1


class Progress(Generic[Item]):
    """Hands on the items of a loop. What the loop sets as `note`, such as its loss, is shown beside bar and line.

    Args:
        items: anything that can be iterated over.
        what: the loop does, in a word or two.
        total: of what the items amount to; None: the length of `items`, where they have one.
        unit: what is counted; B are bytes.
        initial: how much was done before.
        amount: how much an item is.
        quiet: shows nothing, as all but one of several processes must.
    """

    def __init__(
        self,
        items: Iterable[Item],
        what: str,
        *,
        total: int | None = None,
        unit: str = "image",
        initial: int = 0,
        amount: Callable[[Item], int] = _one,
        quiet: bool = False,
    ) -> None:
        self.items, self.what, self.unit, self.done, self.amount, self.quiet = items, what, unit, initial, amount, quiet
        self.total = len(items) if total is None and isinstance(items, Sized) else total
        self.note = ""

    def __iter__(self) -> Iterator[Item]:
        disable = True if self.quiet else None  # None: without a terminal
        scale = self.unit == "B"
        initial, started = self.done, time.monotonic()
        said = started
        with tqdm(None, self.what, self.total, initial=initial, unit=self.unit, unit_scale=scale, disable=disable) as bar:
            for item in self.items:
                yield item
                self.done += self.amount(item)
                if self.note and not bar.disable:
                    bar.set_postfix_str(self.note, refresh=False)
                bar.update(self.amount(item))
                now = time.monotonic()
                if now - said >= EVERY and not self.quiet:
                    said = now
                    log.info("%s", self._line((self.done - initial) / (now - started)))

    def _line(self, speed: float) -> str:
        """What a log says at a speed in units a second."""
        if self.total is None:
            parts = [f"{self.what}: {self._counted()}"]
        else:
            left = duration((self.total - self.done) / speed)
            parts = [f"{self.what}: {self._counted()}", f"{left} left"]
        return ", ".join([*parts, *filter(None, [self.note])])

    def _counted(self) -> str:
        counts = [count for count in (self.done, self.total) if count is not None]
        if self.unit == "B":
            return " of ".join(f"{count / 1e6:.1f} MB" for count in counts)
        return f"{self.unit} {' of '.join(map(str, counts))}"


def duration(seconds: float) -> str:
    """A length of time in its two largest units: 3 h 05 min, 4 min 10 s or 12 s."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 60} min {whole % 60:02} s" if whole >= 60 else f"{whole} s"
