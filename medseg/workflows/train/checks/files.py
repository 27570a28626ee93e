"""Checks of files, disk space and settings before a training begins."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path

import nibabel as nib

from medseg.config.pipeline import DataSpec, Pipeline, Stage
from medseg.errors import ConfigError, DataError, ManifestError, OutputError
from medseg.manifest.manifest import Case, Manifest, streams_of
from medseg.methods import find, find_streams
from medseg.portable.io.read import Header
from medseg.portable.resample import resampled_size
from medseg.progress import show_progress
from medseg.workflows.data.check_case import Finding, check_case
from medseg.workflows.data.problems import Problem
from medseg.workflows.train.checks.orientation import orientation_warnings
from medseg.workflows.train.checks.saliency import check_saliency
from medseg.workflows.train.checks.streams import groups_of_stages
from medseg.workflows.train.checks.tags import class_warnings, tag_warnings

GIB = 2**30
IMAGE_BYTES = 2
"""Of a voxel and channel in the cache."""

LABEL_BYTES = 1
"""Of a voxel in the cache."""


def check_files(pipeline: Pipeline, manifest: Manifest) -> list[Finding]:
    """Open the header of every file that training will read, and read maps of saliency whole.

    Args:
        pipeline: whose methods say which cases are used.
        manifest: the data set.

    Returns:
        A finding for each case, of section "training", "validation", "unlabeled", or "tagged" where a stage learns from
        cases with tags alone or labels them.

    Raises:
        DataError: a file that is missing or cannot be used; it names the first and counts the others.
        ConfigError, ManifestError: pseudo-labels are to be measured, and there are none, or no labels to do it by.
    """
    sections = cases_of_training(manifest)
    if not _needs_unlabeled(pipeline):
        del sections["unlabeled"]
    if _needs_tagged(pipeline):
        sections["tagged"] = streams_of(manifest)["weak"]
    findings = open_cases(manifest, sections, "looking at the files", headers_only=True)
    _refuse_errors(manifest, findings)
    check_saliency(pipeline, manifest)
    if pipeline.measure_pseudo_labels:
        check_measured(pipeline, manifest)
    return findings


def check_measured(pipeline: Pipeline, manifest: Manifest) -> None:
    """Open the header of every label by which pseudo-labels are to be measured.

    Raises:
        ConfigError: there will be no pseudo-label, or images are classified.
        ManifestError: no unlabelled case has a label.
        DataError: a label that cannot be used.
    """
    parts = [stage.rounds or stage.then for stage in pipeline.stages]
    kinds = {kind for part in parts if part is not None for kind in part.cases}
    if not kinds:
        raise ConfigError(f"measure_pseudo_labels is true, and no stage of {pipeline.name} makes pseudo-labels")
    if "unlabeled" not in kinds:
        raise ConfigError(
            f"measure_pseudo_labels is true, and {pipeline.name} labels {' and '.join(sorted(kinds))} cases alone; "
            "accepted are rules that label unlabeled ones"
        )
    if pipeline.classifies:
        raise ConfigError("measure_pseudo_labels is true, and whole images are classified; accepted are label maps")
    cases = [case for case in manifest.unlabeled if case.label is not None]
    if not cases:
        raise ManifestError(
            "no case under 'unlabeled' has a label, by which measure_pseudo_labels asks to measure",
            path=manifest.path,
            hint='give those whose labels are known a "label", or --set measure_pseudo_labels=false',
        )
    _refuse_errors(manifest, open_cases(manifest, {"measured": cases}, "looking at their labels", headers_only=True))


def check_test_files(manifest: Manifest) -> None:
    """Open the header of every image and label that a training will be judged on.

    Args:
        manifest: whose labelled test cases judge.

    Raises:
        DataError: as `check_files`.
    """
    cases = [case for case in manifest.test if case.is_labelled]
    _refuse_errors(manifest, open_cases(manifest, {"test": cases}, "looking at the test cases", headers_only=True))


def _refuse_errors(manifest: Manifest, findings: Sequence[Finding]) -> None:
    errors = []
    for finding in findings:
        errors += [problem for problem in finding.problems if problem.severity == "error"]
    if errors:
        first = errors[0]
        more = f" (and {len(errors) - 1} more like this)" if len(errors) > 1 else ""
        hint = f"medseg data check {manifest.path} lists all"
        raise DataError(f"{place_of(first)}{first.message}{more}", path=file_of(manifest, first), hint=hint)


def channel_warnings(findings: Sequence[Finding]) -> list[str]:
    """One line on channels of images that lie a little off the others; empty where none does."""
    off = [p for found in findings for p in found.problems if p.code == "channel_grid" and p.severity == "warning"]
    if not off:
        return []
    more = f" (and {len(off) - 1} more like this)" if len(off) > 1 else ""
    return [f"{off[0].file}: {off[0].message}{more}"]


def cases_of_training(manifest: Manifest) -> dict[str, list[Case]]:
    """Section ("training", "validation" or "unlabeled") -> the cases of it that training may open."""
    streams = streams_of(manifest)
    return {
        "training": streams["labeled"],
        "validation": [case for case in manifest.validation if case.is_labelled],
        "unlabeled": streams["unlabeled"],
    }


def open_cases(manifest: Manifest, sections: dict[str, list[Case]], title: str, *, headers_only: bool) -> list[Finding]:
    """Open the files of cases and collect what is wrong with them, with a progress bar.

    Args:
        manifest: the data set.
        sections: section -> cases.
        title: of the progress bar.
        headers_only: whether voxels are left unread.
    """
    findings = []
    total = sum(len(cases) for cases in sections.values())
    with show_progress(title) as progress:
        progress(0, total)
        for section, cases in sections.items():
            for case in cases:
                opened = hide_labels(section, case)
                if headers_only:
                    opened = opened.model_copy(update={"annotations": ()})
                findings.append(check_case(manifest, section, opened, headers_only=headers_only))
                progress(len(findings), total)
    return findings


def hide_labels(section: str, case: Case) -> Case:
    """The case without the labels that training must not open: those of unlabelled cases."""
    if section != "unlabeled":
        return case
    return case.model_copy(update={"label": None, "annotations": ()})


def place_of(problem: Problem) -> str:
    """The case that a problem is of, before its message."""
    return f"{problem.section} case {problem.case}: " if problem.case else ""


def file_of(manifest: Manifest, problem: Problem) -> Path:
    """The file that a problem is of, or else the manifest."""
    return manifest.resolve(problem.file) if problem.file else manifest.path


def _needs_unlabeled(pipeline: Pipeline) -> bool:
    """Whether any stage uses the unlabelled cases."""
    return any(stage.rounds or stage.then or _learns_from(stage, "unlabeled", "all") for stage in pipeline.stages)


def _needs_tagged(pipeline: Pipeline) -> bool:
    """Whether any stage learns from cases with tags alone, or labels them."""
    for stage in pipeline.stages:
        part = stage.rounds or stage.then
        if _learns_from(stage, "weak", "all") or (part is not None and "weak" in part.cases):
            return True
    return False


def _learns_from(stage: Stage, *streams: str) -> bool:
    return any(each.name in streams for each in find_streams(stage.method.name, stage.method.options))


def check_space(pipeline: Pipeline, findings: Sequence[Finding], output: Path) -> None:
    """See that the preprocessed volumes of a run fit on the disk.

    Args:
        pipeline: planned.
        findings: of its cases.
        output: the run folder, which exists.

    Raises:
        OutputError: they do not.
    """
    cached = sum(file.stat().st_size for file in (output / "cache").rglob("*") if file.is_file())
    needed = cache_bytes(pipeline, findings) - cached
    free = shutil.disk_usage(output).free
    if needed > free:
        raise OutputError(
            f"the preprocessed volumes need about {needed / GIB:.1f} GiB, the disk has {free / GIB:.1f} free",
            path=output,
            hint="free some space, or choose another --output",
        )


def cache_bytes(pipeline: Pipeline, findings: Iterable[Finding]) -> int:
    """Bytes of the preprocessed volumes of a run, small files left out: once, and again with each pseudo-label."""
    data = DataSpec(**pipeline.data)
    rounds = max(stage.round_count for stage in pipeline.stages)
    rounds += sum(1 for stage in pipeline.stages if stage.then)
    total = 0
    for finding in findings:
        if finding.header is None:
            continue
        voxels = _count_voxels(finding.header, data)
        image = voxels * IMAGE_BYTES * len(data.modality)
        label = voxels * LABEL_BYTES
        if finding.section in ("unlabeled", "tagged"):
            total += image + rounds * (image + label)
        else:
            total += image + label
    return total


def _count_voxels(header: Header, data: DataSpec) -> int:
    """Voxels of an image on the grid of the training."""
    axes = nib.orientations.io_orientation(header.affine)[:, 0].astype(int)
    sizes = []
    for stored, axis in enumerate(axes):
        size = int(header.shape[stored])
        if data.resample_axes[axis]:
            size = resampled_size(size, float(header.spacing_mm[stored]), data.spacing_mm[axis])
        sizes.append(size)
    return prod(sizes)


def find_warnings(pipeline: Pipeline, manifest: Manifest) -> list[str]:
    """Warnings that a user would want to read before the run."""
    warnings = []
    if not any(case.is_labelled for case in manifest.validation):
        warnings.append(
            "no labelled case under 'validation': the last weights are kept, and nothing will tell how good they are"
        )
    labelled = [case for case in manifest.training if case.is_labelled]
    if labelled and not any(_learns_from(stage, name) for stage in pipeline.stages for name in ("labeled", "all")):
        tagged = sum(case.tags is not None for case in labelled)
        too = f", nor from the tags that {tagged} of them have beside" if tagged else ""
        name = pipeline.stages[0].method.name
        warnings.append(f"{len(labelled)} cases have labels, from which {name} does not learn{too}")
    hidden = sum(1 for case in manifest.unlabeled if case.label is not None)
    if hidden:
        measured = pipeline.measure_pseudo_labels
        opened = "is opened to measure pseudo-labels alone" if measured else "training does not open"
        warnings.append(f"{hidden} cases under 'unlabeled' have a label, which {opened}")
    warnings += class_warnings(manifest, streams_of(manifest)["labeled"])
    for stage, groups in zip(pipeline.stages, groups_of_stages(pipeline, manifest), strict=True):
        if not groups["unlabeled"] and _learns_from(stage, "unlabeled") and not stage.rounds:
            warnings.append(f"no unlabelled case: {stage.method.name} learns from the labelled cases alone")
        if groups["weak"] and not _learns_from(stage, "weak") and not (stage.then or stage.rounds):
            count = len(groups["weak"])
            warnings.append(f"{count} cases have tags only, from which {stage.method.name} does not learn")
        for stream in find_streams(stage.method.name, stage.method.options):
            if stream.name == "weak" and "tags" in stream.keys and not find(stage.method.name).asks_previous:
                # else some classes are known already, and the method looks at the tags of the others itself
                warnings += tag_warnings(manifest, groups["weak"], stage.method.name)
    warnings += orientation_warnings(pipeline, manifest)
    return list(dict.fromkeys(warnings))
