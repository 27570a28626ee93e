"""Errors a user can do something about.

    MedsegError
    ├── ManifestError     a manifest that does not parse or contradicts itself
    ├── DataError         an image or label file that cannot be used
    ├── ConfigError       a pipeline, an option or a `--set` that is not understood
    ├── BundleError       a folder that is no usable bundle, or one with foreign code
    ├── CheckpointError   a checkpoint that is damaged or belongs to something else
    └── OutputError       a place where nothing can be written

Each prints as one line, `PATH: what is wrong; what to do`, and ends a command with exit code 2.
"""

from __future__ import annotations

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
