"""A series of images as a volume, in the convention of `medseg.portable.io.read`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.dicom.scan.find_series import FoundSeries, choose_series, find_series
from medseg.dicom.scan.pixels import read_rescaled
from medseg.dicom.scan.slice_headers import Slice, read_slices
from medseg.dicom.scan.stacking import stack_slices
from medseg.errors import DataError
from medseg.portable.io.header import Header, check_memory, checked_spacing, naming


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
        return list(dict.fromkeys(one.path for one in self.slices))

    def voxels(self) -> np.ndarray:
        """`(1, X, Y, Z)`: columns, rows, slices; rescaled, in the header's type.

        Raises:
            DataError: a file's pixels are damaged, or in an encoding that nothing here decodes.
        """
        columns, rows, count = self.header.shape
        volume = np.empty((count, rows, columns), self.header.dtype)
        for at, numbers in enumerate(read_rescaled(self.slices)):
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
        >>> from medseg.dicom.scan.series import open_series
        >>> series = open_series("series/")
        >>> series.modality, series.header.shape, series.header.spacing_mm
        ('CT', (40, 32, 20), (8.0, 8.0, 10.0))
        >>> series.voxels().shape
        (1, 40, 32, 20)
    """
    place = Path(place)
    found, notes = choose_series(find_series(place), place, uid)
    return _build_series(found, place, notes)


def _build_series(found: FoundSeries, place: Path, notes: list[str]) -> Series:
    slices, affine, of_slices = stack_slices(read_slices(found.files), place)
    with naming(place):
        spacing = checked_spacing(affine)
        dtype = _choose_type(slices)
        shape = (*slices[0].size, len(slices))
        check_memory(int(np.prod(shape)) * dtype.itemsize)
    return Series(
        header=Header(place, shape, 1, affine, spacing, dtype, (*notes, *of_slices)),
        slices=tuple(slices),
        uid=found.uid,
        description=str(found.first.get("SeriesDescription") or ""),
        modality=found.modality,
        frame_of_reference=str(found.first.get("FrameOfReferenceUID") or ""),
    )


def _choose_type(slices: Sequence[Slice]) -> np.dtype:
    """The smallest type that holds every rescaled number; floating where a slope or an offset has a fraction."""
    low, high = 0.0, 0.0
    for one in slices:
        slope, offset = one.scale
        if not slope.is_integer() or not offset.is_integer():
            return np.dtype(np.float32)
        for end in one.ends:
            low, high = min(low, end * slope + offset), max(high, end * slope + offset)
    for dtype in (np.uint8, np.int16, np.uint16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return np.dtype(dtype)
    return np.dtype(np.float64)
