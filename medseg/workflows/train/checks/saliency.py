"""Saliency files, read once before a training: a bad one is told before hours of it, and so is saliency of nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg import methods
from medseg.config.pipeline import Pipeline, Stage
from medseg.errors import DataError
from medseg.manifest.manifest import Case, Manifest
from medseg.ops.tags.saliency_values import SALIENCY_MAPS, saliency_problem
from medseg.portable.io.read import read_volume
from medseg.progress import say_once, show_progress


@dataclass(frozen=True)
class Extent:
    """From where to where the saliency of a case goes.

    Args:
        case: that it is of.
        file: its path.
        least: value.
        most: value.
        is_whole: whether the file stores whole numbers.
    """

    case: Case
    file: Path
    least: float
    most: float
    is_whole: bool


def check_saliency(pipeline: Pipeline, manifest: Manifest) -> None:
    """Read the saliency of every case, where a stage or its rule looks at it, and say of how many it tells nothing.

    Args:
        pipeline: whose methods and rules say which maps are looked at.
        manifest: the data set.

    Raises:
        DataError: values that are no saliency; files of 8 bits that contradict each other; saliency that is 0 wherever
            tags say that there is something.
    """
    for name in SALIENCY_MAPS:
        of_method = any(name in _maps_of_method(stage) for stage in pipeline.stages)
        of_rule = any(name in _maps_of_rule(stage) for stage in pipeline.stages)
        extents = _read_all(pipeline, manifest, name) if of_method or of_rule else []
        if of_rule:
            _refuse_nothing_salient(manifest, extents)
            _tell_shares(manifest, extents)


def _maps_of_method(stage: Stage) -> set[str]:
    """Names of what batches of a stage have."""
    streams = methods.find_streams(stage.method.name, stage.method.options)
    return {key for stream in streams for key in stream.keys}


def _maps_of_rule(stage: Stage) -> tuple[str, ...]:
    """Names of what the rule of a stage looks at."""
    part = stage.rounds or stage.then
    return () if part is None else methods.find_rule(part.rule.name).inputs


def _read_all(pipeline: Pipeline, manifest: Manifest, name: str) -> list[Extent]:
    """Read the map of a name of each case that may be learnt from, or that chooses thresholds.

    Raises:
        DataError: a file without saliency, or two that are not of one scale.
    """
    kinds = {kind for stage in pipeline.stages for part in (stage.rounds, stage.then) if part for kind in part.cases}
    cases = [*manifest.training, *(case for case in manifest.validation if case.is_labelled)]
    if "unlabeled" in kinds:
        cases += manifest.unlabeled
    given = [case for case in cases if name in case.maps]
    extents = []
    with show_progress(f"looking at the maps of {name}") as progress:
        for number, case in enumerate(given):
            progress(number, len(given))
            extents.append(_read(manifest, case, name))
    _refuse_two_scales(extents)
    return extents


def _read(manifest: Manifest, case: Case, name: str) -> Extent:
    file = manifest.resolve(case.maps[name])
    stored, _ = read_volume(file)
    problem = saliency_problem(stored)
    if problem:
        raise DataError(
            f"case {case.name}: map {name!r}: {problem}",
            path=file,
            hint=f"medseg data check {manifest.path} lists all",
        )
    return Extent(case, file, float(stored.min()), float(stored.max()), stored.dtype.kind != "f")


def _refuse_two_scales(extents: Sequence[Extent]) -> None:
    """See that whole numbers go from 0 to 1 in all files, or from 0 to 255: a map up to 1 is read as 0 to 1."""
    whole = [extent for extent in extents if extent.is_whole]
    up_to_1 = [extent for extent in whole if extent.most == 1]
    beyond = [extent for extent in whole if extent.most > 1]
    if up_to_1 and beyond:
        one, other = up_to_1[0], beyond[0]
        raise DataError(
            f"saliency up to 1 in whole numbers, and up to {other.most:g} in {other.file.name}; accepted is one scale "
            "in all files, 0 to 1 or 0 to 255",
            path=one.file,
            hint="of 0 to 255 a map that is nowhere above 1 says nothing: store 0",
        )


def _shows_a_class(manifest: Manifest, extent: Extent) -> bool:
    return any((manifest.presence(extent.case) or {}).values())


def _refuse_nothing_salient(manifest: Manifest, extents: Sequence[Extent]) -> None:
    """See that there is some saliency where tags say that there is a structure, if labels are to be made of these."""
    shown = [extent for extent in extents if not extent.case.is_labelled and _shows_a_class(manifest, extent)]
    if any(case.is_labelled for case in manifest.training) or not shown:
        return
    if all(extent.most == 0 for extent in shown):
        raise DataError(
            f"saliency is 0 everywhere in all {len(shown)} cases that are tagged with a class: no pseudo-label would "
            "have one",
            path=manifest.path,
            hint="medseg data saliency makes other maps",
        )


def _tell_shares(manifest: Manifest, extents: Sequence[Extent]) -> None:
    """Say once of how many cases the saliency is the same everywhere."""
    zero = [extent for extent in extents if extent.most == 0]
    full = [extent for extent in extents if extent.least == extent.most and extent.most in (1, 255)]
    missed = sum(_shows_a_class(manifest, extent) for extent in zero)
    lines = []
    if zero:
        line = f"saliency is 0 everywhere in {len(zero)} of {len(extents)} cases, {missed} of them tagged with a class"
        lines.append(f"warning: {line}" if missed else line)
    if full:
        line = f"saliency is 1 everywhere in {len(full)} of {len(extents)} cases, which teach no background"
        lines.append(f"warning: {line}")
    for line in lines:
        say_once(line)
