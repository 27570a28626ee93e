"""A data set small enough to train on in a second: noise with a bright ball and a dark box."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np

FAST = [
    "stages.0.network.width=4",
    "stages.0.schedule.iterations=6",
    "data.patch=[16,16,16]",
    "stages.0.schedule.batch.labeled=2",
]


def write_dataset(
    folder: Path,
    *,
    labeled: int = 2,
    unlabeled: int = 2,
    validation: int = 1,
    test: int = 1,
    shape: tuple[int, int, int] = (24, 20, 18),
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.5),
    modality: str = "MR",
    seed: int = 0,
) -> Path:
    """Write images, labels and `m.json`; hidden labels of the unlabelled cases are not written."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    content: dict = {
        "name": "tiny",
        "modality": {"0": modality},
        "labels": {"0": "background", "1": "ball", "2": "box"},
    }
    number = 0
    for section, count in (
        ("training", labeled), ("unlabeled", unlabeled), ("validation", validation), ("test", test)
    ):  # fmt: skip
        content[section] = []
        for _ in range(count):
            content[section].append(_case(folder, f"case{number}", rng, shape, spacing, section != "unlabeled"))
            number += 1
    path = folder / "m.json"
    path.write_text(json.dumps(content))
    return path


def _case(folder, name, rng, shape, spacing, with_label):
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    centre = np.array(shape) * rng.uniform(0.35, 0.65, 3)
    label = np.zeros(shape, np.uint8)
    label[np.linalg.norm((grid - centre) * spacing, axis=-1) < 0.3 * min(np.array(shape) * spacing)] = 1
    corner = rng.integers(1, 4, 3)
    label[tuple(slice(c, c + max(1, n // 4)) for c, n in zip(corner, shape, strict=True))] = 2
    image = rng.normal(0, 10, shape) + np.choose(label, [0, 60, -60])
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])  # stored LPS, as scanners do
    affine[:3, 3] = rng.uniform(-50, 50, 3)
    nib.save(nib.Nifti1Image(image.astype(np.int16), affine), folder / f"{name}.nii.gz")
    if with_label:
        nib.save(nib.Nifti1Image(label, affine), folder / f"{name}_label.nii.gz")
    case = {"image": f"{name}.nii.gz"}
    return case | {"label": f"{name}_label.nii.gz"} if with_label else case
