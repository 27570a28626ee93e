"""A rater's annotation from DICOM: a segmentation (SEG) or the contours of a structure set (RTSTRUCT)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medseg.dicom.availability import check_dicom_installed, is_dicom_file, reason_of, without_pydicom_warnings
from medseg.dicom.structures import Annotation
from medseg.errors import DataError, MedsegError
from medseg.portable.io.header import COPY_AGAIN, Header, naming


def read_annotation(path: Path, grid: Header, frame: str = "", only: Sequence[str] = ()) -> Annotation:
    """Read a DICOM SEG, on its own grid, or the contours of an RTSTRUCT, filled on the image's.

    Args:
        path: the file.
        grid: of the image.
        frame: the image's frame of reference; "" where it is not known.
        only: names of the structures to take; none: all.

    Raises:
        ConfigError: the extra `dicom` is not installed.
        DataError: it is neither, damaged, or an annotation of another image.
    """
    check_dicom_installed(path)
    if not is_dicom_file(path):
        raise DataError("is called .dcm and has no header of DICOM", path=path, hint=COPY_AGAIN)
    try:
        with without_pydicom_warnings(), naming(path):
            return _read(path, grid, frame, only)
    except (MedsegError, MemoryError):
        raise
    except Exception as error:  # pydicom and highdicom raise whatever a damaged or foreign file leads to
        raise DataError(f"is DICOM that cannot be read ({reason_of(error)})", path=path, hint=COPY_AGAIN) from error


def _read(path: Path, grid: Header, frame: str, only: Sequence[str]) -> Annotation:
    import pydicom

    from medseg.dicom.read_seg import read_segmentation
    from medseg.dicom.rtstruct import read_contours

    data = pydicom.dcmread(path, force=True)
    kind = str(data.get("Modality") or "?")
    readers = {"SEG": read_segmentation, "RTSTRUCT": read_contours}
    if kind not in readers:
        raise DataError(f"is DICOM of the modality {kind}; accepted as annotations are SEG and RTSTRUCT", path=path)
    frames = _frames_of(data)
    if frame and frames and frame not in frames:
        raise DataError(
            f"annotates another image: its frame of reference is {sorted(frames)[0]}, the image's {frame}",
            path=path, hint="give the series that it annotates",
        )  # fmt: skip
    return readers[kind](data, path, grid, only)


def _frames_of(data: Any) -> set[str]:
    """Frames of reference that a file names as its own; a structure set keeps them with its structures."""
    found: set[str] = set()
    for item in (data, *(data.get("StructureSetROISequence") or ())):
        for name in ("FrameOfReferenceUID", "ReferencedFrameOfReferenceUID"):
            found.add(str(item.get(name) or ""))
    return found - {""}
