"""An expert's drawing from DICOM: what a segmentation and a set of contours have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medseg.dicom.extra import is_dicom_file, need_dicom, quietly, reason_of
from medseg.errors import DataError, MedsegError
from medseg.portable.volume import COPY_AGAIN, Header, VolumeError

MOST = 254  # structures that fit into bytes beside 0 and the mark of what is missing

Color = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Annotation:
    """What one file holds.

    Attributes:
        labels: `(X, Y, Z)` uint8: 0, or the place of a structure from 1.
        header: where it lies.
        names: of the structures.
        colors: of each, red, green, blue in [0, 1]; None where the file has none.
        notes: what is strange about it.
    """

    labels: np.ndarray
    header: Header
    names: tuple[str, ...]
    colors: tuple[Color | None, ...]
    notes: tuple[str, ...]


def read_annotation(path: Path, grid: Header, frame: str = "", only: Sequence[str] = ()) -> Annotation:
    """Read a DICOM SEG, on its own grid, or the contours of an RTSTRUCT, filled on the image's.

    Args:
        path: the file.
        grid: of the image.
        frame: the image's frame of reference; "" where it is not known.
        only: names of the structures to take; none: all.

    Raises:
        ConfigError: the extra `dicom` is not installed.
        DataError: it is neither, damaged, or was drawn on another image.
    """
    need_dicom(path)
    if not is_dicom_file(path):
        raise DataError("is called .dcm and has no header of DICOM", path=path, hint=COPY_AGAIN)
    try:
        with quietly():
            return _read(path, grid, frame, only)
    except (MedsegError, MemoryError):
        raise
    except VolumeError as error:
        raise DataError(str(error), path=path) from error
    except Exception as error:  # pydicom and highdicom raise whatever a damaged or foreign file leads to
        raise DataError(f"is DICOM that cannot be read ({reason_of(error)})", path=path, hint=COPY_AGAIN) from error


def _read(path: Path, grid: Header, frame: str, only: Sequence[str]) -> Annotation:
    import pydicom

    from medseg.dicom.contours import read_contours
    from medseg.dicom.segments import read_segmentation

    data = pydicom.dcmread(path, force=True)
    kind = str(data.get("Modality") or "?")
    readers = {"SEG": read_segmentation, "RTSTRUCT": read_contours}
    if kind not in readers:
        raise DataError(f"is DICOM of the modality {kind}; accepted as annotations are SEG and RTSTRUCT", path=path)
    frames = _frames_of(data)
    if frame and frames and frame not in frames:
        raise DataError(
            f"was drawn on another image: its frame of reference is {sorted(frames)[0]}, the image's {frame}",
            path=path, hint="give the series it was drawn on",
        )  # fmt: skip
    return readers[kind](data, path, grid, only)


def _frames_of(data: Any) -> set[str]:
    """Frames of reference that a file says it is drawn in; a structure set keeps them with its structures."""
    items = [data, *(data.get("StructureSetROISequence") or ())]
    found = {
        str(item.get(name) or "") for item in items for name in ("FrameOfReferenceUID", "ReferencedFrameOfReferenceUID")
    }
    return found - {""}


def chosen(names: Sequence[str], only: Sequence[str], path: Path) -> tuple[list[int], list[str]]:
    """Places of the structures to take, and notes.

    Raises:
        DataError: none is wanted, or there are too many.
    """
    wanted = {name.casefold() for name in only}
    taken = [n for n, name in enumerate(names) if not wanted or name.casefold() in wanted]
    if not taken:
        raise DataError(
            f"has no structure called {' or '.join(only) or 'anything'}; it has {', '.join(names)}", path=path
        )
    if len(taken) > MOST:
        raise DataError(
            f"holds {len(taken)} structures; accepted are up to {MOST}", path=path, hint="name some by --label"
        )
    left = [name for n, name in enumerate(names) if n not in taken]
    return taken, [f"left out: {', '.join(left)}"] if left else []


def overlapping(voxels: int) -> list[str]:
    """The note on structures that share voxels."""
    return [f"its structures overlap in {voxels} voxels, which count for the later one"] if voxels else []
