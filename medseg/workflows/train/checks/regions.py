"""Labels with regions, which overlap: only what can learn and write them is trained on them."""

from __future__ import annotations

from collections.abc import Iterator

from medseg import methods
from medseg.config.pipeline import Pipeline
from medseg.errors import ConfigError
from medseg.manifest.manifest import Manifest
from medseg.methods import METHODS


def check_regions(pipeline: Pipeline, manifest: Manifest) -> None:
    """See that all stages of a pipeline can have regions, where the labels of a data set are some.

    Args:
        pipeline: as it was read.
        manifest: the data set.

    Raises:
        ConfigError: naming what cannot, and what can.
    """
    if not manifest.regions:
        return
    names = ", ".join(region.name for region in manifest.regions)
    for problem in _problems(pipeline):
        raise ConfigError(
            f"its labels are regions, which overlap ({names}), and {problem}",
            path=manifest.path,
            hint="medseg train --task supervised learns regions",
        )


def _problems(pipeline: Pipeline) -> Iterator[str]:
    """What of a pipeline cannot have regions, as clauses that say what can."""
    if pipeline.classifies:
        yield "data.target is images, which have one class each; accepted is voxels"
    for index, stage in enumerate(pipeline.stages):
        name = stage.method.name
        if not methods.find(name).takes_regions:
            able = ", ".join(each for each in METHODS if methods.find(each).takes_regions)
            yield f"{name} is for classes that do not overlap; accepted are {able}"
        if len(stage.views) > 1:
            yield f"stages.{index}.views are {', '.join(stage.views)}, which vote for one class; accepted is one"
        for part in ("rounds", "then"):
            if getattr(stage, part) is not None:
                yield f"stages.{index}.{part} makes labels of one class a voxel; accepted is none"
