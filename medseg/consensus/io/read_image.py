"""The image of a study: its channels on one grid, as finite numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medseg.consensus.io.formats import Reading
from medseg.dicom.scan.series import Series
from medseg.errors import DataError
from medseg.portable.geometry import along, check_offset, times
from medseg.portable.io.header import Header
from medseg.portable.io.read import read_volume

COLOUR_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
"""Files whose three channels are the colours of a 2D image."""


def read_image(
    paths: Sequence[Path], grid: Header, reading: Reading, notes: list[str], series: Series | None = None
) -> np.ndarray:
    """Read the image of a study as `(C, X, Y, Z)` float32, finite.

    Args:
        paths: one file, or one per channel.
        grid: of the first.
        reading: which channels, and what to do with NaN.
        notes: gets what was strange.
        series: the image, where it is DICOM.

    Raises:
        DataError: a file that cannot be used.
    """
    parts = []
    for path in paths:
        array, header = (series.voxels(), series.header) if series else read_volume(path)
        notes += [f"{path.name}: {warning}" for warning in header.warnings]
        channels = _select_channels(array, path, reading)
        finite = _make_finite(channels, path, reading, notes)
        note = check_offset(grid, header, "the first channel")
        if note:
            notes.append(f"{path.name} {note}")
        moved = along(grid, header, np.moveaxis(finite, 0, -1))[0]
        parts.append(np.ascontiguousarray(np.moveaxis(moved, -1, 0)))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _select_channels(array: np.ndarray, path: Path, reading: Reading) -> np.ndarray:
    if isinstance(reading.channel, int):
        if not 0 <= reading.channel < len(array):
            raise DataError(f"has the channels 0 to {len(array) - 1}, not {reading.channel}", path=path)
        return array[reading.channel : reading.channel + 1]
    has_colours = len(array) == 3 and path.name.lower().endswith(COLOUR_SUFFIXES)
    if len(array) > 1 and reading.channel is None and not has_colours:
        raise DataError(
            f"has {len(array)} channels of {times(array.shape[1:])} voxels", path=path,
            hint="say which with --channel N (from 0), or --channel all if all show the same moment",
        )  # fmt: skip
    return array


def _make_finite(array: np.ndarray, path: Path, reading: Reading, notes: list[str]) -> np.ndarray:
    plain = np.ascontiguousarray(array, dtype=np.float32)
    if array.dtype.kind != "f":
        return plain
    broken = int(np.count_nonzero(~np.isfinite(plain)))
    if not broken:
        return plain
    if reading.nan is None:
        raise DataError(f"holds {broken} voxels of NaN or infinity", path=path, hint="--nan zero replaces them")
    notes.append(f"{path.name}: {broken} voxels of NaN or infinity were set to 0")
    return np.nan_to_num(plain, nan=0.0, posinf=0.0, neginf=0.0)
