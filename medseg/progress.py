"""Progress of counted work: a bar on a terminal, a line every half minute elsewhere, and where it was stopped."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from medseg.stopping import report_stop

EVERY_SECONDS = 30.0


class Count:
    """How much of some work is done.

    Args:
        title: of the work, such as "checking the data".
        unit: what is counted.
        total: how many there are; 0: not known yet.
    """

    def __init__(self, title: str, unit: str = "cases", total: int = 0) -> None:
        self.title = title
        self.unit = unit
        self.total = total
        self.done = 0
        self._began = time.monotonic()
        self._printed = self._began

    def line(self, left: float | None = None) -> str | None:
        """A line of progress with the time left; None if the last one is less than half a minute old.

        Args:
            left: seconds; None: by what is done until now, which must then be something.
        """
        now = time.monotonic()
        if now - self._printed < EVERY_SECONDS or (left is None and not self.done):
            return None
        self._printed = now
        if left is None:
            left = (now - self._began) / self.done * (self.total - self.done)
        words = describe_left(left) if self.done < self.total else "0.0 min left"
        return f"{self.title}: {self.done} of {self.total} {self.unit}, {words}"

    def where(self) -> str:
        """How far the work is, for the message of an interruption."""
        if not self.total:
            return f"while {self.title}"
        return f"while {self.title}, {self.done} of {self.total} {self.unit} done"


@contextmanager
def show_progress(
    title: str,
    *,
    unit: str = "cases",
    kept: str = "",
    shown: bool = True,
    left: Callable[[], float | None] | None = None,
) -> Iterator[Callable[[int, int], None]]:
    """Show the progress of counted work; yields a function that takes how many are done, and of how many.

    Args:
        title: of the work, such as "checking the data".
        unit: what is counted.
        kept: what is kept of the work when it is stopped.
        shown: False on ranks that stay silent.
        left: gives the seconds left, None while they are not known; by default they follow from what is done, which is
            right where much is counted and none of it takes long.

    Raises:
        Stopped: the block was interrupted; its message has how many were done.
    """
    console = Console(stderr=True)
    count = Count(title, unit)
    live = shown and sys.stderr.isatty()
    remaining = TimeRemainingColumn() if left is None else TextColumn("{task.fields[left]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), remaining)
    with (
        report_stop(count.where, kept),
        Progress(*columns, console=console, disable=not live, transient=True) as bar,
    ):
        task = bar.add_task(title, total=None, left="")

        def update(done: int, total: int) -> None:
            count.done = done
            count.total = total
            seconds = left() if left is not None else None
            words = "" if seconds is None else describe_left(seconds)
            bar.update(task, completed=done, total=total, left=words)
            if live or not shown:
                return
            line = count.line(seconds)
            if line is not None:
                say(line)

        yield update


def describe_left(seconds: float) -> str:
    """The time left in words.

    Examples:
        >>> describe_left(90)
        '1.5 min left'
        >>> describe_left(0)
        'longer than expected'
    """
    return f"{seconds / 60:.1f} min left" if seconds > 0 else "longer than expected"


def on_one_line(text: str) -> str:
    """A text without the line breaks that names of files may have."""
    return " ".join(text.splitlines())


def say(line: str) -> None:
    """Print one line on standard error."""
    print(on_one_line(line), file=sys.stderr, flush=True)


_told: set[str] = set()


def is_new(line: str) -> bool:
    """Whether nothing has asked for this line since `forget_told`."""
    if line in _told:
        return False
    _told.add(line)
    return True


def say_once(line: str) -> None:
    """Print one line, unless this command did so before: a run is planned several times, and has several stages."""
    if is_new(line):
        say(line)


def forget_told() -> None:
    """Let a command say all of its lines, whatever an earlier one in this process said."""
    _told.clear()


@contextmanager
def silenced(logger: str) -> Iterator[None]:
    """Keep a package from telling and warning of its own interiors, which would fill the screen.

    Args:
        logger: name of the package's logger; its errors are still shown.
    """
    found = logging.getLogger(logger)
    before = found.level
    found.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        found.setLevel(before)
