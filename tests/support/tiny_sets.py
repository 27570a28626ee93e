"""Data sets of a few dozen voxels, written as a test says, and commands run on them in this process."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.cli import main

SHAPE = (20, 18, 16)
QUICK = ("stages.0.network.width=4", "stages.0.schedule.iterations=1", "data.patch=[16,16,16]")


def cube(value: float = 1, dtype: str = "u1") -> np.ndarray:
    """`(X, Y, Z)`: a cube of 8 x 8 x 8 = 512 voxels of one value."""
    labels = np.zeros(SHAPE, dtype)
    labels[6:14, 6:14, 4:12] = value
    return labels


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None, slope: float = 1.0) -> Path:
    """Write a NIfTI file, whose header may say that its numbers are scaled."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, np.eye(4) if affine is None else affine)
    image.header.set_slope_inter(slope, 0)
    nib.save(image, path)
    return path


def shifted(mm: float) -> np.ndarray:
    """A grid of 1 mm voxels that begins so far along z."""
    affine = np.eye(4)
    affine[2, 3] = mm
    return affine


def write_set(folder: Path, labels: np.ndarray, affine: np.ndarray | None = None, slope: float = 1.0) -> Path:
    """Two cases with these labels; returns their manifest."""
    cases = []
    for number in range(2):
        noise = np.random.default_rng(number).normal(0, 10, SHAPE)
        save(folder / f"c{number}.nii.gz", (noise + 60 * cube()).astype("i2"))
        save(folder / f"c{number}_label.nii.gz", labels, affine, slope)
        cases.append({"image": f"c{number}.nii.gz", "label": f"c{number}_label.nii.gz"})
    content = {"modality": "MR", "labels": {"0": "background", "1": "cube"}, "training": cases}
    (folder / "m.json").write_text(json.dumps(content))
    return folder / "m.json"


def called(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit code of `medseg ARGUMENTS`, and what it said on both streams."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    said = capfd.readouterr()
    return int(end.value.code or 0), said.out + said.err


def trained(capfd: pytest.CaptureFixture[str], manifest: Path, run: Path) -> tuple[int, str]:
    """One step of training."""
    words = [word for each in (*QUICK, "stages.0.schedule.batch.labeled=2") for word in ("--set", each)]
    return called(capfd, "train", "--task", "supervised", "--data", manifest, "--output", run, *words)
