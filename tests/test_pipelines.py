"""Every shipped pipeline for two iterations on generated data, to a bundle, to a prediction."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from tiny import write_dataset

from medseg.workflows.predict.run import predict
from medseg.workflows.train.run import train
from medseg.workflows.train.settings import shipped

SMALL = ["stages.0.schedule.iterations=2", "stages.0.network.width=4", "data.patch=[16,16,16]", "data.overlap=0.25",
         "data.spacing_mm=[1.5,1.5,1.5]", "stages.0.schedule.workers=0"]  # fmt: skip


@pytest.mark.parametrize("task", shipped())
def test_it_runs_to_a_prediction(task, tmp_path):
    manifest = write_dataset(tmp_path / "data", validation=0, labeled=4)
    run = train(task, manifest, tmp_path / "run", overrides=SMALL)
    report = predict(run, manifest, tmp_path / "out", section="test")
    assert not report["failed"]
    image = nib.load(tmp_path / "data" / "case6.nii.gz")
    result = nib.load(tmp_path / "out" / "case6.nii.gz")
    assert result.shape == image.shape
    assert np.allclose(result.affine, image.affine)
    assert set(np.unique(result.dataobj)) <= {0, 1, 2}
