"""Numbers of an array, gathered in one pass, block by block: no copy of a whole volume is made."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from medseg.portable.io.labels import LARGEST, ROUNDED

BLOCK = 1 << 20  # voxels at a time
MOST_VALUES = 1 << 16  # a label image has few; more are only counted


@dataclass(frozen=True)
class Intensities:
    """What an image holds: its range over finite voxels, how many are not finite, and a fingerprint."""

    low: float
    high: float
    non_finite: int
    size: int
    digest: bytes


@dataclass(frozen=True)
class Values:
    """What a label image holds.

    Attributes:
        counts: voxels of each whole value, in rising order of the values.
        fractional: how many voxels are no whole number, see `medseg.portable.io.labels`.
        example: one of them.
        rounded: a number that rounding made of a whole one; None: there is none.
    """

    counts: dict[int, int]
    fractional: int
    example: float
    rounded: float | None = None


def _blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    flat = array.ravel(order="K")  # a view: the readers give contiguous memory
    for start in range(0, flat.size, BLOCK):
        yield flat[start : start + BLOCK]


def intensities(array: np.ndarray) -> Intensities:
    """Range, non-finite voxels and fingerprint of an image of any real type."""
    low, high, bad = np.inf, -np.inf, 0
    digest = hashlib.blake2b(repr((array.shape, array.dtype.str)).encode(), digest_size=16)
    for block in _blocks(array):
        digest.update(np.ascontiguousarray(block).data)
        if block.dtype.kind == "f":
            finite = np.isfinite(block)
            if not finite.all():
                bad += int(block.size - np.count_nonzero(finite))
                block = block[finite]
        if block.size:
            low, high = min(low, float(block.min())), max(high, float(block.max()))
    return Intensities(low, high, bad, array.size, digest.digest())


def values(array: np.ndarray) -> Values:
    """How often each whole number occurs in a label image of any real type."""
    counts: Counter[int] = Counter()
    fractional, example, rounded = 0, float("nan"), None
    for block in _blocks(array):
        if block.dtype.kind == "f":
            with np.errstate(invalid="ignore"):
                nearest = np.rint(block)
                off = np.abs(block - nearest)
                whole = (off <= ROUNDED) & (np.abs(block) <= LARGEST)
            if not whole.all():
                fractional += int(block.size - np.count_nonzero(whole))
                example = float(block[~whole][0])
            if off[whole].any():
                rounded = float(block[whole][off[whole].argmax()])
            block = nearest[whole].astype(np.int64)
        _count(block, counts)
    return Values(dict(sorted(counts.items())), fractional, example, rounded)


def _count(block: np.ndarray, counts: Counter[int]) -> None:
    if not block.size:
        return
    low, high = int(block.min()), int(block.max())
    if high - low < MOST_VALUES and high < 2**62:  # the common case, and much faster than sorting
        found = np.bincount(block.astype(np.int64).ravel() - low)
        counts.update({low + int(n): int(found[n]) for n in np.flatnonzero(found)})
    else:
        numbers, found = np.unique(block, return_counts=True)
        counts.update(dict(zip(numbers.tolist(), found.tolist(), strict=True)))
