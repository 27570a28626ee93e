"""Structures that are much larger or smaller in a result than in the labels of the training cases, or missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from medseg.bundle.training_facts import StructureFacts, TrainingFacts
from medseg.config.pipeline import DataSpec
from medseg.portable.io.header import Header
from medseg.portable.structure_masks import mask_of
from medseg.workflows.predict.plausibility.field_of_view import shows_all_of
from medseg.workflows.predict.plausibility.finding import Finding, number

ABSENT_FROM = 3
"""Subjects that must all have a structure before its absence is told: of one or two it says little."""


CUT_SECTION = 0.5
"""Of a structure's volume to the power of two thirds: from this area on an edge of the image on, the edge cuts it. Left
atria of which a cut left half or less have at least 0.66; of islands that reach an edge it is less."""


def factor(subjects: int) -> float:
    """By how much a size may be below the smallest and above the largest of training: 2 + 6 / subjects.

    The fewer there were, the less their range says: 8 of one subject, 5 of two, 3.5 of four, 2.4 of sixteen.

    Examples:
        >>> from medseg.workflows.predict.plausibility.volumes import factor
        >>> factor(1), factor(4), factor(12)
        (8.0, 3.5, 2.5)
    """
    return 2.0 + 6.0 / subjects


def volume_findings(
    labels: np.ndarray, counts: np.ndarray, header: Header, data: DataSpec, facts: TrainingFacts
) -> list[Finding]:
    """What is odd about the sizes of structures.

    Args:
        labels: `(X, Y, Z)` label values on the image's grid.
        counts: `(256,)` voxels of each label value.
        header: of the image.
        data: of the model.
        facts: what the model keeps of its training.
    """
    unit = _unit_size(labels, header, facts)
    findings = []
    for value, name in data.structures.items():
        known = facts.structures.get(value)
        count = int(counts[list(data.members[value])].sum())
        if known is None or known.size is None or not count:
            continue
        size = count * unit
        widened = factor(known.subjects)
        too_large = size > known.size.largest * widened
        too_small = size < known.size.smallest / widened
        # of a structure that the image's edge cuts nobody knows the size
        if too_large or (too_small and not _is_cut(mask_of(labels, data.members[value]), header.spacing_mm)):
            findings.append(Finding("volume", name, _describe(name, size, known, facts)))
    return findings + _absent(counts, header, data, facts.structures)


def _absent(
    counts: np.ndarray, header: Header, data: DataSpec, structures: Mapping[int, StructureFacts]
) -> list[Finding]:
    """Structures that every training case had, in images that show as much as those of training."""
    if not shows_all_of(header, data):
        return []
    findings = []
    for value, known in structures.items():
        always_there = not known.absent and known.subjects >= ABSENT_FROM
        if always_there and not counts[list(data.members[value])].any():
            name = data.labels[value]
            findings.append(Finding("absent", name, f"no {name}, which is in all {known.cases} training labels"))
    return findings


def _unit_size(labels: np.ndarray, header: Header, facts: TrainingFacts) -> float:
    """The size of a voxel in the unit of the facts."""
    if facts.unit == "share":
        return 1 / labels.size
    return abs(float(np.linalg.det(header.affine[:3, :3]))) / 1000


def _is_cut(mask: np.ndarray, spacing_mm: Sequence[float]) -> bool:
    """Whether an edge of the image cuts a structure, and not only an island of it."""
    axes = [axis for axis, length in enumerate(mask.shape) if length > 1]
    size = float(mask.sum()) * prod(spacing_mm[axis] for axis in axes)
    for axis in axes:
        face_mm2 = prod(spacing_mm[other] for other in axes if other != axis)
        for plane in (0, mask.shape[axis] - 1):
            section = float(mask.take(plane, axis).sum()) * face_mm2
            if section >= CUT_SECTION * size ** (1 - 1 / len(axes)):
                return True
    return False


def _describe(name: str, size: float, known: StructureFacts, facts: TrainingFacts) -> str:
    assert known.size is not None
    low, high = known.size.smallest, known.size.largest
    there = known.cases - known.absent
    cases = f"the labels of {there} training cases" if there > 1 else "the label of the one training case"
    if facts.unit == "ml":
        return f"{name} of {number(size)} ml, {number(low)} to {number(high)} ml in {cases}"
    return f"{name} on {size:.2%} of the image, {low:.2%} to {high:.2%} in {cases}"
