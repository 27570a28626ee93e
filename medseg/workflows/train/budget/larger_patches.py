"""Half as many patches of twice the size in a batch: the same time, and more of what surrounds an organ."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from medseg.config.pipeline import DataSpec, Pipeline, Stage
from medseg.manifest.manifest import Manifest
from medseg.methods import find_streams
from medseg.networks.sizes import fit_size
from medseg.planning.fingerprint import read_fingerprint

SHOWN_PART = 0.5
"""Of a typical scan; patches that show less are made larger, and fewer."""

FEWEST_PATCHES = 2
"""Of each stream in a batch."""


def with_larger_patches(pipeline: Pipeline, manifest: Manifest) -> Pipeline:
    """Half as many patches of about twice the size, where patches show little of a scan and there are enough of them.

    Measured on the left atrium at equal voxels: the Dice of 80x72x48 x2 and 56x56x40 x4 is the same, and the distance
    errors are a third smaller, since there are no islands where a patch shows what surrounds the organ.
    """
    data = DataSpec(**pipeline.data)
    batches = [stage.schedule.batch or {} for stage in pipeline.stages]
    if data.spatial_dims == 2 or any(stage.views or not _can_be_halved(stage) for stage in pipeline.stages):
        return pipeline
    size = _typical_size(manifest, data)
    if shown_part(data.patch, size) >= SHOWN_PART:
        return pipeline
    larger = tuple(
        fit_size(side * 2 ** (1 / 3), largest=float(longest)) for side, longest in zip(data.patch, size, strict=True)
    )
    stages = []
    for stage, batch in zip(pipeline.stages, batches, strict=True):
        halved = {name: count // 2 for name, count in batch.items()}
        schedule = stage.schedule.model_copy(update={"batch": halved})
        stages.append(stage.model_copy(update={"schedule": schedule}))
    changed = data.model_copy(update={"patch": larger})
    return pipeline.model_copy(update={"stages": tuple(stages), "data": changed.model_dump(mode="json")})


def _can_be_halved(stage: Stage) -> bool:
    """Whether half the batch has enough patches of each stream, in whole groups."""
    streams = find_streams(stage.method.name, stage.method.options)
    multiples = {stream.name: stream.batch_multiple for stream in streams}
    for stream, size in (stage.schedule.batch or {}).items():
        if size < 2 * FEWEST_PATCHES or (size // 2) % multiples[stream]:
            return False
    return True


def _typical_size(manifest: Manifest, data: DataSpec) -> np.ndarray:
    """Voxels of a typical scan on the grid of the plan."""
    fingerprint = read_fingerprint(manifest)
    factors = np.where(data.resample_axes, fingerprint.spacing_mm / np.array(data.spacing_mm), 1.0)
    return np.median(fingerprint.shape * factors, axis=0)


def shown_part(patch: Sequence[int], size: Sequence[float] | np.ndarray) -> float:
    """The part of a scan that a patch shows."""
    return float(prod(min(1.0, side / voxels) for side, voxels in zip(patch, size, strict=True)))
