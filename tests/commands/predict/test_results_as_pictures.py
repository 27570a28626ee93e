"""Photographs: PNG in and PNG out, overlays, pixels in place of millimetres, colours and no patient's directions."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from matplotlib.axes import Axes
from models import data_spec, labels_of, make_bundle, make_image
from PIL import Image
from tiny_sets import called, save

import medseg
from medseg.bundle.components import describe
from medseg.config.pipeline import Intensity
from medseg.errors import ConfigError
from medseg.workflows.evaluate.montage import _show_picture
from medseg.workflows.reports.overlay import PICTURE, blend_labels, cut_slice
from medseg.workflows.train.self_training.report.figures import _read_slice, draw_pseudo_labels, keep_slices

COLORS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    spec = data_spec(modality=COLORS, spacing_mm=(1.0, 1.0, 1.0), patch=(16, 16, 1), intensity=Intensity(kind="zscore"))
    return make_bundle(tmp_path_factory.mktemp("photographs") / "bundle", spec)


def photograph(path: Path, seed: int = 0, size: tuple[int, int] = (30, 44)) -> np.ndarray:
    """Noise of so many rows and columns, as a file of the ending that is asked for."""
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def test_png_and_jpeg_give_png(bundle, tmp_path):
    """The values are those of NIfTI, rows and columns are the image's; a second command finds them done."""
    for name in ("a.png", "B.JPG", "c.tif"):
        photograph(tmp_path / "in" / name)
    report = medseg.predict(bundle, tmp_path / "in", tmp_path / "out")
    assert [case["result"] for case in report["cases"]] == ["B.png", "a.png", "c.nii.gz"]
    medseg.predict(bundle, tmp_path / "in", tmp_path / "nifti", format="nifti")
    for name in "aB":
        with Image.open(tmp_path / "out" / f"{name}.png") as image:
            assert (image.mode, image.size) == ("L", (44, 30))
            labels = np.asarray(image)
        np.testing.assert_array_equal(labels.T, labels_of(tmp_path / "nifti" / f"{name}.nii.gz").reshape(44, 30))
    again = medseg.predict(bundle, tmp_path / "in", tmp_path / "out")
    assert [case["status"] for case in again["cases"]] == ["skipped"] * 3
    counts = report["cases"][1]["pixels"]
    assert counts == {"liver": float((labels_of(tmp_path / "nifti/a.nii.gz") == 1).sum()),
                      "spleen": float((labels_of(tmp_path / "nifti/a.nii.gz") == 7).sum())}  # fmt: skip
    as_png = medseg.predict(bundle, tmp_path / "in/c.tif", tmp_path / "png", format="png")
    assert as_png["cases"][0]["result"] == "c.png"


def test_results_of_an_earlier_version_stay_what_they_are(bundle, tmp_path):
    photograph(tmp_path / "in/a.png")
    medseg.predict(bundle, tmp_path / "in", tmp_path / "out", format="nifti")
    report = medseg.predict(bundle, tmp_path / "in", tmp_path / "out")
    assert [(case["result"], case["status"]) for case in report["cases"]] == [("a.nii.gz", "skipped")]


def test_another_image_of_the_name_is_refused(bundle, tmp_path):
    photograph(tmp_path / "one/a.png")
    photograph(tmp_path / "two/a.png", seed=1)
    medseg.predict(bundle, tmp_path / "one", tmp_path / "out")
    with pytest.raises(ConfigError, match="is the result of"):
        medseg.predict(bundle, tmp_path / "two", tmp_path / "out")
    with pytest.raises(ConfigError, match="is the folder of the images"):
        medseg.predict(bundle, tmp_path / "one", tmp_path / "one")


def test_png_of_a_volume_is_refused(tmp_path):
    image = make_image(tmp_path / "in/v.nii.gz")
    with pytest.raises(ConfigError, match=r"--format png is for 2D images .* and .*v.nii.gz is none"):
        medseg.predict(make_bundle(tmp_path / "bundle"), image, tmp_path / "out", format="png")


