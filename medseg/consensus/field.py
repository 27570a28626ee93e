"""Which part of a study matters: the box of everything that anybody labelled, with a margin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from medseg.consensus.region import PADDING_MM, PADDING_VOXELS, Box, grown
from medseg.consensus.study import MISSING


@dataclass(frozen=True)
class Extent:
    """Where and what the experts wrote.

    Args:
        labelled: box of the voxels that anybody gave a class above 0; None if nobody did.
        touched: box of the voxels that are not background for everybody: labelled or `MISSING`; None if none are.
        highest: the highest class index anybody used.
        missing: whether anybody left a voxel out.
    """

    labelled: Box | None
    touched: Box | None
    highest: int
    missing: bool


def extent(labels: Sequence[np.ndarray]) -> Extent:
    """Boxes round what is not background in any of the `(X, Y, Z)` uint8 maps, in two passes over each."""
    highest = _maximum(labels)
    if int(highest.max(initial=0)) < MISSING:
        box = _box(highest)
        return Extent(box, box, int(highest.max(initial=0)), missing=False)
    touched = _box(highest)
    # plus one wraps MISSING to 0, below the background
    following = _maximum([np.add(array, 1) for array in labels])
    top = int(following.max(initial=0))
    return Extent(_box(following > 1), touched, max(top - 1, 0), missing=True)


def with_margin(box: Box | None, shape: Sequence[int], spacing_mm: Sequence[float]) -> Box:
    """The box, wider by 8 voxels and at least 8 mm on each side, clipped to the grid; None is the whole grid."""
    if box is None:
        return whole(shape)
    return grown(box, [max(PADDING_VOXELS, ceil(PADDING_MM / mm)) for mm in spacing_mm], shape)


def whole(shape: Sequence[int]) -> Box:
    """The box of the whole grid."""
    x, y, z = (slice(0, int(n)) for n in shape)
    return x, y, z


def overlap(a: Box, b: Box) -> Box:
    """What two boxes share; an axis without overlap is empty."""
    pairs = [(max(p.start, q.start), min(p.stop, q.stop)) for p, q in zip(a, b, strict=True)]
    x, y, z = (slice(start, max(start, stop)) for start, stop in pairs)
    return x, y, z


def seen_from(box: Box, outer: Box) -> Box:
    """A box in the coordinates of another one's corner."""
    pairs = zip(box, outer, strict=True)
    x, y, z = (slice(b.start - o.start, b.stop - o.start) for b, o in pairs)
    return x, y, z


def size(box: Box) -> int:
    """Number of voxels in a box."""
    x, y, z = (b.stop - b.start for b in box)
    return int(x * y * z)


def _maximum(labels: Sequence[np.ndarray]) -> np.ndarray:
    highest = labels[0] if len(labels) == 1 else np.maximum(labels[0], labels[1])
    for array in labels[2:]:
        np.maximum(highest, array, out=highest)
    return highest


def _box(array: np.ndarray) -> Box | None:
    """Box of what is not 0; each axis is searched within the ones before."""
    box: list[slice] = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        planes = np.flatnonzero(array.max(axis=others, initial=0))
        if not planes.size:
            return None
        box.append(slice(int(planes[0]), int(planes[-1]) + 1))
        array = array[(slice(None),) * axis + (box[-1],)]
    x, y, z = box
    return x, y, z
