"""A raw folder of nnU-Net with overlapping regions, as BraTS has them, small enough to train on in a second."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np

REGIONS = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3}
CHANNELS = ("T1", "T1ce", "T2", "FLAIR")
SHAPE = (20, 18, 16)
AFFINE = np.diag([-1.0, -1.0, 1.5, 1.0])  # stored LPS, as scanners do


def write_brats_like(folder: Path, *, labelled: int = 3, test: int = 1, seed: int = 0) -> Path:
    """Write `dataset.json` and the cases of `imagesTr`, `labelsTr`, `imagesTs` and `labelsTs`.

    Each tumour is a box of 1 around a box of 2 around a box of 3.
    """
    rng = np.random.default_rng(seed)
    described = {
        "channel_names": {str(number): name for number, name in enumerate(CHANNELS)},
        "labels": REGIONS,
        "regions_class_order": [1, 2, 3],
        "numTraining": labelled,
        "file_ending": ".nii.gz",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(described))
    for number in range(labelled + test):
        section = "Tr" if number < labelled else "Ts"
        write_case(folder, f"case{number}", section, rng)
    return folder


def write_case(folder: Path, name: str, section: str, rng: np.random.Generator) -> None:
    label = np.zeros(SHAPE, np.uint8)
    x, y, z = rng.integers(2, 5, 3)
    label[x : x + 12, y : y + 10, z : z + 8] = 1
    label[x + 2 : x + 9, y + 2 : y + 8, z + 2 : z + 7] = 2
    label[x + 4 : x + 8, y + 3 : y + 6, z + 3 : z + 6] = 3
    for kind in ("images", "labels"):
        (folder / f"{kind}{section}").mkdir(exist_ok=True)
    for channel in range(len(CHANNELS)):
        bright = np.array([0, 40, 80, 120])[label] * (1 + 0.2 * channel)
        image = (bright + rng.normal(0, 5, SHAPE)).astype(np.int16)
        nib.save(nib.Nifti1Image(image, AFFINE), folder / f"images{section}" / f"{name}_{channel:04d}.nii.gz")
    nib.save(nib.Nifti1Image(label, AFFINE), folder / f"labels{section}" / f"{name}.nii.gz")
