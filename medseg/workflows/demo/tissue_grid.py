"""Density and labels of a generated subject on a fine grid, which is filled tissue by tissue."""

from __future__ import annotations

import numpy as np

AIR = -1000.0
"""Hounsfield units."""

REACH = 1.35
"""How far an ellipsoid may reach beyond its radii, since its outline is irregular."""

Vector = tuple[float, float, float]
Box = tuple[slice, slice, slice]
EVERYWHERE: Box = (slice(None), slice(None), slice(None))


class TissueGrid:
    """Density and labels on a fine grid; later tissues cover earlier ones.

    Args:
        points: `(3, X, Y, Z)` float32: where each fine voxel lies in the subject, in mm, deformation included.
        irregularity: `(2, X, Y, Z)` smooth fields of unit variance that make outlines irregular.

    Attributes:
        density: `(X, Y, Z)` float32, Hounsfield units.
        label: `(X, Y, Z)` uint8.
        cavity: `(X, Y, Z)` bool: inside of the abdominal wall, where organs can be.
    """

    def __init__(self, points: np.ndarray, irregularity: np.ndarray) -> None:
        self.points, self.irregularity = points, irregularity
        shape = points.shape[1:]
        self.density = np.full(shape, AIR, np.float32)
        self.label = np.zeros(shape, np.uint8)
        self.cavity = np.zeros(shape, bool)
        self._ranges = [self._range_along(axis) for axis in range(3)]

    def _range_along(self, axis: int) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest coordinate in each plane across an axis."""
        others = tuple(a for a in range(3) if a != axis)
        coordinate = self.points[axis]
        return coordinate.min(axis=others), coordinate.max(axis=others)

    def box(self, center: Vector, radii: Vector) -> Box:
        """The part of the grid that an ellipsoid may touch."""
        spans = []
        for (low, high), middle, radius in zip(self._ranges, center, radii, strict=True):
            reach = REACH * radius
            places = np.flatnonzero((high >= middle - reach) & (low <= middle + reach))
            spans.append(slice(places[0], places[-1] + 1) if places.size else slice(0, 0))
        return spans[0], spans[1], spans[2]

    def ellipsoid(self, box: Box, center: Vector, radii: Vector, *, lean: float = 0.0) -> np.ndarray:
        """Relative distance from the centre: below 1 inside. `lean` moves x by so many mm per mm of z."""
        x = self.points[0][box] - np.float32(center[0])
        y = self.points[1][box] - np.float32(center[1])
        z = self.points[2][box] - np.float32(center[2])
        if lean:
            x = x - np.float32(lean) * z
        squares = (x / radii[0]) ** 2 + (y / radii[1]) ** 2 + (z / radii[2]) ** 2
        return np.sqrt(squares) * (1 + 0.07 * self.irregularity[0][box])

    def fill(self, box: Box, where: np.ndarray, density: float | np.ndarray, label: int = 0) -> None:
        """Put a tissue where `where` is true; what has a label stays within the cavity."""
        if label:
            where = where & self.cavity[box]
        np.copyto(self.density[box], np.asarray(density, np.float32), where=where)
        np.copyto(self.label[box], np.uint8(label), where=where)


def enclosing_box(first: Box, second: Box) -> Box:
    """The smallest box that holds two others."""
    spans = []
    for one, other in zip(first, second, strict=True):
        spans.append(slice(min(one.start, other.start), max(one.stop, other.stop)))
    return spans[0], spans[1], spans[2]
