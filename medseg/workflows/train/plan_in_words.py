"""A plan in words: the rows of the table that `medseg plan` and `medseg train` print."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from medseg.config.pipeline import DataSpec, Intensity, NetworkSpec, Pipeline, Stage
from medseg.manifest.fields import unit_of
from medseg.manifest.manifest import Manifest, streams_of
from medseg.workflows.train.checks.orientation import describe_rotations
from medseg.workflows.train.checks.streams import describe_tag_groups
from medseg.workflows.train.group_names import describe_groups, name_of_stage
from medseg.workflows.train.stages.build import describe_students


def describe_plan(pipeline: Pipeline, manifest: Manifest, further: Mapping[str, str] | None = None) -> dict[str, str]:
    """The plan as rows of a table: title -> text.

    Args:
        pipeline: planned.
        manifest: the data set.
        further: rows that are added.
    """
    data = DataSpec(**pipeline.data)
    rows = _describe_data(data, manifest)
    for index, stage in enumerate(pipeline.stages):
        name = name_of_stage(pipeline, index)
        if stage.views or stage.rounds:
            views = ", ".join(stage.views) or data.view
            rows[f"{name}, views"] = f"{views}; rounds of pseudo-labels: {stage.round_count}{describe_students(stage)}"
        rows[name] = _describe_stage(stage)
        of_rotations = describe_rotations(stage, data)
        if of_rotations:
            rows[f"{name}, rotations"] = of_rotations
        of_groups = describe_tag_groups(stage, manifest)
        if of_groups:
            rows[f"{name}, groups"] = of_groups
    return {**rows, **describe_groups(pipeline), **(further or {})}


def print_plan(pipeline: Pipeline, manifest: Manifest, rows: Mapping[str, str]) -> None:
    """Print a plan as a table on standard error.

    Args:
        pipeline: planned.
        manifest: the data set.
        rows: that `describe_plan` gave.
    """
    table = Table(title=f"Plan: {pipeline.name} on {manifest.name or manifest.path.name}", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    for name, text in rows.items():
        table.add_row(name, text)
    Console(stderr=True).print(table)


def _describe_data(data: DataSpec, manifest: Manifest) -> dict[str, str]:
    counts = {stream: len(cases) for stream, cases in streams_of(manifest).items()}
    training = f"{counts['labeled']} labelled, {counts['unlabeled']} unlabelled"
    if counts["weak"]:
        training += f", {counts['weak']} with tags only"
    others = f"{len(manifest.validation)} validation, {len(manifest.test)} test"
    rules = [_describe_intensity(rule) for rule in data.intensities]
    if len(set(rules)) > 1:
        rules = [f"{modality}: {rule}" for modality, rule in zip(data.modality, rules, strict=True)]
    unit = unit_of(file for case in manifest.cases for file in case.image)
    return {
        "cases": f"{training}, {others}",
        **_describe_classes(data),
        **({"target": "the class of each image as a whole"} if data.target == "images" else {}),
        "intensity": "; ".join(dict.fromkeys(rules)),
        "view": data.view if data.view == "volume" else f"{data.view} slices",
        f"spacing, {unit}": " x ".join(f"{mm:g}" for mm in data.spacing_mm),
        **_describe_patch("patch", data.patch, data, unit),
        **(_describe_patch("patch of volumes", data.volume_patch, data, unit) if data.volume_patch else {}),
    }


def _describe_patch(name: str, patch: tuple[int, int, int], data: DataSpec, unit: str) -> dict[str, str]:
    """Its sides in voxels and in `unit`."""
    sides = [round(size * mm, 1) for size, mm in zip(patch, data.spacing_mm, strict=True)]
    return {
        f"{name}, voxels": " x ".join(f"{size:g}" for size in patch),
        f"{name}, {unit}": " x ".join(f"{mm:g}" for mm in sides),
    }


def _describe_classes(data: DataSpec) -> dict[str, str]:
    classes = ", ".join(data.labels[value] for value in data.label_values)
    if not data.regions:
        return {"classes": classes if data.has_background else f"{classes}; no background"}
    regions = [f"{region.name} ({', '.join(map(str, region.values))})" for region in data.regions]
    return {"regions": f"{', '.join(regions)}; a sigmoid for each", "post-processing": "none, since regions overlap"}


def _norm(network: NetworkSpec) -> str:
    norm = network.options.get("norm")
    if norm is None:
        return ""
    return f" {norm if isinstance(norm, str) else norm[0]} norm"


def _describe_intensity(rule: Intensity) -> str:
    if rule.kind == "zscore":
        return "z-score per image"
    if rule.kind == "fixed":
        return f"(x - {rule.mean:g}) / {rule.std:g}, as the pre-trained weights know photographs"
    return f"window {rule.low:g} to {rule.high:g}, mean {rule.mean:g}, sd {rule.std:g}"


def _describe_stage(stage: Stage) -> str:
    schedule = stage.schedule
    then = f"; then labels {', '.join(stage.then.cases)} cases by {stage.then.rule.name}" if stage.then else ""
    batch = " + ".join(f"{size} {stream}" for stream, size in (schedule.batch or {}).items())
    return (
        f"{stage.method.name}, {stage.network.name} width {stage.network.width}{_norm(stage.network)}, batch {batch}, "
        f"{schedule.iterations} iterations, {schedule.optimizer} {schedule.lr:g} {schedule.decay}{then}"
    )
