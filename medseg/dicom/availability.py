"""Whether the packages of the extra `dicom` are there, and whether a file is DICOM at all; imports neither."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from medseg.errors import ConfigError
from medseg.progress import silenced

PACKAGES = ("pydicom", "highdicom")
PREAMBLE = 128  # bytes before the mark of a DICOM file
MARK = b"DICM"
FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")  # what a file without a preamble begins with, little endian
FIRST_ELEMENTS = (b"\x00\x00", b"\x01\x00", b"\x05\x00", b"\x08\x00", b"\x16\x00")


def check_dicom_installed(path: Path) -> None:
    """See that the packages of the extra `dicom` are installed.

    Args:
        path: what cannot be read without it.

    Raises:
        ConfigError: a package is missing.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"is DICOM, which needs {' and '.join(missing)}", path=path, hint="pip install medseg[dicom]"
        )  # fmt: skip


def has_mark(path: Path) -> bool:
    """Whether a file has the mark of DICOM behind its preamble."""
    with path.open("rb") as stream:
        return stream.read(PREAMBLE + len(MARK))[PREAMBLE:] == MARK


def is_dicom_file(path: Path) -> bool:
    """Whether a file has the mark of DICOM, or begins as DICOM without a preamble does.

    Old archives leave the preamble out; what begins like them by chance is told apart when it is parsed.
    """
    if not path.is_file():  # a FIFO would block
        return False
    try:
        with path.open("rb") as stream:
            head = stream.read(PREAMBLE + len(MARK))
    except OSError:  # told by whoever wants the file itself
        return False
    if head[PREAMBLE:] == MARK:
        return True
    if path.suffix.lower() not in (".dcm", ".ima", ""):
        return False
    return head[:2] in FIRST_GROUPS and head[2:4] in FIRST_ELEMENTS


def files_below(folder: Path) -> Iterator[Path]:
    """All files of a folder and the folders in it, by name; what begins with a dot is passed over."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(names) if not name.startswith("."))


def holds_dicom(folder: Path, *, deep: bool = False) -> bool:
    """Whether a folder has DICOM files in it, or, if `deep`, anywhere below."""
    if not folder.is_dir():
        return False
    if deep:
        return any(is_dicom_file(path) for path in files_below(folder))
    return any(is_dicom_file(path) for path in sorted(folder.iterdir()) if not path.name.startswith("."))


def reason_of(error: Exception) -> str:
    """What a library said, short enough for a line."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


@contextmanager
def without_pydicom_warnings() -> Iterator[None]:
    """Keep pydicom from warning of odd values: those that matter are checked, and the others fill the screen."""
    with silenced("pydicom"):
        yield
