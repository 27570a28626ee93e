"""A study as its distinct votes: all that a fuser needs that decides every voxel by itself.

Such a fuser's answer at a voxel depends on the tuple of the raters' votes there (its pattern) and on how often each
pattern occurs. Five raters and two labels make at most 32 patterns, 14 labels in practice some thousands, so that the
volume is read once to number and count them and once to write the answer, whatever the iterations between.

A voxel's code is a number in base K (K + 1 where some rater left a voxel out) with one digit per rater. Where the
codes would outgrow a small table, those in use are numbered afresh before the next rater's digit is appended. So any
number of raters fits into small integers, nothing is hashed and no two patterns can collide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medseg.consensus.boxes import (
    Box,
    add_margin,
    bounding_box,
    box_size,
    empty_box,
    full_box,
    intersect,
    relative_box,
)
from medseg.consensus.study import MISSING, Study

SMALL = 1 << 16
"""Codes below take 2 bytes, and their table stays in the processor's cache."""
LARGEST = 1 << 20
"""Codes below are counted in a table, others by sorting them: only noise has as many."""
CHUNK = 1 << 18
"""Voxels at a time where NumPy wants indices of 8 bytes."""


@dataclass(frozen=True, eq=False)
class VotePatterns:
    """The distinct votes of a study; pattern 0 is background by every rater.

    Args:
        table: `(P, R)` uint8, the vote of each rater in each pattern: a class, or K for no vote.
        counts: `(P,)` int64 voxels of each pattern in `box`.
        grid_counts: `(P,)` int64 voxels of each pattern in the whole grid.
        classes: K.
        box: the part of the grid that `counts` counts.
        shape: of the grid.
        coded_box: the part of the grid that has codes; every voxel beyond it has pattern 0.
        codes: of the voxels in `coded_box`.
        pattern_codes: `(P,)` the code of each pattern.
    """

    table: np.ndarray
    counts: np.ndarray
    grid_counts: np.ndarray
    classes: int
    box: Box
    shape: tuple[int, int, int]
    coded_box: Box
    codes: np.ndarray
    pattern_codes: np.ndarray

    def voted(self) -> np.ndarray:
        """`(P, R)` bool: whether the rater annotated the voxels of a pattern."""
        return self.table < self.classes

    def count_votes(self) -> np.ndarray:
        """`(P, K)` number of raters that vote for each class in each pattern."""
        found = np.zeros((len(self.table), self.classes + 1), np.int64)
        for column in self.table.T:
            found[np.arange(len(found)), column] += 1
        return found[:, : self.classes]

    def disputed(self) -> np.ndarray:
        """`(P,)` bool: whether the raters who vote differ, or none does."""
        votes = self.count_votes()
        return votes.max(1) < np.maximum(votes.sum(1), 1)

    def active_raters(self) -> np.ndarray:
        """`(R,)` bool: whether a rater annotated anything."""
        return (self.grid_counts @ self.voted()) > 0

    def to_volume(self, values: np.ndarray) -> np.ndarray:
        """`(X, Y, Z)` array that holds at each voxel its pattern's entry of `values`, `(P,)`."""
        lookup = np.zeros(int(self.pattern_codes.max()) + 1, values.dtype)
        lookup[self.pattern_codes] = values
        volume = np.full(self.shape, values[0], values.dtype, _memory_order(self.codes))
        volume[self.coded_box] = _look_up(lookup, self.codes)
        return volume

    def indices(self) -> np.ndarray:
        """Row of `table` of each voxel of `coded_box`."""
        return _look_up(self._row_of_code(), self.codes)

    def rows_at(self, positions: Sequence[np.ndarray]) -> np.ndarray:
        """`(n,)` row of `table` of voxels of `coded_box`, whose positions in the grid are `(n,)` along each axis."""
        in_box = [along - side.start for along, side in zip(positions, self.coded_box, strict=True)]
        return self._row_of_code()[self.codes[tuple(in_box)]]

    def _row_of_code(self) -> np.ndarray:
        lookup = np.zeros(int(self.pattern_codes.max()) + 1, np.min_scalar_type(len(self.table)))
        lookup[self.pattern_codes] = np.arange(len(self.table))
        return lookup


def find_patterns(study: Study, *, crop: bool = True) -> VotePatterns:
    """Number and count the distinct votes of a study.

    Args:
        study: labels of at most 255 classes.
        crop: count only the box of what anybody labelled and its margin (`boxes.add_margin`), since the share of
            background decides which rates the STAPLE family estimates.

    Raises:
        ValueError: a class index that the study has no class for.
    """
    labels, classes = [rater.labels for rater in study.raters], len(study.classes)
    extent = _find_extent(labels)
    if extent.highest >= classes:
        raise ValueError(f"class index {extent.highest} in a study of {classes} classes")
    box = add_margin(extent.labelled, study.shape, study.spacing_mm) if crop else full_box(study.shape)
    coded_box = extent.touched or empty_box()
    if extent.missing:
        codes, rows = _encode(_votes(labels, coded_box, classes), classes + 1)
    else:
        codes, rows = _encode((array[coded_box] for array in labels), extent.highest + 1)
    coded_counts = _tally(codes, len(rows))
    used = _codes_in_use(coded_counts)

    grid_counts = coded_counts[used]
    grid_counts[0] += int(np.prod(study.shape)) - box_size(coded_box)

    counted_box = intersect(coded_box, box)
    if box_size(counted_box) < box_size(coded_box):
        counts = _tally(codes[relative_box(counted_box, coded_box)], len(rows))[used]
    else:
        counts = coded_counts[used]
    counts[0] += box_size(box) - box_size(counted_box)
    return VotePatterns(rows[used], counts, grid_counts, classes, box, study.shape, coded_box, codes, used)


