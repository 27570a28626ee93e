"""Small files that appear whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from medseg.errors import OutputError


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


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write a file under a temporary name, flush it, and move it into place.

    Raises:
        OutputError: it cannot be written; nothing of it is left, and what was there before is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise OutputError(f"cannot be written ({error.strerror})", path=path) from error
    return path
