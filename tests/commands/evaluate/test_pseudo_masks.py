"""Pseudo-labels against known masks: voxels that they leave out are wrong in one number and left out of the other."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from medseg.errors import DataError
from medseg.workflows.evaluate.run import evaluate
from medseg.workflows.evaluate.summary import table


@pytest.fixture
def folders(tmp_path):
    reference = np.zeros((4, 4, 1), np.uint8)
    reference[:2] = 1
    reference[0, 0] = 255  # nobody annotated it
    prediction = reference.copy()
    prediction[0, :, 0] = (255, 1, 255, 0)  # left out or wrong
    prediction[3, :, 0] = (255, 255, 1, 0)
    for name, array in {"reference": reference, "prediction": prediction}.items():
        (tmp_path / name).mkdir()
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / name / "a.nii.gz")
    return tmp_path


def test_both_numbers_by_hand(folders):
    report = evaluate(folders / "prediction", folders / "reference", pictures=True, pseudo_labels=True)
    # annotated 15: structure 7, background 8; labelled 12: structure 6 of which 5 are right, background 6 of which 5
    with_wrong, labelled = report["set_iou"], report["set_iou_labelled"]
    assert with_wrong["classes"] == {"background": pytest.approx(5 / 9), "label 1": pytest.approx(5 / 8)}
    assert labelled["classes"] == {"background": pytest.approx(5 / 7), "label 1": pytest.approx(5 / 7)}
    assert report["labelled"] == pytest.approx(12 / 15)
    assert "80.0% have one; of these alone: 0.714." in table(report)


def test_a_prediction_that_leaves_voxels_out_is_refused_unless_it_is_a_pseudo_label(folders):
    with pytest.raises(DataError, match="holds 255, which is no label"):
        evaluate(folders / "prediction", folders / "reference", pictures=False)
