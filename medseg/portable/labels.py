"""Where labels, and probabilities if wanted, are collected while the logits pass by."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from .restore import AxisMap, strongest

LEVELS = 255  # of a probability stored in a byte


def probability_bytes(logits: Tensor, winner: Tensor) -> Tensor:
    """Softmax of `(K, *spatial)` in steps of 1/255, uint8, whose first maximum is `winner` at every voxel.

    Rounding makes equals of near equals; there the winner gets one step more, so that who takes the maximum
    of the stored numbers finds the labels.
    """
    stored = logits.softmax(0).mul_(LEVELS).round_().to(torch.uint8)
    top = strongest(stored)
    stored.scatter_add_(0, winner.long()[None], (top != winner).to(torch.uint8)[None])
    return stored


class LabelSink:
    """Writes labels into a volume on the file's grid, block by block.

    Args:
        maps: how the network's axes are read; gives the order of axes and the voxels of each.
        axis: the slab axis of the network's grid.
        values: label value of each class; None: the class index.
        device: where the label volume is kept.
        probabilities: makes the array `(K, *file's grid)` of uint8 to fill, given its shape; None: not
            wanted.
    """

    def __init__(
        self,
        maps: Sequence[AxisMap],
        axis: int,
        values: Sequence[int] | None,
        device: torch.device,
        probabilities: Callable[[tuple[int, ...]], np.ndarray] | None = None,
    ) -> None:
        self.axis = axis
        self._order = [m.source for m in maps]  # of the file's axes along the network's
        shape = [0, 0, 0]
        for m in maps:
            shape[m.source] = len(m.at)
        # the first axis contiguous, as NIfTI stores it
        self.labels = torch.zeros(shape[::-1], dtype=torch.uint8, device=device).permute(2, 1, 0)
        self._values = None if values is None else np.array(values, dtype=np.uint8)
        self._make = probabilities
        self.wants_probabilities = probabilities is not None
        self._bytes: np.ndarray | None = None

    def __call__(self, logits: Tensor, planes: slice) -> None:
        """Take logits `(K, X, Y, Z)` in the network's order of axes for these planes of the slab axis.

        Raises:
            ValueError: for NaN or infinite logits, and for another number of channels than of label values.
        """
        if len(logits) < 2 or (self._values is not None and len(logits) != len(self._values)):
            raise ValueError(f"the network has {len(logits)} channels; one for each class, background too, is needed")
        if not bool(torch.isfinite(logits.sum())):
            raise ValueError("the network returned NaN or infinite values for this image")
        winner = strongest(logits)
        where = (slice(None),) * self.axis + (planes,)
        if self._make is not None:
            self._store(probability_bytes(logits, winner), where)
        if self._values is not None and self._values.tolist() != list(range(len(self._values))):
            winner = torch.from_numpy(self._values[winner.cpu().numpy()])
        self.labels.permute(self._order)[where] = winner.to(self.labels.device)

    def _store(self, stored: Tensor, where: tuple[slice, ...]) -> None:
        if self._bytes is None:
            assert self._make is not None
            self._bytes = self._make((len(stored), *self.labels.shape))
        view = self._bytes.transpose([0, *(a + 1 for a in self._order)])
        view[(slice(None), *where)] = stored.cpu().numpy()
