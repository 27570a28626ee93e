"""Pieces of a long run, recognised by content: what a piece was made of, and what was made.

Beside each product lies a record with two hashes: of everything that the piece depends on, and of what came out. Names
and dates of files decide nothing, so that a piece is reused where it is the same and made again where it is not.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from medseg import __version__
from medseg.atomic import make_folder, write_whole
from medseg.errors import DataError


def digest_of(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files with their names.

    Raises:
        DataError: it cannot be read.
    """
    if path.is_dir():
        inside = sorted(file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
        return _hash({file.relative_to(path).as_posix(): digest_of(file) for file in inside})
    try:
        status = path.stat()
        return _of_file(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path=path) from error


@lru_cache(maxsize=65536)
def _of_file(path: Path, size: int, modified_ns: int) -> str:
    # by size and time within one process only: many pieces depend on the same images
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


class Piece:
    """One piece of a run.

    Args:
        record: the JSON file that tells of it.
        made_of: everything it depends on, as plain values; files by their `digest_of`.
        products: files and folders that it makes.
        source: what else its record says, from its beginning; it decides nothing here.
    """

    def __init__(
        self,
        record: Path,
        made_of: Mapping[str, Any],
        products: Sequence[Path],
        source: Mapping[str, Any] | None = None,
    ) -> None:
        self.record, self.products = record, tuple(products)
        self._told = {} if source is None else {"source": dict(source)}
        self.key = _hash({"medseg": __version__, **made_of})
        self._began = time.monotonic()

    def notes(self) -> dict[str, Any] | None:
        """What was noted at its end; None unless it was made of the same things and its products are unchanged."""
        found = self._read()
        if found.get("key") != self.key or "made" not in found:
            return None
        if not all(path.exists() for path in self.products) or found["made"] != self._made():
            return None
        return found["notes"]

    @property
    def begun(self) -> bool:
        """Whether this very piece was begun and not finished, so that what there is of it can be continued."""
        found = self._read()
        return found.get("key") == self.key and "made" not in found

    def begin(self, folder: Path | None = None) -> None:
        """Note that the piece is being made.

        Args:
            folder: what else of the piece may be there; emptied, unless this very piece was interrupted.
        """
        self._began = time.monotonic()
        if not self.begun:
            for path in (*self.products, *([folder] if folder else [])):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        make_folder(self.record.parent)
        self._write({"key": self.key, **self._told})

    def finish(self, notes: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Note that the products are there; returns the notes with `seconds`, which this took since `begin`."""
        kept = {**(notes or {}), "seconds": round(time.monotonic() - self._began, 2)}
        self._write({"key": self.key, **self._told, "made": self._made(), "notes": kept})
        return kept

    def _made(self) -> list[str]:
        return [digest_of(path) for path in self.products]

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self.record.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # no record, or no usable one: the piece is made again
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self, content: Mapping[str, Any]) -> None:
        write_whole(self.record, json.dumps(content, indent=1, allow_nan=False) + "\n")
