"""What each slice of a series says of itself, whether it is a file or a frame of a multi-frame file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


def slices_of(files: Sequence[tuple[Path, Any]]) -> list[Slice]:
    """All slices of a series, in no order.

    Args:
        files: paths and headers of one series.

    Raises:
        DataError: a file has no place in space, has colours, is scaled by a table, or has a damaged header.
    """
    slices = []
    for path, header in files:
        try:
            slices += list(_slices(path, header))
        except (MedsegError, MemoryError):
            raise
        except Exception as error:  # whatever becomes of values that are none
            raise DataError(f"is a damaged DICOM file ({reason_of(error)})", path=path, hint=COPY_AGAIN) from error
    return slices


def _slices(path: Path, header: Any) -> Iterator[Slice]:
    if int(header.get("SamplesPerPixel") or 1) != 1:
        raise DataError("is a colour picture; accepted are images of one value per voxel", path=path)
    if header.get("ModalityLUTSequence"):
        raise DataError("scales its values by a table (Modality LUT); accepted are slope and intercept", path=path)
    shared = _item(header, "SharedFunctionalGroupsSequence")
    frames = header.get("PerFrameFunctionalGroupsSequence")
    if frames is None:
        if int(header.get("NumberOfFrames") or 1) > 1:
            raise DataError(
                f"has {header.NumberOfFrames} frames without a place in space; accepted are enhanced images", path=path
            )  # fmt: skip
        yield _slice(path, None, header, [header])
        return
    if len(frames) != int(header.get("NumberOfFrames") or 0):
        raise DataError(f"describes {len(frames)} frames and has {header.get('NumberOfFrames') or 'none'}", path=path)
    for number, own in enumerate(frames):
        groups = [item[0] for where in (own, shared) if where is not None for item in _sequences(where)]
        yield _slice(path, number, header, [*groups, header])


def _item(header: Any, name: str) -> Any | None:
    sequence = header.get(name)
    return sequence[0] if sequence else None


def _sequences(group: Any) -> Iterator[Any]:
    return (element.value for element in group if element.VR == "SQ" and element.value)


def _slice(path: Path, frame: int | None, header: Any, where: Sequence[Any]) -> Slice:
    """A slice from the places where its attributes may stand, its own before shared ones."""

    def numbers(name: str, count: int) -> np.ndarray:
        found = _value(where, name)
        try:
            values = np.asarray(found, float).reshape(-1)
        except (TypeError, ValueError):
            values = np.empty(0)
        if found is None or len(values) != count or not np.isfinite(values).all():
            told = "has no" if found is None else f"has '{found}' as"
            raise DataError(f"{told} {name}, so it has no place in space", path=path, hint="give a series of slices")
        return values

    axes = numbers("ImageOrientationPatient", 6).reshape(2, 3)
    length = np.linalg.norm(axes, axis=1)
    down, right = numbers("PixelSpacing", 2)
    if np.abs(length - 1).max() > 0.01 or min(down, right) <= 0:
        raise DataError("has no usable ImageOrientationPatient or PixelSpacing", path=path)
    slope = 1.0 if _value(where, "RescaleSlope") is None else float(numbers("RescaleSlope", 1)[0])
    offset = 0.0 if _value(where, "RescaleIntercept") is None else float(numbers("RescaleIntercept", 1)[0])
    apart = _value(where, "SpacingBetweenSlices") or _value(where, "SliceThickness")
    bits = int(header.get("BitsStored") or header.get("BitsAllocated") or 16)
    if not 1 <= bits <= 32:
        raise DataError(f"stores {bits} bits per voxel; accepted are up to 32", path=path)
    return Slice(
        path=path,
        frame=frame,
        uid=str(header.get("SOPInstanceUID") or path),
        position=numbers("ImagePositionPatient", 3),
        axes=axes / length[:, None],
        spacing_mm=(float(right), float(down)),
        size=(int(header.Columns), int(header.Rows)),
        scale=(slope, offset),
        ends=(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if header.get("PixelRepresentation") else (0, 2**bits - 1),
        thickness_mm=abs(float(apart)) if apart else None,
        moments={name: str(value) for name in MOMENTS if (value := _value(where, name)) is not None},
    )


def _value(where: Sequence[Any], name: str) -> Any | None:
    return next((place[name].value for place in where if name in place), None)
