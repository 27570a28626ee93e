"""Files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from medseg.errors import OutputError


def real_path(path: str | Path) -> Path:
    """Where a path leads, links followed; `Path.resolve` raises an error of its own for links that lead in a circle."""
    return Path(os.path.realpath(path))


DEVICES = frozenset(
    {"CON", "PRN", "AUX", "NUL", *(f"COM{n}" for n in range(1, 10)), *(f"LPT{n}" for n in range(1, 10))}
)
"""What no file may be called on a disk that Windows reads, whatever the ending."""


def make_folder(path: Path) -> Path:
    """The folder, made if need be.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot be made ({error.strerror})", path=path) from error
    return path


def check_writable(folder: Path) -> None:
    """See that files can be made in a folder, before hours go into what is to be written there; nothing of it stays.

    Raises:
        OutputError: it cannot be made or written.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with tempfile.TemporaryFile(dir=make_folder(folder)) as stream:
            stream.write(b"x")
    except OSError as error:
        raise OutputError(f"cannot be written ({error.strerror or error})", path=folder) from error
    finally:
        for path in missing:
            with suppress(OSError):  # it could not be made, or somebody else uses it by now
                path.rmdir()


def problem_of_name(name: str) -> str | None:
    """Why a name that a file or a key gave cannot be that of a file in a folder of results; None where it can.

    Examples:
        >>> from medseg.atomic import problem_of_name
        >>> problem_of_name("case 1"), problem_of_name("..")
        (None, "'..' is a folder's name")
    """
    if name in ("", ".", ".."):
        return f"{name!r} is a folder's name" if name else "the name is empty"
    if "/" in name or "\\" in name:
        return f"{name[:60]!r} has a separator of folders in it"
    if not name.isprintable():
        return f"{name[:60]!r} has a line break or another character that cannot be seen in it"
    if name.partition(".")[0].strip().upper() in DEVICES:
        return f"{name[:60]!r} is the name of a device of Windows"
    return None


def same_name(name: str) -> str:
    """What two names have in common that are one on a disk that `folds_case`."""
    return unicodedata.normalize("NFC", name).casefold()


def folds_case(folder: Path) -> bool:
    """Whether capital and small letters are the same in names of files there, as on most disks of macOS and Windows.

    Args:
        folder: it need not exist; then the nearest folder above it that does is asked.
    """
    place = Path(os.path.abspath(folder))
    while not place.exists() or place.name == place.name.swapcase():
        if place == place.parent:
            return False
        place = place.parent
    other = place.with_name(place.name.swapcase())
    return other.exists() and other.samefile(place)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A stream into a temporary file that is flushed to disk and then takes the place of `path`.

    Raises:
        OutputError: it cannot be written; nothing of it is left, and what was there before is untouched.
    """
    # short, for names may have 255 bytes; and as `portable.writing` names its own, so that `remove_leftovers` knows it
    owner = f"{hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]}-{os.getpid()}"
    temporary = path.with_name(f".medseg-{owner}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"cannot be written ({error.strerror or error})", path=path) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write a text (UTF-8) or bytes by way of `replacing`.

    Raises:
        OutputError: it cannot be written.
    """
    with replacing(path) as stream:
        stream.write(content.encode("utf-8") if isinstance(content, str) else content)
    return path
