"""Boxes out of a volume, straight or through an affine map, reading no more of the volume than needed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_CHUNK = 2**17  # points at a time: the dozen arrays of a chunk stay in the cache


def box(
    volume: Tensor, start: Sequence[int], shape: Sequence[int], background: Tensor, repeat: Sequence[int] = ()
) -> Tensor:
    """Copy `(C, *shape)` out of a volume `(C, X, Y, Z)`, dtype kept.

    Args:
        volume: what to copy from.
        start: first voxel, possibly outside of the volume.
        shape: voxels along each axis.
        background: `(C,)`, what lies outside of the volume.
        repeat: axes beyond whose ends the outermost slices are repeated instead.
    """
    if repeat:
        return _box_with_repeated_slices(volume, start, shape, background, repeat)
    inside, target = [slice(None)], [slice(None)]  # all channels
    for first, count, size in zip(start, shape, volume.shape[1:], strict=True):
        low = max(first, 0)
        high = max(low, min(first + count, size))
        inside.append(slice(low, high))
        target.append(slice(low - first, high - first))
    part = volume[tuple(inside)]
    if part.shape[1:] == tuple(shape):
        return part.clone(memory_format=torch.contiguous_format)
    out = background.to(volume.dtype).view(-1, 1, 1, 1).repeat(1, *shape)
    if part.numel():
        out[tuple(target)] = part
    return out


def _box_with_repeated_slices(
    volume: Tensor, start: Sequence[int], shape: Sequence[int], background: Tensor, axes: Sequence[int]
) -> Tensor:
    """As `box`: the slices that there are, from which each wanted one is then taken by its number."""
    start_there, shape_there = list(start), list(shape)
    numbers = {}
    for axis in axes:
        last = volume.shape[axis + 1] - 1
        wanted = torch.arange(start[axis], start[axis] + shape[axis]).clamp_(0, last)
        first, count = int(wanted[0]), int(wanted[-1] - wanted[0]) + 1
        volume = volume.narrow(axis + 1, first, count)
        start_there[axis], shape_there[axis] = 0, count
        if count < shape[axis]:
            numbers[axis] = wanted - first
    part = box(volume, start_there, shape_there, background)
    for axis, wanted in numbers.items():
        part = part.index_select(axis + 1, wanted)
    return part


def source_box(
    centre: np.ndarray, matrix: np.ndarray, shape: Sequence[int]
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Start and shape of the smallest box that holds every voxel an affine patch interpolates between.

    Args:
        centre: (3,) position of the patch's middle in the volume, in voxels.
        matrix: (3, 3) from patch offsets to offsets in the volume, both in voxels.
        shape: voxels of the patch.
    """
    half = np.abs(matrix) @ ((np.asarray(shape) - 1) / 2) + 1e-3  # room for float32 coordinates
    low = np.floor(centre - half).astype(int)
    high = np.floor(centre + half).astype(int) + 2
    x, y, z = low.tolist()
    size_x, size_y, size_z = (high - low).tolist()
    return (x, y, z), (size_x, size_y, size_z)


def gather(
    image: Tensor, label: Tensor | None, centre: np.ndarray, matrix: np.ndarray, shape: Sequence[int]
) -> tuple[Tensor, Tensor | None]:
    """Interpolate a patch whose voxel at offset `o` from its middle lies at `centre + matrix @ o`.

    Trilinear for the image, nearest for the label, from the same coordinates. `grid_sample` does the same for
    each in turn at four times the cost, most of it for bounds that cannot be exceeded here.

    Args:
        image: `(C, X, Y, Z)` float32, contiguous, that holds the patch's `source_box`.
        label: `(1, X, Y, Z)` uint8, contiguous, on the same voxels.
        centre: (3,) position of the patch's middle.
        matrix: (3, 3) from patch offsets to offsets in `image`, both in voxels.
        shape: voxels of the patch.

    Returns:
        `(C, *shape)` float32 and `(1, *shape)` uint8.
    """
    channels, _, height, depth = image.shape
    strides = (height * depth, depth, 1)
    flat = image.view(channels, -1)
    out = torch.empty((channels, *shape))
    out_label = None if label is None else torch.empty((1, *shape), dtype=torch.uint8)
    planes = max(1, _CHUNK // (shape[1] * shape[2]))
    for first in range(0, shape[0], planes):
        part = slice(first, min(first + planes, shape[0]))
        index, fractions = _coordinates(centre, matrix, shape, part, strides)
        for channel in range(channels):
            _interpolate(flat[channel], index, fractions, strides, out[channel, part])
        if label is not None and out_label is not None:
            nearest = _nearest(index, fractions, strides)
            out_label[0, part] = label.view(-1).index_select(0, nearest.view(-1)).view(nearest.shape)
    return out, out_label


def _coordinates(
    centre: np.ndarray, matrix: np.ndarray, shape: Sequence[int], part: slice, strides: Sequence[int]
) -> tuple[Tensor, list[Tensor]]:
    """Flat index of the voxel below each point, and how far each point lies beyond it along each axis.

    Args:
        centre: as of `gather`.
        matrix: as of `gather`.
        shape: voxels of the patch.
        part: planes of the patch along its first axis.
        strides: of the image, in voxels.
    """
    offsets = []
    for size in shape:
        offsets.append(torch.arange(size, dtype=torch.float32) - (size - 1) / 2)
    index: Tensor | None = None
    fractions = []
    for axis, stride in enumerate(strides):
        along_x = float(matrix[axis, 0]) * offsets[0][part]
        along_y = float(matrix[axis, 1]) * offsets[1] + float(centre[axis])
        along_z = float(matrix[axis, 2]) * offsets[2]
        point = (along_x[:, None] + along_y)[..., None] + along_z
        below = point.to(torch.int32)  # truncation is floor: inside the box no coordinate is negative
        fractions.append(point.sub_(below))
        index = below.mul_(stride) if index is None else index.add_(below, alpha=stride)
    assert index is not None
    return index, fractions


def _nearest(index: Tensor, fractions: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
    """Flat index of the voxel nearest to each point."""
    nearest = index
    for stride, fraction in zip(strides, fractions, strict=True):
        nearest = torch.add(nearest, fraction > 0.5, alpha=stride)
    return nearest


def _interpolate(flat: Tensor, index: Tensor, fractions: Sequence[Tensor], strides: Sequence[int], out: Tensor) -> None:
    """Weigh the eight voxels round each point.

    Args:
        flat: the voxels of one channel.
        index: of the voxel below each point.
        fractions: of a voxel by which each point lies beyond it, along each axis.
        strides: of the image, in voxels.
        out: of the shape of `index`, written.
    """
    below = index.view(-1)
    fraction_x, fraction_y, fraction_z = (fraction.view(-1) for fraction in fractions)
    step_x, step_y, _ = strides

    def between_two(offset: int) -> Tensor:
        """Along z, from the voxel at an offset from the one below the point."""
        first = flat[offset:].index_select(0, below)
        second = flat[offset + 1 :].index_select(0, below)
        return first.lerp_(second, fraction_z)

    near = between_two(0).lerp_(between_two(step_y), fraction_y)
    far = between_two(step_x).lerp_(between_two(step_x + step_y), fraction_y)
    torch.lerp(near, far, fraction_x, out=out.view(-1))
