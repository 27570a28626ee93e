"""How far the raters' outlines of a structure lie from each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import edt
import numpy as np
from scipy import ndimage

from medseg.consensus.boxes import Box
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

    Attributes:
        voxels: `(n,)` flat indices in the box of all that anybody calls `c`.
        distances: `(R, n)` float16, from each rater's structure, in units of the smallest spacing: 0 in the structure,
            infinite where the rater has none.
    """

    def __init__(self, region: Region, box: Box, c: int) -> None:
        sides = tuple(unit if math.isfinite(unit) else 1.0 for unit in region.units)
        structures = [np.ascontiguousarray(volume[box] == c) for volume in region.labels]
        self.voxels = np.flatnonzero(np.logical_or.reduce(structures))
        self.distances = np.full((len(structures), self.voxels.size), np.inf, np.float16)
        self.inner = np.zeros(self.distances.shape, bool)
        faces = _faces(structures[0].shape)
        for r, own in enumerate(structures):
            if own.any():
                distance = edt.edt(~own, anisotropy=sides, parallel=1)
                self.distances[r] = distance.reshape(-1)[self.voxels]
                self.inner[r] = ndimage.binary_erosion(own, faces).reshape(-1)[self.voxels]

    def spread(self) -> float:
        """Median distance of two raters' outlines, and of those of all pairs the median; 0 without a pair.

        The distance of two outlines is seen where one of them lies on or outside the other: there it is the distance
        of the voxel from the other's structure.
        """
        edges = (self.distances == 0) & ~self.inner
        drawn = np.flatnonzero(edges.any(axis=1))
        medians = []
        for r, s in combinations(drawn, 2):
            from_r = self.distances[r][edges[s] & ~self.inner[r]]
            from_s = self.distances[s][edges[r] & ~self.inner[s]]
            medians.append(np.median(np.concatenate([from_r, from_s]).astype(np.float32)))
        return float(np.median(medians)) if medians else 0.0


def _faces(shape: Sequence[int]) -> np.ndarray:
    """Neighbours by a face, `(3, 3, 3)` bool; none along an axis of one voxel, which has no inside."""
    faces = ndimage.generate_binary_structure(3, 1)
    for axis, length in enumerate(shape):
        if length == 1:
            beside = np.moveaxis(faces, axis, 0)
            beside[0] = beside[2] = False
    return faces
