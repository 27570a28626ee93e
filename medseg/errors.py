"""Errors a user can do something about.

    MedsegError
    ├── ManifestError     a manifest that does not parse or contradicts itself
    ├── DataError         an image or label file that cannot be used
    ├── ConfigError       a pipeline, an option or a `--set` that is not understood
    ├── BundleError       a folder that is no usable bundle, or one with foreign code
    ├── CheckpointError   a checkpoint that is damaged or belongs to something else
    └── OutputError       a place where nothing can be written

Each prints as one line, `PATH: what is wrong; what to do`, and ends a command with exit code 2.

`Stopped` is no error: somebody pressed Ctrl-C, or a scheduler sent SIGTERM.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class MedsegError(Exception):
    """A problem with what the user gave.

    Args:
        problem: what was found, and what would be accepted.
        path: the file or folder concerned, if there is one.
        hint: what to do about it.
    """

    def __init__(self, problem: str, *, path: str | Path | None = None, hint: str | None = None) -> None:
        self.problem, self.path, self.hint = problem, path, hint
        line = (f"{path}: " if path is not None else "") + problem + (f"; {hint}" if hint else "")
        super().__init__(" ".join(line.split()))  # one line, whatever the library's message was


class ManifestError(MedsegError):
    """A manifest that does not parse or contradicts itself."""


class DataError(MedsegError):
    """An image or label file that cannot be used."""


class ConfigError(MedsegError):
    """A pipeline, an option or a `--set` that is not understood."""


class BundleError(MedsegError):
    """A folder that is no usable bundle, or one that wants to run code of its own."""


class CheckpointError(MedsegError):
    """A checkpoint that is damaged or belongs to another run."""


class OutputError(MedsegError):
    """A place where nothing can be written."""


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
