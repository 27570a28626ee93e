"""Whether annotations lie on the image's grid, and how they are brought there when asked to.

The order in which a file is stored does not matter: axes that are flipped or swapped, with the affine to match, are
the same grid, and are turned. Anything else is an error, or resampled if the user says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from nibabel import orientations
from scipy import ndimage

from medseg.consensus.io.file_names import is_dicom
from medseg.consensus.study import MISSING
from medseg.errors import DataError
from medseg.portable.geometry import LARGEST_VOXELS, SAME_VOXELS, Offset, along, offset, times
from medseg.portable.io.header import Header

Interpolation = Literal["nearest", "linear"]
"""How labels are resampled: the nearest one, or the class with the largest share by linear interpolation."""


@dataclass(frozen=True, eq=False)
class Placed:
    """An annotation and its place in space.

    Attributes:
        array: the one or the other.
        header: of the file.
        outside: label of what lies outside the file; a cropped segmentation is background there.
    """

    array: np.ndarray
    header: Header
    outside: int = MISSING


def bring_to_grid(
    placed: Placed, grid: Header, interpolation: Interpolation | None = None
) -> tuple[np.ndarray, list[str]]:
    """Bring an annotation to a grid.

    Args:
        placed: the annotation.
        grid: of the image.
        interpolation: None refuses what lies on another grid.

    Returns:
        the array on the grid, and notes on what was done.

    Raises:
        DataError: it lies on another grid, and `interpolation` is None.
    """
    name = placed.header.path.name
    is_labels = placed.array.ndim == 3
    channels_last = placed.array if is_labels else np.moveaxis(placed.array, 0, -1)
    found = offset(grid, placed.header)
    if found.is_none or (found.is_taken and interpolation is None):
        moved = along(grid, placed.header, channels_last)[0]
        note = found.note(grid.path.name)
        return moved if is_labels else np.moveaxis(moved, -1, 0), [f"{name} {note}"] if note else []
    if np.isinf(found.voxels) and is_labels and placed.outside == 0:
        tolerance = LARGEST_VOXELS if interpolation is None else SAME_VOXELS
        extended = extend_to_grid(placed.array, placed.header, grid, tolerance=tolerance)
        if extended is not None:
            return extended
    if interpolation is None:
        problem = _difference(placed, grid, found)
        raise DataError(problem, path=placed.header.path, hint="--resample brings it over")
    used = interpolation if is_labels else "linear"
    note = (
        f"{name} was resampled ({used}) from {times(placed.header.shape)} voxels of "
        f"{times(placed.header.spacing_mm)} mm to {times(grid.shape)} of {times(grid.spacing_mm)} mm"
    )
    if not is_labels:
        return _resample_probabilities(placed, grid), [note]
    if interpolation == "linear":
        return _resample_shares(placed, grid), [note]
    return _resample_nearest(placed, grid), [note]


def _difference(placed: Placed, grid: Header, found: Offset) -> str:
    """What is different about the grid of an annotation, in words."""
    header = placed.header
    is_cropped = placed.outside == 0
    if np.isinf(found.voxels) and not is_cropped:
        return f"has {times(header.shape)} voxels, {grid.path} has {times(grid.shape)}"
    spacing, spacing_of_grid = np.sort(header.spacing_mm), np.sort(grid.spacing_mm)
    off_by_spacing = np.abs(spacing - spacing_of_grid).max() * max(grid.shape)
    if off_by_spacing > LARGEST_VOXELS * spacing_of_grid.min():
        return f"has a spacing of {times(header.spacing_mm)} mm, {grid.path} one of {times(grid.spacing_mm)} mm"
    if np.isinf(found.voxels):
        return f"has voxels between those of {grid.path} (origin or direction differ)"
    accepted = f"accepted is {LARGEST_VOXELS:g} voxels"
    return f"lies up to {found} off {grid.path} (origin or direction differ); {accepted}"


def _resample(array: np.ndarray, placed: Placed, grid: Header, *, order: int, outside: float) -> np.ndarray:
    """`(X, Y, Z)` read at the voxels of the grid; a rim of one voxel makes a file reach to the edge of its voxels."""
    matrix = np.linalg.solve(placed.header.affine, grid.affine)
    with_rim = np.pad(array, 1, constant_values=outside) if order == 0 else np.pad(array, 1, mode="edge")
    shift = matrix[:3, 3] + 1
    return ndimage.affine_transform(
        with_rim, matrix[:3, :3], shift, grid.shape, order=order, mode="constant", cval=outside, prefilter=False
    )


def _resample_nearest(placed: Placed, grid: Header) -> np.ndarray:
    return _resample(placed.array, placed, grid, order=0, outside=placed.outside)


def _resample_shares(placed: Placed, grid: Header) -> np.ndarray:
    """Labels on the grid by the largest share; which voxels are annotated is decided by the nearest one."""
    nearest = _resample_nearest(placed, grid)
    largest_share = np.zeros(grid.shape, np.float32)
    winner = np.zeros(grid.shape, np.uint8)
    for label in np.unique(placed.array[placed.array != MISSING]):
        mask = (placed.array == label).astype(np.float32)
        share = _resample(mask, placed, grid, order=1, outside=0)
        is_larger = share > largest_share
        winner[is_larger] = label
        largest_share[is_larger] = share[is_larger]
    return np.where((nearest == MISSING) | (largest_share == 0), nearest, winner)


def _resample_probabilities(placed: Placed, grid: Header) -> np.ndarray:
    """Probabilities on the grid by linear interpolation; nothing is annotated beyond the file."""
    inside = np.zeros(placed.header.shape, np.uint8)
    beyond = _resample(inside, placed, grid, order=0, outside=1) == 1
    resampled = np.stack([_resample(channel, placed, grid, order=1, outside=0) for channel in placed.array])
    resampled[:, beyond] = 0
    return resampled


def extend_to_grid(
    array: np.ndarray, header: Header, grid: Header, *, tolerance: float
) -> tuple[np.ndarray, list[str]] | None:
    """Labels of a part of the grid on the whole grid.

    Args:
        array: `(X, Y, Z)` labels of a part of the grid, stored in any order.
        header: where they lie.
        grid: of the image.
        tolerance: in voxels, how far voxels may lie off those of the grid.

    Returns:
        labels on the grid, background where the file ends, and notes; None if the voxels are not the grid's.

    Raises:
        DataError: a structure reaches beyond the grid.
    """
    turned = _turn_to_grid(array, header, grid, tolerance)
    if turned is None:
        return None
    labels, start, off = turned
    note = off.note(grid.path.name)
    notes = [f"{header.path.name} {note}"] if note else []
    target, source = [], []  # the same voxels, in the grid and in the file
    for first, length, size in zip(start, labels.shape, grid.shape, strict=True):
        low, high = max(first, 0), min(first + length, size)
        target.append(slice(low, high))
        source.append(slice(low - first, high - first))
    kept = labels[tuple(source)] if all(side.start < side.stop for side in source) else labels[:0]
    lost = int(np.count_nonzero(labels)) - int(np.count_nonzero(kept))
    if lost:
        raise DataError(f"has {lost} labelled voxels outside {grid.path}", path=header.path)
    whole = np.zeros(grid.shape, array.dtype)
    if kept.size:
        whole[tuple(target)] = kept
    if is_dicom(header.path):  # frames without a voxel are always left out of it
        return whole, notes
    part = f"{times(array.shape)} of the {times(grid.shape)} voxels"
    return whole, [*notes, f"{header.path.name} shows {part}: the rest is background"]


def _turn_to_grid(
    array: np.ndarray, header: Header, grid: Header, tolerance: float
) -> tuple[np.ndarray, list[int], Offset] | None:
    """Labels along the grid's axes, the grid's voxel where they begin, and how far off; None if they lie elsewhere."""
    between = np.linalg.solve(grid.affine, header.affine)
    turns = np.round(between[:3, :3])
    axes_used = np.abs(turns)
    if not (axes_used.sum(0) == 1).all() or not (axes_used.sum(1) == 1).all():
        return None
    order = orientations.io_orientation(between)
    turned = orientations.apply_orientation(array, order)
    start = (between @ orientations.inv_ornt_aff(order, array.shape))[:3, 3]
    off_at_the_end = np.abs(between[:3, :3] - turns) @ np.array(array.shape)
    off_at_the_start = np.abs(start - np.round(start))
    off = np.maximum(off_at_the_end, off_at_the_start)
    if np.linalg.norm(off) > tolerance:
        return None
    found = Offset(float(np.linalg.norm(off)), float(np.linalg.norm(grid.affine[:3, :3] @ off)))
    return turned, [int(first) for first in np.round(start)], found
