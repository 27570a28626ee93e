"""The trainings that are timed: shipped pipelines at the sizes of the papers, on generated scans."""

from __future__ import annotations

from pieces import Task
from scans import generate
from setting import Setting

SUPERVISED = (
    "stages.0.method={name: supervised, options: {cross_entropy: 0.0}}",
    "stages.0.schedule.batch={labeled: 4}",
)
"""`dtc_la` without its unlabelled half: four labelled patches a step, the same soft Dice, all else as it is."""


def volume_task(setting: Setting, changes: tuple[str, ...] = ()) -> Task:
    """`dtc_la`: 2 labelled + 2 unlabelled patches, V-Net, the authors' distance maps and augmentation."""
    sizes = setting.sizes
    manifest = generate(setting.work / "scans", sizes.scan)
    overrides = [
        f"data.patch={list(sizes.patch)}",
        "data.spacing_mm=[1, 1, 1]",
        f"stages.0.network.width={sizes.width}",
        *changes,
    ]
    return Task.of("dtc_la", manifest, setting.work / "cache", overrides=overrides)


PLANAR = {"dmpct, axial, 3 adjacent slices": ("dmpct", "axial", "{labeled: %d}")}
"""Name in the table -> pipeline, view, batch size. A 2D method is one more line."""


def planar_task(setting: Setting, name: str) -> Task:
    """One network of a pipeline of planes."""
    pipeline, view, batch = PLANAR[name]
    sizes = setting.sizes
    manifest = generate(setting.work / "slices", sizes.slice_scan)
    overrides = [
        f"data.patch={[*sizes.slices, 1]}",
        "data.spacing_mm=[1, 1, 1]",
        f"stages.0.network.width={sizes.width}",
        f"stages.0.schedule.batch={batch % sizes.batch_size}",
    ]
    return Task.of(pipeline, manifest, setting.work / "cache", overrides=overrides, view=view)
