from __future__ import annotations

import csv
import json
import statistics

import nibabel as nib
import numpy as np
import pytest
from pages import Page, shown

from medseg.errors import ConfigError, DataError, ManifestError, OutputError
from medseg.metrics import METRICS, metric, segmentation_metrics
from medseg.metrics.aggregate import mean_of_classes, summarize
from medseg.portable.geometry import values_in
from medseg.workflows.demo.phantom import make_phantom
from medseg.workflows.evaluate.run import evaluate

AFFINE = np.diag([-0.8, 1.2, 2.5, 1.0])
AFFINE[:3, 3] = 40, -30, 12


def save(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def body(seed, organs=(1, 7)):
    rng = np.random.default_rng(seed)
    label = np.zeros((24, 20, 12), np.uint8)
    for value in organs:
        start = rng.integers(2, 6, 3) + np.array([0 if value == 1 else 8, 0, 0])
        x, y, z = (slice(s, s + n) for s, n in zip(start, (7, 8, 5), strict=True))
        label[x, y, z] = value
    return label


@pytest.fixture
def world(tmp_path):
    """Four test cases with labels, predictions for three that are one voxel off."""
    cases = []
    for k in range(4):
        label = body(k, organs=(1,) if k == 2 else (1, 7))
        save(tmp_path / f"data/labels/case{k}.nii.gz", label)
        image = (label * 50 + np.random.default_rng(k).normal(0, 9, label.shape)).astype(np.int16)
        save(tmp_path / f"data/images/case{k}.nii.gz", image)
        cases.append({"image": f"images/case{k}.nii.gz", "label": f"labels/case{k}.nii.gz"})
        if k < 3:
            save(tmp_path / f"pred/case{k}.nii.gz", np.roll(label, 1, axis=2))
    write(tmp_path, {"test": cases, "training": [{**cases[0], "case": "other"}]})
    return tmp_path


def write(folder, lists, **more):
    manifest = {
        "labels": {"0": "background", "1": "heart", "7": "lung"},
        "modality": {"0": "MR"},
        **lists,
        **more,
    }
    (folder / "data/m.json").write_text(json.dumps(manifest))


def run(world, **options):
    return evaluate(world / "pred", world / "data/m.json", **options)


def test_figures_files_and_counts(world):
    report = run(world, tolerance_mm=2.0)
    folder = world / "pred/evaluation"
    pages = {"montage.png", "report.html"}
    assert {p.name for p in folder.iterdir()} == {"metrics.csv", "metrics.json", "metrics.md", *pages}
    assert json.loads((folder / "metrics.json").read_text()) == report
    label = body(0)
    direct = segmentation_metrics(
        np.roll(label, 1, 2), label, label_values=[1, 7], spacing_mm=(0.8, 1.2, 2.5), tolerance_mm=2.0
    )
    first = report["cases"][0]
    assert first["status"] == "compared"
    for value, name in ((1, "heart"), (7, "lung")):
        for figure, expected in direct[value].items():
            assert first["classes"][name][figure] == (
                pytest.approx(expected, abs=1e-5) if isinstance(expected, float) else expected
            ), figure
    assert report["section"] == "test"
    heart, lung = report["classes"]["heart"], report["classes"]["lung"]
    assert heart["dice"]["n"] == 3
    assert lung["dice"]["n"] == 2  # one case has no lung, and no lung was predicted
    assert lung["counts"] == {"both": 2, "missing": 0, "spurious": 0, "both_empty": 1, "failed": 1}
    assert report["failed"] == ["case3"]
    assert heart["dice_with_failures"]["mean"] == pytest.approx(0.75 * heart["dice"]["mean"])
    assert report["mean"]["dice"]["n"] == 2


def test_a_new_metric_is_one_entry(world):
    before = dict(METRICS)

    @metric("miss_ml", "volume of what was missed", heading="missed ml", unit="ml")
    def miss_ml(found):
        return (found.true - found.tp) * found.voxel_ml

    try:
        report = run(world, pictures=False)
    finally:
        METRICS.clear()
        METRICS.update(before)
    # 7 x 8 x 5 voxels of 0.8 x 1.2 x 2.5 mm, moved by one along the axis of 5: 56 voxels of 2.4 mm3 are missed
    assert report["cases"][0]["classes"]["heart"]["miss_ml"] == pytest.approx(56 * 2.4 / 1000)
    assert report["classes"]["heart"]["miss_ml"]["mean"] == pytest.approx(56 * 2.4 / 1000)
    assert report["definitions"]["miss_ml"] == "volume of what was missed"
    folder = world / "pred/evaluation"
    assert "miss_ml" in (folder / "metrics.csv").read_text().splitlines()[0].split(",")
    assert "| missed ml |" in (folder / "metrics.md").read_text()


def test_rows_of_the_table(world):
    run(world, pictures=False)
    assert not (world / "pred/evaluation/montage.png").exists()
    with (world / "pred/evaluation/metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["case"], row["class"]) for row in rows] == [
        (f"case{k}", name) for k in range(4) for name in ("heart", "lung")
    ]
    missing = rows[-1]
    assert missing["status"] == "no prediction"
    assert "case3.nii.gz is not there" in missing["message"]
    assert missing["hd95_mm"] == ""
    text = (world / "pred/evaluation/metrics.md").read_text()
    assert "| heart | 3 |" in text
    assert "max_directed" in text
    assert "Not compared: 1 of 4" in text


def test_flipped_and_permuted_storage_is_brought_over(world):
    before = run(world, pictures=False)
    stored = nib.load(world / "pred/case0.nii.gz")
    turned = stored.as_reoriented(np.array([[2, 1], [0, -1], [1, 1]]))
    nib.save(turned, world / "pred/case0.nii.gz")
    assert nib.load(world / "pred/case0.nii.gz").shape != stored.shape
    after = run(world, pictures=False)
    assert after["cases"][0]["classes"] == before["cases"][0]["classes"]
    assert not after["cases"][0]["warnings"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: save(p, body(0)[:-1]), "23x20x12 voxels, its reference"),
        (lambda p: save(p, body(0), np.diag([-0.8, 1.2, 2.5, 1.0])), "voxels) off its reference"),
        (lambda p: save(p, body(0) + np.uint8(2)), "holds 2, 3, 9, which is no label; accepted are 0, 1, 7"),
        (lambda p: save(p, body(0) * np.float32(0.9989)), "whole numbers"),
        (lambda p: save(p, np.full((24, 20, 12), 255, np.uint8)), "holds 255, which is no label"),
        (lambda p: p.write_bytes(p.read_bytes()[:-30]), "case0.nii.gz: "),
    ],
)
def test_predictions_that_cannot_be_compared_are_told_apart(world, change, words):
    change(world / "pred/case0.nii.gz")
    report = run(world, pictures=False)
    first = report["cases"][0]
    assert first["status"] == "unusable prediction"
    assert words in first["message"]
    assert report["failed"] == ["case0", "case3"]
    assert report["classes"]["heart"]["dice"]["n"] == 2
    assert report["classes"]["heart"]["counts"]["failed"] == 2


