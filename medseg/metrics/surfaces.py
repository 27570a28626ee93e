"""Masks of each class in their bounding boxes, their surfaces, and distances between surfaces in mm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import edt
import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree


class Pair(NamedTuple):
    """One label's masks in their joint box; `ignored` is None where everything is known."""

    prediction: np.ndarray
    reference: np.ndarray
    ignored: np.ndarray | None


def pairs(
    prediction: np.ndarray, reference: np.ndarray, values: Sequence[int], ignore: int
) -> Iterator[tuple[int, Pair]]:
    """Each value with its two masks; voxels whose reference is `ignore` belong to neither."""
    if all(value > 0 for value in values):  # `find_objects` takes 0 for background, and so may we
        labelled = _labelled_box(prediction, reference)
        prediction, reference = prediction[labelled], reference[labelled]
    unknown = reference == ignore
    ignored = unknown if unknown.any() else None
    found = [_boxes(array, max(values, default=0)) for array in (prediction, reference)]
    for value in values:
        box = _joint([boxes[value] for boxes in found if value in boxes], prediction.shape, value)
        p, r = prediction[box] == value, reference[box] == value
        if ignored is None:
            yield value, Pair(p, r, None)
        else:
            yield value, Pair(p & ~ignored[box], r, ignored[box])


def _labelled_box(a: np.ndarray, b: np.ndarray) -> tuple[slice, ...]:
    """Box round all labels, one voxel wider; maxima over planes are ten times as fast as `find_objects`."""
    box: list[slice] = []
    either = np.maximum(a, b)
    for axis in range(a.ndim):
        planes = np.flatnonzero(either.max(axis=tuple(range(axis + 1, a.ndim)) + tuple(range(axis))))
        box.append(_wider(planes[0], planes[-1] + 1, a.shape[axis]) if planes.size else slice(0, 1))
        either = either[(slice(None),) * axis + (box[-1],)]
    return tuple(box)


def _boxes(array: np.ndarray, highest: int) -> dict[int, tuple[slice, ...]]:
    found = ndimage.find_objects(array, max_label=highest) if highest > 0 else []
    return {value: box for value, box in enumerate(found, start=1) if box is not None}


def _joint(boxes: list[tuple[slice, ...]], shape: Sequence[int], value: int) -> tuple[slice, ...]:
    """Box round both masks, one voxel wider: that voxel tells whether what lies beside a mask is known."""
    if value <= 0:
        return tuple(slice(0, n) for n in shape)
    if not boxes:
        return tuple(slice(0, 1) for _ in shape)
    return tuple(
        _wider(min(s.start for s in axis), max(s.stop for s in axis), n) for *axis, n in zip(*boxes, shape, strict=True)
    )


def _wider(start: int, stop: int, length: int) -> slice:
    return slice(max(int(start) - 1, 0), min(int(stop) + 1, length))


def surface_distances(pair: Pair, spacing_mm: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """From each surface voxel of the prediction to the reference's surface, and the reverse, in mm.

    Both are empty if one mask has no surface.
    """
    p, r = surface(pair.prediction, pair.ignored), surface(pair.reference, pair.ignored)
    in_p, in_r = np.argwhere(p), np.argwhere(r)
    if not in_p.size or not in_r.size:
        return np.empty(0), np.empty(0)
    # A tree costs by the surface, a transform by the box (about 8 to 1); noise is nearly all surface.
    if len(in_p) + len(in_r) > p.size // 8:
        return _transform(r, spacing_mm)[p], _transform(p, spacing_mm)[r]
    there, back = np.zeros(len(in_p)), np.zeros(len(in_r))
    off_r, off_p = ~r[p], ~p[r]  # where both surfaces meet the distance is 0: nothing to look for
    in_p, in_r = in_p * np.asarray(spacing_mm), in_r * np.asarray(spacing_mm)
    there[off_r] = cKDTree(in_r, balanced_tree=False).query(in_p[off_r])[0]
    back[off_p] = cKDTree(in_p, balanced_tree=False).query(in_r[off_p])[0]
    return there, back


def surface(mask: np.ndarray, ignored: np.ndarray | None) -> np.ndarray:
    """Voxels of a mask with a face neighbour that is known to be outside."""
    solid = mask if ignored is None else mask | ignored
    interior = solid.copy()
    for axis in range(mask.ndim):
        if mask.shape[axis] == 1:
            continue
        inner, s = np.moveaxis(interior, axis, 0), np.moveaxis(solid, axis, 0)
        inner[1:] &= s[:-1]
        inner[:-1] &= s[1:]
        inner[0] = inner[-1] = False  # the box is wider than the mask but for the image's own edge
    return mask & ~interior


def _transform(goal: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    spacing = tuple(float(s) for s in spacing_mm)
    return edt.edt(~goal, anisotropy=spacing if goal.ndim > 1 else spacing[0], parallel=1)
