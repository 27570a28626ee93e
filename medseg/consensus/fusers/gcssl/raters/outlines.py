"""How far the raters' outlines of a structure lie from each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import edt
import numpy as np
from scipy import ndimage

from medseg.consensus.boxes import (
    Box,
    bounding_box,
    box_around,
    box_size,
    enlarge_box,
    full_box,
    intersect,
    relative_box,
)
from medseg.consensus.fusers.gcssl.region import Region
from medseg.consensus.fusers.vote_patterns import VotePatterns
from medseg.consensus.study import MISSING

TAU = 3.0
"""Distance of outlines, in units of the smallest spacing, up to which nothing counts as overlooked."""
APART = 0.05
"""Share of a rater's own structure away from everybody else's from which on it is another structure."""
REACH = 4 * TAU
"""Distances, in units of the smallest spacing, up to which outlines are compared at first; whole volumes take several
times as long."""
MOST = 0.8
"""Share of the voxels, of all raters' boxes, from which on distances up to a bound are not cheaper than all."""
FAR = REACH / 3
"""Median distance of two outlines from which on they are compared at any distance."""


def boxes_of_classes(labels: np.ndarray, classes: int) -> dict[int, list[Box]]:
    """Of each class the boxes of what the raters `(R, x, y, z)` call so; who calls nothing so has none."""
    boxes: dict[int, list[Box]] = {}
    for volume in labels:
        found = ndimage.find_objects(np.where(volume == MISSING, 0, volume), max_label=classes - 1)
        for c, box in enumerate(found, start=1):
            if box is not None:
                boxes.setdefault(c, []).append(box)
    return boxes


class Outlines:
    """What each rater calls `c`, and how far from its outline the voxels lie that anybody calls so.

    Args:
        region: of the raters.
        box: around all that anybody calls `c`.
        c: number of the class.
        reach: up to which distances are wanted; what lies farther away counts as infinitely far.

    Attributes:
        voxels: `(n,)` flat indices in the box of all that anybody calls `c`.
        signed: `(R, n)` float16, in units of the smallest spacing. Outside of the rater's structure the distance from
            it, infinite beyond `reach` or where the rater has none; inside the negative distance of the nearest voxel
            that the rater gave another label. What the rater did not annotate is no boundary to the inside.
        spread: median distance of two raters' outlines, and of those of all pairs the median; 0 without a pair. With a
            finite `reach` one that is not above half of it is as it would be without, and no other one is so low.
    """

    def __init__(self, region: Region, box: Box, c: int, reach: float = math.inf) -> None:
        self.sides = tuple(unit if math.isfinite(unit) else 1.0 for unit in region.units)
        self.reach = reach
        # a structure may end at the box, and that is a boundary
        around = enlarge_box(box, (1, 1, 1), region.labels.shape[1:])
        within = relative_box(box, around)
        volumes = [volume[around] for volume in region.labels]
        anybody = np.zeros(volumes[0][within].shape, bool)
        for volume in volumes:
            anybody |= volume[within] == c
        self.voxels = np.flatnonzero(anybody)
        self.signed = np.full((len(volumes), self.voxels.size), np.inf, np.float16)
        inner = np.zeros(self.signed.shape, bool)
        for r, volume in enumerate(volumes):
            own = volume == c
            tight = bounding_box(own)
            if tight is not None:
                signed = self._signed_distance(own, volume == MISSING, tight)
                self.signed[r] = signed[within].reshape(-1)[self.voxels]
                inner[r] = _without_surface(own[within]).reshape(-1)[self.voxels]
        medians = _median_distances(self.signed, inner)
        self.spread = float(np.median(medians)) if medians else 0.0

    def _signed_distance(self, own: np.ndarray, missing: np.ndarray, tight: Box) -> np.ndarray:
        """`(x, y, z)` float32 distance from the outline of a structure that lies in the box `tight`."""
        near = full_box(own.shape)
        if math.isfinite(self.reach):
            near = enlarge_box(tight, [math.ceil(self.reach / side) for side in self.sides], own.shape)
        inside = np.ascontiguousarray(own[near])
        # every change of label is a boundary: one pass for both sides
        distance = edt.edt(inside + np.uint8(1), anisotropy=self.sides, parallel=1)
        if missing[near].any():
            known = inside | missing[near]
            distance[inside] = edt.edt(known, anisotropy=self.sides, parallel=1)[inside]
        np.negative(distance, out=distance, where=inside)
        distance[distance > self.reach] = np.inf
        signed = np.full(own.shape, np.inf, np.float32)
        signed[near] = distance
        return signed


