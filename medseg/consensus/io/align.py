"""Whether annotations lie on the image's grid, and how they are brought there when asked to.

The order in which a file is stored does not matter: axes that are flipped or swapped, with the affine to match, are
the same grid, and are turned. Anything else is an error, or resampled if the user says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from nibabel import orientations
from scipy import ndimage

from medseg.consensus.io.file_names import is_dicom
from medseg.consensus.study import MISSING
from medseg.errors import DataError
from medseg.portable.geometry import along, times
from medseg.portable.io.header import Header

SAME_VOXELS = 1e-3
"""How far corners may lie apart on one grid: rounding."""

Way = Literal["nearest", "linear"]
"""How labels are resampled: the nearest one, or the class with the largest share by linear interpolation."""


@dataclass(frozen=True, eq=False)
class Placed:
    """Labels `(X, Y, Z)` uint8 with `MISSING`, or probabilities `(K, X, Y, Z)`, where `header` says.

    Attributes:
        array: the one or the other.
        header: of the file.
        outside: label of what lies outside the file; a cropped segmentation is background there.
    """

    array: np.ndarray
    header: Header
    outside: int = MISSING


def place(placed: Placed, grid: Header, way: Way | None = None) -> tuple[np.ndarray, list[str]]:
    """Bring an annotation to a grid.

    Args:
        placed: the annotation.
        grid: of the image.
        way: None refuses what lies on another grid.

    Returns:
        the array on the grid, and notes on what was done.

    Raises:
        DataError: it lies on another grid, and `way` is None.
    """
    name = placed.header.path.name
    last = placed.array if placed.array.ndim == 3 else np.moveaxis(placed.array, 0, -1)
    moved, off, turned = along(grid, placed.header, last)
    if off <= SAME_VOXELS:
        notes = [f"{name} is stored along other axes than the image: turned to the image's"] if turned else []
        return moved if moved.ndim == 3 else np.moveaxis(moved, -1, 0), notes
    if np.isinf(off) and placed.array.ndim == 3 and placed.outside == 0:
        whole = uncropped(placed.array, placed.header, grid, tolerance=SAME_VOXELS)
        if whole is not None:
            return whole
    if way is None:
        raise DataError(_difference(placed, grid, off), path=placed.header.path, hint="--resample brings it over")
    note = (
        f"{name} was resampled ({way}) from {times(placed.header.shape)} voxels of "
        f"{times(placed.header.spacing_mm)} mm to {times(grid.shape)} of {times(grid.spacing_mm)} mm"
    )
    if placed.array.ndim == 4:
        return _resampled_probabilities(placed, grid), [note.replace(f"({way})", "(linear)")]
    if way == "linear":
        return _resampled_shares(placed, grid), [note]
    return _resampled_nearest(placed, grid), [note]


def _difference(placed: Placed, grid: Header, off: float) -> str:
    header, cropped = placed.header, placed.outside == 0
    if np.isinf(off) and not cropped:
        return f"has {times(header.shape)} voxels, {grid.path} has {times(grid.shape)}"
    spacing = np.array(sorted(header.spacing_mm)), np.array(sorted(grid.spacing_mm))
    if np.abs(spacing[0] - spacing[1]).max() * max(grid.shape) > SAME_VOXELS * spacing[1].min():
        return f"has a spacing of {times(header.spacing_mm)} mm, {grid.path} one of {times(grid.spacing_mm)} mm"
    if np.isinf(off):
        return f"has voxels between those of {grid.path} (origin or direction differ)"
    return f"lies up to {off:.3g} voxels off {grid.path} (origin or direction differ); accepted is {SAME_VOXELS}"


def _resample(array: np.ndarray, placed: Placed, grid: Header, *, order: int, outside: float) -> np.ndarray:
    """`(X, Y, Z)` read at the voxels of the grid; a rim of one voxel makes a file reach to the edge of its voxels."""
    matrix = np.linalg.solve(placed.header.affine, grid.affine)
    rim = np.pad(array, 1, mode="edge") if order else np.pad(array, 1, constant_values=outside)
    shift = matrix[:3, 3] + 1
    return ndimage.affine_transform(
        rim, matrix[:3, :3], shift, grid.shape, order=order, mode="constant", cval=outside, prefilter=False
    )


def _resampled_nearest(placed: Placed, grid: Header) -> np.ndarray:
    return _resample(placed.array, placed, grid, order=0, outside=placed.outside)


def _resampled_shares(placed: Placed, grid: Header) -> np.ndarray:
    """The class with the largest share; which voxels are annotated is decided by the nearest one."""
    nearest = _resampled_nearest(placed, grid)
    best, winner = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, np.uint8)
    for label in np.unique(placed.array[placed.array != MISSING]):
        share = _resample((placed.array == label).astype(np.float32), placed, grid, order=1, outside=0)
        better = share > best
        winner[better], best[better] = label, share[better]
    return np.where((nearest == MISSING) | (best == 0), nearest, winner)


def _resampled_probabilities(placed: Placed, grid: Header) -> np.ndarray:
    """Linear; nothing is annotated beyond the file."""
    inside = np.zeros(placed.header.shape, np.uint8)
    beyond = _resample(inside, placed, grid, order=0, outside=1) == 1
    out = np.stack([_resample(p, placed, grid, order=1, outside=0) for p in placed.array])
    out[:, beyond] = 0
    return out


def uncropped(
    array: np.ndarray, header: Header, grid: Header, *, tolerance: float
) -> tuple[np.ndarray, list[str]] | None:
    """Labels on the whole grid.

    Args:
        array: `(X, Y, Z)` labels of a part of the grid, stored in any order.
        header: where they lie.
        grid: of the image.
        tolerance: in voxels, how far voxels may lie off those of the grid.

    Returns:
        labels on the grid, background where the file ends, and notes; None if the voxels are not the grid's.

    Raises:
        DataError: a structure reaches beyond the grid.
    """
    between = np.linalg.solve(grid.affine, header.affine)
    turns = np.round(between[:3, :3])
    reach = np.abs(between[:3, :3] - turns) @ np.array(array.shape)
    if not np.array_equal(np.abs(turns).sum(0), [1, 1, 1]) or not np.array_equal(np.abs(turns).sum(1), [1, 1, 1]):
        return None
    order = orientations.io_orientation(between)
    moved = orientations.apply_orientation(array, order)
    start = (between @ orientations.inv_ornt_aff(order, array.shape))[:3, 3]
    if max(reach.max(), np.abs(start - np.round(start)).max()) > tolerance:
        return None
    low = np.round(start).astype(int)
    high = low + moved.shape
    target = tuple(slice(max(a, 0), min(b, m)) for a, b, m in zip(low, high, grid.shape, strict=True))
    inside = tuple(slice(t.start - a, t.stop - a) for t, a in zip(target, low, strict=True))
    kept = moved[inside] if all(s.start < s.stop for s in target) else moved[:0]
    lost = int(np.count_nonzero(moved)) - int(np.count_nonzero(kept))
    if lost:
        raise DataError(f"has {lost} labelled voxels outside {grid.path}", path=header.path)
    whole = np.zeros(grid.shape, array.dtype)
    if kept.size:
        whole[target] = kept
    if is_dicom(header.path):  # frames without a voxel are always left out of it
        return whole, []
    part = f"{times(array.shape)} of the {times(grid.shape)} voxels"
    return whole, [f"{header.path.name} shows {part}: the rest is background"]
