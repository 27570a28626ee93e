"""Boxes of voxels: the bounding box of all labels, its margin, and the arithmetic of boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from medseg.consensus.study import MISSING

Box = tuple[slice, slice, slice]

MARGIN_VOXELS, MARGIN_MM = 8, 8.0
"""Margin of the box of all labels; the wider of the two counts on each side."""


def labelled_box(labels: Sequence[np.ndarray]) -> Box | None:
    """Bounding box of every voxel that any rater gave a class above background; None if there is none.

    The maps are read plane by plane as they lie in memory: no temporary array is as large as a map.

    Args:
        labels: `(X, Y, Z)` uint8, one map per rater.
    """
    axis = int(np.argmax(np.abs(labels[0].strides)))
    labelled_planes = np.zeros(labels[0].shape[axis], bool)
    projection: np.ndarray = np.zeros(np.delete(labels[0].shape, axis), bool)
    for array in labels:
        for k, plane in enumerate(np.moveaxis(array, axis, 0)):
            # uint8 wraps: background and MISSING become the two highest values
            labelled = (plane - np.uint8(1)) < MISSING - 1
            if labelled.any():
                labelled_planes[k] = True
                projection |= labelled
    if not labelled_planes.any():
        return None
    sides = [_span(np.any(projection, axis=1)), _span(np.any(projection, axis=0))]
    sides.insert(axis, _span(labelled_planes))
    return _as_box(sides)


def bounding_box(array: np.ndarray) -> Box | None:
    """Bounding box of what is not 0 in `(X, Y, Z)`; None if there is nothing."""
    box: list[slice] = []
    part = array
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        line = part.max(axis=others, initial=0)
        if not line.any():
            return None
        box.append(_span(line))
        # the next axes are searched within this one's part only
        part = part[(slice(None),) * axis + (box[-1],)]
    return _as_box(box)


def add_margin(box: Box | None, shape: Sequence[int], spacing_mm: Sequence[float]) -> Box:
    """The box, wider by 8 voxels and at least 8 mm on each side, within the grid; None becomes the whole grid."""
    if box is None:
        return full_box(shape)
    margin = [max(MARGIN_VOXELS, math.ceil(MARGIN_MM / mm)) for mm in spacing_mm]
    return enlarge_box(box, margin, shape)


def enlarge_box(box: Sequence[slice], by: Sequence[int], shape: Sequence[int]) -> Box:
    """The box, wider by so many voxels on each side, within the grid."""
    sides = []
    for side, margin, length in zip(box, by, shape, strict=True):
        sides.append(slice(max(side.start - margin, 0), min(side.stop + margin, length)))
    return _as_box(sides)


def full_box(shape: Sequence[int]) -> Box:
    """The box of the whole grid."""
    return _as_box([slice(0, int(length)) for length in shape])


def empty_box() -> Box:
    """A box without voxels."""
    return full_box((0, 0, 0))


def intersect(a: Box, b: Box) -> Box:
    """What two boxes share; along an axis on which they do not meet it has no voxel."""
    sides = []
    for first, second in zip(a, b, strict=True):
        start, stop = max(first.start, second.start), min(first.stop, second.stop)
        sides.append(slice(start, max(start, stop)))
    return _as_box(sides)


def box_around(boxes: Sequence[Box]) -> Box:
    """The smallest box that holds all of these, of which there is at least one."""
    sides = []
    for along in zip(*boxes, strict=True):
        start = min(side.start for side in along)
        stop = max(side.stop for side in along)
        sides.append(slice(start, stop))
    return _as_box(sides)


def relative_box(box: Box, outer: Box) -> Box:
    """A box of the grid in the coordinates of an array that was cut out by another box."""
    return _as_box([_shift(side, -around.start) for side, around in zip(box, outer, strict=True)])


def absolute_box(box: Box, outer: Box) -> Box:
    """A box of an array that was cut out by another box, in the coordinates of the grid."""
    return _as_box([_shift(side, around.start) for side, around in zip(box, outer, strict=True)])


def box_size(box: Box) -> int:
    """Number of voxels in a box."""
    return math.prod(int(side.stop - side.start) for side in box)


def relative_spacing(shape: Sequence[int], spacing_mm: Sequence[float]) -> tuple[float, float, float]:
    """Spacing over the smallest spacing; infinite along an axis of one voxel, which so has no neighbours."""
    spacings = [mm if length > 1 else math.inf for mm, length in zip(spacing_mm, shape, strict=True)]
    smallest = min(spacings)
    if math.isinf(smallest):  # a single voxel
        smallest = 1.0
    x, y, z = (spacing / smallest for spacing in spacings)
    return x, y, z


def _span(line: np.ndarray) -> slice:
    """From the first to the last entry that is not 0."""
    found = np.flatnonzero(line)
    return slice(int(found[0]), int(found[-1]) + 1)


def _shift(side: slice, by: int) -> slice:
    return slice(side.start + by, side.stop + by)


def _as_box(sides: Sequence[slice]) -> Box:
    x, y, z = sides
    return x, y, z
