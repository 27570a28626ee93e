"""Where labels, and what is wanted of their probabilities, are collected while the logits pass by."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .restore_grid import AxisMap, channel_argmax

LEVELS = 255  # of a probability stored in a byte

Maker = Callable[[tuple[int, ...]], np.ndarray]
"""Makes an array to be filled, given its shape; a `numpy.memmap`, say."""


def probability_bytes(logits: Tensor, winner: Tensor, *, independent: bool = False) -> Tensor:
    """Probabilities of `(K, *spatial)` in steps of 1/255, uint8, whose first maximum is `winner` at every voxel.

    Rounding makes equals of near equals; there the winner gets one step more, so that who takes the maximum
    of the stored numbers finds the labels.

    Args:
        logits: of all classes.
        winner: `(*spatial)`, the class with the largest of them.
        independent: whether a sigmoid of each class makes them probabilities; else a softmax of all classes.
    """
    if independent:
        stored = logits.sigmoid().mul_(LEVELS).round_().to(torch.uint8)
        largest = stored.gather(0, winner.long()[None])
        # several classes may be certain: the winner alone stays so, and no step more is beyond the byte
        stored.clamp_(max=LEVELS - 1)
        stored.scatter_(0, winner.long()[None], largest)
    else:
        stored = logits.softmax(0).mul_(LEVELS).round_().to(torch.uint8)
    raised = (channel_argmax(stored) != winner).to(torch.uint8)
    stored.scatter_add_(0, winner.long()[None], raised[None])
    return stored


def mapped_array(path: Path, shape: tuple[int, ...], kind: type[np.generic] = np.uint8) -> np.ndarray:
    """An array `(K, X, Y, Z)` in a file, which memory need not hold; x fastest and channels slowest, as NIfTI.

    Raises:
        OSError: there is no room for it.
    """
    with path.open("wb") as file:  # a full disk must be an error now, not a fault at some later voxel
        os.posix_fallocate(file.fileno(), 0, prod(shape) * np.dtype(kind).itemsize)
    channels, x, y, z = shape
    stored = np.memmap(path, kind, "r+", shape=(channels, z, y, x))
    return stored.transpose(0, 3, 2, 1)


class ConfidenceArray:
    """Makes the array in memory that gets the probability of each label.

    Predicting again, after an attempt that lacked memory, makes it anew.

    Attributes:
        array: `(X, Y, Z)` float16, the first axis contiguous as that of the labels; there once it is made.
    """

    array: np.ndarray

    def make(self, shape: tuple[int, ...]) -> np.ndarray:
        """A `Maker`."""
        self.array = np.zeros(shape[::-1], np.float16).transpose()
        return self.array


class ProbabilityFile:
    """Makes the array in a file that gets the probabilities of all classes, or maps; see `ConfidenceArray`.

    Args:
        path: the file.
        kind: of its numbers.

    Attributes:
        array: `(K, X, Y, Z)`, probabilities as uint8 in steps of 1/255; there once it is made.
    """

    array: np.ndarray

    def __init__(self, path: Path, kind: type[np.generic] = np.uint8) -> None:
        self.path, self.kind = path, kind

    def make(self, shape: tuple[int, ...]) -> np.ndarray:
        """A `Maker`.

        Raises:
            OSError: there is no room for it.
        """
        self.array = mapped_array(self.path, shape, self.kind)
        return self.array


def top_probability(logits: Tensor) -> Tensor:
    """Largest softmax probability of `(K, *spatial)`, that of the label, `(*spatial)`."""
    shifted = logits - logits.amax(0)
    return shifted.exp_().sum(0).reciprocal_()


def top_log_odds(logits: Tensor) -> Tensor:
    """Log of p / (1 - p) of the most probable class of `(K, *spatial)`, `(*spatial)`.

    Where p is all but 1 probabilities are alike and these are not.
    """
    best, winner = logits.max(0, keepdim=True)
    others = logits.scatter(0, winner, float("-inf")).logsumexp(0)
    return best.squeeze(0) - others


def largest_sigmoid(logits: Tensor) -> Tensor:
    """Largest probability of `(K, *spatial)` where each class has a sigmoid of its own, `(*spatial)`."""
    return logits.amax(0).sigmoid_()


def largest_logit(logits: Tensor) -> Tensor:
    """Log of p / (1 - p) of the most probable class where each has a sigmoid of its own, `(*spatial)`."""
    return logits.amax(0)


class LabelSink:
    """Writes labels into a volume on the file's grid, block by block.

    Args:
        maps: how the network's axes are read; gives the order of axes and the voxels of each.
        axis: the slab axis of the network's grid.
        values: label value of each class; None: the class index.
        device: where the label volume is kept.
        probabilities: makes the array `(K, *file's grid)` of uint8 to fill, given its shape; None: not
            wanted.
        confidence: makes the array of float16 on the file's grid that gets the confidence of each label; None:
            not wanted.
        confidence_of: the confidence `(*spatial)` of the label, of logits `(K, *spatial)`.
        independent: whether a sigmoid of each class makes logits probabilities; else a softmax of all.
    """

    def __init__(
        self,
        maps: Sequence[AxisMap],
        axis: int,
        values: Sequence[int] | None,
        device: torch.device,
        probabilities: Maker | None = None,
        confidence: Maker | None = None,
        confidence_of: Callable[[Tensor], Tensor] = top_probability,
        independent: bool = False,
    ) -> None:
        self.axis, self.independent = axis, independent
        self._confidence_of = confidence_of
        self._order = [axis_map.source for axis_map in maps]  # of the file's axes along the network's
        shape = [0, 0, 0]
        for axis_map in maps:
            shape[axis_map.source] = len(axis_map.at)
        # the first axis contiguous, as NIfTI stores it
        self.labels = torch.zeros(shape[::-1], dtype=torch.uint8, device=device).permute(2, 1, 0)
        self._values = None if values is None else np.array(values, dtype=np.uint8)
        self._make = probabilities
        self.wants_probabilities = probabilities is not None or confidence is not None
        self._bytes: np.ndarray | None = None
        self._confidence = None if confidence is None else confidence(tuple(shape))

    @property
    def result(self) -> Tensor:
        """The labels `(1, X, Y, Z)`."""
        return self.labels[None]

    def __call__(self, logits: Tensor, planes: slice) -> None:
        """Take logits `(K, X, Y, Z)` in the network's order of axes for these planes of the slab axis.

        Raises:
            ValueError: for NaN or infinite logits, and for another number of channels than of label values.
        """
        self._check_channels(len(logits))
        if not bool(torch.isfinite(logits.sum())):
            raise ValueError("the network returned NaN or infinite values for this image")
        winner = self._decide(logits)
        where = (slice(None),) * self.axis + (planes,)
        if self._make is not None:
            self._store(self._bytes_of(logits, winner), where)
        if self._confidence is not None:
            confidence = self._confidence_of(logits).half().cpu().numpy()
            self._confidence.transpose(self._order)[where] = confidence
        if self._values is not None and self._values.tolist() != list(range(len(self._values))):
            winner = torch.from_numpy(self._values[winner.cpu().numpy()])
        self.labels.permute(self._order)[where] = winner.to(self.labels.device)

    def _check_channels(self, count: int) -> None:
        contradicts_values = self._values is not None and count != len(self._values)
        if count < 2 or contradicts_values:
            raise ValueError(f"the network has {count} channels; one for each class, background too, is needed")

    def _decide(self, logits: Tensor) -> Tensor:
        """Class indices `(*spatial)` uint8 of logits `(K, *spatial)`."""
        return channel_argmax(logits)

    def _bytes_of(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Probabilities `(K, *spatial)` uint8 of logits, of which `_decide` made the labels."""
        return probability_bytes(logits, labels, independent=self.independent)

    def _store(self, stored: Tensor, where: tuple[slice, ...]) -> None:
        if self._bytes is None:
            assert self._make is not None
            self._bytes = self._make((len(stored), *self.labels.shape))
        classes_first = [0, *(axis + 1 for axis in self._order)]
        self._bytes.transpose(classes_first)[(slice(None), *where)] = stored.cpu().numpy()


