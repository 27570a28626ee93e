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


def same_grid(size: Sequence[int]) -> tuple[AxisMap, ...]:
    """The maps of a grid onto itself."""
    return tuple(AxisMap(a, torch.arange(n, dtype=torch.float64)) for a, n in enumerate(size))


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
        steps = to_now[:3, source]
        axis = int(steps.abs().argmax())
        stray = [float(s.abs()) * (count - 1) for a, s in enumerate(steps) if a != axis]
        if axis in maps or max(stray) > _STRAY:
            raise ValueError("the image was rotated since it was read: its axes no longer run along the file's")
        at = steps[axis] * torch.arange(count, dtype=torch.float64) + to_now[axis, 3]
        at = torch.where((at - at.round()).abs() < _SNAP, at.round(), at)
        maps[axis] = AxisMap(source, at.clamp_(0, size[axis] - 1))
    return tuple(maps[axis] for axis in range(3))


def tap_weights(at: Tensor, count: int) -> Tensor:
    """Weights `(len(at), count)` of linear interpolation at the coordinates `at` in [0, count - 1]."""
    low = at.floor().long().clamp(0, count - 1)
    high = (low + 1).clamp(max=count - 1)
    part = (at - low).float()
    weights, rows = torch.zeros(len(at), count), torch.arange(len(at))
    weights[rows, low] += 1 - part
    weights[rows, high] += part
    return weights


def strongest(logits: Tensor) -> Tensor:
    """Index of the largest channel of `(K, *spatial)`, the first of equals, uint8.

    A running maximum: on the CPU torch's `argmax` over a strided axis is 15 to 85 times slower.
    """
    if len(logits) == 2:
        return (logits[1] > logits[0]).to(torch.uint8)
    if logits.device.type != "cpu":
        return logits.argmax(0).to(torch.uint8)
    channels = logits.numpy()
    best, labels = channels[0].copy(), np.zeros(channels.shape[1:], np.uint8)
    for index in range(1, len(channels)):
        better = (channels[index] > best).view(np.uint8)
        np.maximum(labels, better * np.uint8(index), out=labels)  # indices rise, so the newest is the largest
        np.maximum(best, channels[index], out=best)
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
        self.exact = all(m.exact for m in maps)
        self._last: Tensor | None = None  # the plane before the next, for what lies between the two
        self._picks = [m.exact for m in maps]
        self._bands: dict[int, list[Band]] = {}

    def push(self, planes: Tensor, first: int) -> None:
        """Take `planes` `(K, ...)`, of which the first is plane number `first` of the network's grid."""
        along = self.maps[self.axis].at
        count = planes.shape[self.axis + 1]
        ready = ((along > first - 1) & (along <= first + count - 1)).nonzero().flatten()
        known = planes if self._last is None else torch.cat([self._last, planes], self.axis + 1)
        start = first - (known.shape[self.axis + 1] - count)
        if not self._picks[self.axis]:
            self._last = planes.narrow(self.axis + 1, count - 1, 1).clone()
        if not len(ready):
            return
        growth = [len(m.at) / known.shape[a + 1] for a, m in enumerate(self.maps)]
        growth[self.axis] = len(ready) / known.shape[self.axis + 1]
        block = known
        for axis in sorted(range(3), key=growth.__getitem__):  # what grows most goes last
            at = along[ready] - start if axis == self.axis else self.maps[axis].at
            block = self._read(block, at, axis)
        self.sink(block, slice(int(ready[0]), int(ready[-1]) + 1))

    def _read(self, block: Tensor, at: Tensor, axis: int) -> Tensor:
        """One axis of `(K, X, Y, Z)` at the coordinates `at`."""
        size = block.shape[axis + 1]
        if self._picks[axis]:
            picked = block.narrow(axis + 1, int(at.min()), len(at))
            return picked.flip(axis + 1) if self.maps[axis].backwards else picked
        if axis == self.axis:
            return apply_bands(block, bands(tap_weights(at, size).to(block.device)), axis)
        if axis not in self._bands:
            self._bands[axis] = bands(tap_weights(at, size).to(block.device))
        return apply_bands(block, self._bands[axis], axis)
