"""How `--budget` makes a plan cheaper, and until when.

Until there are about a thousand of them, of slices 1500, iterations are worth more than resolution, width and field of
view: so the plan of a volume is made up to twice as coarse, then narrower, then smaller, until they fit; that of slices
smaller, then narrower, then coarser (docs/results/settings.md, "Parts of slices, or coarser slices"). It is not made
worse than the last of these, below which small organs disappear: then there are fewer iterations. The batch size stays:
fewer, larger patches were worse in the same minutes (docs/results/supervised.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from medseg.config.pipeline import DataSpec, NetworkSpec, Stage
from medseg.methods import find_streams
from medseg.networks.sizes import fit_size

ENOUGH = 1000
"""Iterations, beyond which time goes into a finer plan."""

ENOUGH_OF_SLICES = 1500
"""The same where single slices are learned: figures in docs/results/settings.md."""


@dataclass(frozen=True)
class Reduction:
    """How much cheaper a plan is made.

    Args:
        coarser: factor of the spacing.
        narrower: divisor of the network's width.
        smaller: divisor of each side of the patch.
    """

    coarser: float
    narrower: int
    smaller: float


REDUCTIONS = (
    Reduction(1.0, 1, 1.0),
    Reduction(1.25, 1, 1.0),
    Reduction(1.5, 1, 1.0),
    Reduction(2.0, 1, 1.0),
    Reduction(2.0, 2, 1.0),
    Reduction(2.0, 2, 1.3),
    Reduction(2.0, 2, 1.7),
)
"""From the plan as it is to the cheapest."""

REDUCTIONS_OF_SLICES = (
    Reduction(1.0, 1, 1.0),
    Reduction(1.0, 1, 1.3),
    Reduction(1.0, 1, 1.75),
    Reduction(1.0, 2, 1.75),
    Reduction(1.25, 2, 1.75),
    Reduction(1.5, 2, 1.75),
    Reduction(2.0, 2, 1.75),
)
"""The same where single slices are learned: parts of slices as fine as they are, before whole ones that are coarser."""

SMALLEST_WIDTH = 8
"""Channels below which a network tells few classes apart."""

SMALLEST_PATCH = 16
"""Voxels along an axis below which a coarser grid would leave nothing to see."""


@dataclass(frozen=True)
class Candidate:
    """A plan that may fit the budget.

    Args:
        data: how the data are presented.
        network: of every view.
        step_seconds: mean over the views.
    """

    data: DataSpec
    network: NetworkSpec
    step_seconds: float = 0.0


def reductions_for(stages: Sequence[Stage], data: DataSpec) -> Sequence[Reduction]:
    """From the plan as it is to the cheapest.

    Args:
        stages: of the pipeline; where one learns from tags, or images are classified, a part of an image is not enough.
        data: planned.
    """
    if data.spatial_dims != 2 or data.target == "images":
        return REDUCTIONS
    for stage in stages:
        streams = find_streams(stage.method.name, stage.method.options)
        if any("tags" in stream.keys for stream in streams):
            return REDUCTIONS
    return REDUCTIONS_OF_SLICES


def reduce_plan(data: DataSpec, network: NetworkSpec, reduction: Reduction, fixed: set[str]) -> Candidate:
    """The plan made cheaper; fine axes become coarser first."""
    spacing = list(data.spacing_mm)
    if "spacing_mm" not in fixed:
        coarsest = reduction.coarser * min(data.spacing_mm)
        for axis in range(3):
            if data.resample_axes[axis]:
                spacing[axis] = max(spacing[axis], coarsest)
    changes: dict[str, object] = {"spacing_mm": tuple(round(mm, 4) for mm in spacing)}
    for name, planned in {"patch": data.patch, "volume_patch": data.volume_patch}.items():
        if name in fixed or planned is None:
            continue
        patch = []
        for size, old, new in zip(planned, data.spacing_mm, spacing, strict=True):
            patch.append(_reduce_side(size, size * old / new / reduction.smaller))
        changes[name] = tuple(patch)
    width = max(min(network.width, SMALLEST_WIDTH), network.width // reduction.narrower)
    return Candidate(data.model_copy(update=changes), network.model_copy(update={"width": width}))


def _reduce_side(size: int, wanted: float) -> int:
    """A side of the patch near `wanted`, not below what leaves something to see."""
    if size == 1:
        return 1
    return max(min(size, SMALLEST_PATCH), fit_size(wanted + 1e-6, largest=math.inf))


def iterations_wanted(data: DataSpec) -> int:
    """How many iterations must fit, so that a plan is taken and not a cheaper one."""
    return ENOUGH_OF_SLICES if data.spatial_dims == 2 else ENOUGH