@dataclass(frozen=True)
class _Extent:
    """Where and what the raters annotated.

    Args:
        labelled: box of the voxels that any rater gave a class above 0; None if there are none.
        touched: box of the voxels that are not background for every rater: labelled or `MISSING`; None likewise.
        highest: the highest class index.
        missing: whether any rater left a voxel out.
    """

    labelled: Box | None
    touched: Box | None
    highest: int
    missing: bool


def _find_extent(labels: Sequence[np.ndarray]) -> _Extent:
    """Boxes of what is not background in any of the `(X, Y, Z)` uint8 maps, in two passes over each."""
    highest = _maximum(labels)
    touched = bounding_box(highest)
    top = int(highest.max(initial=0))
    if top < MISSING:
        return _Extent(touched, touched, top, missing=False)
    # plus one wraps MISSING to 0, below the background
    following = _maximum([np.add(array, 1) for array in labels])
    top = int(following.max(initial=0))
    return _Extent(bounding_box(following > 1), touched, max(top - 1, 0), missing=True)


def _maximum(labels: Sequence[np.ndarray]) -> np.ndarray:
    """The highest value of each voxel in any map."""
    if len(labels) == 1:
        return labels[0]
    highest = np.maximum(labels[0], labels[1])
    for array in labels[2:]:
        np.maximum(highest, array, out=highest)
    return highest


def _votes(labels: Sequence[np.ndarray], box: Box, classes: int) -> Iterator[np.ndarray]:
    """Each rater's votes in a box: classes, and K for no vote."""
    for array in labels:
        yield np.minimum(array[box], classes)


def _encode(votes: Iterator[np.ndarray], base: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes of the voxels, and `(codes, R)` the votes that each code stands for, also of codes that do not occur."""
    codes, rows = None, np.zeros((1, 0), np.uint8)
    for vote in votes:
        if codes is None:
            codes = np.zeros_like(vote, order=_memory_order(vote))
        if len(rows) * base > SMALL:
            codes, rows = _renumber(codes, rows)
        if len(rows) * base > LARGEST:
            codes, rows = _append_by_sorting(codes, rows, vote, base)
        else:
            codes, rows = _append_digit(codes, rows, vote, base)
    assert codes is not None, "a study has at least one rater"
    return codes, rows


def _renumber(codes: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Only the codes in use, numbered from 0."""
    used = _codes_in_use(_tally(codes, len(rows)))
    lookup = np.zeros(len(rows), np.min_scalar_type(len(used)))
    lookup[used] = np.arange(len(used))
    return _look_up(lookup, codes), rows[used]


def _append_digit(codes: np.ndarray, rows: np.ndarray, vote: np.ndarray, base: int) -> tuple[np.ndarray, np.ndarray]:
    """One more rater, as the last digit of each code."""
    codes = codes.astype(np.min_scalar_type(len(rows) * base - 1), copy=False)
    codes *= base
    codes += vote
    digits = np.tile(np.arange(base, dtype=np.uint8), len(rows))
    return codes, np.column_stack([np.repeat(rows, base, 0), digits])


def _append_by_sorting(
    codes: np.ndarray, rows: np.ndarray, vote: np.ndarray, base: int
) -> tuple[np.ndarray, np.ndarray]:
    """One more rater where a table of all codes would be too large."""
    used, index = np.unique(codes.astype(np.int64) * base + vote, return_inverse=True)
    if used.size and used[0]:  # code 0 stays the background pattern
        used, index = np.insert(used, 0, 0), index + 1
    codes = index.reshape(codes.shape).astype(np.min_scalar_type(len(used)))
    return codes, np.column_stack([rows[used // base], (used % base).astype(np.uint8)])


def _codes_in_use(tally: np.ndarray) -> np.ndarray:
    """Codes that occur, and always 0: the background pattern lies beyond the coded box too."""
    return np.append(0, 1 + np.flatnonzero(tally[1:]))


def _memory_order(array: np.ndarray) -> Literal["C", "F"]:
    """How an array lies in memory; a cut from a larger one lies as that does."""
    return "F" if array.strides[0] < array.strides[-1] else "C"


def _chunks(array: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    flat = array.ravel(_memory_order(array))
    for start in range(0, flat.size, CHUNK):
        part = slice(start, start + CHUNK)
        yield part, flat[part]


def _tally(codes: np.ndarray, length: int) -> np.ndarray:
    """`(length,)` how often each code occurs."""
    found = np.zeros(length, np.int64)
    for _, part in _chunks(codes):
        found += np.bincount(part, minlength=length)
    return found


def _look_up(table: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The table's entry for each code, in the memory order of the codes."""
    found = np.empty(codes.size, table.dtype)
    for where, part in _chunks(codes):
        np.take(table, part, out=found[where], mode="clip")
    return found.reshape(codes.shape, order=_memory_order(codes))
