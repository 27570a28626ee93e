"""Numbers of an array, gathered in one pass of small pieces: no copy of a whole volume is made."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

PIECE = 1 << 20  # voxels at a time
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
    """What a label image holds: voxels of each whole value; how many are no whole number, and one of them."""

    counts: dict[int, int]
    fractional: int
    example: float


def _pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    flat = array.ravel(order="K")  # a view: the readers give contiguous memory
    for start in range(0, flat.size, PIECE):
        yield flat[start : start + PIECE]


def intensities(array: np.ndarray) -> Intensities:
    """Range, non-finite voxels and fingerprint of an image of any real type."""
    low, high, bad = np.inf, -np.inf, 0
    digest = hashlib.blake2b(repr((array.shape, array.dtype.str)).encode(), digest_size=16)
    for piece in _pieces(array):
        digest.update(np.ascontiguousarray(piece).data)
        if piece.dtype.kind == "f":
            finite = np.isfinite(piece)
            if not finite.all():
                bad += int(piece.size - np.count_nonzero(finite))
                piece = piece[finite]
        if piece.size:
            low, high = min(low, float(piece.min())), max(high, float(piece.max()))
    return Intensities(low, high, bad, array.size, digest.digest())


def values(array: np.ndarray) -> Values:
    """How often each whole number occurs in a label image of any real type."""
    counts: Counter[int] = Counter()
    fractional, example = 0, float("nan")
    for piece in _pieces(array):
        if piece.dtype.kind == "f":
            with np.errstate(invalid="ignore"):
                whole = np.isfinite(piece) & (piece == np.rint(piece)) & (np.abs(piece) < 2**53)
            if not whole.all():
                fractional += int(piece.size - np.count_nonzero(whole))
                example = float(piece[~whole][0])
                piece = piece[whole]
            piece = piece.astype(np.int64)
        _count(piece, counts)
    return Values(dict(sorted(counts.items())), fractional, example)


def _count(piece: np.ndarray, counts: Counter[int]) -> None:
    if not piece.size:
        return
    low, high = int(piece.min()), int(piece.max())
    if high - low < MOST_VALUES and high < 2**62:  # the common case, and much faster than sorting
        found = np.bincount(piece.astype(np.int64).ravel() - low)
        counts.update({low + int(n): int(found[n]) for n in np.flatnonzero(found)})
    else:
        numbers, found = np.unique(piece, return_counts=True)
        counts.update(dict(zip(numbers.tolist(), found.tolist(), strict=True)))
