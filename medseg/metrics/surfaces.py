"""Masks of each class in their bounding boxes, their surfaces, and distances between surfaces in mm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import edt
import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from medseg.portable.structure_masks import mask_of


class Pair(NamedTuple):
    """One label's masks in their joint bounding box; `ignored` is None where everything is annotated."""

    prediction: np.ndarray
    reference: np.ndarray
    ignored: np.ndarray | None


def pairs(
    prediction: np.ndarray, reference: np.ndarray, members: Mapping[int, Sequence[int]], ignore: int
) -> Iterator[tuple[int, Pair]]:
    """Each structure with its two masks; voxels whose reference is `ignore` belong to neither.

    Args:
        prediction: integer labels.
        reference: likewise.
        members: structure -> its values in both.
        ignore: value of the reference.
    """
    values = [value for of_structure in members.values() for value in of_structure]
    if all(value > 0 for value in values):  # `find_objects` takes 0 for background, and so may we
        labelled = _labelled_box(prediction, reference)
        prediction, reference = prediction[labelled], reference[labelled]
    not_annotated = reference == ignore
    ignored = not_annotated if not_annotated.any() else None
    highest = max(values, default=0)
    found = [_boxes(prediction, highest), _boxes(reference, highest)]
    for structure, of_structure in members.items():
        boxes = [of_array[value] for of_array in found for value in of_structure if value in of_array]
        box = _joint(boxes, prediction.shape, min(of_structure))
        predicted, true = mask_of(prediction[box], of_structure), mask_of(reference[box], of_structure)
        if ignored is None:
            yield structure, Pair(predicted, true, None)
        else:
            yield structure, Pair(predicted & ~ignored[box], true, ignored[box])


def _labelled_box(one: np.ndarray, other: np.ndarray) -> tuple[slice, ...]:
    """Box round all labels, one voxel wider; maxima over planes are ten times as fast as `find_objects`."""
    box = []
    either = np.maximum(one, other)
    for axis, length in enumerate(one.shape):
        others = tuple(other_axis for other_axis in range(one.ndim) if other_axis != axis)
        planes = np.flatnonzero(either.max(axis=others))
        along = _wider(planes[0], planes[-1] + 1, length) if planes.size else slice(0, 1)
        box.append(along)
        either = either[(slice(None),) * axis + (along,)]
    return tuple(box)


def _boxes(array: np.ndarray, highest: int) -> dict[int, tuple[slice, ...]]:
    found = ndimage.find_objects(array, max_label=highest) if highest > 0 else []
    return {value: box for value, box in enumerate(found, start=1) if box is not None}


def _joint(boxes: list[tuple[slice, ...]], shape: Sequence[int], lowest: int) -> tuple[slice, ...]:
    """Box round both masks, one voxel wider: that voxel tells whether what lies beside a mask is annotated."""
    if lowest <= 0:
        return tuple(slice(0, length) for length in shape)
    if not boxes:
        return tuple(slice(0, 1) for _ in shape)
    joint = []
    for axis, length in enumerate(shape):
        start = min(box[axis].start for box in boxes)
        stop = max(box[axis].stop for box in boxes)
        joint.append(_wider(start, stop, length))
    return tuple(joint)


def _wider(start: int, stop: int, length: int) -> slice:
    return slice(max(int(start) - 1, 0), min(int(stop) + 1, length))


def surface_distances(pair: Pair, spacing_mm: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """From each surface voxel of the prediction to the reference's surface, and the reverse, in mm.

    Both are empty if one mask has no surface.
    """
    predicted = surface(pair.prediction, pair.ignored)
    true = surface(pair.reference, pair.ignored)
    voxels_predicted, voxels_true = np.argwhere(predicted), np.argwhere(true)
    if not voxels_predicted.size or not voxels_true.size:
        return np.empty(0), np.empty(0)
    # A tree costs by the surface, a transform by the box (about 8 to 1); noise is nearly all surface.
    if len(voxels_predicted) + len(voxels_true) > predicted.size // 8:
        return _transform(true, spacing_mm)[predicted], _transform(predicted, spacing_mm)[true]
    points_predicted = voxels_predicted * np.asarray(spacing_mm)
    points_true = voxels_true * np.asarray(spacing_mm)
    # where both surfaces meet the distance is 0: nothing to look for
    there = _nearest_mm(points_predicted, points_true, apart=~true[predicted])
    back = _nearest_mm(points_true, points_predicted, apart=~predicted[true])
    return there, back


def _nearest_mm(points: np.ndarray, goals: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """Distance of each point `(n, 3)` to the nearest goal `(m, 3)`; 0 for those that are not `apart` `(n,)`."""
    distances = np.zeros(len(points))
    distances[apart] = cKDTree(goals, balanced_tree=False).query(points[apart])[0]
    return distances


def surface(mask: np.ndarray, ignored: np.ndarray | None) -> np.ndarray:
    """Voxels of a mask with a face neighbour that is annotated as outside."""
    solid = mask if ignored is None else mask | ignored
    interior = solid.copy()
    for axis in range(mask.ndim):
        if mask.shape[axis] == 1:
            continue
        inner, planes = np.moveaxis(interior, axis, 0), np.moveaxis(solid, axis, 0)
        inner[1:] &= planes[:-1]
        inner[:-1] &= planes[1:]
        inner[0] = inner[-1] = False  # the box is wider than the mask but for the image's own edge
    return mask & ~interior


def _transform(goal: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    spacing = tuple(float(s) for s in spacing_mm)
    return edt.edt(~goal, anisotropy=spacing if goal.ndim > 1 else spacing[0], parallel=1)