def test_overlays_of_photographs(bundle, tmp_path):
    """Pixel by pixel: what has no label is as it was, and every edge has the full colour of its class."""
    pixels = photograph(tmp_path / "in/a.png")
    medseg.predict(bundle, tmp_path / "in", tmp_path / "out", overlay=True)
    labels = np.asarray(Image.open(tmp_path / "out/a.png"))
    shown = np.asarray(Image.open(tmp_path / "out/overlays/a.png"))
    assert shown.shape == pixels.shape
    np.testing.assert_array_equal(shown[labels == 0], pixels[labels == 0])
    assert (shown[labels > 0] != pixels[labels > 0]).any()
    (tmp_path / "out/overlays/a.png").unlink()
    report = medseg.predict(bundle, tmp_path / "in", tmp_path / "out", overlay=True)
    assert (report["cases"][0]["status"], (tmp_path / "out/overlays/a.png").exists()) == ("done", True)
    report = medseg.predict(bundle, tmp_path / "in", tmp_path / "out", overlay=True)
    assert report["cases"][0]["status"] == "skipped"
    medseg.predict(bundle, tmp_path / "in", tmp_path / "out", overlap=0.25)
    report = medseg.predict(bundle, tmp_path / "in", tmp_path / "out", overlap=0.25, overlay=True)
    assert report["cases"][0]["status"] == "done"  # for the overlay that is there shows other labels


def test_overlays_of_volumes(tmp_path):
    image = make_image(tmp_path / "in/v.nii.gz")
    medseg.predict(make_bundle(tmp_path / "bundle"), image, tmp_path / "out", overlay=True)
    with Image.open(tmp_path / "out/overlays/v.png") as sheet:
        assert sheet.size == (1350, 500)


def test_a_blend_by_hand():
    """A grey photograph with a block of 3 x 3 in pure red: its middle is mixed by 0.4, its edge is red."""
    image = np.full((7, 7, 3), 100, np.uint8)
    labels = np.zeros((7, 7), np.uint8)
    labels[2:5, 2:5] = 1
    shown = blend_labels(image, labels, ["#ff0000"])
    assert shown[3, 3].tolist() == [162, 60, 60]  # 0.6 * 100 + 0.4 * 255, and 0.6 * 100
    assert shown[2, 3].tolist() == [255, 0, 0]
    assert shown[1, 3].tolist() == [100, 100, 100]


@pytest.fixture
def judged(tmp_path) -> Path:
    """A manifest of two photographs with masks, and predictions that lie two columns beside them."""
    cases = []
    for n in range(2):
        photograph(tmp_path / f"images/{n}.png", seed=n)
        mask = np.zeros((30, 44), np.uint8)
        mask[8:20, 10:30] = 1
        for folder, labels in (("masks", mask), ("predicted", np.roll(mask, 2, axis=1))):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(labels).save(tmp_path / folder / f"{n}.png")
        cases.append({"image": f"images/{n}.png", "label": f"masks/{n}.png"})
    content = {"labels": {"0": "background", "1": "cell"}, "modality": list(COLORS), "training": cases}
    (tmp_path / "m.json").write_text(json.dumps(content))
    return tmp_path


def test_evaluation_says_pixels(judged, capfd):
    """Two columns off is a distance of 2, which has no millimetres."""
    code, said = called(capfd, "evaluate", "-p", judged / "predicted", "-r", judged / "m.json")
    assert code == 0, said
    assert "HD95 px" in said
    assert " 1 px" in said
    assert "mm" not in said
    report = json.loads((judged / "predicted/evaluation/metrics.json").read_text())
    assert (report["unit"], report["classes"]["cell"]["hd95_mm"]["mean"]) == ("px", 2.0)
    page = (judged / "predicted/evaluation/metrics.md").read_text()
    assert "| HD95 px |" in page
    assert "The references have no spacing: what is called `mm` are pixels" in page


