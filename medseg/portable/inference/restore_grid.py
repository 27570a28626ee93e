"""From blended logits on the network's grid to labels on the file's own grid, a few planes at a time.

The two grids differ by permuted, flipped, shifted and scaled axes and by nothing else, because that is all
that the preprocessing does. So each axis of the file reads one axis of the network's grid at a list of
coordinates; logits are interpolated there linearly, axis by axis, and the strongest class is the label.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..resample import Band, apply_bands, bands

_SNAP = 1e-4  # voxels; a coordinate this close to a plane is that plane, so that equal grids stay exact
_STRAY = 0.05  # voxels by which the far end of an axis may leave its line through the network's grid


@dataclass(frozen=True)
class AxisMap:
    """How one axis of the network's grid is read.

    Attributes:
        source: the axis of the file that runs along it.
        at: for each voxel of the file's axis its coordinate on the network's, monotonic, inside the grid.
    """

    source: int
    at: Tensor

    @property
    def exact(self) -> bool:
        """Whether planes are only picked, in order or backwards, without interpolation."""
        whole = bool((self.at == self.at.round()).all())
        return whole and bool((self.at.diff().abs() == 1).all())

    @property
    def backwards(self) -> bool:
        """Whether the file's axis runs against the network's."""
        return len(self.at) > 1 and bool(self.at[0] > self.at[-1])

    def shifted(self, planes: int) -> AxisMap:
        """The same map onto a grid that was padded by `planes` in front."""
        return AxisMap(self.source, self.at + planes)


def identity_maps(size: Sequence[int]) -> tuple[AxisMap, ...]:
    """The maps of a grid onto itself."""
    return tuple(AxisMap(axis, torch.arange(length, dtype=torch.float64)) for axis, length in enumerate(size))


def grid_maps(now: Tensor, size: Sequence[int], original: Tensor, original_size: Sequence[int]) -> tuple[AxisMap, ...]:
    """How the network's grid is read at the voxels of the file's grid.

    Args:
        now: affine (4, 4) of the network's grid.
        size: its voxels.
        original: affine (4, 4) of the file's grid.
        original_size: its voxels.

    Returns:
        One map for each axis of the network's grid.

    Raises:
        ValueError: if the axes of one grid do not run along the axes of the other.
    """
    to_now = torch.linalg.inv(now.double().cpu()) @ original.double().cpu()
    maps: dict[int, AxisMap] = {}
    for source, count in enumerate(original_size):
        step = to_now[:3, source]
        axis = int(step.abs().argmax())
        across = [other for other in range(3) if other != axis]
        strays = [float(step[other].abs()) * (count - 1) for other in across]
        if axis in maps or max(strays) > _STRAY:
            raise ValueError("the image was rotated since it was read: its axes no longer run along the file's")
        at = step[axis] * torch.arange(count, dtype=torch.float64) + to_now[axis, 3]
        whole = at.round()
        at = torch.where((at - whole).abs() < _SNAP, whole, at)
        maps[axis] = AxisMap(source, at.clamp_(0, size[axis] - 1))
    return maps[0], maps[1], maps[2]


def interpolation_weights(at: Tensor, count: int) -> Tensor:
    """Weights `(len(at), count)` of linear interpolation at the coordinates `at` in [0, count - 1]."""
    below = at.floor().long().clamp(0, count - 1)
    above = (below + 1).clamp(max=count - 1)
    fraction = (at - below).float()
    weights = torch.zeros(len(at), count)
    index = torch.arange(len(at))
    weights[index, below] += 1 - fraction
    weights[index, above] += fraction
    return weights


def channel_argmax(logits: Tensor) -> Tensor:
    """Index of the largest channel of `(K, *spatial)`, the first of equals, uint8.

    A running maximum: on the CPU torch's `argmax` over a strided axis is 15 to 85 times slower.
    """
    if len(logits) == 2:
        return (logits[1] > logits[0]).to(torch.uint8)
    if logits.device.type != "cpu":
        return logits.argmax(0).to(torch.uint8)
    channels = logits.numpy()
    largest = channels[0].copy()
    labels = np.zeros(channels.shape[1:], np.uint8)
    for index in range(1, len(channels)):
        larger = (channels[index] > largest).view(np.uint8)
        np.maximum(labels, larger * np.uint8(index), out=labels)  # indices rise, so the newest is the largest
        np.maximum(largest, channels[index], out=largest)
    return torch.from_numpy(labels)


class Restorer:
    """Takes planes of the network's grid in order, passes on those of the file's grid that they settle.

    Args:
        maps: how each axis of the (padded) network grid is read.
        axis: the axis along which planes arrive.
        sink: called with logits `(K, X, Y, Z)`, the file's voxels in the network's order of axes, and with
            the range of the file's planes that they are.

    Attributes:
        exact: whether planes are only picked, so that a common factor of all logits does not matter.
    """

    def __init__(self, maps: Sequence[AxisMap], axis: int, sink: Callable[[Tensor, slice], None]) -> None:
        self.maps, self.axis, self.sink = maps, axis, sink
        self.exact = all(axis_map.exact for axis_map in maps)
        self._last_plane: Tensor | None = None  # before those to come, for what lies between the two
        self._picks = [axis_map.exact for axis_map in maps]
        self._bands: dict[int, list[Band]] = {}

    def push(self, planes: Tensor, first: int) -> None:
        """Take `planes` `(K, ...)`, of which the first is plane number `first` of the network's grid."""
        coordinates = self.maps[self.axis].at
        dimension = self.axis + 1
        count = planes.shape[dimension]
        settled = (coordinates > first - 1) & (coordinates <= first + count - 1)
        ready = settled.nonzero().flatten()
        block, start = planes, first
        if self._last_plane is not None:
            block = torch.cat([self._last_plane, planes], dimension)
            start = first - 1
        if not self._picks[self.axis]:
            self._last_plane = planes.narrow(dimension, count - 1, 1).clone()
        if not len(ready):
            return
        wanted = [axis_map.at for axis_map in self.maps]
        wanted[self.axis] = coordinates[ready] - start
        growth = [len(at) / block.shape[axis + 1] for axis, at in enumerate(wanted)]
        for axis in sorted(range(3), key=growth.__getitem__):  # what grows most goes last
            block = self._read(block, wanted[axis], axis)
        self.sink(block, slice(int(ready[0]), int(ready[-1]) + 1))

    def _read(self, block: Tensor, at: Tensor, axis: int) -> Tensor:
        """One axis of `(K, X, Y, Z)` at the coordinates `at`."""
        dimension = axis + 1
        size = block.shape[dimension]
        if self._picks[axis]:
            picked = block.narrow(dimension, int(at.min()), len(at))
            return picked.flip(dimension) if self.maps[axis].backwards else picked
        if axis == self.axis:
            return apply_bands(block, _bands_at(at, size, block), axis)
        if axis not in self._bands:
            self._bands[axis] = _bands_at(at, size, block)
        return apply_bands(block, self._bands[axis], axis)


def _bands_at(at: Tensor, size: int, block: Tensor) -> list[Band]:
    """Weights of interpolation at the coordinates `at`, where `block` is."""
    return bands(interpolation_weights(at, size).to(block.device))
