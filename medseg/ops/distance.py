"""Signed distance maps of masks: the regression target of dual-task consistency.

Luo, Chen, Song, Wang, "Semi-supervised Medical Image Segmentation through Dual-task Consistency", AAAI 2021
(arXiv 2009.04448). With p the distance of an inside voxel to the nearest outside voxel, and q the reverse,

    half: d = q - h outside, -(p - h) inside       h = half the smallest voxel side: distance to the face
    zero: d = q outside, -p inside, 0 on inside voxels that touch the outside        as the authors' code

and the map is d / max d outside, d / -min d inside (each side by its own maximum within the array, as the
authors do) or, with `clip`, d / clip limited to [-1, 1]. The edge of the array is no boundary.

Where the authors' code has no sensible answer we give one: a class that is absent is +1 everywhere (they
write 0, which says "boundary everywhere"), a class that fills the array is -1 everywhere (they divide by
zero).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import edt
import numpy as np
from scipy import ndimage

from medseg.errors import DataError

Boundary = Literal["half", "zero"]
IGNORE = 255


def signed_distance(
    mask: np.ndarray,
    *,
    boundary: Boundary = "half",
    spacing_mm: Sequence[float] | None = None,
    clip: float | None = None,
) -> np.ndarray:
    """Normalised signed distance to a mask's boundary, negative inside.

    Args:
        mask: boolean `(*spatial)` of 1 to 3 axes.
        boundary: "half" puts zero on voxel faces, so that the sign alone gives the mask back; "zero" is the
            authors' map.
        spacing_mm: side of a voxel along each axis; None counts in voxels.
        clip: the distance that becomes 1, in mm (in voxels without `spacing_mm`); None takes each side's
            maximum.

    Returns:
        float32 `(*spatial)` in [-1, 1].

    Raises:
        ValueError: a mask that is not boolean, or a spacing or clip that does not fit.
    """
    if mask.dtype != np.bool_:
        raise ValueError(f"mask must be boolean, got {mask.dtype}")
    _check(boundary, spacing_mm, clip, mask.ndim)
    return _normalised(_distance(mask, boundary, spacing_mm, clip), clip)


@dataclass(frozen=True)
class DistanceTargets:
    """One signed distance map per foreground class, and where each can be trusted.

    Ignored voxels are background for the distances. They might be anything, and the distance of *other*
    voxels depends on them: more foreground never raises a signed distance, so every possible filling lies
    between "all ignored voxels are background" and "all are foreground". A voxel is valid for a class if it
    is not ignored, both extremes give it the same distance and, without `clip`, the maximum that its side
    is divided by is also the same for both.

    Args:
        classes: number of classes with background.
        boundary: see `signed_distance`.
        spacing_mm: see `signed_distance`.
        clip: see `signed_distance`. Needed to learn distances from volumes of which only some slices are
            annotated: the side maxima of such a patch are hardly ever certain.

    Raises:
        ValueError: fewer than two classes, or a setting that does not fit.
    """

    classes: int
    boundary: Boundary = "half"
    spacing_mm: tuple[float, ...] | None = None
    clip: float | None = None

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise ValueError(f"distances need at least 2 classes, background included; got {self.classes}")
        _check(self.boundary, self.spacing_mm, self.clip, len(self.spacing_mm or ()))

    def __call__(self, label: np.ndarray) -> dict[str, np.ndarray]:
        """Distance maps of one label patch.

        Args:
            label: integer `(*spatial)`, class indices 0 to `classes - 1` and 255 = ignore.

        Returns:
            `distance`, float32 `(classes - 1, *spatial)` in [-1, 1], and `distance_valid`, uint8 of that
            shape.

        Raises:
            DataError: a label that is not of an integer type, or holds other values.
        """
        label, ignored = _checked_label(label, self.classes)
        if self.spacing_mm is not None and len(self.spacing_mm) != label.ndim:
            raise ValueError(f"{len(self.spacing_mm)} spacings for a label of {label.ndim} axes")
        distance = np.empty((self.classes - 1, *label.shape), np.float32)
        valid = np.ones(distance.shape, np.uint8)
        boxes = ndimage.find_objects(label, max_label=self.classes - 1) if ignored is None else None
        for c in range(1, self.classes):
            mask, box = label == c, boxes[c - 1] if boxes else None
            low = _distance(mask, self.boundary, self.spacing_mm, self.clip, box)
            if ignored is not None:
                high = _distance(mask | ignored, self.boundary, self.spacing_mm, self.clip)
                valid[c - 1] = ~ignored & _same(low, high, self.clip)
            distance[c - 1] = _normalised(low, self.clip)
        return {"distance": distance, "distance_valid": valid}


def _check(boundary: str, spacing_mm: Sequence[float] | None, clip: float | None, axes: int) -> None:
    if boundary not in ("half", "zero"):
        raise ValueError(f"boundary must be 'half' or 'zero', got {boundary!r}")
    if spacing_mm is not None and (len(spacing_mm) != axes or not all(0 < s < np.inf for s in spacing_mm)):
        raise ValueError(f"spacing_mm must be {axes} positive numbers, got {tuple(spacing_mm)}")
    if clip is not None and not 0 < clip < np.inf:
        raise ValueError(f"clip must be a positive distance, got {clip}")


def _checked_label(label: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray | None]:
    """The label as contiguous uint8, and where it is to be ignored (None: nowhere)."""
    if not np.issubdtype(label.dtype, np.integer):
        raise DataError(f"labels must be integers, got {label.dtype}")
    found = label == IGNORE
    ignored = found if found.any() else None
    annotated = label if ignored is None else label[~found]
    low, high = (int(annotated.min()), int(annotated.max())) if annotated.size else (0, 0)
    if low < 0 or high >= classes:
        raise DataError(f"labels run from {low} to {high}; accepted are 0 to {classes - 1} and {IGNORE} to ignore")
    return np.ascontiguousarray(label, np.uint8), ignored


def _distance(
    mask: np.ndarray,
    boundary: str,
    spacing_mm: Sequence[float] | None,
    clip: float | None,
    box: tuple[slice, ...] | None = None,
) -> np.ndarray:
    """Signed distance before it is normalised; infinite where there is no boundary at all.

    With `clip` only the surroundings of the mask (`box`: its bounding box, if it was found before) are looked at:
    everything beyond is further away than `clip`.
    """
    if clip is not None and box is None:
        box = _bounding_box(mask)
    if clip is None or box is None:
        return _exact(mask, boundary, spacing_mm)
    surroundings = []
    for along, spacing in zip(box, spacing_mm or (1.0,) * mask.ndim, strict=True):
        # one voxel more than the clip, so that the deepest inside voxel still sees the outside
        margin = int(clip / spacing) + 2
        surroundings.append(slice(max(along.start - margin, 0), along.stop + margin))
    near = tuple(surroundings)
    signed = np.full(mask.shape, np.float32(np.inf))
    signed[near] = _exact(mask[near], boundary, spacing_mm)
    return signed


def _exact(mask: np.ndarray, boundary: str, spacing_mm: Sequence[float] | None) -> np.ndarray:
    if not mask.any():
        return np.full(mask.shape, np.inf, np.float32)
    if mask.all():
        return np.full(mask.shape, -np.inf, np.float32)
    spacing = tuple(spacing_mm or (1.0,) * mask.ndim)
    # edt takes every change of label as a boundary: one call on {1, 2} gives both sides
    sides = np.ascontiguousarray(mask).view(np.uint8) + np.uint8(1)
    signed = edt.edt(sides, anisotropy=spacing if mask.ndim > 1 else spacing[0], parallel=1)
    offset = np.float32(0.5 * min(spacing)) if boundary == "half" else np.float32(0)
    signed -= offset
    np.negative(signed, out=signed, where=mask)
    if boundary == "zero":
        signed[inner_boundary(mask)] = 0
    return signed


def inner_boundary(mask: np.ndarray) -> np.ndarray:
    """Voxels of a boolean mask with a face neighbour outside of it; the edge of the array is no outside."""
    interior = mask.copy()
    for axis in range(mask.ndim):
        ahead, behind = _shifted(axis, mask.ndim)
        interior[ahead] &= mask[behind]
        interior[behind] &= mask[ahead]
    return mask & ~interior


def _shifted(axis: int, axes: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    before = (slice(None),) * axis
    after = (slice(None),) * (axes - axis - 1)
    return (*before, slice(1, None), *after), (*before, slice(None, -1), *after)


def _bounding_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    return ndimage.find_objects(mask.view(np.uint8), max_label=1)[0]


def _scales(signed: np.ndarray) -> tuple[np.float32, np.float32]:
    """Largest distance outside and inside; 0 for a side without extent."""
    return max(signed.max(), np.float32(0)), max(-signed.min(), np.float32(0))


def _normalised(signed: np.ndarray, clip: float | None) -> np.ndarray:
    """To [-1, 1], in place."""
    if clip is not None:
        signed /= np.float32(clip)
        return np.clip(signed, -1, 1, out=signed)
    outside, inside = _scales(signed)
    if np.isinf(outside) or np.isinf(inside):
        return np.sign(signed, out=signed)
    # a thin structure in the authors' map is 0 throughout: nothing to divide by
    scale_outside = outside if outside > 0 else np.float32(1)
    scale_inside = inside if inside > 0 else np.float32(1)
    np.divide(signed, np.where(signed > 0, scale_outside, scale_inside), out=signed)
    return signed


def _same(low: np.ndarray, high: np.ndarray, clip: float | None) -> np.ndarray:
    """Where two maps before normalisation give the same normalised value for the same reason."""
    if clip is not None:
        return np.clip(low, -clip, clip) == np.clip(high, -clip, clip)
    outside_low, inside_low = _scales(low)
    outside_high, inside_high = _scales(high)
    same_scale = np.where(low > 0, outside_low == outside_high, inside_low == inside_high)
    return (low == high) & same_scale
