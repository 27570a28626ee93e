"""How much memory a prediction takes, from headers alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np

from medseg.bundle.bundle import OpenBundle
from medseg.errors import DataError
from medseg.portable.inference.windows import slab_axis
from medseg.portable.io.header import Header
from medseg.portable.resample import resampled_size

VIEW_BYTES = 3  # label and confidence that are kept of a voxel until the views are fused
GIB = 2**30
COMPONENT_BYTES = 16  # of a voxel where components are looked for: label, masks, number of the component, counting


def check_memory(bundle: OpenBundle, headers: Sequence[Header], image: Path) -> int:
    """Refuse an image that this machine cannot hold; see `BundleRunner.check_memory`."""
    needed = memory_bytes(bundle, headers)
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        raise DataError(
            f"needs about {needed / GIB:.1f} GiB at the model's spacing, this machine has {there / GIB:.1f}",
            path=image,
        )
    return needed


def memory_bytes(bundle: OpenBundle, headers: Sequence[Header]) -> int:
    """About what the largest step needs: reading and resampling, the sums of a window's depth, or components.

    Args:
        bundle: opened.
        headers: of the image's files.
    """
    data, first, channels = bundle.data, headers[0], len(bundle.data.modality)
    stored_axes = [int(np.abs(first.affine[row, :3]).argmax()) for row in range(3)]  # of x, y, z
    size = []
    for axis, target_mm, resampled in zip(stored_axes, data.spacing_mm, data.resample_axes, strict=True):
        length = first.shape[axis]
        size.append(resampled_size(length, first.spacing_mm[axis], target_mm) if resampled else length)
    stored_voxels, voxels = prod(first.shape), prod(size)
    reading = channels * (stored_voxels * (first.dtype.itemsize + 8) + voxels * 8)
    rings = []
    for window in bundle.inferer.windows:
        padded = [max(length, of_window) for length, of_window in zip(size, window, strict=True)]
        axis = slab_axis(padded, window)
        rings.append(prod(padded) // padded[axis] * window[axis])
    kept_of_views = 0
    if len(rings) > 1:
        kept_of_views = stored_voxels * (1 + VIEW_BYTES * len(rings))
    predicting = channels * voxels * 4 + stored_voxels + kept_of_views + max(rings) * (data.classes + 2) * 4
    looking_for_components = stored_voxels * COMPONENT_BYTES if bundle.inferer.components else 0
    return max(reading, predicting, looking_for_components)
