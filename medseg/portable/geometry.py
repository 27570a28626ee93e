"""Two arrays on one grid: the order in which a file is stored, and the values that it holds."""

from __future__ import annotations

import numpy as np
from nibabel import orientations

from .io.header import Header, corners_mm

UNTURNED = [[0, 1], [1, 1], [2, 1]]
"""nibabel's orientation of axes that stay where they are."""


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
    to_grid = np.linalg.solve(grid.affine, header.affine)
    turns = orientations.io_orientation(to_grid)
    turned = orientations.apply_orientation(array, turns)
    had_to_turn = not np.array_equal(turns, UNTURNED)
    if turned.shape[:3] != tuple(grid.shape):
        return turned, float("inf"), had_to_turn
    affine = header.affine @ orientations.inv_ornt_aff(turns, array.shape[:3])
    shift_mm = corners_mm(affine, grid.shape) - corners_mm(grid.affine, grid.shape)
    shift_voxels = np.linalg.solve(grid.affine[:3, :3], shift_mm.T)
    off = float(np.linalg.norm(shift_voxels, axis=0).max())
    return turned, off, had_to_turn


def values_in(array: np.ndarray) -> np.ndarray:
    """Which values occur, in rising order; sorting a whole CT to find them would take longer than measuring it."""
    if array.dtype.kind not in "iu":
        return np.unique(array)
    lowest, highest = int(array.min()), int(array.max())
    if highest - lowest > 2**16:
        return np.unique(array)
    length = highest - lowest + 1
    counts = np.zeros(length, np.int64)
    for plane in array:
        from_lowest = plane.reshape(-1).astype(np.int64) - lowest
        counts += np.bincount(from_lowest, minlength=length)
    return np.flatnonzero(counts) + lowest


def times(numbers: tuple[float, ...]) -> str:
    """Extents for a message: `512x512x120`, `0.7x0.7x2.5`."""
    texts = [f"{number:.4g}" if isinstance(number, float) else str(number) for number in numbers]
    return "x".join(texts)
