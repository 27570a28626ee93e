"""Where there is something to decide: the box round all labels, the disputed voxels, and the band round them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import edt
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
        outer: box round all labels with its padding; outside of it the answer is background.
        agreed: `(X', Y', Z')` uint8 in `outer`: what all raters of a voxel say, or the first of them if they
            differ; `MISSING` where nobody annotated.
        box: the smaller box that holds all disputed voxels and their band, in the whole grid.
        labels: `(R, x, y, z)` uint8 in `box`, one per rater.
        disputed: `(x, y, z)` bool: raters differ, or nobody annotated.
        band: `(x, y, z)` bool: near a disputed voxel; here raters are judged.
        units: spacing over the smallest spacing; infinite along an axis of one voxel, which so takes part in nothing.
    """

    outer: Box
    agreed: np.ndarray
    box: Box
    labels: np.ndarray
    disputed: np.ndarray
    band: np.ndarray
    units: tuple[float, float, float]

    @property
    def within(self) -> Box:
        """`box` as part of `outer`."""
        return relative_box(self.box, self.outer)


def find_region(labels: Sequence[np.ndarray], spacing_mm: tuple[float, ...]) -> Region | None:
    """The region that the raters' labels `(X, Y, Z)` leave to decide; None if nobody labelled anything."""
    shape = labels[0].shape
    tight = labelled_box(labels)
    if tight is None:
        return None
    outer = add_margin(tight, shape, spacing_mm)
    agreed, disputed = _votes([array[outer] for array in labels])
    units = relative_spacing(shape, spacing_mm)
    if len(labels) == 1:  # nobody to differ from: he is judged on all that he did
        box, band = outer, agreed != MISSING
    else:
        inner = bounding_box(disputed)
        reach = [max(4, math.ceil(BAND / unit)) for unit in units]
        within = enlarge_box(inner, reach, disputed.shape) if inner else empty_box()
        disputed = np.ascontiguousarray(disputed[within])
        box = absolute_box(within, outer)
        band = _near(disputed, units)
    return Region(outer, agreed, box, np.stack([array[box] for array in labels]), disputed, band, units)


def _votes(labels: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """What the first rater of each voxel says, and whether the voxel is disputed."""
    agreed = np.empty(labels[0].shape, np.uint8)
    disputed = np.empty(labels[0].shape, bool)
    for k in range(len(agreed)):  # plane by plane: temporary arrays stay in the cache
        first, differ = np.array(labels[0][k]), np.zeros(agreed.shape[1:], bool)
        for array in labels[1:]:
            plane = array[k]
            differ |= (plane != first) & (plane != MISSING) & (first != MISSING)
            np.copyto(first, plane, where=first == MISSING)
        agreed[k], disputed[k] = first, differ | (first == MISSING)
    return agreed, disputed


def _near(disputed: np.ndarray, units: Sequence[float]) -> np.ndarray:
    if not disputed.any():
        return np.zeros_like(disputed)
    steps = tuple(unit if math.isfinite(unit) else 1.0 for unit in units)
    return edt.edt(~disputed, anisotropy=steps, parallel=1) <= BAND