def test_evaluation_of_volumes_says_millimetres(tmp_path, capfd):
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[2:6, 2:6, 2:6] = 1
    for folder in ("p", "r"):
        save(tmp_path / folder / "a.nii.gz", labels)
    code, said = called(capfd, "evaluate", "-p", tmp_path / "p", "-r", tmp_path / "r", "--no-pictures")
    assert (code, "HD95 mm" in said, " px" in said) == (0, True, False), said


def test_the_montage_of_photographs_is_in_colour_without_directions(judged, monkeypatch, capfd):
    shown, written = [], []
    monkeypatch.setattr(Axes, "text", lambda self, x, y, text, **style: written.append(text))
    original = Axes.imshow
    monkeypatch.setattr(
        Axes, "imshow", lambda self, image, **style: shown.append(image) or original(self, image, **style)
    )
    code, said = called(capfd, "evaluate", "-p", judged / "predicted", "-r", judged / "m.json")
    assert code == 0, said
    assert len(shown) >= 2
    assert {image.shape for image in shown} == {(30, 44, 3)}
    assert not set(written) & {"A", "P", "R", "L", "axial"}


def test_photographs_are_shown_the_right_way_round(judged):
    """What is drawn from the bottom to the top has the last row of the file first."""
    pixels = np.asarray(Image.open(judged / "images/0.png"))
    labels = np.zeros((44, 30, 1), np.uint8)
    case = _show_picture([judged / "images/0.png"], labels, labels)
    np.testing.assert_array_equal(cut_slice(case.image, PICTURE, 0), pixels[::-1])


def test_a_missing_prediction_is_called_as_predict_would(judged, capfd):
    (judged / "predicted/1.png").unlink()
    code, _ = called(capfd, "evaluate", "-p", judged / "predicted", "-r", judged / "m.json", "--no-pictures")
    assert code == 1
    report = json.loads((judged / "predicted/evaluation/metrics.json").read_text())
    assert report["cases"][1]["message"] == "no prediction: 1.png is not there"


def test_the_plan_of_photographs_is_in_pixels(judged, tmp_path, capfd):
    words = ("plan", "--task", "supervised", "--data", judged / "m.json", "-o", tmp_path / "plan.yaml")
    code, said = called(capfd, *words)
    assert (code, "spacing, px" in said, ", mm" in said) == (0, True, False), said


def test_a_picture_as_nifti_stays_nifti(bundle, tmp_path):
    """A 2D file of NIfTI has a spacing, and so has its result."""
    array = np.random.default_rng(0).integers(0, 255, (20, 24, 1, 3)).astype(np.int16)
    nib.save(nib.Nifti1Image(array, np.diag([0.5, 0.5, 1, 1])), tmp_path / "a.nii.gz")
    report = medseg.predict(bundle, tmp_path / "a.nii.gz", tmp_path / "out")
    assert (report["cases"][0]["result"], "volumes_ml" in report["cases"][0]) == ("a.nii.gz", True)


def test_pseudo_labels_of_photographs_are_drawn_as_they_are(tmp_path, monkeypatch):
    """One row for each case, in colour and the right way round; the pseudo-label has the pixels of the photograph."""
    pixels = photograph(tmp_path / "a.png")
    labels = np.zeros((44, 30, 1), np.uint8)
    labels[10:30, 8:20] = 1
    kept = keep_slices(tmp_path / "a.npz", tmp_path / "a.png", [labels, labels], labels, None)
    read = _read_slice(kept, PICTURE)
    np.testing.assert_array_equal(read.scan, pixels[::-1])
    np.testing.assert_array_equal(read.fused, labels[..., 0].T[::-1])
    written = []
    monkeypatch.setattr(Axes, "text", lambda self, x, y, text, **style: written.append(text))
    shown = draw_pseudo_labels({1: [kept]}, ["a"], ["cell"], ct=False)
    assert shown.startswith(b"\x89PNG")
    assert written == ["a"]


def test_components_of_photographs_are_counted_in_pixels():
    rule = {"smallest_mm3": 100.0}
    assert describe(rule) == "components of at least 100 mm3"
    assert describe(rule, "px") == "components of at least 100 pixels"
