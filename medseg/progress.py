"""How far work in pieces is: a bar on a terminal, a line every half minute elsewhere, and where it was stopped."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from medseg.stopping import told_when_stopped

EVERY_SECONDS = 30.0


class Count:
    """Pieces done, of all, and what to say of them.

    Args:
        title: of the work, such as "checking the data".
        pieces: what is counted.
        total: of them; 0: not known yet.
    """

    def __init__(self, title: str, pieces: str = "cases", total: int = 0) -> None:
        self.title, self.pieces, self.total = title, pieces, total
        self.done = 0
        self._began = self._said = time.monotonic()

    def line(self) -> str | None:
        """What to say where there is no terminal; None if something was said less than half a minute ago."""
        now = time.monotonic()
        if now - self._said < EVERY_SECONDS or not self.done:
            return None
        self._said = now
        left = (now - self._began) / self.done * (self.total - self.done)
        return f"{self.title}: {self.done} of {self.total} {self.pieces}, {left / 60:.1f} min left"

    def where(self) -> str:
        """Where the work is, for who stopped it."""
        so_far = f", {self.done} of {self.total} {self.pieces} done" if self.total else ""
        return f"while {self.title}{so_far}"


@contextmanager
def counting(
    title: str, *, pieces: str = "cases", kept: str = "", shown: bool = True
) -> Iterator[Callable[[int, int], None]]:
    """Show work in pieces; yields a function of the pieces done and the pieces in all.

    Args:
        title: of the work, such as "checking the data".
        pieces: what is counted.
        kept: what is kept of the work when it is stopped.
        shown: False on ranks that stay silent.

    Raises:
        Stopped: the block was interrupted; it tells how many pieces were done.
    """
    console, count = Console(stderr=True), Count(title, pieces)
    live = shown and sys.stderr.isatty()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        told_when_stopped(count.where, kept),
        Progress(*columns, console=console, disable=not live, transient=True) as bar,
    ):
        task = bar.add_task(title, total=None)

        def tell(done: int, total: int) -> None:
            count.done, count.total = done, total
            bar.update(task, completed=done, total=total)
            if shown and not live and (line := count.line()):
                say(line)

        yield tell


def say(line: str) -> None:
    """One line for people, on standard error."""
    print(line, file=sys.stderr, flush=True)
