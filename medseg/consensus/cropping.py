"""Annotations that were saved cropped: where their voxels are voxels of the image, they are put back exactly."""

from __future__ import annotations

import numpy as np
from nibabel import orientations

from medseg.consensus.naming import is_dicom
from medseg.errors import DataError
from medseg.portable.grids import times
from medseg.portable.volume import Header


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
