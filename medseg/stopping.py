"""Interruption of commands by Ctrl-C or by a scheduler's SIGTERM, with a message of how far they were."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopped(KeyboardInterrupt):  # what catches KeyboardInterrupt catches it too
    """A command was stopped by a signal; the message has how far it was.

    Args:
        where: how far, such as "at 13 of 400 iterations".
        kept: what is kept of the work, such as "saved".
        number: of the signal.
    """

    def __init__(self, where: str = "", kept: str = "", number: int = signal.SIGINT) -> None:
        self.where, self.kept, self.number = where, kept, number
        line = f"stopped {where}" if where else "stopped"
        super().__init__(f"{line}, {kept}" if kept else line)


def describe_stop(error: KeyboardInterrupt, where: str = "", kept: str = "") -> Stopped:
    """The same interruption, its message completed by what the caller knows.

    Args:
        error: that was caught.
        where: of the caller's work; goes before what the message has already.
        kept: of the caller's work; used where the message has nothing yet.
    """
    if not isinstance(error, Stopped):
        return Stopped(where, kept)
    place = ", ".join(part for part in (where, error.where) if part)
    return Stopped(place, error.kept or kept, error.number)


@contextmanager
def report_stop(where: str | Callable[[], str], kept: str = "") -> Iterator[None]:
    """Complete the message of an interruption inside the block.

    Args:
        where: how far the work is; a function is called when the interruption happens.
        kept: what is kept of the work.

    Raises:
        Stopped: the block was interrupted.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        place = where() if callable(where) else where
        raise describe_stop(error, place, kept) from error


@contextmanager
def shield_from_interrupts() -> Iterator[None]:
    """Keep Ctrl-C, which goes to the whole group, from processes that are started inside the block.

    The command ends them itself. What they do on their own comes too late: they import for seconds before, and each
    would print a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    from multiprocessing import resource_tracker  # not needed by commands that must answer at once

    resource_tracker.ensure_running()  # which the first process would start, and let interrupts through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited; ours waits until the end
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
