"""`medseg evaluate` measures what can be measured, names what cannot, and finds files with the marks of labels."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_sets import called, cube, save


def scores(capfd, folder, reference, prediction, names=("c0", "c0"), labels=None):
    """What came of one case: exit code, lines, `metrics.json`."""
    ref = save(folder / f"ref/{names[0]}.nii.gz", reference)
    save(folder / f"pred/{names[1]}.nii.gz", prediction)
    truth = folder / "ref"
    if labels is not None:
        truth = folder / "m.json"
        case = {"case": "c0", "image": str(ref), "label": str(ref)}
        truth.write_text(json.dumps({"modality": "CT", "labels": labels, "test": [case]}))
    code, said = called(capfd, "evaluate", "-p", folder / "pred", "-r", truth, "-o", folder / "t", "--no-pictures")
    written = folder / "t/metrics.json"
    return code, said, json.loads(written.read_text()) if written.exists() else {}


def moved(value: int, dtype: str = "i2") -> np.ndarray:
    """The cube one voxel further along x: of its 512 voxels 448 are shared, 64 invented, 64 missed."""
    return np.roll(cube(value, dtype), 1, 0)


@pytest.mark.parametrize(
    ("true", "predicted", "name"), [(500, 500, "label 500"), (255, 255, "label 255"), (255, 1, "label 255")]
)
def test_values_beyond_a_byte_and_masks_of_0_and_255(true, predicted, name, tmp_path, capfd):
    code, said, report = scores(capfd, tmp_path, cube(true, "i2"), moved(predicted))
    found = report["cases"][0]["classes"][name]
    assert (code, found["tp"], found["fp"], found["fn"], found["dice"]) == (0, 448, 64, 64, 0.875)
    assert report["classes"][name]["value"] == true
    assert ("its 1 is taken for the 255" in said) == (predicted != true)


def test_a_class_that_the_references_lack_costs_no_case(tmp_path, capfd):
    prediction = cube()
    prediction[:2, :2, :2] = 3  # 8 voxels
    code, said, report = scores(capfd, tmp_path, cube(), prediction)
    assert (code, report["cases"][0]["classes"]["label 1"]["dice"]) == (0, 1.0)
    assert "holds 3, which is no label, in 8 voxels: counted as no structure" in said


def test_neither_does_one_that_the_manifest_lacks(tmp_path, capfd):
    labels = {"0": "background", "1": "cube", "2": "box"}
    reference = cube()
    reference[6:8, 6:14, 4:12] = 9  # 128 of the 512 voxels are left out, and what is predicted there
    code, said, report = scores(capfd, tmp_path, reference, cube(), labels=labels)
    found = report["cases"][0]["classes"]["cube"]
    assert (code, found["tp"], found["fp"], found["fn"]) == (0, 384, 0, 0)
    assert "holds 9, which is no label, in 128 voxels: left out" in said


def test_a_folder_of_what_cannot_be_read_is_told_as_that(tmp_path, capfd):
    code, said, _ = scores(capfd, tmp_path, cube(1.5, "f4"), cube())
    assert (code, "no whole numbers, such as 1.5" in said) == (2, True)
    code, said, _ = scores(capfd, tmp_path / "empty", cube(0), cube())
    assert (code, "not one label file holds anything but background (0)" in said) == (2, True)


@pytest.mark.parametrize("mark", ["_seg", "_gt", "_label", "_mask", "-labels"])
def test_marks_of_labels_on_either_side(mark, tmp_path, capfd):
    for place, names in (("a", (f"c0{mark}", "c0")), ("b", ("c0", f"c0{mark}")), ("c", (f"c0{mark}", "c0_prediction"))):
        code, _, report = scores(capfd, tmp_path / place, cube(), moved(1), names)
        if place == "c":
            assert code == 2
        else:
            assert (code, report["cases"][0]["classes"]["label 1"]["dice"]) == (0, 0.875)


def test_a_mark_that_may_mean_two_files_means_none(tmp_path, capfd):
    save(tmp_path / "pred/c0_gt.nii.gz", cube())
    code, _, _ = scores(capfd, tmp_path, cube(), cube(), ("c0_label", "c0_seg"))
    assert code == 2


def test_values_below_the_background_are_not_called_background(tmp_path, capfd):
    code, said, _ = scores(capfd, tmp_path, cube(-1, "i2"), cube(1, "i2"))
    assert code == 2
    assert "only background and values below it (-1); accepted are 1 and more" in said
    assert "anything but background" not in said
