"""JSON files: read with the place of every mistake, written whole or not at all."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from medseg.atomic import write_whole
from medseg.errors import ManifestError


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ManifestError: for a file that is missing, empty, no text or no object; for broken JSON with line and
            column.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # before opening: a pipe would wait for ever
            raise ManifestError("is not a file", path=path, hint="give the JSON file itself")
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ManifestError("no such file", path=path, hint="make one with `medseg data init`") from None
    except UnicodeDecodeError as e:
        raise ManifestError(f"is no text: byte {e.start} is not UTF-8", path=path, hint="give a JSON file") from None
    except (OSError, ValueError) as e:
        raise ManifestError(f"cannot be read: {getattr(e, 'strerror', None) or e}", path=path) from None
    if not text.strip():
        raise ManifestError("is empty", path=path, hint="a manifest is a JSON object")
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_finite)
    except json.JSONDecodeError as e:
        raise ManifestError(f"line {e.lineno}, column {e.colno}: {e.msg}", path=path, hint="mend the JSON") from None
    except (ValueError, RecursionError) as e:
        raise ManifestError(f"is no usable JSON: {e}", path=path) from None
    if not isinstance(value, dict):
        raise ManifestError(f"holds a {type(value).__name__}; accepted is a JSON object", path=path)
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [k for k, _ in pairs]
        raise ValueError(f"the key '{next(k for k in keys if keys.count(k) > 1)}' appears twice in one object")
    return value


def _finite(literal: str) -> float:
    raise ValueError(f"{literal} is not a JSON number")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file so that at any moment the old one or the new one is there, whole.

    Raises:
        OutputError: when it cannot be written.
    """
    write_whole(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
