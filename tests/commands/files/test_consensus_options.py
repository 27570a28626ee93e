"""Options of `medseg consensus` that contradict themselves: one line and exit code 2."""

from __future__ import annotations

import json

import pytest
from raters import ball, image_of, save, write_study

from medseg.cli import app


def mistake(capfd, *arguments) -> str:
    """The one line of an error."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as done:
        app.main(["consensus", *arguments, "-o", "out", "--no-report"])
    assert done.value.code == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["--name", "", "--name", "b"], "a rater is called ''; accepted is a --name of at least one letter or digit"),
        (["--name", "a", "--name", " "], "a rater is called ' '; accepted is a --name of at least one letter or digit"),
        (["--label", "0=liver"], "--label 0=liver: accepted are values from 1 to 65535; 0 is the background"),
        (["--label", "65536=x"], "--label 65536=x: accepted are values from 1 to 65535; 0 is the background"),
        (["--label", "1= "], "--label 1= : accepted is VALUE=NAME, a whole number and a name"),
        (["--label", "²=x"], "--label ²=x: accepted is VALUE=NAME, a whole number and a name"),
        (
            ["--label", "1=liver", "--label", "01=spleen"],
            "--label 01=spleen: 1 is called liver already; accepted is one name a value",
        ),
        (
            ["--region", "anna=r.nii.gz", "--region", "anna=s.nii.gz"],
            "--region anna=s.nii.gz: anna has r.nii.gz already; accepted is one file a rater",
        ),
        (["--channel", "²"], "--channel ²: accepted is a number from 0, or all"),
    ],
)
def test_what_cannot_be_meant_is_one_line(given, line, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path)
    assert mistake(capfd, "-a", "anna.nii.gz", "-a", "bob.nii.gz", *given) == f"error: {line}"


def test_the_background_may_be_named(tmp_path):
    _, drawn = write_study(tmp_path)
    named = ["--label", "0=Background", "--label", "1=liver"]
    with pytest.raises(SystemExit) as done:
        app.main(
            ["consensus", "-a", str(drawn[0]), *named, "-m", "majority", "-o", str(tmp_path / "out"), "--no-report"]
        )
    assert done.value.code == 0


# ---- beside a manifest


def manifest(folder):
    """One case of two raters, of whom bob left out the second structure."""
    save(folder / "image.nii.gz", image_of(ball()))
    save(folder / "anna.nii.gz", ball() + ball(radius=2))
    save(folder / "bob.nii.gz", ball())
    annotations = [{"rater": rater, "label": f"{rater}.nii.gz"} for rater in ("anna", "bob")]
    case = {"image": "image.nii.gz", "case": "case0", "annotations": annotations}
    labels = {"0": "background", "1": "liver", "2": "tumour"}
    path = folder / "data.json"
    path.write_text(json.dumps({"labels": labels, "modality": {"0": "CT"}, "training": [case]}))
    return path


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--label", "1=spleen"], "--label 1=spleen: the manifest of --data names the values"),
        (["--missing-value", "2"], "--missing-value 2: the manifest of --data says it, by its ignore_index"),
    ],
)
def test_what_the_manifest_says_is_not_dropped_in_silence(given, words, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manifest(tmp_path)
    assert words in mistake(capfd, "--data", "data.json", *given)


def test_partial_protocols_count_beside_a_manifest(tmp_path):
    arguments = ["--data", manifest(tmp_path), "-o", tmp_path / "out", "-m", "majority", "--no-report", "--jobs", "1"]
    with pytest.raises(SystemExit) as done:
        app.main(["consensus", *map(str, arguments), "--partial-protocol", "bob:liver"])
    assert done.value.code == 0
    report = json.loads((tmp_path / "out" / "case0" / "report.json").read_text())
    assert "bob: did not look for liver: 0 voxels that others call so count as not annotated" in report["warnings"]
