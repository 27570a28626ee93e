"""The plan as one table on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from medseg.config import DataSpec, Pipeline
from medseg.manifest.manifest import Manifest, streams_of


def _times(numbers: tuple[float, ...]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)


def rows(pipeline: Pipeline, manifest: Manifest) -> list[tuple[str, str]]:
    """What was decided, as name and words."""
    spec = DataSpec(**pipeline.data)
    counts = {stream: len(cases) for stream, cases in streams_of(manifest).items()}
    rule = spec.intensity
    window = f"window {rule.low:g} to {rule.high:g}, mean {rule.mean:g}, sd {rule.std:g}"
    lines = [
        ("cases", f"{counts['labeled']} labelled, {counts['unlabeled']} unlabelled, "
                  f"{len(manifest.validation)} validation, {len(manifest.test)} test"),
        ("classes", ", ".join(spec.labels[value] for value in spec.label_values)),
        ("intensity", "z-score per image" if rule.kind == "zscore" else window),
        ("view", spec.view if spec.view == "volume" else f"{spec.view} slices"),
        ("spacing, mm", _times(spec.spacing_mm)),
        ("patch, voxels", _times(spec.patch)),
        ("patch, mm", _times(tuple(round(n * mm, 1) for n, mm in zip(spec.patch, spec.spacing_mm, strict=True)))),
    ]  # fmt: skip
    for index, stage in enumerate(pipeline.stages):
        schedule = stage.schedule
        batch = " + ".join(f"{rows} {stream}" for stream, rows in (schedule.batch or {}).items())
        if stage.views or stage.rounds:
            words = f"{', '.join(stage.views) or spec.view}; rounds of pseudo-labels: {stage.rounds}"
            lines.append((f"stage {index}, views", words))
        lines.append((
            f"stage {index}",
            f"{stage.method.name}, {stage.network.name} width {stage.network.width}, batch {batch}, "
            f"{schedule.iterations} iterations, {schedule.optimizer} {schedule.lr:g} {schedule.decay}",
        ))  # fmt: skip
    return lines


def show(pipeline: Pipeline, manifest: Manifest) -> None:
    """Print the table on stderr."""
    table = Table(title=f"Plan: {pipeline.name} on {manifest.name or manifest.path.name}", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    for name, words in rows(pipeline, manifest):
        table.add_row(name, words)
    Console(stderr=True).print(table)
