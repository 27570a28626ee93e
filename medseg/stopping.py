"""Commands that are stopped, by Ctrl-C or by a scheduler's SIGTERM, and say how far they were."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopped(KeyboardInterrupt):  # what catches KeyboardInterrupt catches it too
    """A command was stopped by a signal, and this is how far it was.

    Args:
        where: how far, such as "at 13 of 400 iterations".
        kept: what is kept of the work, such as "saved".
        number: of the signal.
    """

    def __init__(self, where: str = "", kept: str = "", number: int = signal.SIGINT) -> None:
        self.where, self.kept, self.number = where, kept, number
        line = f"stopped {where}" if where else "stopped"
        super().__init__(f"{line}, {kept}" if kept else line)


def stopped(error: KeyboardInterrupt, where: str = "", kept: str = "") -> Stopped:
    """The same interruption, told with what the caller knows of it.

    Args:
        error: that was caught.
        where: of the caller's work; goes before what is known already.
        kept: of the caller's work; counts where nothing is known yet.
    """
    if not isinstance(error, Stopped):
        return Stopped(where, kept)
    place = ", ".join(part for part in (where, error.where) if part)
    return Stopped(place, error.kept or kept, error.number)


@contextmanager
def told_when_stopped(where: str | Callable[[], str], kept: str = "") -> Iterator[None]:
    """Give an interruption inside the block these words; a function is asked for them when it happens."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise stopped(error, where() if callable(where) else where, kept) from error


@contextmanager
def out_of_reach() -> Iterator[None]:
    """Start processes that no Ctrl-C reaches: it goes to the whole group, and the command ends them itself.

    What they do on their own comes too late: they import for seconds before, and each would print a traceback.
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
