"""Shape-based averaging: the class that the raters' outlines put a voxel deepest into, on average.

Rohlfing, Maurer, "Shape-based averaging", IEEE Transactions on Image Processing 16(1), 2007. With d_rc the signed
distance to rater r's boundary of class c, in mm and negative inside:

    label(x) = argmin over c of the mean over r of d_rc(x)

Choices where the paper has no answer: only classes that somebody gave a voxel compete there. A rater has no
distance to a class that the rater nowhere annotated (or annotated everywhere) and is left out of that class's mean; a
class competes only where at least half of the voxel's raters have a distance to it; without any such class the
majority decides. Where a rater annotated nothing there is no vote, and a face towards such voxels is no boundary.

Options: none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import edt
import numpy as np
from scipy import ndimage

from medseg.consensus.boxes import Box, empty_box, enlarge_box, full_box
from medseg.consensus.fusers.fusion_log import FusionLog, rows_of_equal_weight
from medseg.consensus.fusers.majority import vote
from medseg.consensus.fusers.vote_patterns import find_patterns
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
    log = FusionLog("sba", options)
    with log.stage("patterns"):
        patterns = find_patterns(study)
    log.describe(study, patterns)
    labels = patterns.to_volume(vote(patterns)[0])
    with log.stage("distances"):
        parts = [rater.labels[patterns.box] for rater in study.raters]
        assign_nearest(parts, patterns.classes, study.spacing_mm, labels[patterns.box])
    with log.stage("write"):
        confidence = _agreeing_share(study, labels)
    return Fused(labels, confidence, rows_of_equal_weight(study, patterns), log.facts)


def assign_nearest(parts: Sequence[np.ndarray], classes: int, spacing_mm: Spacing, labels: np.ndarray) -> None:
    """Write the class of the smallest mean distance.

    Args:
        parts: `(x, y, z)` uint8, the raters' labels.
        classes: K.
        spacing_mm: of the grid.
        labels: `(x, y, z)` uint8 to write into; what it holds stays where no class competes.
    """
    shape = parts[0].shape
    voters = np.stack([part != MISSING for part in parts]).sum(0, dtype=np.uint16)
    smallest = np.full(shape, np.inf, np.float32)
    for c, box in enumerate(_class_boxes(parts, classes)):
        cropped = [part[box] for part in parts]
        voted = np.logical_or.reduce([part == c for part in cropped])
        if not voted.any():
            continue
        mean, raters = _mean_distance(cropped, c, spacing_mm)
        nearer = voted & (2 * raters >= voters[box]) & (mean < smallest[box])
        labels[box][nearer] = c
        smallest[box][nearer] = mean[nearer]


def _class_boxes(parts: Sequence[np.ndarray], classes: int) -> list[Box]:
    """Where each class competes: for background everywhere; for others one voxel more than any rater's.

    That margin holds the nearest voxel of another class, so that distances within the box are those in the grid.
    """
    shape = parts[0].shape
    per_rater = [ndimage.find_objects(np.where(part == MISSING, 0, part), max_label=classes - 1) for part in parts]
    boxes = [full_box(shape)]
    for c in range(1, classes):
        found = [objects[c - 1] for objects in per_rater if objects[c - 1] is not None]
        boxes.append(enlarge_box(_union(found), (1, 1, 1), shape))
    return boxes


def _union(boxes: Sequence[tuple[slice, ...]]) -> Box:
    """The smallest box around several; empty if there are none."""
    if not boxes:
        return empty_box()
    sides = []
    for spans in zip(*boxes, strict=True):
        sides.append(slice(min(span.start for span in spans), max(span.stop for span in spans)))
    x, y, z = sides
    return x, y, z


def _mean_distance(parts: Sequence[np.ndarray], c: int, spacing_mm: Spacing) -> tuple[np.ndarray, np.ndarray]:
    """Mean signed distance to class c in mm, and the number of raters it is the mean of."""
    total = np.zeros(parts[0].shape, np.float32)
    raters = np.zeros(parts[0].shape, np.uint16)
    for part in parts:
        mask, annotated = part == c, part != MISSING
        if mask.any() and (annotated & ~mask).any():
            np.add(total, _signed_distance_mm(mask, annotated, spacing_mm), out=total, where=annotated)
            raters += annotated
    return total / np.maximum(raters, 1), raters


def _signed_distance_mm(mask: np.ndarray, annotated: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
    """Distance to the boundary of a mask within the annotated voxels, negative inside."""
    if annotated.all():
        diagonal = np.linalg.norm([n * mm for n, mm in zip(mask.shape, spacing_mm, strict=True)])
        longest = float(diagonal)
        return signed_distance(mask, spacing_mm=spacing_mm, clip=longest) * np.float32(longest)
    half = 0.5 * min(spacing_mm)  # to the face between two voxels, as `signed_distance` has it
    inward = edt.edt(mask | ~annotated, anisotropy=spacing_mm, parallel=1)
    outward = edt.edt(~mask, anisotropy=spacing_mm, parallel=1)
    return np.where(mask, half - inward, outward - half).astype(np.float32)


def _agreeing_share(study: Study, labels: np.ndarray) -> np.ndarray:
    """`(X, Y, Z)` float32 share of a voxel's raters that gave it the label; 0 where there are none."""
    agreeing, voters = np.zeros(labels.shape, np.uint16), np.zeros(labels.shape, np.uint16)
    for rater in study.raters:
        annotated = rater.labels != MISSING
        voters += annotated
        agreeing += (rater.labels == labels) & annotated
    return np.divide(agreeing, np.maximum(voters, 1), dtype=np.float32)
