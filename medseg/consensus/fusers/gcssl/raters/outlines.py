"""How far the raters' outlines of a structure lie from each other."""

from __future__ import annotations

import math
from itertools import combinations

import edt
import numpy as np
from scipy import ndimage

from medseg.consensus.boxes import Box, bounding_box, enlarge_box
from medseg.consensus.fusers.gcssl.region import Region
from medseg.consensus.study import MISSING


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
        self.reach = reach
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
