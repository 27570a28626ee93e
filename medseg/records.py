"""Records of finished work: what was made, from which inputs, by which settings and by which version.

A record is a JSON file beside what was made. Files stand in it by their content (SHA-256), so that names and dates
decide nothing: work is reused where it would come out the same, and done again where it would not. These keep one:

    run folder                `run.json`; a run is continued by the command that began it
    self-training             each network, common bundle, pseudo-label and score, and the check of the data
    consensus                 `record.json` of each study
    comparison                `comparison.json`, and a record of each plan and each run
    preprocessed volumes      `record.json` of each entry of the cache, whose folder is named by the record's key

Two kinds of files hold a record inside themselves, since they travel alone: results of prediction in their header
(`medseg.portable.io.record`), and tables of an evaluation under `input`. They are read and compared by what is here.
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
from medseg.errors import DataError, OutputError
from medseg.portable.io.itk_formats import files_of_image

RECORD = "record.json"
"""Name of a record that is alone in its folder."""
_FORMER_RECORD = "piece.json"  # its name before version 0.2

_LONGEST = 60  # letters of a value in a message


def digest_of(path: Path) -> str:
    """SHA-256 of a file (of a `.mhd` header with its file of voxels), or of a folder's files with their names.

    Raises:
        DataError: it cannot be read.
    """
    if path.is_dir():
        digests = {}
        for file in sorted(path.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                digests[file.relative_to(path).as_posix()] = _digest_of_file(file)
        return hash_of(digests)
    if path.suffix.lower() == ".mhd" and path.is_file():
        return hash_of({file.name: _digest_of_file(file) for file in files_of_image(path)})
    return _digest_of_file(path)


def _digest_of_file(path: Path) -> str:
    try:
        status = path.stat()
        return _digest_of_content(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path=path) from error


@lru_cache(maxsize=65536)
def _digest_of_content(path: Path, size: int, modified_ns: int) -> str:
    # by size and time within one process only: many records depend on the same images
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_of(content: Any) -> str:
    """SHA-256 of plain values, whatever the order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def read_record(file: Path) -> dict[str, Any]:
    """What a JSON file says; nothing where there is none or no usable one, which is as good as no record."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names whose values are not the same; of two mappings also those that only one has."""
    names = dict.fromkeys([*now, *before])
    return [name for name in names if before.get(name) != now.get(name)]