class MapSink:
    """Writes what a network gives into an array on the file's grid, block by block.

    Args:
        maps: how the network's axes are read; gives the order of axes and the voxels of each.
        axis: the slab axis of the network's grid.
        make: makes the float16 array `(K, *file's grid)` to fill, given its shape.
    """

    wants_probabilities = True  # means of overlapping windows, not their sums

    def __init__(self, maps: Sequence[AxisMap], axis: int, make: Maker) -> None:
        self.axis, self._make = axis, make
        self._order = [axis_map.source for axis_map in maps]
        self._shape = [0, 0, 0]
        for axis_map in maps:
            self._shape[axis_map.source] = len(axis_map.at)
        self._values: np.ndarray | None = None

    @property
    def result(self) -> Tensor:
        """The maps `(K, X, Y, Z)`."""
        assert self._values is not None
        return torch.from_numpy(self._values)

    def __call__(self, values: Tensor, planes: slice) -> None:
        """Take maps `(K, X, Y, Z)` in the network's order of axes for these planes of the slab axis.

        Raises:
            ValueError: for NaN, infinite values, and such that half precision cannot hold.
        """
        halves = values.half()
        if not bool(torch.isfinite(halves).all()):
            raise ValueError("the method's maps have values for this image that are not finite, or beyond 65504")
        if self._values is None:
            self._values = self._make((len(values), *self._shape))
        channels_first = [0, *(axis + 1 for axis in self._order)]
        where = (slice(None),) * (self.axis + 1) + (planes,)
        self._values.transpose(channels_first)[where] = halves.cpu().numpy()