def _median_distances(signed: np.ndarray, inner: np.ndarray) -> list[float]:
    """Median distance of the outlines of each two raters who have some.

    The distance of two outlines is seen where one of them lies on or outside the other: there it is the distance of the
    voxel from the other's structure.

    Args:
        signed: `(R, n)` of `Outlines`.
        inner: `(R, n)` bool: voxels of the rater's structure that are none of its surface.
    """
    edges = (signed <= 0) & ~inner
    drawn = np.flatnonzero(edges.any(axis=1))
    medians = []
    for r, s in combinations(drawn, 2):
        from_r = signed[r][edges[s] & ~inner[r]]
        from_s = signed[s][edges[r] & ~inner[s]]
        distances = np.concatenate([from_r, from_s]).astype(np.float32)
        medians.append(float(np.median(np.maximum(distances, 0))))
    return medians


@dataclass(frozen=True, eq=False)
class Drawn:
    """What the raters drew of a structure.

    Args:
        c: number of the structure.
        chosen: `(m,)` numbers of the disputed voxels whose structure most raters say is this one.
        places: `(m,)` where these are among the voxels of the outlines.
        outlines: of all raters.
        apart: `(R,)` bool: raters whose structure is another one than everybody else's.
    """

    c: int
    chosen: np.ndarray
    places: np.ndarray
    outlines: Outlines
    apart: np.ndarray


def find_drawn(region: Region, patterns: VotePatterns, rows: np.ndarray) -> list[Drawn]:
    """The structures that the disputed voxels may be of.

    Args:
        region: of the raters.
        patterns: of the same raters in the region's `outer_box`.
        rows: `(n,)` pattern of each disputed voxel.
    """
    structure = most_voted_structures(patterns)[rows]
    positions = np.nonzero(region.disputed)
    boxes_of_raters = boxes_of_classes(region.labels, patterns.classes)
    found = []
    for c in np.unique(structure[structure > 0]):
        box = box_around(boxes_of_raters[c])
        outlines = _find_outlines(region, boxes_of_raters[c], int(c))
        chosen = np.flatnonzero(structure == c)
        place = [along[chosen] - side.start for along, side in zip(positions, box, strict=True)]
        is_chosen = np.zeros([side.stop - side.start for side in box], bool)
        is_chosen[tuple(place)] = True
        places = np.flatnonzero(is_chosen.reshape(-1)[outlines.voxels])
        apart = _lie_apart(outlines, patterns.counts @ (patterns.table == c))
        found.append(Drawn(int(c), chosen, places, outlines, apart))
    return found


def most_voted_structures(patterns: VotePatterns) -> np.ndarray:
    """`(P,)` label above 0 of most raters in each pattern, of equally frequent ones the lowest; 0 if there is none."""
    votes = patterns.count_votes()
    votes[:, 0] = 0
    return votes.argmax(axis=1)


def _find_outlines(region: Region, boxes: Sequence[Box], c: int) -> Outlines:
    """The outlines, with distances in full only where those up to `REACH` do not tell their spread, or cost as much.

    Args:
        region: of the raters.
        boxes: of what the raters call `c`.
        c: number of the class.
    """
    box = box_around(boxes)
    margin = [math.ceil(REACH / unit) if math.isfinite(unit) else 0 for unit in region.units]
    near = [box_size(intersect(enlarge_box(own, margin, region.labels.shape[1:]), box)) for own in boxes]
    if sum(near) > MOST * len(boxes) * box_size(box):
        return Outlines(region, box, c)
    outlines = Outlines(region, box, c, REACH)
    return Outlines(region, box, c) if outlines.spread > FAR else outlines


def _lie_apart(outlines: Outlines, sizes: np.ndarray) -> np.ndarray:
    """`(R,)` bool: raters of whose structure more than `APART` lies away from every other rater's.

    Where fewer than two raters' structures would be left nobody is: nothing says then which is the other one.

    Args:
        outlines: of the structure.
        sizes: `(R,)` voxels of it by each rater.
    """
    near = np.count_nonzero(outlines.signed <= TAU, axis=0)
    alone = np.count_nonzero((outlines.signed <= 0) & (near < 2), axis=1)
    apart = alone > APART * sizes
    left = (sizes > 0) & ~apart
    return apart if np.count_nonzero(left) >= 2 else np.zeros_like(apart)


def _without_surface(structure: np.ndarray) -> np.ndarray:
    """The voxels of a structure all of whose neighbours by a face are in it; an axis of one voxel has no inside."""
    inner = structure.copy()
    for axis, length in enumerate(structure.shape):
        if length > 1:
            own, inside = np.moveaxis(structure, axis, 0), np.moveaxis(inner, axis, 0)
            inside[1:] &= own[:-1]
            inside[:-1] &= own[1:]
            inside[0] = inside[-1] = False
    return inner
