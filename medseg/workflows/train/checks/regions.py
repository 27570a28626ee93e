"""Labels with regions, which overlap: only what can learn and write them is trained on them."""

from __future__ import annotations

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
    labels = f"the labels of {manifest.path} are regions, which overlap ({names})"
    if pipeline.classifies:
        raise ConfigError(f"data.target is images, which have one class each, and {labels}; accepted is voxels")
    for index, stage in enumerate(pipeline.stages):
        name = stage.method.name
        if not methods.find(name).takes_regions:
            able = ", ".join(each for each in METHODS if methods.find(each).takes_regions)
            raise ConfigError(
                f"{name} is for classes that do not overlap, and {labels}; accepted are {able}",
                hint="or name each value of the label files as a class of its own in the manifest",
            )
        if len(stage.views) > 1:
            views = ", ".join(stage.views)
            raise ConfigError(f"stages.{index}.views are {views}, which vote for labels, and {labels}; accepted is one")
        for part in ("rounds", "then"):
            if getattr(stage, part) is not None:
                raise ConfigError(
                    f"stages.{index}.{part} makes labels of one class a voxel, and {labels}; leave it out"
                )
