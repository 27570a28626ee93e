"""Where there is something to decide: the box of all labels, the disputed voxels, and the band around them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medseg.consensus.boxes import (
    Box,
    absolute_box,
    add_margin,
    bounding_box,
    empty_box,
    enlarge_box,
    labelled_box,
    relative_box,
    relative_spacing,
)
from medseg.consensus.study import MISSING

BAND = 6.0
"""Half width of the band, in units of the smallest spacing."""


@dataclass(frozen=True, eq=False)
class Region:
    """What the raters say where it matters.

    Args:
        outer_box: box of all labels with its margin; outside of it the answer is background.
        agreed: `(X', Y', Z')` uint8 in `outer_box`: what all raters of a voxel say, or the first of them if they
            differ; `MISSING` where nobody annotated.
        box: the smaller box that holds all disputed voxels and their band, in the whole grid.
        labels: `(R, x, y, z)` uint8 in `box`, one per rater.
        disputed: `(x, y, z)` bool: raters differ, or nobody annotated.
        band: `(x, y, z)` bool: near a disputed voxel; here raters are scored.
        units: spacing over the smallest spacing; infinite along an axis of one voxel, which so takes part in nothing.
    """

    outer_box: Box
    agreed: np.ndarray
    box: Box
    labels: np.ndarray
    disputed: np.ndarray
    band: np.ndarray
    units: tuple[float, float, float]

    @property
    def inner_box(self) -> Box:
        """`box` as part of `outer_box`."""
        return relative_box(self.box, self.outer_box)

    def disputed_positions(self) -> list[np.ndarray]:
        """`(n,)` along each axis: where in `outer_box` the disputed voxels lie, in the order of the array."""
        positions = np.nonzero(self.disputed)
        return [along + side.start for along, side in zip(positions, self.inner_box, strict=True)]


def find_region(labels: Sequence[np.ndarray], spacing_mm: tuple[float, ...]) -> Region | None:
    """The region that the raters' labels `(X, Y, Z)` leave to decide; None if nobody labelled anything."""
    shape = labels[0].shape
    labelled = labelled_box(labels)
    if labelled is None:
        return None
    outer_box = add_margin(labelled, shape, spacing_mm)
    agreed, disputed = _compare_raters([array[outer_box] for array in labels])
    units = relative_spacing(shape, spacing_mm)
    if len(labels) == 1:  # nobody to differ from: the rater is scored on everything annotated
        box, band = outer_box, agreed != MISSING
    else:
        inner_box = _box_of_band(disputed, units)
        disputed = np.ascontiguousarray(disputed[inner_box])
        box, band = absolute_box(inner_box, outer_box), _find_band(disputed, units)
    return Region(outer_box, agreed, box, np.stack([array[box] for array in labels]), disputed, band, units)


def _compare_raters(labels: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """What the first rater of each voxel says, and whether the voxel is disputed."""
    agreed = np.empty(labels[0].shape, np.uint8)
    disputed = np.empty(labels[0].shape, bool)
    for k in range(len(agreed)):  # plane by plane: temporary arrays stay in the cache
        first = np.array(labels[0][k])
        differ = np.zeros(first.shape, bool)
        for array in labels[1:]:
            plane = array[k]
            differ |= (plane != first) & (plane != MISSING) & (first != MISSING)
            np.copyto(first, plane, where=first == MISSING)
        agreed[k] = first
        disputed[k] = differ | (first == MISSING)
    return agreed, disputed


def _box_of_band(disputed: np.ndarray, units: Sequence[float]) -> Box:
    """Box of all disputed voxels and the band around them; empty if nothing is disputed."""
    tight = bounding_box(disputed)
    if tight is None:
        return empty_box()
    width = [max(4, math.ceil(BAND / unit)) for unit in units]
    return enlarge_box(tight, width, disputed.shape)


def _find_band(disputed: np.ndarray, units: Sequence[float]) -> np.ndarray:
    """`(x, y, z)` bool: voxels at most `BAND` away from a disputed one.

    The ball around each is put together of discs in the planes of the first axis, and the discs of lines: a map of
    exact distances takes several times as long.
    """
    sides = [unit if math.isfinite(unit) else 1.0 for unit in units]
    band = np.zeros_like(disputed)
    for k in np.flatnonzero(disputed.any(axis=(1, 2))):
        lines = _lines_in_plane(disputed[k], _whole_steps(BAND, sides[2]))
        for i in range(_whole_steps(BAND, sides[0]) + 1):
            disc = np.zeros_like(lines[0])
            for j in range(_whole_steps(BAND, sides[1]) + 1):
                square = BAND**2 - (i * sides[0]) ** 2 - (j * sides[1]) ** 2
                if square >= 0:
                    _add_moved(disc, lines[_whole_steps(math.sqrt(square), sides[2])], j)
            for plane in {k - i, k + i}:
                if 0 <= plane < len(band):
                    band[plane] |= disc
    return band


def _lines_in_plane(plane: np.ndarray, longest: int) -> list[np.ndarray]:
    """For each k up to the longest: what lies at most k voxels from a voxel of the plane `(y, z)`, along z."""
    lines = [plane]
    for k in range(1, longest + 1):
        longer = lines[-1].copy()
        _add_moved(longer.T, plane.T, k)
        lines.append(longer)
    return lines


def _add_moved(to: np.ndarray, plane: np.ndarray, steps: int) -> None:
    """Add the plane to another, moved by so many voxels along its first axis, to either side."""
    if steps == 0:
        to |= plane
    elif steps < len(to):
        to[steps:] |= plane[:-steps]
        to[:-steps] |= plane[steps:]


def _whole_steps(length: float, side: float) -> int:
    """Voxels of this side in a length, of which a rounding error takes none."""
    return int(length / side + 1e-6)
