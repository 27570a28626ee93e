"""What `medseg consensus` says and writes of studies that were worked out by hand: what is lacking, odd or unseen."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medseg.cli import app
from medseg.consensus.methods import FUSERS

ZERO = np.zeros((12, 12, 4), np.uint8)


def square(*, shift: int = 0, value: int = 1) -> np.ndarray:
    """6 x 6 x 2 voxels of a structure."""
    labels = ZERO.copy()
    labels[3 + shift : 9 + shift, 3:9, 1:3] = value
    return labels


def save(path: Path, array: np.ndarray) -> str:
    nib.save(nib.Nifti1Image(array, np.diag([1.0, 1.0, 3.0, 1.0])), path)
    return str(path)


def study(folder: Path, **labels: np.ndarray) -> list[str]:
    """Options for an image and raters with these labels."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).normal(0, 1, ZERO.shape)
    given = ["--image", save(folder / "image.nii.gz", (100.0 * square() + noise).astype(np.float32))]
    for name, array in labels.items():
        given += ["--annotation", save(folder / f"{name}.nii.gz", array), "--name", name]
    return given


def run(capfd, *arguments: str) -> str:
    """What a command that succeeds says."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as done:
        app.main(["consensus", *arguments])
    told = capfd.readouterr()
    assert done.value.code == 0, told.err
    return told.err + told.out


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.mark.parametrize("method", sorted(FUSERS))
def test_every_method_has_its_page(method, tmp_path, capfd):
    given = study(tmp_path, anna=square(), bob=square(shift=1), cleo=square())
    run(capfd, *given, "--method", method, "--output", str(tmp_path / "out"))
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<h1>Consensus of 3 annotations: image</h1>" in page
    settings = json.loads((tmp_path / "out" / "report.json").read_text())["settings"]
    for name, value in settings.items():
        assert f"{name} {value}" in page


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_that_no_forest_takes(seed, tmp_path, capfd):
    with pytest.raises(SystemExit) as done:
        app.main(["consensus", *study(tmp_path, anna=square(), bob=square()), "--seed", str(seed), "-o", "out"])
    assert done.value.code == 2
    lines = capfd.readouterr().err.splitlines()
    assert lines == [f"error: seed {seed}; a whole number from 0 to 4294967295 is wanted"]


def test_an_empty_consensus_is_said_first(tmp_path, capfd):
    given = study(tmp_path, anna=square(), bob=ZERO, cleo=ZERO)
    told = run(capfd, *given, "--method", "majority", "--output", str(tmp_path / "out"))
    assert "is done: the consensus is empty, although anna drew label 1; mean Dice between raters 0.00; odd: " in told
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.index("<li>The consensus is empty, although anna drew label 1.</li>") < page.index('class="cards"')


def test_a_structure_that_the_consensus_lacks(tmp_path, capfd):
    both = square()
    both[0:2, 0:2, 1:3] = 2
    given = study(tmp_path, anna=both, bob=square(), cleo=square())
    told = run(capfd, *given, "--method", "majority", "--output", str(tmp_path / "out"), "--no-report")
    assert "is done: the consensus has no label 2, although anna drew label 2; mean Dice" in told


def test_nobody_is_odd_only_where_raters_can_be_compared(tmp_path, capfd):
    alike = study(tmp_path / "alike", anna=square(), bob=square(shift=1), cleo=square(shift=2))
    assert "; nobody is odd" in run(capfd, *alike, "-m", "majority", "-o", str(tmp_path / "out1"), "--no-report")
    told = run(capfd, *study(tmp_path / "one", anna=square()), "-m", "majority", "-o", str(tmp_path / "out2"))
    assert "no two raters can be compared" in told
    assert "nobody is odd" not in told
    assert "<h1>Consensus of 1 annotation: image</h1>" in (tmp_path / "out2" / "report.html").read_text()


def test_voxels_that_nobody_annotated(tmp_path, capfd):
    anna, bob = square(), square()
    for labels in (anna, bob):
        labels[5:7, 5:7, 1] = 255
    told = run(
        capfd, *study(tmp_path, anna=anna, bob=bob), "-m", "majority", "-o", str(tmp_path / "out"), "--no-report"
    )
    # the box of all labels has 6 x 6 x 2 voxels, and nothing fills in what nobody saw
    assert "warning: nobody annotated 4 of the 72 voxels around the structures: 4 became background" in told


def test_an_image_that_says_nothing_tells_no_rater_apart(tmp_path, capfd):
    given = study(tmp_path, anna=square(), bob=square(shift=1), cleo=square(shift=1))
    save(tmp_path / "image.nii.gz", np.ones(ZERO.shape, np.float32))
    run(capfd, *given, "--output", str(tmp_path / "out"))
    raters = json.loads((tmp_path / "out" / "report.json").read_text())["raters"]
    assert [rater["self_consistency"] for rater in raters] == [None, None, None]
    assert "have little to do with what the image shows" not in (tmp_path / "out" / "report.html").read_text()


def test_votes_that_tie_everywhere_tell_no_rater_apart(tmp_path, capfd):
    # of each disputed voxel as many say structure as background, which then is the only class to learn
    elsewhere = np.zeros_like(ZERO)
    elsewhere[0:2, 0:2] = 1
    told = run(capfd, *study(tmp_path, anna=square(), bob=elsewhere), "--output", str(tmp_path / "out"))
    assert "the consensus is empty, although anna and bob drew label 1" in told
    raters = json.loads((tmp_path / "out" / "report.json").read_text())["raters"]
    assert [rater["self_consistency"] for rater in raters] == [None, None]
    assert "have little to do with what the image shows" not in (tmp_path / "out" / "report.html").read_text()


def test_numbers_of_tables_are_numbers(tmp_path, capfd):
    smaller = square()
    smaller[3:5] = 0
    given = study(tmp_path, anna=square(), bob=square(), cleo=smaller)
    run(capfd, *given, "-m", "majority", "-o", str(tmp_path / "out"), "--no-report")
    rows = read_csv(tmp_path / "out" / "raters.csv")
    (row,) = (row for row in rows if (row["rater"], row["class"]) == ("cleo", "label 1"))
    # 2 x 6 x 2 voxels of 3 mm3 fewer
    assert float(row["bias_ml"]) == pytest.approx(-0.072)


def test_images_without_spacing_are_measured_in_pixels(tmp_path, capfd):
    pictures = {}
    for name, side in (("anna", 6), ("bob", 6), ("cleo", 4)):
        labels = np.zeros((16, 16), np.uint8)
        labels[4 : 4 + side, 4 : 4 + side] = 1
        pictures[name] = tmp_path / f"{name}.png"
        Image.fromarray(labels).save(pictures[name])
    given = [part for name, path in pictures.items() for part in ("--annotation", str(path), "--name", name)]
    run(capfd, *given, "-m", "majority", "-o", str(tmp_path / "out"), "--no-report")
    assert json.loads((tmp_path / "out" / "report.json").read_text())["unit"] == "pixels"
    rows = read_csv(tmp_path / "out" / "raters.csv")
    assert not [head for head in rows[0] if head.endswith(("_mm", "_ml"))]
    (row,) = (row for row in rows if row["rater"] == "cleo" and row["class"] != "overall")
    assert (float(row["rater_px"]), float(row["bias_px"])) == (16, -20)
    assert 2 < float(row["hd95_px"]) <= 2 * np.sqrt(2), "along a side, and at the corner"


def test_studies_to_look_at_are_named(tmp_path, capfd):
    manifest = {"labels": {"0": "background", "1": "liver"}, "modality": {"0": "MR"}, "training": []}
    for number, bob in enumerate((square(shift=2), square(shift=-1), ZERO)):
        folder = tmp_path / f"case{number}"
        study(folder, anna=square(), bob=bob, cleo=square(shift=1))
        names = ("anna", "bob", "cleo")
        drawn = [{"rater": name, "label": f"case{number}/{name}.nii.gz"} for name in names]
        manifest["training"].append(
            {"image": f"case{number}/image.nii.gz", "case": f"case{number}", "annotations": drawn}
        )
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    data = ["--data", str(tmp_path / "manifest.json"), "-m", "majority", "-o", str(tmp_path / "out"), "--no-report"]
    lines = run(capfd, *data, "--jobs", "1").splitlines()
    (line,) = (line for line in lines if line.startswith("look at "))
    assert "odd: bob (empty)" in line
    assert "liver" not in line
    assert any(line.startswith("studies with warnings: 1 of 3, see ") for line in lines)
