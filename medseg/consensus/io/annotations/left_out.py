"""Structures that are stored as the value of what is missing: they would become a gap without a word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np

from medseg.consensus.statistics.panel import join_names
from medseg.consensus.study import MISSING, Rater

COINCIDES = 0.5
"""Dice of what two raters left out above which they seem to mean one thing by it."""


def ask_for_structures(raters: Sequence[Rater], missing: int | None, remedy: str) -> list[str]:
    """A question if several raters left out the same place within the image; else nothing.

    What nobody was asked to annotate is whole slices, or lies round a box or a contour that was annotated: it holds
    corners of the image. An organ does not.

    Args:
        raters: before regions and protocols leave out more.
        missing: value in the files of what was not annotated; None: there is none.
        remedy: what to do if it is a structure.

    Examples:
        >>> import numpy as np
        >>> from medseg.consensus.io.annotations.left_out import ask_for_structures
        >>> from medseg.consensus.study import Rater
        >>> anna = np.uint8([[[0], [0], [0], [0]], [[0], [255], [255], [0]], [[1], [0], [0], [0]]])
        >>> bob = np.uint8([[[0], [0], [0], [0]], [[0], [255], [255], [0]], [[1], [1], [0], [0]]])
        >>> ask_for_structures([Rater("anna", anna), Rater("bob", bob)], 255, "--missing-value none")
        ['anna and bob have 255 in one place: is 255 a structure? Then --missing-value none']
    """
    left_out: dict[str, np.ndarray] = {}
    for rater in raters:
        if rater.probabilities is None and rater.labels.max() == MISSING:
            voxels = _voxels_left_out(rater.labels == MISSING)
            if voxels.size:
                left_out[rater.name] = voxels
    names = _largest_group(left_out)
    if missing is None or not names:
        return []
    return [f"{join_names(names)} have {missing} in one place: is {missing} a structure? Then {remedy}"]


def _voxels_left_out(is_missing: np.ndarray) -> np.ndarray:
    """Numbers of the voxels that are left out, without whole planes; none if they hold a corner of the other planes.

    Args:
        is_missing: `(X, Y, Z)` bool.
    """
    nothing = np.empty(0, np.int64)
    if is_missing.all():
        return nothing
    planes = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        planes.append(np.asarray(~is_missing.all(axis=others)))
    numbers = [np.flatnonzero(kept) for kept in planes]
    for corner in product(*((kept[0], kept[-1]) for kept in numbers)):
        if is_missing[corner]:
            return nothing
    x, y, z = planes
    return np.flatnonzero(is_missing & x[:, None, None] & y[:, None] & z)


def _largest_group(left_out: Mapping[str, np.ndarray]) -> list[str]:
    """Names of the rater with whom most others coincide, and of these; none where no two coincide."""
    best: list[str] = []
    for one in left_out.values():
        group = [name for name, other in left_out.items() if _dice(one, other) > COINCIDES]
        if len(group) > max(len(best), 1):
            best = group
    return best


def _dice(one: np.ndarray, other: np.ndarray) -> float:
    """Dice of two sets of voxels by their rising numbers."""
    shared = np.intersect1d(one, other, assume_unique=True).size
    return 2 * shared / (one.size + other.size)