class Record:
    """What some work makes, from which inputs and by which settings.

    Args:
        file: the JSON file of the record.
        inputs: everything that goes into it, by name, as plain values; files by their `digest_of`.
        settings: everything else that it depends on, as plain values under other names.
        products: files and folders that the work makes; none where the record's `notes` are all that is made.
        source: what else the record says, from its beginning; it decides nothing here.
        version: by which it is made; None where a later version may continue it.

    Attributes:
        key: SHA-256 of inputs, settings and version.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from medseg.records import RECORD, Record, digest_of
        >>> folder = Path(tempfile.mkdtemp())
        >>> image, mask = folder / "image.txt", folder / "mask.txt"
        >>> _ = image.write_text("1 2 3")
        >>> record = Record(folder / RECORD, inputs={"image": digest_of(image)}, settings={"above": 2}, products=[mask])
        >>> record.notes() is None
        True
        >>> record.begin()
        >>> _ = mask.write_text("0 0 1")
        >>> _ = record.finish({"voxels": 1})
        >>> record.notes()["voxels"]
        1
        >>> Record(folder / RECORD, inputs={"image": digest_of(image)}, settings={"above": 1}).difference()
        'above was 2 and is 1'
    """

    def __init__(
        self,
        file: Path,
        *,
        inputs: Mapping[str, Any],
        settings: Mapping[str, Any],
        products: Sequence[Path] = (),
        source: Mapping[str, Any] | None = None,
        version: str | None = __version__,
    ) -> None:
        self.file, self.products, self.version = file, tuple(products), version
        self.inputs, self.settings = _as_stored(inputs), _as_stored(settings)
        self.source = None if source is None else dict(source)
        of_version = {} if version is None else {"medseg": version}
        self.key = hash_of({**of_version, **inputs, **settings})
        self._began = time.monotonic()

    def notes(self) -> dict[str, Any] | None:
        """What was noted at the end; None unless the work is finished, of the same key, and its products unchanged."""
        found = self._read()
        if found.get("key") != self.key or not isinstance(found.get("notes"), dict):
            return None
        if not all(path.exists() for path in self.products):
            return None
        return found["notes"] if found.get("made") == self._digests() else None

    @property
    def begun(self) -> bool:
        """Whether this very work was begun and not finished, so that what there is of it can be continued."""
        found = self._read()
        return found.get("key") == self.key and "made" not in found

    def begin(self, folder: Path | None = None) -> None:
        """Note that the work is being done; what is there of other work is removed.

        Args:
            folder: what else of the work may be there; emptied, unless this very work was interrupted.

        Raises:
            OutputError: a folder that would be emptied holds files of which no record says that they are ours.
        """
        self._began = time.monotonic()
        if not self.begun:
            self._refuse_foreign([*self.products, *([] if folder is None else [folder])])
            for path in self.products:
                _remove(path)
            if folder is not None:
                _remove(folder)
        make_folder(self.file.parent)
        self._write({})

    def _refuse_foreign(self, places: Sequence[Path]) -> None:
        former = self.file.with_name(_FORMER_RECORD)
        if self.file.exists() or former.exists():
            return
        for place in places:
            if place.is_dir() and any(place.iterdir()):
                problem = "holds files, and no record says that medseg made them"
                raise OutputError(problem, path=place, hint="move them, or choose another --output")

    def finish(self, notes: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Note that the products are there.

        Args:
            notes: plain values to keep.

        Returns:
            The notes with `seconds`: where they do not say it, the time since `begin`.
        """
        kept = {"seconds": round(time.monotonic() - self._began, 2), **(notes or {})}
        self._write({"made": self._digests(), "notes": kept})
        return kept

    def difference(self) -> str | None:
        """One line that says in what the file's record differs from this one; None where there is no difference."""
        found = self._read()
        if found.get("key") == self.key:
            return None
        lines = []
        if self.version is not None and found.get("medseg", self.version) != self.version:
            lines.append(f"medseg was {found['medseg']} and is {self.version}")
        for part, now in (("inputs", self.inputs), ("settings", self.settings)):
            before = found.get(part)
            if isinstance(before, dict):
                lines += [_first_difference(name, before.get(name), now.get(name)) for name in differing(before, now)]
        return ", ".join(lines) or "there is no record that says of what it was made"

    def _digests(self) -> list[str]:
        return [digest_of(path) for path in self.products]

    def _read(self) -> dict[str, Any]:
        found = read_record(self.file)
        if not found and self.file.name == RECORD:
            return read_record(self.file.with_name(_FORMER_RECORD))
        return found

    def _write(self, end: Mapping[str, Any]) -> None:
        content: dict[str, Any] = {} if self.version is None else {"medseg": self.version}
        content |= {"key": self.key, "inputs": self.inputs, "settings": self.settings}
        if self.source is not None:
            content["source"] = self.source
        write_whole(self.file, json.dumps(content | dict(end), indent=1, allow_nan=False) + "\n")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _as_stored(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as they will be read back from JSON."""
    stored: dict[str, Any] = json.loads(json.dumps(values, default=str), parse_constant=str)
    return stored


def _first_difference(place: str, before: Any, now: Any) -> str:
    """Where two values of JSON begin to differ, and what stood and stands there."""
    if isinstance(before, dict) and isinstance(now, dict):
        name = differing(before, now)[0]
        return _first_difference(f"{place}.{name}", before.get(name), now.get(name))
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        number = next(n for n, (old, new) in enumerate(zip(before, now, strict=True)) if old != new)
        return _first_difference(f"{place}.{number}", before[number], now[number])
    return f"{place} was {_shown(before)} and is {_shown(now)}"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} values"
    text = json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
