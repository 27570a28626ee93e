"""How thick structures are: what is thin is neither smoothed nor averaged away."""

from __future__ import annotations

import math
from collections.abc import Sequence

import edt
import numpy as np
from scipy import ndimage

from medseg.consensus.boxes import bounding_box, enlarge_box


def thickness_factor(labels: np.ndarray, at: np.ndarray, units: Sequence[float], full: float) -> np.ndarray:
    """Factor of the smoothing at some voxels, smaller where structures are thin: `min(1, t / full)^2`.

    Args:
        labels: `(X, Y, Z)` uint8, 0 the background.
        at: `(X, Y, Z)` bool, the voxels in question.
        units: spacing over the smallest spacing, infinite for an axis of one voxel.
        full: thickness from which on the factor is 1, in units of the smallest spacing; 0: everywhere.

    Returns:
        `(n,)` float32 in (0, 1], in the order of the array; 1 where only background is near.
    """
    if not full:
        return np.ones(np.count_nonzero(at), np.float32)
    thickness = thickness_near(labels, at, units, full)
    factor = np.minimum(thickness / np.float32(full), 1) ** 2
    return np.where(thickness > 0, factor, np.float32(1))


def thickness_near(labels: np.ndarray, at: np.ndarray, units: Sequence[float], reach: float) -> np.ndarray:
    """Thickness t of what is near some voxels, in units of the smallest spacing; 0 where only background is near.

    It is the largest distance to another label among the voxels that are no background and at most `reach` away along
    each axis. A strip of w voxels has t of about (w + 1) / 2.

    Args:
        labels: `(X, Y, Z)` uint8, 0 the background.
        at: `(X, Y, Z)` bool, the voxels in question.
        units: spacing over the smallest spacing, infinite for an axis of one voxel.
        reach: in units of the smallest spacing.

    Returns:
        `(n,)` float32, in the order of the array.
    """
    if not at.any():
        return np.zeros(0, np.float32)
    near = [int(reach / unit) if math.isfinite(unit) else 0 for unit in units]
    (box,) = ndimage.find_objects(at.view(np.uint8))
    around = []
    for side, voxels in zip(box, near, strict=True):
        # what is near a voxel that is near a voxel of the box
        around.append(slice(max(side.start - 2 * voxels, 0), side.stop + 2 * voxels))
    window = tuple(around)
    crop = np.ascontiguousarray(labels[window])
    depth = np.zeros(crop.shape, np.float32)
    labelled = bounding_box(crop)
    if labelled is not None:
        inner = enlarge_box(labelled, (1, 1, 1), crop.shape)  # background beside it ends it
        sides = tuple(unit if math.isfinite(unit) else 1.0 for unit in units)
        of_labels = np.ascontiguousarray(crop[inner])
        depth[inner] = edt.edt(of_labels, anisotropy=sides, parallel=1)  # each change of label is a boundary
    thickest = ndimage.maximum_filter(depth, [2 * voxels + 1 for voxels in near], mode="constant")
    return thickest[at[window]]
