"""The way of the logits: from windows through the ring of planes to the file's grid."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import Tensor

from .labels import LabelSink
from .memory import Attempt
from .restore import AxisMap, Restorer
from .ring import Ring
from .windows import Position, gaussian

BLOCK = {"cpu": 2**20, "cuda": 2**26}  # logits turned into labels at once; on the CPU what its caches hold


class Slabs:
    """Adds windows in the order of `visit` and hands planes on as soon as no window to come reaches them.

    Args:
        size: voxels of the (padded) network grid.
        starts: window positions along each axis.
        axis: the slab axis.
        attempt: window and device of the sums.
        maps: how the network's grid is read.
        sink: takes the logits on the file's grid.
    """

    def __init__(
        self,
        size: Sequence[int],
        starts: Sequence[Sequence[int]],
        axis: int,
        attempt: Attempt,
        maps: Sequence[AxisMap],
        sink: LabelSink,
    ) -> None:
        self.size, self.starts, self.axis, self.attempt = size, starts, axis, attempt
        self._restorer = Restorer(maps, axis, sink)
        self._mean = sink.wants_probabilities or not self._restorer.exact
        self._plane_voxels = prod(len(m.at) for m in maps) / size[axis]  # of the file, for each plane here
        self._ring: Ring | None = None
        self._row = 0

    def add(self, logits: Tensor, position: Position) -> None:
        """Add one window's logits `(K, *window)`."""
        start = position[self.axis]
        if self._ring is None:
            weight = gaussian(self.attempt.window, self.attempt.device)
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
        planes = max(1, int(block // (len(self._ring.sums) * self._plane_voxels)))
        for first, block_of_planes in self._ring.take(self._row, until, planes, self._mean):
            self._restorer.push(block_of_planes, first)
        self._row = until
