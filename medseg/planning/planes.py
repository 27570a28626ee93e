"""Plans for several planes: each sees more than lines, on one grid, in whole slices."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from medseg.config.pipeline import View
from medseg.errors import DataError
from medseg.planning.fingerprint import Fingerprint
from medseg.portable.planes import AXES, PLANES, slice_axis

THICK_RATIO = 3.0
"""From this ratio of the largest to the smallest spacing on, slices count as thick (nnU-Net's threshold)."""

SLICE_VOXELS = 512 * 512
"""A network per plane sees whole slices: what lies left and right is all it can tell sides by."""

STRIDE = 16
"""Four halvings; sizes that can be halved less often would make networks of fewer levels."""


def check_views(views: Sequence[View], fingerprint: Fingerprint) -> None:
    """Refuse an image of one voxel along an axis within a plane that a stage asks for.

    Raises:
        DataError: naming the first such image and the axis.
    """
    for axis in range(3):
        degenerate = [view for view in views if slice_axis(view) != axis]
        flat = np.flatnonzero(fingerprint.shape[:, axis] == 1)
        if degenerate and len(flat):
            raise DataError(
                f"has one voxel along {AXES[axis]}, so that there is no {', '.join(degenerate)} view of it",
                path=fingerprint.paths[flat[0]],
                hint=f"take a method of one view, such as --task supervised (it plans {PLANES[axis]} slices)",
            )


def even_spacing(spacing_mm: np.ndarray, *, given: bool) -> np.ndarray:
    """The spacing at which planes can vote: thick slices are resampled, unless the spacing was given.

    Planes across thick slices are poor, and two poor ones outvote a good one.

    Args:
        spacing_mm: typical or given spacing along x, y, z.
        given: by the user, who wants it so.
    """
    ratio = spacing_mm.max() / spacing_mm.min()
    if ratio <= THICK_RATIO:
        return spacing_mm
    thick = f"slices along {AXES[int(spacing_mm.argmax())]} are {ratio:.1f} times as thick as pixels"
    if given:
        warnings.warn(f"data.spacing_mm: {thick}; planes across them are poor and vote all the same", stacklevel=2)
        return spacing_mm
    even = np.minimum(spacing_mm, THICK_RATIO * spacing_mm.min()).round(4)
    new = " x ".join(f"{mm:g}" for mm in even)
    old = ", ".join(f"{mm:g}" for mm in spacing_mm)
    warnings.warn(
        f"{thick}; resampling to {new} mm, so that all planes see enough. --set data.spacing_mm=[{old}] keeps them",
        stacklevel=2,
    )
    return even


def plan_slices(size: Sequence[float] | np.ndarray, spacing_mm: np.ndarray, most: float) -> tuple[int, int, int]:
    """Lengths of which any two make a slice for a 2D network: the whole slice where that fits, else shorter in mm.

    Args:
        size: typical image size in voxels of the target spacing.
        spacing_mm: target spacing.
        most: voxels of a slice that memory holds.
    """
    extent = np.asarray(size) * spacing_mm
    most = min(SLICE_VOXELS, most)
    patch = [1, 1, 1]
    for longest in np.linspace(float(extent.max()), 1.0, 200):
        for axis in range(3):
            wanted = min(float(size[axis]), longest / spacing_mm[axis])
            patch[axis] = max(STRIDE, int(np.ceil(wanted / STRIDE)) * STRIDE)
        largest_slice = np.prod(sorted(patch)[1:])
        if largest_slice <= most:
            break
    return (patch[0], patch[1], patch[2])
