"""The ring of planes in which overlapping windows are summed.

Windows are visited row by row along one axis, the slab axis. A row is one window deep, so the sums of all
classes never need more than one window's depth of the volume: planes that no later row reaches are handed
on, and their place is used again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

from torch import Tensor

from .windows import Position


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
        shape = [self.depth if a == axis else n for a, n in enumerate(size)]
        self.sums = weight.new_zeros(classes, *shape)
        self.weights = weight.new_zeros(shape)
        self._row = weight.new_zeros(shape)  # all rows weigh the same, so no window needs a count of its own
        for position in product(*([0] if a == axis else s for a, s in enumerate(starts))):
            self._window(self._row, position).add_(weight)

    def _window(self, planes: Tensor, position: Sequence[int]) -> Tensor:
        """The part of `(..., X, Y, Z)` that a window covers, all planes of the ring."""
        for a, (start, length) in enumerate(zip(position, self.weight.shape, strict=True)):
            if a != self.axis:
                planes = planes.narrow(a - 3, start, length)
        return planes

    def _pieces(self, first: int, count: int) -> Iterator[tuple[int, int, int]]:
        """Planes `first ... first + count` as runs of the ring: place in it, offset from `first`, length."""
        offset = 0
        while offset < count:
            place = (first + offset) % self.depth
            length = min(count - offset, self.depth - place)
            yield place, offset, length
            offset += length

    def begin_row(self, start: int) -> None:
        """Count the weights of the row of windows that begins at plane `start`."""
        for place, offset, length in self._pieces(start, self.depth):
            row = self._row.narrow(self.axis, offset, length)
            self.weights.narrow(self.axis, place, length).add_(row)

    def add(self, logits: Tensor, position: Position) -> None:
        """Add one window `(classes, *window)`."""
        sums = self._window(self.sums, position)
        for place, offset, length in self._pieces(position[self.axis], self.depth):
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
