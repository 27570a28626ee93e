"""Errors about files that a user gave, as they are told inside and outside of bundles; `medseg.errors` has the rest.

An error is made once, where the fault is found, with everything that its line says. It needs no imports, since
bundles travel without medseg and the command line answers before anything heavy is loaded.
"""

from __future__ import annotations

from pathlib import Path

LONGEST_WORD = 400
"""Letters of a word of a message, beyond which a value that a user gave is cut; names of files have fewer."""


class MedsegError(Exception):
    """A problem with what the user gave; as text it is one line, `PATH: what is wrong; what to do`.

    Args:
        problem: what was found, and what would be accepted.
        path: the file or folder concerned, if there is one.
        hint: what to do about it.
    """

    def __init__(self, problem: str, *, path: str | Path | None = None, hint: str | None = None) -> None:
        super().__init__(problem)
        self.problem, self.path, self.hint = problem, path, hint

    @property
    def reason(self) -> str:
        """The line without the path, for reports that have the file's name elsewhere."""
        text = f"{self.problem}; {self.hint}" if self.hint else self.problem
        return " ".join(map(_cut, text.split()))  # one line, whatever the library's message was

    def __str__(self) -> str:
        if self.path is None:
            return self.reason
        return f"{' '.join(str(self.path).split())}: {self.reason}"


def _cut(word: str) -> str:
    return word if len(word) <= LONGEST_WORD else f"{word[:80]}... ({len(word)} letters)"


class DataError(MedsegError):
    """An image or label file that cannot be used."""


class OutputError(MedsegError):
    """A place where nothing can be written."""
