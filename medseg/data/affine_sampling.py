"""Boxes out of a volume, straight or through an affine map, reading no more of the volume than needed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_CHUNK = 2**17  # points at a time: the dozen arrays of a chunk stay in the cache


def box(
    volume: Tensor, start: Sequence[int], shape: Sequence[int], background: Tensor, repeat: int | None = None
) -> Tensor:
    """Copy `(C, *shape)` out of a volume `(C, X, Y, Z)`, dtype kept.

    Args:
        volume: what to copy from.
        start: first voxel, possibly outside of the volume.
        shape: voxels along each axis.
        background: `(C,)`, what lies outside of the volume.
        repeat: axis beyond whose ends the outermost slices are repeated instead.
    """
    if repeat is not None:
        first, last, size = start[repeat], start[repeat] + shape[repeat], volume.shape[repeat + 1]
        index = torch.arange(first, last).clamp_(0, size - 1)
        volume = volume.narrow(repeat + 1, int(index[0]), int(index[-1] - index[0]) + 1)
        start = [0 if axis == repeat else s for axis, s in enumerate(start)]
        within = [volume.shape[repeat + 1] if axis == repeat else n for axis, n in enumerate(shape)]
        part = box(volume, start, within, background)
        return part if within == list(shape) else part.index_select(repeat + 1, index - index[0])
    inside = [(max(s, 0), min(s + n, size)) for s, n, size in zip(start, shape, volume.shape[1:], strict=True)]
    part = volume[(slice(None), *(slice(a, max(a, b)) for a, b in inside))]
    if part.shape[1:] == tuple(shape):
        return part.clone(memory_format=torch.contiguous_format)
    out = background.to(volume.dtype).view(-1, 1, 1, 1).repeat(1, *shape)
    if part.numel():
        out[(slice(None), *(slice(a - s, b - s) for (a, b), s in zip(inside, start, strict=True)))] = part
    return out


def source_box(
    centre: np.ndarray, matrix: np.ndarray, shape: Sequence[int]
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Start and shape of the smallest box that holds every voxel an affine patch interpolates between."""
    half = np.abs(matrix) @ ((np.asarray(shape) - 1) / 2) + 1e-3  # room for float32 coordinates
    low, high = np.floor(centre - half).astype(int), np.floor(centre + half).astype(int) + 2
    (x, y, z), (nx, ny, nz) = low.tolist(), (high - low).tolist()
    return (x, y, z), (nx, ny, nz)


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
    channels, (_, height, depth) = image.shape[0], image.shape[1:]
    flat, flat_label = image.view(channels, -1), None if label is None else label.view(-1)
    out = torch.empty((channels, *shape))
    out_label = None if label is None else torch.empty((1, *shape), dtype=torch.uint8)
    rows = max(1, _CHUNK // (shape[1] * shape[2]))
    for first in range(0, shape[0], rows):
        part = slice(first, min(first + rows, shape[0]))
        index, fraction = _coordinates(centre, matrix, shape, part, (height * depth, depth, 1))
        for channel in range(channels):
            _interpolate(flat[channel], index, fraction, (height * depth, depth), out[channel, part])
        if flat_label is not None and out_label is not None:
            nearest = index
            for step, f in zip((height * depth, depth, 1), fraction, strict=True):
                nearest = torch.add(nearest, f > 0.5, alpha=step)
            out_label[0, part] = flat_label.index_select(0, nearest.view(-1)).view(nearest.shape)
    return out, out_label


def _coordinates(
    centre: np.ndarray, matrix: np.ndarray, shape: Sequence[int], part: slice, strides: Sequence[int]
) -> tuple[Tensor, list[Tensor]]:
    """Flat index of the voxel below each point, and how far each point lies beyond it along each axis."""
    offsets = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in shape]
    index: Tensor | None = None
    fractions = []
    for axis, stride in enumerate(strides):
        x, y, z = (float(m) * o for m, o in zip(matrix[axis], offsets, strict=True))
        point = (x[part, None] + (y + float(centre[axis])))[..., None] + z
        below = point.to(torch.int32)  # truncation is floor: inside the box no coordinate is negative
        fractions.append(point.sub_(below))
        index = below.mul_(stride) if index is None else index.add_(below, alpha=stride)
    assert index is not None
    return index, fractions


def _interpolate(
    flat: Tensor, index: Tensor, fraction: Sequence[Tensor], strides: tuple[int, int], out: Tensor
) -> None:
    """Weigh the eight voxels round each point."""
    where, (fx, fy, fz) = index.view(-1), (f.view(-1) for f in fraction)

    def line(offset: int) -> Tensor:
        following = flat[offset + 1 :].index_select(0, where)
        return flat[offset:].index_select(0, where).lerp_(following, fz)

    x, y = strides
    near = line(0).lerp_(line(y), fy)
    far = line(x).lerp_(line(x + y), fy)
    torch.lerp(near, far, fx, out=out.view(-1))
