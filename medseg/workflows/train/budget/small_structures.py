"""Structures that have only a few voxels left at the spacing that a budget allows."""

from __future__ import annotations

import numpy as np

from medseg.config.pipeline import DataSpec, Pipeline
from medseg.manifest.manifest import Manifest
from medseg.workflows.train.facts.measure import StructureSizes, cases_to_open, evenly_spread

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
    found = StructureSizes(manifest, "ml")
    for case in evenly_spread(labelled, OPENED):
        found.add(case)
    small = []
    for value, sizes in found.sizes.items():
        there = [size for size in sizes if size > 0]
        if not there:
            continue
        volume_mm3 = 1000 * float(np.median(there))
        was = volume_mm3 / np.prod(before.spacing_mm)
        remains = volume_mm3 / np.prod(after.spacing_mm)
        if remains < LEAST_VOXELS <= was:
            small.append((remains, f"{after.labels[value]} {remains:.0f}"))
    if not small:
        return None
    words = [text for _, text in sorted(small)]
    return f"expect little of what has only few voxels left: {', '.join(words)}"
