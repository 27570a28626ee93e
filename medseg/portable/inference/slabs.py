"""The way of the logits: from windows through the ring of planes to the file's grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod

from torch import Tensor

from .label_sink import LabelSink, MapSink
from .out_of_memory import Attempt
from .restore_grid import AxisMap, Restorer
from .windows import Position, importance

BLOCK = {"cpu": 2**20, "cuda": 2**26}  # logits turned into labels at once; on the CPU what its caches hold


class Slabs:
    """Adds windows in the order of `order_positions` and hands planes on as soon as no window to come reaches them.

    Args:
        size: voxels of the (padded) network grid.
        starts: window positions along each axis.
        axis: the slab axis.
        attempt: window and device of the sums.
        maps: how the network's grid is read.
        sink: takes the logits, or maps, on the file's grid.
        blend: see `windows.importance`.
    """

    def __init__(
        self,
        size: Sequence[int],
        starts: Sequence[Sequence[int]],
        axis: int,
        attempt: Attempt,
        maps: Sequence[AxisMap],
        sink: LabelSink | MapSink,
        blend: str = "gaussian",
    ) -> None:
        self.blend = blend
        self.size, self.starts, self.axis, self.attempt = size, starts, axis, attempt
        self._restorer = Restorer(maps, axis, sink)
        self._needs_mean = sink.wants_probabilities or not self._restorer.exact
        file_voxels = prod(len(axis_map.at) for axis_map in maps)
        self._file_voxels_per_plane = file_voxels / size[axis]
        self._ring: Ring | None = None
        self._row = 0

    def add(self, logits: Tensor, position: Position) -> None:
        """Add one window's logits `(K, *window)`."""
        start = position[self.axis]
        if self._ring is None:
            weight = importance(self.attempt.window, self.attempt.device, self.blend)
            self._ring = Ring(len(logits), self.size, self.starts, self.axis, weight)
            self._ring.begin_row(start)
        elif start > self._row:
            self._hand_on(start)
            self._ring.begin_row(start)
        self._ring.add(logits, position)

    def finish(self) -> None:
        """Hand on what is left."""
        self._hand_on(self.size[self.axis])

    def _hand_on(self, until: int) -> None:
        assert self._ring is not None
        block = BLOCK.get(self.attempt.device.type, BLOCK["cpu"])
        classes = len(self._ring.sums)
        count = max(1, int(block // (classes * self._file_voxels_per_plane)))
        for first, planes in self._ring.take(self._row, until, count, self._needs_mean):
            self._restorer.push(planes, first)
        self._row = until


class Ring:
    """Weighted sums of overlapping windows, one window deep along the slab axis.

    Args:
        classes: channels of the network's output.
        size: voxels of the whole volume.
        starts: window positions along each axis.
        axis: the slab axis.
        weight: weight of each voxel of a window; its shape is the window's.
    """

    def __init__(
        self, classes: int, size: Sequence[int], starts: Sequence[Sequence[int]], axis: int, weight: Tensor
    ) -> None:
        self.axis, self.depth, self.weight = axis, weight.shape[axis], weight
        shape = list(size)
        shape[axis] = self.depth
        self.sums = weight.new_zeros(classes, *shape)
        self.weights = weight.new_zeros(shape)
        # all rows of windows weigh the same, so no window needs a count of its own
        self._row_weights = weight.new_zeros(shape)
        starts_of_a_row = list(starts)
        starts_of_a_row[axis] = [0]
        for position in product(*starts_of_a_row):
            self._window(self._row_weights, position).add_(weight)

    def _window(self, planes: Tensor, position: Sequence[int]) -> Tensor:
        """The part of `(..., X, Y, Z)` that a window covers, all planes of the ring."""
        for axis, (start, length) in enumerate(zip(position, self.weight.shape, strict=True)):
            if axis != self.axis:
                planes = planes.narrow(axis - 3, start, length)
        return planes

    def _runs(self, first: int, count: int) -> Iterator[tuple[int, int, int]]:
        """Planes `first ... first + count` as runs of the ring: place in it, offset from `first`, length."""
        offset = 0
        while offset < count:
            place = (first + offset) % self.depth
            length = min(count - offset, self.depth - place)
            yield place, offset, length
            offset += length

    def begin_row(self, start: int) -> None:
        """Count the weights of the row of windows that begins at plane `start`."""
        for place, offset, length in self._runs(start, self.depth):
            row = self._row_weights.narrow(self.axis, offset, length)
            self.weights.narrow(self.axis, place, length).add_(row)

    def add(self, logits: Tensor, position: Position) -> None:
        """Add one window `(classes, *window)`."""
        sums = self._window(self.sums, position)
        for place, offset, length in self._runs(position[self.axis], self.depth):
            part = logits.narrow(self.axis + 1, offset, length)
            weight = self.weight.narrow(self.axis, offset, length)
            sums.narrow(self.axis + 1, place, length).addcmul_(part, weight)

    def take(self, first: int, last: int, chunk: int, mean: bool) -> Iterator[tuple[int, Tensor]]:
        """Hand on planes `first ... last - 1`, at most `chunk` at once, and clear them.

        Args:
            first: a plane that no later row reaches, and so are all up to `last`.
            last: the plane after the last one.
            chunk: planes at once.
            mean: divide the sums by their weights; a label needs no division, what is interpolated does.

        Yields:
            The first plane's number, and the planes `(classes, X, Y, Z)`; valid until the next step.
        """
        while first < last:
            place = first % self.depth
            count = min(chunk, last - first, self.depth - place)
            sums = self.sums.narrow(self.axis + 1, place, count)
            weights = self.weights.narrow(self.axis, place, count)
            yield first, sums / weights if mean else sums
            sums.zero_()
            weights.zero_()
            first += count