def test_a_header_a_tenth_of_a_voxel_off_is_compared_with_a_warning(world):
    moved = AFFINE.copy()
    moved[0, 3] += 0.08
    save(world / "pred/case0.nii.gz", np.roll(body(0), 1, 2), moved)
    first = run(world, pictures=False)["cases"][0]
    assert first["status"] == "compared"
    assert "case0.nii.gz lies up to 0.08 mm (0.1 voxels) off its reference" in first["warnings"][0]


def test_a_bad_reference_is_nobodys_zero(world):
    save(world / "data/labels/case1.nii.gz", body(1) * np.uint8(5))
    report = run(world, pictures=False)
    assert report["cases"][1]["status"] == "unusable reference"
    assert "case1.nii.gz" in report["cases"][1]["message"]
    assert report["classes"]["heart"]["dice_with_failures"]["n"] == 3


def test_ignored_voxels_by_the_manifests_own_value(world):
    label = body(0).astype(np.int32)
    label[:, 10:] = 1000
    save(world / "data/labels/case0.nii.gz", label)
    cases = json.loads((world / "data/m.json").read_text())["test"]
    write(world, {"test": cases[:1]}, ignore_index=1000)
    changed = np.roll(body(0), 1, 2)
    first = run(world, pictures=False)["cases"][0]["classes"]
    changed[:, 10:] = 7
    save(world / "pred/case0.nii.gz", changed)
    again = run(world, pictures=False)["cases"][0]["classes"]
    for name, figures in first.items():
        assert again[name] == pytest.approx(figures)


def test_sections(world):
    (world / "pred/case0.nii.gz").rename(world / "pred/other.nii.gz")
    assert run(world, section="training", pictures=False)["section"] == "training"
    with pytest.raises(ConfigError, match=r"holds the evaluation of section training and not of test; choose another"):
        run(world, pictures=False)
    report = run(world, output=world / "tested", pictures=False)
    assert report["failed"] == ["case0", "case3"]
    assert report["unmatched"] == ["other.nii.gz"]
    cases = json.loads((world / "data/m.json").read_text())
    write(world, {"test": [{"image": c["image"]} for c in cases["test"]], "training": cases["training"]})
    assert run(world, pictures=False)["section"] == "training"
    with pytest.raises(ManifestError, match="no case of section 'test' has a label"):
        run(world, section="test")
    with pytest.raises(ManifestError, match="no section 'tests'; one of training, validation"):
        run(world, section="tests")


