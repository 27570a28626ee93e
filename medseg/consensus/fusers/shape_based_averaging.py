"""Shape-based averaging: the class that the raters' outlines put a voxel deepest into, on average.

Rohlfing, Maurer, "Shape-based averaging", IEEE Transactions on Image Processing 16(1), 2007. For each class the
raters' signed distances to its boundary, in mm and negative inside, are averaged; the smallest mean wins.

Choices where the paper has no answer: only classes that somebody gave a voxel compete there. A rater has no
distance to a class that he nowhere drew (or drew everywhere), so he is left out of that class's mean; a class
competes only where at least half of the voxel's raters have a distance to it; without any such class the
majority decides. Where a rater annotated nothing he abstains, and a face towards such voxels is no boundary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import edt
import numpy as np
from scipy import ndimage

from medseg.consensus.boxes import grown
from medseg.consensus.fusers.fusion_log import Account, present, shares
from medseg.consensus.fusers.majority import elect
from medseg.consensus.fusers.vote_patterns import compress
from medseg.consensus.study import MISSING, Fused, Study
from medseg.ops.distance import signed_distance

Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class ShapeAverageOptions:
    """Shape-based averaging has no options."""


def shape_average(study: Study, options: ShapeAverageOptions) -> Fused:
    """The class of the smallest mean signed distance; equal means: the lower class index.

    Args:
        study: raters with the same or partial coverage.
        options: none so far.

    Returns:
        Confidence: share of the voxel's raters that gave it the class that won.
    """
    account = Account("sba", options)
    with account.stage("patterns"):
        patterns = compress(study)
    account.describe(study, patterns)
    labels = patterns.paint(elect(patterns)[0])
    with account.stage("distances"):
        parts = [rater.labels[patterns.field] for rater in study.raters]
        nearest(parts, patterns.classes, study.spacing_mm, labels[patterns.field])
    with account.stage("write"):
        confidence = agreeing(study, labels)
    weights = shares(present(patterns))
    raters = [{"name": e.name, "weight": w} for e, w in zip(study.raters, weights, strict=True)]
    return Fused(labels, confidence, raters, account.facts)


def agreeing(study: Study, labels: np.ndarray) -> np.ndarray:
    """`(X, Y, Z)` float32 share of a voxel's raters that gave it the label; 0 where there are none."""
    same, cast = np.zeros(labels.shape, np.uint16), np.zeros(labels.shape, np.uint16)
    for rater in study.raters:
        annotated = rater.labels != MISSING
        cast += annotated
        same += (rater.labels == labels) & annotated
    return np.divide(same, np.maximum(cast, 1), dtype=np.float32)


def nearest(parts: Sequence[np.ndarray], classes: int, spacing_mm: Spacing, labels: np.ndarray) -> None:
    """Write the class of the smallest mean distance.

    Args:
        parts: `(x, y, z)` uint8, the raters' labels.
        classes: K.
        spacing_mm: of the grid.
        labels: `(x, y, z)` uint8 to write into; what it holds stays where no class competes.
    """
    shape = parts[0].shape
    rater_count = np.stack([part != MISSING for part in parts]).sum(0, dtype=np.uint16)
    best = np.full(shape, np.inf, np.float32)
    boxes = [ndimage.find_objects(np.where(part == MISSING, 0, part), max_label=classes - 1) for part in parts]
    for c in range(classes):
        # one voxel more than anybody's class holds every distance that is asked for
        box = grown(_joint([found[c - 1] for found in boxes]), (1, 1, 1), shape) if c else (slice(None),) * 3
        cut = [part[box] for part in parts]
        voted = np.logical_or.reduce([part == c for part in cut])
        if not voted.any():
            continue
        mean, cast = _mean_distance(cut, c, spacing_mm)
        nearer = voted & (2 * cast >= rater_count[box]) & (mean < best[box])
        labels[box][nearer], best[box][nearer] = c, mean[nearer]


def _joint(boxes: Sequence[tuple[slice, ...] | None]) -> tuple[slice, ...]:
    found = [box for box in boxes if box is not None]
    if not found:
        return (slice(0, 0),) * 3
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*found, strict=True))


def _mean_distance(parts: Sequence[np.ndarray], c: int, spacing_mm: Spacing) -> tuple[np.ndarray, np.ndarray]:
    """Mean signed distance in mm, and how many raters it is of."""
    total, cast = np.zeros(parts[0].shape, np.float32), np.zeros(parts[0].shape, np.uint16)
    for part in parts:
        mask, annotated = part == c, part != MISSING
        if mask.any() and (annotated & ~mask).any():
            np.add(total, _signed(mask, annotated, spacing_mm), out=total, where=annotated)
            cast += annotated
    return total / np.maximum(cast, 1), cast


def _signed(mask: np.ndarray, annotated: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
    if annotated.all():
        reach = float(np.linalg.norm([n * mm for n, mm in zip(mask.shape, spacing_mm, strict=True)]))
        return signed_distance(mask, spacing_mm=spacing_mm, clip=reach) * np.float32(reach)
    half = 0.5 * min(spacing_mm)  # to the face between two voxels, as `signed_distance` has it
    inward = edt.edt(mask | ~annotated, anisotropy=spacing_mm, parallel=1)
    outward = edt.edt(~mask, anisotropy=spacing_mm, parallel=1)
    return np.where(mask, half - inward, outward - half).astype(np.float32)
