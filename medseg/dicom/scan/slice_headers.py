"""What each slice of a series says of itself, whether it is a file or a frame of a multi-frame file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medseg.dicom.availability import reason_of
from medseg.errors import DataError, MedsegError
from medseg.portable.io.header import COPY_AGAIN

MOMENTS = (
    "TemporalPositionIdentifier", "TemporalPositionIndex", "EchoTime", "EffectiveEchoTime", "DiffusionBValue",
    "TriggerTime", "AcquisitionNumber", "ImageType", "AcquisitionTime", "ContentTime",
)  # fmt: skip
"""Attributes that tell several images at one position apart, the most telling first."""

RADIOGRAPHS = ("DX", "CR", "MG", "IO", "PX", "RG", "RF", "XA")
"""Modalities of projections."""

PICTURES = ("US", "IVUS", "XC", "ES", "OP", "OPM", "GM", "SM", "DMS")
"""Modalities of ultrasound, photographs and microscopes."""


@dataclass(frozen=True, eq=False)
class Slice:
    """One slice.

    Attributes:
        path: its file.
        frame: number in a multi-frame file, from 0; None for a file of its own.
        uid: SOP instance.
        position: (3,) centre of the first voxel, mm, LPS.
        axes: (2, 3) unit vectors along a row and along a column.
        spacing_mm: between neighbours of a row, and of a column.
        size: columns, rows.
        scale: slope and intercept of the stored numbers.
        ends: smallest and largest number that can be stored.
        thickness_mm: what stands for the distance to a neighbour where there is none; None if nothing does.
        moments: values of `MOMENTS`.
    """

    path: Path
    frame: int | None
    uid: str
    position: np.ndarray
    axes: np.ndarray
    spacing_mm: tuple[float, float]
    size: tuple[int, int]
    scale: tuple[float, float]
    ends: tuple[int, int]
    thickness_mm: float | None
    moments: dict[str, str]

    def __str__(self) -> str:
        """For messages."""
        return self.path.name if self.frame is None else f"{self.path.name} frame {self.frame + 1}"


def read_slices(files: Sequence[tuple[Path, Any]]) -> list[Slice]:
    """All slices of a series, in no order.

    Args:
        files: paths and headers of one series.

    Raises:
        DataError: a file has no place in space, has colours, is scaled by a table, or has a damaged header.
    """
    slices: list[Slice] = []
    for path, header in files:
        try:
            slices += _slices_of_file(path, header)
        except (MedsegError, MemoryError):
            raise
        except Exception as error:  # whatever becomes of values that are none
            raise DataError(f"is a damaged DICOM file ({reason_of(error)})", path=path, hint=COPY_AGAIN) from error
    return slices


def _slices_of_file(path: Path, header: Any) -> list[Slice]:
    """The slice of a file, or the frames of a multi-frame file."""
    _refuse_pictures(path, header)
    if int(header.get("SamplesPerPixel") or 1) != 1:
        raise DataError("is a colour image; accepted are images of one value per voxel", path=path)
    if header.get("ModalityLUTSequence"):
        raise DataError("scales its values by a table (Modality LUT); accepted are slope and intercept", path=path)
    frames = header.get("PerFrameFunctionalGroupsSequence")
    if frames is None:
        if int(header.get("NumberOfFrames") or 1) > 1:
            problem = f"has {header.NumberOfFrames} frames without a place in space; accepted are enhanced images"
            raise DataError(problem, path=path)
        return [_slice(path, None, header, [header])]
    if len(frames) != int(header.get("NumberOfFrames") or 0):
        raise DataError(f"describes {len(frames)} frames and has {header.get('NumberOfFrames') or 'none'}", path=path)
    shared = _first_item(header, "SharedFunctionalGroupsSequence")
    of_all_frames = [] if shared is None else _first_items(shared)
    slices = []
    for number, own in enumerate(frames):
        slices.append(_slice(path, number, header, [*_first_items(own), *of_all_frames, header]))
    return slices


def _has_place(header: Any) -> bool:
    """Whether a file says where its pixels lie: in itself, or in its frames."""
    return "ImagePositionPatient" in header or "PerFrameFunctionalGroupsSequence" in header


def _refuse_pictures(path: Path, header: Any) -> None:
    """Refuse what looks like a slice and is none: radiographs, photographs, and the mosaics of Siemens' scanners.

    Raises:
        DataError: it is one of them.
    """
    modality = str(header.get("Modality") or "")
    if modality in (*RADIOGRAPHS, *PICTURES) and not _has_place(header):
        kind = "radiograph" if modality in RADIOGRAPHS else "photograph or ultrasound image"
        raise DataError(
            f"is a {kind} ({modality}), a picture without a place in space; accepted are series of slices",
            path=path, hint="save it as PNG or TIFF, and give it to a model of such pictures",
        )  # fmt: skip
    if "MOSAIC" in [str(word).upper() for word in header.get("ImageType") or ()]:
        raise DataError(
            "is a mosaic: the slices of a volume side by side in one image",
            path=path, hint="convert the series by dcm2niix and give the result",
        )  # fmt: skip


def _first_item(header: Any, name: str) -> Any | None:
    """The first item of a sequence; None where there is no such sequence or it is empty."""
    sequence = header.get(name)
    return sequence[0] if sequence else None


def _first_items(group: Any) -> list[Any]:
    """The first item of each sequence of a functional group."""
    return [element.value[0] for element in group if element.VR == "SQ" and element.value]


def _slice(path: Path, frame: int | None, header: Any, places: Sequence[Any]) -> Slice:
    """A slice from the places where its attributes may stand, its own before shared ones."""
    axes = _numbers(places, "ImageOrientationPatient", 6, path).reshape(2, 3)
    length = np.linalg.norm(axes, axis=1)
    down, right = _numbers(places, "PixelSpacing", 2, path)
    if np.abs(length - 1).max() > 0.01 or min(down, right) <= 0:
        raise DataError("has no usable ImageOrientationPatient or PixelSpacing", path=path)
    slope = _number(places, "RescaleSlope", 1.0, path)
    offset = _number(places, "RescaleIntercept", 0.0, path)
    apart = _value(places, "SpacingBetweenSlices") or _value(places, "SliceThickness")
    moments: dict[str, str] = {}
    for name in MOMENTS:
        value = _value(places, name)
        if value is not None:
            moments[name] = str(value)
    return Slice(
        path=path,
        frame=frame,
        uid=str(header.get("SOPInstanceUID") or path),
        position=_numbers(places, "ImagePositionPatient", 3, path),
        axes=axes / length[:, None],
        spacing_mm=(float(right), float(down)),
        size=(int(header.Columns), int(header.Rows)),
        scale=(slope, offset),
        ends=_ends(header, path),
        thickness_mm=abs(float(apart)) if apart else None,
        moments=moments,
    )


def _ends(header: Any, path: Path) -> tuple[int, int]:
    """The smallest and the largest number that can be stored."""
    bits = int(header.get("BitsStored") or header.get("BitsAllocated") or 16)
    if not 1 <= bits <= 32:
        raise DataError(f"stores {bits} bits per voxel; accepted are up to 32", path=path)
    if header.get("PixelRepresentation"):
        return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return 0, 2**bits - 1


def _number(places: Sequence[Any], name: str, default: float, path: Path) -> float:
    if _value(places, name) is None:
        return default
    return float(_numbers(places, name, 1, path)[0])


def _numbers(places: Sequence[Any], name: str, count: int, path: Path) -> np.ndarray:
    """So many finite numbers of an attribute.

    Raises:
        DataError: it is not there, or something else.
    """
    found = _value(places, name)
    try:
        values = np.asarray(found, float).reshape(-1)
    except (TypeError, ValueError):
        values = np.empty(0)
    if found is None or len(values) != count or not np.isfinite(values).all():
        problem = "has no" if found is None else f"has '{found}' as"
        raise DataError(f"{problem} {name}, so it has no place in space", path=path, hint="give a series of slices")
    return values


def _value(places: Sequence[Any], name: str) -> Any | None:
    """The value of an attribute at the first place that has it."""
    for place in places:
        if name in place:
            return place[name].value
    return None
