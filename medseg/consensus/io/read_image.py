"""The image of a study: its channels on one grid, as finite numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medseg.consensus.io.align import SAME_VOXELS
from medseg.consensus.io.formats import Reading
from medseg.dicom.series import Series
from medseg.errors import DataError
from medseg.portable.geometry import along, times
from medseg.portable.io.header import Header
from medseg.portable.io.read import read_volume

PICTURES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")


def read_image(
    paths: Sequence[Path], grid: Header, chosen: Reading, notes: list[str], series: Series | None = None
) -> np.ndarray:
    """`(C, X, Y, Z)` float32, finite.

    Args:
        paths: one file, or one per channel.
        grid: of the first.
        chosen: which channels, and what to do with NaN.
        notes: gets what was strange.
        series: the image, where it is DICOM.

    Raises:
        DataError: a file that cannot be used.
    """
    parts = []
    for path in paths:
        array, header = (series.voxels(), series.header) if series else read_volume(path)
        notes += [f"{path.name}: {warning}" for warning in header.warnings]
        array = _channels(array, path, chosen)
        array = _finite(array, path, chosen, notes)
        moved, off, _ = along(grid, header, np.moveaxis(array, 0, -1))
        if off > SAME_VOXELS:
            raise DataError(f"is not on the grid of {paths[0]}; the channels of an image share one", path=path)
        parts.append(np.ascontiguousarray(np.moveaxis(moved, -1, 0)))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _channels(array: np.ndarray, path: Path, chosen: Reading) -> np.ndarray:
    if isinstance(chosen.channel, int):
        if not 0 <= chosen.channel < len(array):
            raise DataError(f"has the channels 0 to {len(array) - 1}, not {chosen.channel}", path=path)
        return array[chosen.channel : chosen.channel + 1]
    colours = len(array) == 3 and path.name.lower().endswith(PICTURES)
    if len(array) > 1 and chosen.channel is None and not colours:
        raise DataError(
            f"has {len(array)} channels of {times(array.shape[1:])} voxels", path=path,
            hint="say which with --channel N (from 0), or --channel all if all show the same moment",
        )  # fmt: skip
    return array


def _finite(array: np.ndarray, path: Path, chosen: Reading, notes: list[str]) -> np.ndarray:
    plain = np.ascontiguousarray(array, dtype=np.float32)
    broken = int(np.count_nonzero(~np.isfinite(plain))) if array.dtype.kind == "f" else 0
    if broken and chosen.nan is None:
        raise DataError(f"holds {broken} voxels of NaN or infinity", path=path, hint="--nan zero replaces them")
    if broken:
        notes.append(f"{path.name}: {broken} voxels of NaN or infinity were set to 0")
        plain = np.nan_to_num(plain, nan=0.0, posinf=0.0, neginf=0.0)
    return plain