def test_a_folder_of_label_files_as_reference(world):
    report = evaluate(world / "pred", world / "data/labels", world / "out")
    assert list(report["classes"]) == ["label 1", "label 7"]
    assert report["failed"] == ["case3"]
    assert (world / "out/montage.png").stat().st_size > 10_000
    assert not (world / "pred/evaluation").exists()


def test_nothing_to_compare(world, tmp_path):
    with pytest.raises(DataError, match="does not exist; predictions are a folder"):
        evaluate(tmp_path / "no", world / "data/m.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no prediction of any of the 4 cases .*like case0.nii.gz"):
        evaluate(tmp_path / "empty", world / "data/m.json")
    with pytest.raises(DataError, match="holds no label file"):
        evaluate(world / "pred", tmp_path / "empty")
    for k in range(3):
        save(world / f"pred/case{k}.nii.gz", body(k)[:5])
    with pytest.raises(DataError, match=r"not one case can be compared; the first: .*5x20x12"):
        run(world)
    assert not (world / "pred/evaluation").exists()


def test_a_place_that_cannot_be_written(world):
    (world / "out").write_text("in the way")
    with pytest.raises(OutputError, match="out: cannot be made"):
        run(world, output=world / "out")


def test_pictures_of_a_single_slice_and_of_a_phantom(tmp_path):
    image, label, affine = make_phantom((48, 40, 20), (6.4, 6.4, 10.0), seed=2)
    cut = {"flat": np.s_[:, :, 12:13], "whole": np.s_[:, :, :]}
    names = {str(v): f"organ {v}" for v in range(1, 7)}
    manifest = {"labels": {"0": "background", **names}, "modality": {"0": "CT"}, "test": []}
    for name, part in cut.items():
        save(tmp_path / f"images/{name}.nii.gz", image[part], affine)
        save(tmp_path / f"labels/{name}.nii.gz", label[part], affine)
        save(tmp_path / f"pred/{name}.nii.gz", np.roll(label[part], 1, 0), affine)
        manifest["test"].append({"image": f"images/{name}.nii.gz", "label": f"labels/{name}.nii.gz"})
    (tmp_path / "m.json").write_text(json.dumps(manifest))
    report = evaluate(tmp_path / "pred", tmp_path / "m.json")
    assert not report["failed"]
    png = (tmp_path / "pred/evaluation/montage.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert 50_000 < len(png) < 3_000_000


def test_summary_names_what_it_averages():
    def row(situation, dice, hd95=None):
        mask = np.zeros((4, 4, 4), np.uint8)
        figures = segmentation_metrics(mask, mask, label_values=[1], spacing_mm=(1, 1, 1))[1]
        return {**figures, "situation": situation, "dice": dice, "hd95_mm": hd95}

    rows = [row("both", 0.8, 3.0), row("both", 0.6, 5.0), row("missing", 0.0), row("both_empty", 1.0)]
    found = summarize(rows, [row("missing", 0.0), row("both_empty", 1.0)])
    assert found["dice"]["n"] == 3
    assert found["dice"]["mean"] == pytest.approx(1.4 / 3)
    assert found["dice"]["sd"] == pytest.approx(statistics.stdev([0.8, 0.6, 0.0]))
    assert found["dice"]["median"] == 0.6
    assert found["hd95_mm"] == {
        "mean": 4.0,
        "sd": pytest.approx(2**0.5),
        "median": 4.0,
        "min": 3.0,
        "max": 5.0,
        "n": 2,
    }
    assert found["counts"] == {"both": 2, "missing": 1, "spurious": 0, "both_empty": 1, "failed": 1}
    assert found["dice_with_failures"]["n"] == 4
    nothing = summarize([row("both_empty", 1.0)], [])
    assert nothing["dice"] == {"mean": None, "sd": None, "median": None, "min": None, "max": None, "n": 0}
    assert mean_of_classes([found, nothing])["dice"] == {"mean": found["dice"]["mean"], "n": 1}


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.uint64, np.float32])
def test_values_in_any_type(dtype):
    array = np.array([0, 3, 200, 3, 0, 77], dtype).reshape(1, 2, 3)
    assert values_in(array).tolist() == [0, 3, 77, 200]
    if dtype in (np.int16, np.int64):
        assert values_in(array - dtype(90)).tolist() == [-90, -87, -13, 110]
    if dtype is np.int64:
        assert values_in(array * 10**9).tolist() == [0, 3 * 10**9, 77 * 10**9, 200 * 10**9]


def test_the_page_says_what_the_tables_say(world):
    report = run(world)
    text = (world / "pred/evaluation/report.html").read_text()
    page = Page(text)
    assert shown(page, "3 of 4 cases compared")
    assert shown(page, f"mean Dice {report['mean']['dice']['mean']:.3f}")
    assert shown(page, "case3 :"), "what could not be compared"
    assert page.words.count(": mean Dice ") == 3, "a picture of each compared case"
    assert len(page.links) == 4, "and one of all values"
    assert str(world) not in text
