"""Structures that have only a few voxels left at the spacing that a budget allows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medseg.config.pipeline import DataSpec, Pipeline
from medseg.manifest.manifest import Case, Manifest
from medseg.portable.io.read import read_header
from medseg.workflows.train.facts.measure import cases_to_open, measure_label

LEAST_VOXELS = 64
"""A cube of four voxels a side: of a structure with fewer little more than its place is learned."""
OPENED = 3
"""Labels that are opened at most."""


def describe_small_structures(planned: Pipeline, chosen: Pipeline, manifest: Manifest) -> str | None:
    """What becomes too small by the spacing that was chosen; None where nothing does.

    Args:
        planned: for unlimited time.
        chosen: for the budget.
        manifest: the data set.

    Raises:
        DataError: a label that cannot be read.
    """
    before, after = DataSpec(**planned.data), DataSpec(**chosen.data)
    if before.spacing_mm == after.spacing_mm or after.target == "images":
        return None
    labelled, _ = cases_to_open(chosen, manifest, after)
    volumes = _median_volumes(manifest, labelled[:: max(1, len(labelled) // OPENED)][:OPENED], after)
    small = []
    for name, volume in volumes.items():
        was, remains = volume / np.prod(before.spacing_mm), volume / np.prod(after.spacing_mm)
        if remains < LEAST_VOXELS <= was:
            small.append((remains, f"{name} {remains:.0f}"))
    if not small:
        return None
    return f"expect little of what has only few voxels left: {', '.join(words for _, words in sorted(small))}"


def _median_volumes(manifest: Manifest, cases: Sequence[Case], data: DataSpec) -> dict[str, float]:
    """Structure -> mm³ in the cases that have it."""
    found: dict[str, list[float]] = {}
    for case in cases:
        counts = measure_label(manifest, case)
        affine = read_header(manifest.images(case)[0]).affine
        voxel = abs(float(np.linalg.det(affine[:3, :3])))
        for index, value in enumerate(data.label_values):
            if counts[index] and not (data.has_background and index == 0):
                found.setdefault(data.labels[value], []).append(float(counts[index]) * voxel)
    return {name: float(np.median(volumes)) for name, volumes in found.items()}
