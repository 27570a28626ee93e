"""What can be told of a training before it begins, so that nobody waits an hour to hear it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path

import nibabel as nib

from medseg.config import DataSpec, Pipeline
from medseg.errors import DataError, OutputError
from medseg.manifest.manifest import Case, Manifest, streams_of
from medseg.methods import find
from medseg.portable.io.read import Header
from medseg.portable.resample import resampled_size
from medseg.progress import counting
from medseg.workflows.data.check_case import Finding, check_case
from medseg.workflows.train.self_training.check_data import file_of, place_of, visible

GIB = 2**30
IMAGE_BYTES, LABEL_BYTES = 2, 1
"""Of a voxel in the cache."""

OFF_GRID = ("affine", "spacing")
"""Findings whose measure is not the one by which training refuses a label; it looks again."""


def check_files(pipeline: Pipeline, manifest: Manifest) -> list[Finding]:
    """Open the header of every file that training will read.

    Args:
        pipeline: whose methods say which cases are used.
        manifest: the data set.

    Returns:
        A finding for each case, of section "training", "validation" or "unlabeled".

    Raises:
        DataError: a file that is missing or cannot be used; it names the first and counts the others.
    """
    cases = [(section, case) for section, group in _used(pipeline, manifest).items() for case in group]
    findings = []
    with counting("looking at the files") as progress:
        progress(0, len(cases))
        for done, (section, case) in enumerate(cases, 1):
            shown = visible(section, case).model_copy(update={"annotations": ()})
            findings.append(check_case(manifest, section, shown, headers_only=True))
            progress(done, len(cases))
    bad = [p for found in findings for p in found.problems if p.severity == "error" and p.code not in OFF_GRID]
    if bad:
        more = f" (and {len(bad) - 1} more like this)" if len(bad) > 1 else ""
        hint = f"medseg data check {manifest.path} tells all"
        raise DataError(f"{place_of(bad[0])}{bad[0].message}{more}", path=file_of(manifest, bad[0]), hint=hint)
    return findings


def _used(pipeline: Pipeline, manifest: Manifest) -> dict[str, list[Case]]:
    streams = streams_of(manifest)
    asked = any(stage.rounds or "unlabeled" in find(stage.method.name).streams for stage in pipeline.stages)
    return {
        "training": streams["labeled"],
        "validation": [case for case in manifest.validation if case.label],
        "unlabeled": streams["unlabeled"] if asked else [],
    }


def check_space(pipeline: Pipeline, findings: Sequence[Finding], output: Path) -> None:
    """See that the preprocessed volumes of a run fit on the disk.

    Args:
        pipeline: planned.
        findings: of its cases.
        output: the run folder, which exists.

    Raises:
        OutputError: they do not.
    """
    needed = cache_bytes(pipeline, findings)
    there = sum(file.stat().st_size for file in (output / "cache").rglob("*") if file.is_file())
    free = shutil.disk_usage(output).free
    if needed - there > free:
        raise OutputError(
            f"the preprocessed volumes need about {(needed - there) / GIB:.1f} GiB, the disk has {free / GIB:.1f} free",
            path=output,
            hint="free some space, or choose another --output",
        )


def cache_bytes(pipeline: Pipeline, findings: Iterable[Finding]) -> int:
    """What the preprocessed volumes of a run take, small files left out: once, and again with each pseudo-label."""
    spec, total = DataSpec(**pipeline.data), 0
    rounds = max(stage.rounds for stage in pipeline.stages)
    for found in findings:
        if found.header is None:
            continue
        voxels = _voxels(found.header, spec)
        image, label = voxels * IMAGE_BYTES * len(spec.modality), voxels * LABEL_BYTES
        total += image + label * (found.section != "unlabeled")
        if found.section == "unlabeled":
            total += rounds * (image + label)
    return total


def _voxels(header: Header, spec: DataSpec) -> int:
    axes = nib.orientations.io_orientation(header.affine)[:, 0].astype(int)
    size = []
    for stored, axis in enumerate(axes):
        n, mm = int(header.shape[stored]), float(header.spacing_mm[stored])
        size.append(resampled_size(n, mm, spec.spacing_mm[axis]) if spec.resample_axes[axis] else n)
    return prod(size)


def doubts(pipeline: Pipeline, manifest: Manifest) -> list[str]:
    """What a user would want to know before the run, as warnings."""
    found = []
    if not any(case.label for case in manifest.validation):
        found.append(
            "no labelled case under 'validation': the last weights are kept, and nothing will tell how good they are"
        )
    if streams_of(manifest)["unlabeled"]:
        return found
    for stage in pipeline.stages:
        if not stage.rounds and "unlabeled" in find(stage.method.name).streams:
            found.append(f"no unlabelled case: {stage.method.name} learns from the labelled cases alone")
    return found
