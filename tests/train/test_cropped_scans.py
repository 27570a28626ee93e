"""A cropped scan is predicted nearly as well as the whole one, by a network that was trained on whole scans."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from tiny import write_dataset

from medseg.bundle.bundle import open_bundle
from medseg.bundle.runner import BundleRunner
from medseg.workflows.train.run import train

SETTINGS = [
    "stages.0.network.width=8",
    "stages.0.schedule.iterations=250",
    "stages.0.schedule.batch.labeled=4",
    "data.patch=[24,24,16]",
]
LOST = 0.03


@pytest.mark.slow
def test_a_cropped_scan_keeps_its_dice(tmp_path):
    shape = (40, 36, 28)
    manifest = write_dataset(tmp_path / "data", labeled=8, unlabeled=0, validation=0, test=4, shape=shape)
    run = train("supervised", manifest, tmp_path / "run", overrides=SETTINGS, device="cpu")
    runner = BundleRunner(open_bundle(run), torch.device("cpu"))
    whole, alone = [], []
    for case in json.loads(manifest.read_text())["test"]:
        image, label = (nib.load(manifest.parent / case[key]) for key in ("image", "label"))
        middle = np.argwhere(np.asarray(label.dataobj) == 1).mean(0)
        low = np.clip(middle - 8, 0, np.subtract(shape, 16)).astype(int)
        box = tuple(slice(first, first + 16) for first in low)
        true = np.asarray(label.dataobj)[box]
        nib.save(image.slicer[box], tmp_path / "box.nii.gz")
        predicted = runner.predict(runner.read([manifest.parent / case["image"]])).labels
        whole.append(dice(predicted[box], true))
        alone.append(dice(runner.predict(runner.read([tmp_path / "box.nii.gz"])).labels, true))
    assert np.mean(whole) > 0.85  # it has learnt something
    assert np.mean(alone) > np.mean(whole) - LOST


def dice(predicted: np.ndarray, true: np.ndarray) -> float:
    """Of the ball."""
    return 2 * ((predicted == 1) & (true == 1)).sum() / ((predicted == 1).sum() + (true == 1).sum())
