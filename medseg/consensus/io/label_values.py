"""Label values as users spell them: any integers, read into class indices and back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from medseg.consensus.study import MISSING
from medseg.errors import ConfigError, DataError

_WHOLE = 1e-6
"""Floating-point labels may be so far from an integer."""
_CHUNK, _TABLE = 1 << 20, 1 << 16


@dataclass(frozen=True, eq=False)
class Values:
    """How class indices are spelled in the user's arrays.

    Args:
        of: `(K,)` int64 label value of each class, 0 first.
        missing: value of what was not annotated; None if there is none.
        dtype: of the label arrays.
        shape: of the label arrays.
    """

    of: np.ndarray
    missing: int | None
    dtype: np.dtype
    shape: tuple[int, ...]

    def restore(self, labels: np.ndarray) -> np.ndarray:
        """Class indices `(X, Y, Z)` as the user spells them; undecided voxels get the missing value.

        Raises:
            ConfigError: voxels are undecided and the user's arrays have no value for that.
        """
        table = np.zeros(MISSING + 1, self.dtype)
        table[: len(self.of)] = self.of.astype(self.dtype)
        if (labels == MISSING).any():
            if self.missing is None or not _fits(self.missing, self.dtype):
                raise ConfigError("voxels stay undecided and no label value says so; take another tie rule")
            table[MISSING] = self.missing
        return table[labels].reshape(self.shape)


def integers(array: np.ndarray, title: str) -> np.ndarray:
    """The array as integers.

    Raises:
        DataError: numbers with a fraction, NaN, or no numbers; `title` says whose.
    """
    if array.dtype.kind in "biu":
        return array.astype(np.uint8) if array.dtype.kind == "b" else array
    if array.dtype.kind != "f":
        raise DataError(f"{title} holds {array.dtype}; integers, or probabilities (K, ...), are wanted")
    whole = np.rint(array)
    with np.errstate(invalid="ignore"):
        close = np.abs(array - whole) <= _WHOLE  # neither NaN nor infinity is
    if not close.all():
        hint = "probabilities have one channel per class in front, the background first"
        raise DataError(f"{title} holds numbers that are no integers", hint=hint)
    return whole.astype(np.int64)


def _pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    """Planes of an array, several at a time: what is made of them stays in the cache."""
    step = max(1, _CHUNK * len(array) // max(array.size, 1))
    yield from (array[k : k + step] for k in range(0, len(array), step))


def distinct(array: np.ndarray) -> list[int]:
    """All values of an integer array."""
    if not array.size:
        return []
    low, high = int(array.min()), int(array.max())
    if high - low >= _TABLE:
        return [int(v) for v in np.unique(array)]
    seen = np.zeros(high - low + 1, np.int64)
    for piece in _pieces(array):
        if low or piece.any():
            seen += np.bincount((piece.astype(np.int64) - low).reshape(-1), minlength=seen.size)
        else:
            seen[0] += piece.size
    return [low + int(v) for v in np.flatnonzero(seen)]


def indices(array: np.ndarray, values: np.ndarray, missing: int | None) -> np.ndarray:
    """Class indices `(X, Y, Z)` uint8; the array itself where it is spelled so already."""
    volume = array.reshape(*array.shape, *[1] * (3 - array.ndim))
    if array.dtype == np.uint8 and missing in (None, MISSING) and values[-1] == len(values) - 1:
        return volume
    known = values if missing is None else np.append(values, missing)
    order = np.argsort(known, kind="stable")
    index = np.append(np.arange(len(values)), MISSING)[: len(known)].astype(np.uint8)[order]
    found = np.empty(volume.shape, np.uint8)
    for piece, out in zip(_pieces(volume), _pieces(found), strict=True):
        out[...] = index[np.searchsorted(known[order], piece)]
    return found


def _fits(value: int, dtype: np.dtype) -> bool:
    return dtype.kind == "f" or (dtype.kind in "iu" and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max)
