"""Whether augmentation leaves images upright for methods that ask which way up they are."""

from __future__ import annotations

import torch

from medseg.config.pipeline import DataSpec, Pipeline, Stage
from medseg.errors import ConfigError
from medseg.manifest.manifest import Case, Manifest
from medseg.methods import find
from medseg.ops.pretext.rotated_copies import RotatedCopies
from medseg.planning.augmentation import SMALL_DEGREES
from medseg.portable.io.read import read_header
from medseg.workflows.train.stages.build import build_method

UNPLACED = "it has neither sform nor qform"
"""How the warning of a NIfTI header begins that does not say where its voxels lie."""


def check_upright(pipeline: Pipeline, data: DataSpec) -> None:
    """See that the augmentation does not contain the turns that a method asks for.

    Args:
        pipeline: whose methods may ask.
        data: planned.

    Raises:
        ConfigError: it contains some, with the setting to change.
    """
    for stage in asking_upright(pipeline):
        for each in stage.specs(data):
            _check(stage.method.name, each)


def orientation_warnings(pipeline: Pipeline, manifest: Manifest) -> list[str]:
    """A warning if images that a method asks about do not say which way up they are.

    Args:
        pipeline: whose methods may ask.
        manifest: the data set.

    Raises:
        DataError: a file that cannot be read.
    """
    asking = asking_upright(pipeline)
    if not asking:
        return []
    cases = (*manifest.training, *manifest.unlabeled)
    unplaced = [case.name for case in cases if is_unplaced(manifest, case)]
    if not unplaced:
        return []
    found = f"{len(unplaced)} of {len(cases)} training images have no orientation in their header ({unplaced[0]}, ...)"
    return [f"{found}, and {asking[0].method.name} asks which way up they are"]


def is_unplaced(manifest: Manifest, case: Case) -> bool:
    """Whether the header of an image of a case does not say which way up it is.

    Raises:
        DataError: a file that cannot be read.
    """
    warnings = [text for path in manifest.images(case) for text in read_header(path).warnings]
    return any(text.startswith(UNPLACED) for text in warnings)


def describe_rotations(stage: Stage, data: DataSpec) -> str:
    """Which rotations a method asks for, in words; empty: none.

    Args:
        stage: planned.
        data: planned.
    """
    found: list[str] = []
    if find(stage.method.name).needs_upright(stage.method.options):
        for each in stage.specs(data):
            with torch.random.fork_rng(devices=()):
                copies = getattr(build_method(stage, each), "copies", None)
            if isinstance(copies, RotatedCopies):
                found.append(copies.describe(each.network_patch))
    return "; ".join(dict.fromkeys(found))


def asking_upright(pipeline: Pipeline) -> list[Stage]:
    """The stages whose methods ask which way up an image is."""
    return [stage for stage in pipeline.stages if find(stage.method.name).needs_upright(stage.method.options)]


def _check(name: str, data: DataSpec) -> None:
    transforms = data.augment.transforms
    why = f"{name} asks which way up an image is, and would be told wrong"
    axes = [axis for axis in range(3) if axis != data.slice_axis]
    quarter = transforms["rot90"].axes  # type: ignore[attr-defined]
    if quarter is not None and set(quarter) <= set(axes):
        raise ConfigError(
            f"data.augment.rot90.axes is {list(quarter)}: {why}; accepted is null",
            hint="--set data.augment.rot90.axes=null",
        )
    flips = [axis for axis in data.augment.flip_axes if axis in axes]
    if len(flips) > 1:
        raise ConfigError(
            f"data.augment.flip.axes has {flips}: two of them together are a half turn. {why}; accepted is one axis",
            hint=f"--set data.augment.flip.axes=[{flips[0]}]",
        )
    degrees = transforms["affine"].rotate_degrees  # type: ignore[attr-defined]
    if max(degrees) > SMALL_DEGREES:
        raise ConfigError(
            f"data.augment.affine.rotate_degrees is {[f'{each:g}' for each in degrees]}: {why}; accepted are at most "
            f"{SMALL_DEGREES:g}"
        )
