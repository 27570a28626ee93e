"""What a folder or a manifest holds and no command takes is named: files, links, and lists of cases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from models import make_bundle, make_image
from tiny_sets import called, cube, save

from medseg.portable.io.find_cases import passed_over
from medseg.structure_names import named_twice


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("model") / "bundle").parent


def predict(capfd, model: Path, given: Path, output: Path) -> tuple[int, str]:
    return called(capfd, "predict", "-m", model, "-i", given, "-o", output, "--no-report", "--device", "cpu")


def test_a_link_that_leads_nowhere_is_no_image_and_is_named(model, tmp_path, capfd):
    make_image(tmp_path / "in/p1.nii.gz")
    (tmp_path / "in/p2.nii.gz").symlink_to("not/mounted.nii.gz")
    (tmp_path / "in/p3.nii.gz").symlink_to("p3.nii.gz")
    code, said = predict(capfd, model, tmp_path / "in", tmp_path / "out")
    assert (code, "2 links that lead nowhere are passed over (p2.nii.gz, ...)" in said) == (0, True), said
    (tmp_path / "in/p1.nii.gz").unlink()
    code, said = predict(capfd, model, tmp_path / "in", tmp_path / "out")
    assert (code, "has no image (2 links that lead nowhere" in said) == (2, True), said


def test_files_of_a_rater_that_have_an_unknown_ending(tmp_path, capfd):
    for rater in ("anna", "bob"):
        save(tmp_path / rater / "liver.nii.gz", cube())
    (tmp_path / "anna" / "spleen.mgz").write_bytes(b"x")
    raters = ("-a", tmp_path / "anna", "-a", tmp_path / "bob")
    code, said = called(capfd, "consensus", *raters, "-o", tmp_path / "out", "--no-report", "--method", "majority")
    assert (code, "anna: 1 file of an unknown ending is passed over: 1 .mgz (spleen.mgz)" in said) == (0, True), said


def test_training_cases_are_not_predicted_in_silence(model, tmp_path, capfd):
    for name in ("a", "b"):
        make_image(tmp_path / f"{name}.nii.gz")
        save(tmp_path / f"{name}_label.nii.gz", cube())
    cases = [{"image": "a.nii.gz", "label": "a_label.nii.gz"}]
    content = {"modality": "CT", "labels": {"0": "background", "1": "liver"}, "training": cases}
    (tmp_path / "m.json").write_text(json.dumps({**content, "Testing": ["b.nii.gz"]}))
    code, said = predict(capfd, model, tmp_path / "m.json", tmp_path / "out")
    assert code == 0
    assert "the list 'Testing' is not known and passed over; known are training, validation, test, unlabeled" in said
    assert "has no test cases, so that all are predicted, those of training too" in said
    (tmp_path / "m.json").write_text(json.dumps({**content, "testing": ["b.nii.gz"], "numTest": 1, "authors": ["x"]}))
    code, said = predict(capfd, model, tmp_path / "m.json", tmp_path / "out2")
    assert (code, "passed over" in said, "has no test cases" in said) == (0, False, False), said
    assert [path.name for path in (tmp_path / "out2").glob("*.nii.gz")] == ["b.nii.gz"]


def test_maps_that_are_kept_beside_pseudo_labels_are_no_images(tmp_path):
    for name in ("a.nii.gz", "a_maps.npz", "b.mgz"):
        (tmp_path / name).write_bytes(b"")
    assert passed_over(tmp_path).startswith("1 file of an unknown ending is passed over: 1 .mgz (b.mgz)")


def test_how_a_letter_is_coded_makes_no_second_structure():
    """Both are what a reader sees as ü: one character, or u and two dots behind it."""
    assert named_twice(["M\u00fcller", "mu\u0308ller ", "Muller"]) == ["mu\u0308ller "]
