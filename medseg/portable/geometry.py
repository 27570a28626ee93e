"""Two arrays on one grid: the order in which a file is stored, and the values that it holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from nibabel import orientations

from .errors import DataError
from .io.header import Header, corners_mm

UNTURNED = [[0, 1], [1, 1], [2, 1]]
"""nibabel's orientation of axes that stay where they are."""


SAME_VOXELS = 0.01
"""Two grids whose corners lie within so many voxels are the same: decimal numbers of two programs differ by as much."""

LARGEST_VOXELS = 0.5
"""Up to here voxels still face the voxels that they were drawn on, which is taken with a warning; beyond, others."""


@dataclass(frozen=True)
class Offset:
    """How far the corners of one grid lie off those of another at most; infinite where the shapes differ.

    Attributes:
        voxels: of the grid that is wanted.
        mm: the same distance in space.
    """

    voxels: float
    mm: float

    @property
    def is_none(self) -> bool:
        """Whether the two are one grid."""
        return self.voxels <= SAME_VOXELS

    @property
    def is_taken(self) -> bool:
        """Whether they are one grid, or nearly."""
        return self.voxels <= LARGEST_VOXELS

    def __str__(self) -> str:
        return f"{self.mm:.3g} mm ({self.voxels:.3g} voxels)"

    def note(self, other: str) -> str:
        """What is said of a file that is taken although it lies off another; empty where it does not."""
        return "" if self.is_none else f"lies up to {self} off {other}: taken as if it lay on it"


def offset(grid: Header, header: Header) -> Offset:
    """How far a file lies off a grid, whatever the order in which its axes are stored."""
    turns = orientations.io_orientation(np.linalg.solve(grid.affine, header.affine))
    axes = turns[:, 0].astype(int)
    shape = [0, 0, 0]
    for stored, axis in enumerate(axes):
        shape[axis] = header.shape[stored]
    if tuple(shape) != tuple(grid.shape):
        return Offset(float("inf"), float("inf"))
    affine = header.affine @ orientations.inv_ornt_aff(turns, header.shape[:3])
    shift_mm = corners_mm(affine, grid.shape) - corners_mm(grid.affine, grid.shape)
    shift_voxels = np.linalg.solve(grid.affine[:3, :3], shift_mm.T)
    voxels = float(np.linalg.norm(shift_voxels, axis=0).max())
    return Offset(voxels, float(np.linalg.norm(shift_mm, axis=1).max()))


def same_order(grid: Header, header: Header) -> bool:
    """Whether two grids are stored along the same axes in the same directions."""
    turns = orientations.io_orientation(np.linalg.solve(grid.affine, header.affine))
    return np.array_equal(turns, UNTURNED)


def check_offset(grid: Header, header: Header, of: str = "its image") -> str:
    """See that a file lies on a grid, in whatever order its axes are stored.

    Args:
        grid: that is wanted.
        header: of the file.
        of: whose grid it is, for messages.

    Returns:
        what is to be said of it; empty where it lies there within `SAME_VOXELS`.

    Raises:
        DataError: it has another shape, or lies off by more than `LARGEST_VOXELS`.
    """
    found = offset(grid, header)
    if np.isinf(found.voxels):
        shapes = f"has {times(header.shape)} voxels, {of} {grid.path} has {times(grid.shape)}"
        raise DataError(shapes, path=header.path, hint=RESAMPLE)
    if not found.is_taken:
        raise DataError(too_far(grid, header, found, of), path=header.path, hint=RESAMPLE)
    return found.note(f"{of} {grid.path.name}")


RESAMPLE = "resample it to that grid, or copy that header if the voxels are the same"


def too_far(grid: Header, header: Header, found: Offset, of: str = "its image") -> str:
    """What is wrong with a file that lies off a grid by more than is taken."""
    what = f"lies up to {found} off {of} {grid.path}; accepted is {LARGEST_VOXELS:g} voxels"
    spacing, other = sorted(header.spacing_mm), sorted(grid.spacing_mm)
    if not np.allclose(spacing, other, rtol=1e-2):
        what += f" (its spacing is {times(header.spacing_mm)} mm, there it is {times(grid.spacing_mm)} mm)"
    return what


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
    turns = orientations.io_orientation(np.linalg.solve(grid.affine, header.affine))
    turned = orientations.apply_orientation(array, turns)
    return turned, offset(grid, header).voxels, not np.array_equal(turns, UNTURNED)


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
