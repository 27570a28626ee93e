"""A series of images as a volume, in the convention of `medseg.portable.io.read`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.dicom.find_series import Found, choose, series_in
from medseg.dicom.pixels import rescaled
from medseg.dicom.slice_headers import Slice, slices_of
from medseg.dicom.stacking import stack
from medseg.errors import DataError
from medseg.portable.io.header import Header, VolumeError, check_memory, checked_spacing


@dataclass(frozen=True, eq=False)
class Series:
    """One series, sorted and checked, without its voxels.

    Attributes:
        header: of the volume; its path is what the user gave.
        slices: in the order of the volume's last axis.
        uid: of the series.
        description: of the series, "" if it has none.
        modality: CT, MR, ...
        frame_of_reference: in which its millimetres are counted, "" if it has none.
    """

    header: Header
    slices: tuple[Slice, ...]
    uid: str
    description: str
    modality: str
    frame_of_reference: str

    @property
    def files(self) -> list[Path]:
        """Its files, each once, in the order of the slices."""
        return list(dict.fromkeys(piece.path for piece in self.slices))

    def voxels(self) -> np.ndarray:
        """`(1, X, Y, Z)`: columns, rows, slices; rescaled, in the header's type.

        Raises:
            DataError: a file's pixels are damaged, or in an encoding that nothing here decodes.
        """
        columns, rows, count = self.header.shape
        volume = np.empty((count, rows, columns), self.header.dtype)
        for at, numbers in enumerate(rescaled(self.slices)):
            volume[at] = numbers
        return volume.transpose(2, 1, 0)[None]

    def digest(self) -> str:
        """SHA-256 of its files."""
        digest = hashlib.sha256()
        for path in self.files:
            try:
                digest.update(path.read_bytes())
            except OSError as error:
                raise DataError(f"cannot be read ({error.strerror})", path=path) from error
        return digest.hexdigest()


def open_series(place: str | Path, uid: str | None = None) -> Series:
    """The series of a folder, searched with all folders in it, or of one file.

    Args:
        place: the folder; files that are not DICOM may lie in it.
        uid: of the series; None: the only volume there.

    Raises:
        ConfigError: the extra `dicom` is not installed.
        DataError: nothing is there, several series are, or the series is no volume; says which slices are to blame.

    Examples:
        >>> from medseg.dicom.series import open_series
        >>> series = open_series("series/")
        >>> series.modality, series.header.shape, series.header.spacing_mm
        ('CT', (40, 32, 20), (8.0, 8.0, 10.0))
        >>> series.voxels().shape
        (1, 40, 32, 20)
    """
    place = Path(place)
    found, notes = choose(series_in(place), place, uid)
    return _opened(found, place, notes)


def _opened(found: Found, place: Path, notes: list[str]) -> Series:
    slices, affine, said = stack(slices_of(found.files), place)
    try:
        spacing = checked_spacing(affine)
        dtype = _dtype(slices)
        shape = (*slices[0].size, len(slices))
        check_memory(int(np.prod(shape)) * dtype.itemsize)
    except VolumeError as error:
        raise DataError(str(error), path=place) from error
    header = Header(place, shape, 1, affine, spacing, dtype, tuple(notes + said))
    first = found.first
    return Series(
        header, tuple(slices), found.uid, str(first.get("SeriesDescription") or ""), found.modality,
        str(first.get("FrameOfReferenceUID") or ""),
    )  # fmt: skip


def _dtype(slices: Sequence[Slice]) -> np.dtype:
    """The smallest type that holds every rescaled number; floating where a slope or an offset has a fraction."""
    if any(not number.is_integer() for piece in slices for number in piece.scale):
        return np.dtype(np.float32)
    scaled = [end * piece.scale[0] + piece.scale[1] for piece in slices for end in piece.ends]
    low, high = min(0.0, *scaled), max(0.0, *scaled)
    whole = (np.uint8, np.int16, np.uint16, np.int32)
    return np.dtype(next((d for d in whole if np.iinfo(d).min <= low and high <= np.iinfo(d).max), np.float64))
