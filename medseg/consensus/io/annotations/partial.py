"""What a rater did not look at: regions, partial protocols, probabilities that are all zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from medseg.consensus.io.align import Interpolation, Placed, bring_to_grid
from medseg.consensus.io.annotations.segment_table import Segment
from medseg.consensus.study import MISSING, Rater
from medseg.errors import ConfigError, DataError
from medseg.portable.io.header import Header
from medseg.portable.io.labels import read_labels
from medseg.structure_names import find_named

NOTHING = 1e-6
"""Probabilities that sum to less say that nothing was annotated."""

ROUNDING = 1e-3


def tidy_probabilities(array: np.ndarray, path: Path) -> tuple[np.ndarray, list[str]]:
    """Probabilities `(K, X, Y, Z)` that sum to 1, or to 0 where nothing was annotated, and notes.

    Raises:
        DataError: NaN, or numbers outside [0, 1].
    """
    if not np.isfinite(array).all() or array.min() < -ROUNDING or array.max() > 1 + ROUNDING:
        raise DataError("holds probabilities outside 0 to 1, or NaN", path=path, hint="apply a softmax first")
    total = array.sum(0)
    given = total >= NOTHING
    worst = float(np.abs(total[given] - 1).max(initial=0))
    tidy = np.divide(array, total, out=np.zeros_like(array), where=given)
    note = f"its probabilities sum to 1 with a deviation of up to {worst:.2g}: they were scaled"
    return tidy, [note] if worst > ROUNDING else []


def limit_to_region(
    rater: Rater, file: Path, grid: Header, interpolation: Interpolation | None
) -> tuple[Rater, list[str]]:
    """A rater who annotated only where a mask is not 0, and a note."""
    array, header = read_labels(file)
    if len(array) != 1:
        raise DataError(f"has {len(array)} channels; a region has one", path=file)
    region = Placed((array[0] != 0).astype(np.uint8), header, outside=0)
    mask, notes = bring_to_grid(region, grid, interpolation)
    outside = mask == 0
    note = f"{rater.name}: {float(np.mean(outside)):.1%} of the image lies outside {file.name}"
    return _remove_votes(rater, outside), [*notes, note]


def limit_to_protocol(
    rater: Rater, others: Sequence[np.ndarray], wanted: str, segments: Sequence[Segment]
) -> tuple[Rater, list[str]]:
    """A rater who did not look for a class: background that others call it is not annotated.

    Args:
        rater: the one.
        others: labels `(X, Y, Z)` of the others.
        wanted: name or value of the class.
        segments: of all classes.

    Raises:
        ConfigError: there is no such class.
    """
    index = _find_class(wanted, segments)
    called_so = np.zeros(rater.labels.shape, bool)
    for labels in others:
        called_so |= labels == index
    unseen = called_so & (rater.labels == 0)
    count, title = int(np.count_nonzero(unseen)), segments[index - 1].title
    note = f"{rater.name}: did not look for {title}: {count} voxels that others call so count as not annotated"
    return _remove_votes(rater, unseen), [note]


def _find_class(wanted: str, segments: Sequence[Segment]) -> int:
    """Class index of a name or a label value."""
    for index, segment in enumerate(segments, start=1):
        if wanted == str(segment.value):
            return index
    titles = [segment.title for segment in segments]
    places = find_named(wanted, titles)
    if not places:
        raise ConfigError(f"there is no class called {wanted}; there are {', '.join(titles)}")
    return places[0] + 1


def _remove_votes(rater: Rater, where: np.ndarray) -> Rater:
    """The rater, who annotated nothing where `where` `(X, Y, Z)` is true."""
    labels = rater.labels.copy()
    labels[where] = MISSING
    if rater.probabilities is None:
        return replace(rater, labels=labels)
    probabilities = rater.probabilities.copy()
    probabilities[:, where] = 0
    return replace(rater, labels=labels, probabilities=probabilities)
