"""What values without names mean beside names without values: the structures that coincide.

A label map tells its structures by values, contours and layers tell theirs by names. Where no file has both, only the
place tells which is which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medseg.consensus.boxes import labelled_box
from medseg.consensus.io.annotations.segment_table import ClassKeys, Segment
from medseg.consensus.statistics.panel import join_names
from medseg.consensus.study import MISSING
from medseg.errors import DataError

COINCIDES = 0.5
"""Median Dice above which a value and a name mean one structure."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """One rater's labels and what they mean.

    Args:
        labels: `(X, Y, Z)` uint8, of all raters on one grid: 0, the place of a segment from 1, or `MISSING`.
        segments: of the labels.
        path: of the file.
    """

    labels: np.ndarray
    segments: Sequence[Segment]
    path: Path


def match_values(raters: Sequence[Labelled], known: Sequence[Segment]) -> tuple[list[Segment], list[str]]:
    """Names of the values that no file names, and a note on them.

    Args:
        raters: those with labels.
        known: classes that are known beforehand.

    Returns:
        A segment with name and value for each name that coincides with one value, and with no other.

    Raises:
        DataError: both a value and a name are left over: they may be one structure, or two.

    Examples:
        The first file has names in layers that are all of the value 1, the second only values.

        >>> layers = [Segment(1, "liver", has_value=False), Segment(1, "spleen", has_value=False)]
        >>> first = Labelled(np.uint8([[[1, 1, 0, 2, 2]]]), layers, Path("a.seg.nrrd"))
        >>> second = Labelled(np.uint8([[[2, 2, 0, 1, 1]]]), [Segment(3), Segment(7)], Path("b.nii.gz"))
        >>> found, notes = match_values([first, second], [])
        >>> [(segment.value, segment.name) for segment in found]
        [(3, 'spleen'), (7, 'liver')]
    """
    keys = ClassKeys([known, *(rater.segments for rater in raters)])
    names = _without_value(raters, known, keys)
    values = sorted({key for key in map(keys.of, _all_segments(raters)) if isinstance(key, int)})
    if not names or not values:
        return [], []
    dice = _median_dice(raters, keys, values, list(names))
    coincide = dice > COINCIDES
    is_one = coincide & (coincide.sum(axis=0) == 1) & (coincide.sum(axis=1, keepdims=True) == 1)
    found = []
    left = dict(names)
    for v, n in np.argwhere(is_one):
        named = left.pop(list(names)[n])
        found.append(replace(named, value=values[v], layer=0, has_value=True))
    matched = {segment.value for segment in found}
    unnamed = [value for value in values if value not in matched]
    if unnamed and left:
        path = next(rater.path for rater in raters if unnamed[0] in map(keys.of, rater.segments))
        _refuse(unnamed[0], [segment.title for segment in left.values()], path)
    return found, _notes(found, float(dice[is_one].min())) if found else []


def _all_segments(raters: Sequence[Labelled]) -> list[Segment]:
    return [segment for rater in raters for segment in rater.segments]


def _without_value(raters: Sequence[Labelled], known: Sequence[Segment], keys: ClassKeys) -> dict[str | int, Segment]:
    """Key -> segment of each name that no file and no user has given a value."""
    segments = [*known, *_all_segments(raters)]
    with_value = {keys.of(segment) for segment in segments if segment.has_value}
    names: dict[str | int, Segment] = {}
    for segment in segments:
        key = keys.of(segment)
        if key not in with_value:
            names.setdefault(key, segment)
    return names


def _median_dice(
    raters: Sequence[Labelled], keys: ClassKeys, values: Sequence[int], names: Sequence[str | int]
) -> np.ndarray:
    """`(V, N)` median Dice of each value with each name, over the raters who drew both; 0 where nobody did.

    Args:
        raters: of the study.
        keys: what is one class.
        values: without names.
        names: without values.
    """
    box = labelled_box([rater.labels for rater in raters])
    if box is None:
        return np.zeros((len(values), len(names)))
    indices = [_class_numbers(rater, keys, [*values, *names]) for rater in raters]
    scores: dict[tuple[int, int], list[float]] = {}
    for one, own in zip(raters, indices, strict=True):
        for other, theirs in zip(raters, indices, strict=True):
            rows, columns = own[:, : len(values)], theirs[:, len(values) :]
            if one is other or not rows.any() or not columns.any():
                continue
            table = _count_pairs(one.labels[box], other.labels[box])
            sizes, sizes_there = table.sum(axis=1) @ rows, table.sum(axis=0) @ columns
            shared = rows.T @ table @ columns
            for v, n in np.argwhere((sizes[:, None] > 0) & (sizes_there[None] > 0)):
                scores.setdefault((v, n), []).append(float(2 * shared[v, n] / (sizes[v] + sizes_there[n])))
    median = np.zeros((len(values), len(names)))
    for place, of_pairs in scores.items():
        median[place] = np.median(of_pairs)
    return median


def _class_numbers(rater: Labelled, keys: ClassKeys, classes: Sequence[str | int]) -> np.ndarray:
    """`(256, C)` 1 where a label of the rater means a class, else 0."""
    table = np.zeros((256, len(classes)), np.int64)
    places: Mapping[str | int, int] = {key: place for place, key in enumerate(classes)}
    for label, segment in enumerate(rater.segments, start=1):
        if (place := places.get(keys.of(segment))) is not None:
            table[label, place] = 1
    return table


def _count_pairs(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """`(256, 256)` voxels with each label of two maps, where both annotated; slice by slice, to save memory."""
    counts = np.zeros(256 * 256, np.int64)
    for z in range(one.shape[2]):
        pairs = one[..., z].astype(np.uint16) * 256 + other[..., z]
        counts += np.bincount(pairs.ravel(), minlength=counts.size)
    table = counts.reshape(256, 256)
    table[MISSING] = 0
    table[:, MISSING] = 0
    return table


def _refuse(value: int, names: Sequence[str], path: Path) -> None:
    raise DataError(
        f"holds the value {value} without a name, and there is no value for {join_names(names)}; their places do not "
        "tell which is which",
        path=path, hint=f"say so, such as --label {value}='{names[0]}'",
    )  # fmt: skip


def _notes(found: Sequence[Segment], lowest: float) -> list[str]:
    """One note on what the values were taken for."""
    pairs = ", ".join(f"{segment.value} for {segment.title}" for segment in found)
    what = "values without names are taken for the structures that they coincide with"
    return [f"{what}: {pairs} (lowest Dice {lowest:.2f}); --label says otherwise"]
