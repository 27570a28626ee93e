"""How far the raters' outlines of a structure lie from each other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import edt
import numpy as np
from scipy import ndimage

from medseg.consensus.boxes import Box, bounding_box, enlarge_box
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
FAR = REACH / 3
"""Median distance of two outlines from which on they are compared at any distance."""


def boxes_of_classes(labels: np.ndarray, classes: int) -> dict[int, Box]:
    """Box of all voxels of each class by any of the raters `(R, x, y, z)`."""
    boxes: dict[int, Box] = {}
    for volume in labels:
        found = ndimage.find_objects(np.where(volume == MISSING, 0, volume), max_label=classes - 1)
        for c, box in enumerate(found, start=1):
            if box is not None:
                boxes[c] = _around_both(boxes[c], box) if c in boxes else box
    return boxes


def _around_both(first: Box, second: Box) -> Box:
    x, y, z = (slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(first, second, strict=True))
    return x, y, z


class Outlines:
    """What each rater calls `c`, and how far from it the voxels lie that other raters call so.

    Args:
        region: of the raters.
        box: around all that anybody calls `c`.
        c: number of the class.
        reach: up to which distances are wanted; what lies farther away counts as infinitely far.

    Attributes:
        voxels: `(n,)` flat indices in the box of all that anybody calls `c`.
        distances: `(R, n)` float16, from each rater's structure, in units of the smallest spacing: 0 in the structure,
            infinite beyond `reach` or where the rater has none.
    """

    def __init__(self, region: Region, box: Box, c: int, reach: float = math.inf) -> None:
        self.region, self.box, self.c, self.reach = region, box, c, reach
        self.sides = tuple(unit if math.isfinite(unit) else 1.0 for unit in region.units)
        structures = [np.ascontiguousarray(volume[box] == c) for volume in region.labels]
        self.voxels = np.flatnonzero(np.logical_or.reduce(structures))
        self.distances = np.full((len(structures), self.voxels.size), np.inf, np.float16)
        self.inner = np.zeros(self.distances.shape, bool)
        for r, own in enumerate(structures):
            tight = bounding_box(own)
            if tight is not None:
                self.distances[r] = self._distance_from(own, tight).reshape(-1)[self.voxels]
                self.inner[r] = _without_surface(own).reshape(-1)[self.voxels]

    def _distance_from(self, own: np.ndarray, tight: Box) -> np.ndarray:
        """`(x, y, z)` float32 distance from a structure that lies in the box `tight`."""
        if math.isinf(self.reach):
            return edt.edt(~own, anisotropy=self.sides, parallel=1)
        margin = [math.ceil(self.reach / side) for side in self.sides]
        around = enlarge_box(tight, margin, own.shape)
        near = edt.edt(~own[around], anisotropy=self.sides, parallel=1)
        near[near > self.reach] = np.inf
        distance = np.full(own.shape, np.inf, np.float32)
        distance[around] = near
        return distance

    def depths(self, r: int) -> np.ndarray:
        """`(n,)` float32: how deep in a rater's structure the voxels lie, in units of the smallest spacing.

        It is the distance of the nearest voxel that the rater gave another label, infinite where there is none, and 0
        outside of the structure. What the rater did not annotate is no boundary.
        """
        own = self.region.labels[r] == self.c
        tight = bounding_box(own)
        depth = np.zeros(own.shape, np.float32)
        if tight is not None:
            around = enlarge_box(tight, (1, 1, 1), own.shape)
            known = own[around] | (self.region.labels[r][around] == MISSING)
            depth[around] = np.where(own[around], edt.edt(known, anisotropy=self.sides, parallel=1), 0)
        return depth[self.box].reshape(-1)[self.voxels]

    def spread(self) -> float:
        """Median distance of two raters' outlines, and of those of all pairs the median; 0 without a pair.

        The distance of two outlines is seen where one of them lies on or outside the other: there it is the distance
        of the voxel from the other's structure.
        """
        medians = self.median_distances()
        return float(np.median(medians)) if medians else 0.0

    def median_distances(self) -> list[float]:
        """Median distance of the outlines of each two raters who have some.

        With a finite `reach` one that is not above half of it is as it would be without, and no other one is so low.
        """
        edges = (self.distances == 0) & ~self.inner
        drawn = np.flatnonzero(edges.any(axis=1))
        medians = []
        for r, s in combinations(drawn, 2):
            from_r = self.distances[r][edges[s] & ~self.inner[r]]
            from_s = self.distances[s][edges[r] & ~self.inner[s]]
            medians.append(float(np.median(np.concatenate([from_r, from_s]).astype(np.float32))))
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
    boxes = boxes_of_classes(region.labels, patterns.classes)
    found = []
    for c in np.unique(structure[structure > 0]):
        box = boxes[c]
        outlines = _find_outlines(region, box, int(c))
        chosen = np.flatnonzero(structure == c)
        place = [along[chosen] - side.start for along, side in zip(positions, box, strict=True)]
        flat = np.ravel_multi_index(place, [side.stop - side.start for side in box])
        apart = _lie_apart(outlines, patterns.counts @ (patterns.table == c))
        found.append(Drawn(int(c), chosen, np.searchsorted(outlines.voxels, flat), outlines, apart))
    return found


def most_voted_structures(patterns: VotePatterns) -> np.ndarray:
    """`(P,)` label above 0 of most raters in each pattern, of equally frequent ones the lowest; 0 if there is none."""
    votes = patterns.count_votes()
    votes[:, 0] = 0
    return votes.argmax(axis=1)


def _find_outlines(region: Region, box: Box, c: int) -> Outlines:
    """The outlines, with distances in full only where those up to `REACH` do not tell their spread."""
    outlines = Outlines(region, box, c, REACH)
    medians = sorted(outlines.median_distances())
    if medians and medians[len(medians) // 2] > FAR:
        return Outlines(region, box, c)
    return outlines


def _lie_apart(outlines: Outlines, sizes: np.ndarray) -> np.ndarray:
    """`(R,)` bool: raters of whose structure more than `APART` lies away from every other rater's.

    Where fewer than two raters' structures would be left nobody is: nothing says then which is the other one.

    Args:
        outlines: of the structure.
        sizes: `(R,)` voxels of it by each rater.
    """
    near = np.count_nonzero(outlines.distances <= TAU, axis=0)
    alone = np.count_nonzero((outlines.distances == 0) & (near < 2), axis=1)
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
