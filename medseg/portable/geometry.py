"""Two arrays on one grid: the order in which a file is stored, and the values that it holds."""

from __future__ import annotations

import numpy as np
from nibabel import orientations

from .io.header import Header, corners_mm


def along(grid: Header, header: Header, array: np.ndarray) -> tuple[np.ndarray, float, bool]:
    """Turn an array to the storage order of another grid; no voxel changes its value.

    Args:
        grid: whose order is wanted.
        header: where the array lies.
        array: `(X, Y, Z, ...)`.

    Returns:
        the turned array, how many voxels of `grid` a corner lies off the grid's at most (infinite where the shapes
        differ), and whether it had to be turned.
    """
    between = np.linalg.solve(grid.affine, header.affine)
    turns = orientations.io_orientation(between)
    moved = orientations.apply_orientation(array, turns)
    turned = not np.array_equal(turns, [[0, 1], [1, 1], [2, 1]])
    if moved.shape[:3] != tuple(grid.shape):
        return moved, float("inf"), turned
    affine = header.affine @ orientations.inv_ornt_aff(turns, array.shape[:3])
    shift = corners_mm(affine, grid.shape) - corners_mm(grid.affine, grid.shape)
    off = float(np.linalg.norm(np.linalg.solve(grid.affine[:3, :3], shift.T), axis=0).max())
    return moved, off, turned


def values_in(array: np.ndarray) -> np.ndarray:
    """Which values occur, in rising order; sorting a whole CT to find them would take longer than measuring it."""
    if array.dtype.kind not in "iu" or int(array.max()) - int(array.min()) > 2**16:
        return np.unique(array)
    low = int(array.min())
    length = int(array.max()) - low + 1
    counts = np.zeros(length, np.int64)
    for plane in array:
        counts += np.bincount(plane.reshape(-1).astype(np.int64) - low, minlength=length)
    return np.flatnonzero(counts) + low


def times(numbers: tuple[float, ...]) -> str:
    """Extents for a message: `512x512x120`, `0.7x0.7x2.5`."""
    return "x".join(f"{n:.4g}" if isinstance(n, float) else str(n) for n in numbers)
