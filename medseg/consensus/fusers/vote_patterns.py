"""A study as its distinct votes: all that a fuser needs that looks at one voxel at a time.

Such a fuser's answer at a voxel depends on the tuple of the raters' votes there and on how often each tuple
occurs. Five raters and two labels make at most 32 tuples, 14 labels in practice some thousands, so that the
volume is read once to number and count them and once to write the answer, whatever the iterations between.

A voxel's code is a number in base K (K + 1 where somebody abstains) with one digit per rater. Where the
codes would outgrow a small table, those in use are numbered afresh before the next rater's digit is put on.
So any number of raters fits into small integers, nothing is hashed and no two tuples can collide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medseg.consensus.boxes import Box, extent, overlap, seen_from, size, whole, with_margin
from medseg.consensus.study import Study

SMALL = 1 << 16
"""Codes below take 2 bytes, and their table stays in the processor's cache."""
LARGEST = 1 << 20
"""Codes below are counted in a table, others by sorting them: only noise has as many."""
CHUNK = 1 << 18
"""Voxels at a time where NumPy wants indices of 8 bytes."""


@dataclass(frozen=True, eq=False)
class Patterns:
    """The distinct votes of a study; pattern 0 is background by everybody.

    Args:
        table: `(P, R)` uint8, the vote of each rater in each pattern: a class, or K where he abstains.
        counts: `(P,)` int64 voxels of each pattern in the field.
        everywhere: `(P,)` int64 voxels of each pattern in the whole grid.
        classes: K.
        field: the box that `counts` counts.
        shape: of the grid.
        box: the part of the grid that has codes; every voxel beyond it has pattern 0.
        codes: of the voxels in `box`.
        numbers: `(P,)` the code of each pattern.
    """

    table: np.ndarray
    counts: np.ndarray
    everywhere: np.ndarray
    classes: int
    field: Box
    shape: tuple[int, int, int]
    box: Box
    codes: np.ndarray
    numbers: np.ndarray

    def votes(self) -> np.ndarray:
        """`(P, K)` number of raters that vote for each class in each pattern."""
        found = np.zeros((len(self.table), self.classes + 1), np.int64)
        for column in self.table.T:
            found[np.arange(len(found)), column] += 1
        return found[:, : self.classes]

    def paint(self, values: np.ndarray) -> np.ndarray:
        """`(X, Y, Z)` array that holds at each voxel its pattern's entry of `values`, `(P,)`."""
        lookup = np.zeros(int(self.numbers.max()) + 1, values.dtype)
        lookup[self.numbers] = values
        painted = np.full(self.shape, values[0], values.dtype, _order(self.codes))
        painted[self.box] = _look_up(lookup, self.codes)
        return painted

    def index(self) -> np.ndarray:
        """Row of `table` of each voxel of `box`."""
        lookup = np.zeros(int(self.numbers.max()) + 1, np.min_scalar_type(len(self.table)))
        lookup[self.numbers] = np.arange(len(self.table))
        return _look_up(lookup, self.codes)


def compress(study: Study, *, crop: bool = True) -> Patterns:
    """Number and count the distinct votes of a study.

    Args:
        study: labels of at most 255 classes.
        crop: count only the box of what anybody labelled and its margin (`field.with_margin`), since the share
            of background decides what the STAPLE family believes.

    Raises:
        ValueError: a class index that the study has no class for.
    """
    labels, classes = [rater.labels for rater in study.raters], len(study.classes)
    found = extent(labels)
    if found.highest >= classes:
        raise ValueError(f"class index {found.highest} in a study of {classes} classes")
    box = found.touched or (slice(0, 0), slice(0, 0), slice(0, 0))
    field = with_margin(found.labelled, study.shape, study.spacing_mm) if crop else whole(study.shape)
    states = (np.minimum(array[box], classes) if found.missing else array[box] for array in labels)
    codes, rows = _encode(states, labels[0][box].shape, classes + 1 if found.missing else found.highest + 1)
    boxed = _tally(codes, len(rows))
    numbers = _in_use(boxed)
    everywhere = boxed[numbers]
    everywhere[0] += int(np.prod(study.shape)) - size(box)
    inside = overlap(box, field)
    local = seen_from(inside, box)
    counts = (_tally(codes[local], len(rows)) if size(inside) < size(box) else boxed)[numbers]
    counts[0] += size(field) - size(inside)
    return Patterns(rows[numbers], counts, everywhere, classes, field, study.shape, box, codes, numbers)


def _encode(states: Iterator[np.ndarray], shape: Sequence[int], base: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes of the voxels, and `(codes, R)` the votes that each code stands for, also of codes not in use."""
    codes, rows = None, np.zeros((1, 0), np.uint8)
    for state in states:
        if codes is None:
            codes = np.zeros_like(state, order=_order(state))
        if len(rows) * base > SMALL:
            used = _in_use(_tally(codes, len(rows)))
            lookup = np.zeros(len(rows), np.min_scalar_type(len(used)))
            lookup[used] = np.arange(len(used))
            codes, rows = _look_up(lookup, codes), rows[used]
        if len(rows) * base > LARGEST:
            codes, rows = _sorted(codes, rows, state, base)
            continue
        codes = codes.astype(np.min_scalar_type(len(rows) * base - 1), copy=False)
        codes *= base
        codes += state
        digits = np.tile(np.arange(base, dtype=np.uint8), len(rows))
        rows = np.column_stack([np.repeat(rows, base, 0), digits])
    assert codes is not None, "a study has at least one rater"
    return codes, rows


def _sorted(codes: np.ndarray, rows: np.ndarray, state: np.ndarray, base: int) -> tuple[np.ndarray, np.ndarray]:
    """One more rater where a table of all codes would be too large."""
    used, index = np.unique(codes.astype(np.int64) * base + state, return_inverse=True)
    if used.size and used[0]:  # code 0 stays the background pattern
        used, index = np.insert(used, 0, 0), index + 1
    return index.reshape(codes.shape).astype(np.min_scalar_type(len(used))), np.column_stack(
        [rows[used // base], (used % base).astype(np.uint8)]
    )


def _in_use(tally: np.ndarray) -> np.ndarray:
    """Codes that occur, and always 0: the background pattern lies beyond the box too."""
    return np.append(0, 1 + np.flatnonzero(tally[1:]))


def _order(array: np.ndarray) -> Literal["C", "F"]:
    """How an array lies in memory; a cut from a larger one lies as that does."""
    return "F" if array.strides[0] < array.strides[-1] else "C"


def _chunks(array: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    flat = array.ravel(_order(array))
    for start in range(0, flat.size, CHUNK):
        part = slice(start, start + CHUNK)
        yield part, flat[part]


def _tally(codes: np.ndarray, length: int) -> np.ndarray:
    found = np.zeros(length, np.int64)
    for _, part in _chunks(codes):
        found += np.bincount(part, minlength=length)
    return found


def _look_up(table: np.ndarray, codes: np.ndarray) -> np.ndarray:
    found = np.empty(codes.size, table.dtype)
    for where, part in _chunks(codes):
        np.take(table, part, out=found[where], mode="clip")
    return found.reshape(codes.shape, order=_order(codes))
