"""The folder of a comparison: where what lies, whose it is, and who is working in it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from medseg.atomic import make_folder
from medseg.errors import OutputError
from medseg.workflows.compare.scores.rows import RunKey

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Folder:
    """The folder of a comparison.

    Args:
        path: of the folder.
    """

    path: Path

    @property
    def record(self) -> Path:
        """What is compared here."""
        return self.path / "comparison.json"

    def manifest(self, key: RunKey) -> Path:
        """What a run learns from."""
        return self.path / "manifests" / f"{data_name(key)}.json"

    def judged(self, key: RunKey) -> Path:
        """What a run is judged on."""
        return self.path / "manifests" / f"{data_name(key)}-judged.json"

    def plan(self, key: RunKey) -> Path:
        """The frozen pipeline of a run, but for its seed."""
        return self.path / "plans" / f"{data_name(key)}.yaml"

    def run(self, key: RunKey) -> Path:
        """The folder of a run."""
        return self.path / "runs" / f"{data_name(key)}-seed{key.seed}"


def data_name(key: RunKey) -> str:
    """Name of what runs have in common that differ in their seed only."""
    parts = [key.arm]
    if key.labels is not None:
        parts.append(f"labels{key.labels}")
    if key.fold is not None:
        parts.append(f"fold{key.fold}")
    return "-".join(parts)


@contextmanager
def hold(path: Path, *, wait: bool = True) -> Iterator[IO[bytes] | None]:
    """Hold a lock file, which all commands that work in a folder share; children may hold it on.

    Args:
        path: of the lock file; made if need be.
        wait: until another command lets it go.

    Yields:
        The open file, whose descriptor children may be given; None where another command holds it.

    Raises:
        OutputError: the file cannot be made.
    """
    make_folder(path.parent)
    try:
        stream = path.open("ab")
    except OSError as error:
        raise OutputError(f"cannot be written ({error.strerror})", path=path) from error
    with stream:
        yield stream if _lock(stream, wait=wait) else None


def _lock(stream: IO[bytes], *, wait: bool) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        # a disk that knows no locks holds nobody up
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True
