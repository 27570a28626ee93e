"""Which part of a study matters: the box of everything that anybody labelled, with a margin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from medseg.consensus.study import MISSING


@dataclass(frozen=True)
class Extent:
    """Where and what the raters wrote.

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


Box = tuple[slice, slice, slice]


PADDING_VOXELS, PADDING_MM = 8, 8.0


def relative_spacing(shape: Sequence[int], spacing_mm: Sequence[float]) -> tuple[float, float, float]:
    """Spacing over the smallest spacing; infinite along an axis of one voxel."""
    smallest = min((mm for mm, n in zip(spacing_mm, shape, strict=True) if n > 1), default=1.0)
    x, y, z = (mm / smallest if n > 1 else math.inf for mm, n in zip(spacing_mm, shape, strict=True))
    return x, y, z


def labelled_box(labels: Sequence[np.ndarray]) -> Box | None:
    """Box round every voxel that anyone labelled as more than background; None if there is none."""
    axis = int(np.argmax(np.abs(labels[0].strides)))  # planes that lie together in memory
    planes = np.zeros(labels[0].shape[axis], bool)
    shadow: np.ndarray = np.zeros([n for a, n in enumerate(labels[0].shape) if a != axis], bool)
    for array in labels:
        for k, plane in enumerate(np.moveaxis(array, axis, 0)):
            # uint8 wraps: background and MISSING become the two highest values
            labelled = (plane - np.uint8(1)) < MISSING - 1
            if labelled.any():
                planes[k] = True
                shadow |= labelled
    if not planes.any():
        return None
    spans = [_span(np.any(shadow, axis=1)), _span(np.any(shadow, axis=0))]
    spans.insert(axis, _span(planes))
    return _as_box(spans)


def grown(box: Sequence[slice], by: Sequence[int], shape: Sequence[int]) -> Box:
    """The box, larger by so many voxels on every side, within the grid."""
    grow = zip(box, by, shape, strict=True)
    return _as_box([slice(max(s.start - b, 0), min(s.stop + b, n)) for s, b, n in grow])


def _bounds(mask: np.ndarray) -> Box | None:
    if not mask.any():
        return None
    return _as_box([_span(np.any(mask, axis=other)) for other in ((1, 2), (0, 2), (0, 1))])


def _span(line: np.ndarray) -> slice:
    found = np.flatnonzero(line)
    return slice(int(found[0]), int(found[-1]) + 1)


def _shift(span: slice, by: int) -> slice:
    return slice(span.start + by, span.stop + by)


def _as_box(spans: Sequence[slice]) -> Box:
    x, y, z = spans
    return x, y, z
