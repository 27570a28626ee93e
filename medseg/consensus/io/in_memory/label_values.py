"""Label values as users spell them: any integers, read into class indices and back."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from medseg.consensus.study import MISSING
from medseg.errors import ConfigError, DataError
from medseg.portable.io.labels import whole_numbers

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


def as_integers(array: np.ndarray, name: str) -> np.ndarray:
    """The array as integers.

    Raises:
        DataError: numbers with a fraction, NaN, or no numbers; `name` says whose.
    """
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype.kind in "iu":
        return array
    if array.dtype.kind != "f":
        raise DataError(f"{name} holds {array.dtype}; integers, or probabilities (K, ...), are wanted")
    try:
        labels, note = whole_numbers(array)
    except DataError as error:
        hint = "probabilities have one channel per class in front, the background first"
        raise DataError(f"{name} holds numbers that are no integers ({error.problem})", hint=hint) from error
    if note:
        warnings.warn(f"{name} {note}", stacklevel=2)
    return labels.astype(np.int64)


def _chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    """Planes of an array, several at a time: what is made of them stays in the cache."""
    step = max(1, _CHUNK * len(array) // max(array.size, 1))
    for start in range(0, len(array), step):
        yield array[start : start + step]


def find_values(array: np.ndarray) -> list[int]:
    """All values of an integer array, rising."""
    if not array.size:
        return []
    low, high = int(array.min()), int(array.max())
    if high - low >= _TABLE:
        return [int(value) for value in np.unique(array)]
    counts = np.zeros(high - low + 1, np.int64)
    for chunk in _chunks(array):
        if low == 0 and not chunk.any():
            counts[0] += chunk.size
            continue
        above_low = chunk.astype(np.int64) - low
        counts += np.bincount(above_low.reshape(-1), minlength=counts.size)
    return [low + int(offset) for offset in np.flatnonzero(counts)]


def to_class_indices(array: np.ndarray, values: np.ndarray, missing: int | None) -> np.ndarray:
    """Class indices `(X, Y, Z)` uint8 of label values; the array itself where these are the same.

    Args:
        array: `(X, Y)` or `(X, Y, Z)` integers, each of `values` or `missing`.
        values: `(K,)` label value of each class.
        missing: value of what was not annotated; None if there is none.
    """
    without_axes = [1] * (3 - array.ndim)
    volume = array.reshape(*array.shape, *without_axes)
    if array.dtype == np.uint8 and missing in (None, MISSING) and values[-1] == len(values) - 1:
        return volume
    known, index = values, np.arange(len(values))
    if missing is not None:
        known, index = np.append(known, missing), np.append(index, MISSING)
    order = np.argsort(known, kind="stable")
    sorted_values, sorted_index = known[order], index.astype(np.uint8)[order]
    found = np.empty(volume.shape, np.uint8)
    for chunk, result in zip(_chunks(volume), _chunks(found), strict=True):
        result[...] = sorted_index[np.searchsorted(sorted_values, chunk)]
    return found


def _fits(value: int, dtype: np.dtype) -> bool:
    """Whether arrays of a type can hold a value."""
    if dtype.kind == "f":
        return True
    return dtype.kind in "iu" and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max
