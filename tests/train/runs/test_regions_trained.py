"""Regions from a raw folder of nnU-Net to scores, by commands: trained, written, run by MONAI alone, and refused."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from brats_like import write_brats_like
from models import labels_of
from stock import elsewhere
from tiny import FAST

from medseg.bundle.bundle import open_bundle
from medseg.cli.app import main
from medseg.errors import BundleError
from medseg.manifest.manifest import Manifest
from medseg.workflows.compare.scores.judge import _Counter
from medseg.workflows.compare.scores.rows import RunKey

NAMES = ["whole tumor", "tumor core", "enhancing tumor"]
SETTINGS = [*FAST, "stages.0.schedule.iterations=12", "stages.0.schedule.validate_every=6"]


def command(*words: object) -> int | str | None:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A raw folder, its manifest, a model, and what that predicts and how good that is."""
    folder = tmp_path_factory.mktemp("regions")
    write_brats_like(folder / "raw")
    assert command("data", "init", folder / "raw", "-o", folder / "m.json", "--validation", 0.34) == 0
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    assert command("train", "--task", "supervised", "--data", folder / "m.json", "-o", folder / "run", *settings) == 0
    predict = ("predict", "--model", folder / "run", "--input", folder / "m.json", "--section", "test")
    assert command(*predict, "-o", folder / "out", "--probabilities", "--overlay") == 0
    assert command("evaluate", "-p", folder / "out", "-r", folder / "m.json", "-o", folder / "scores") == 0
    return folder


def test_the_bundle_knows_its_regions(world):
    bundle = open_bundle(world / "run")
    assert (bundle.data.region_members, bundle.independent) == (((1, 2, 3), (2, 3), (3,)), True)
    described = json.loads((world / "run/bundle/configs/metadata.json").read_text())
    output = described["network_data_format"]["outputs"]["pred"]
    assert (output["num_channels"], output["channel_def"]) == (3, dict(zip("012", NAMES, strict=True)))
    page = (world / "run/bundle/docs/README.md").read_text()
    assert "| 1, 2, 3 | whole tumor |" in page
    assert "In a result whole tumor is 1 or 2 or 3; tumor core is 2 or 3; enhancing tumor is 3." in page
    plan = json.loads((world / "run/plan.json").read_text())
    assert plan["post-processing"] == "none, since regions overlap"
    validations = [json.loads(line) for line in (world / "run/metrics.jsonl").read_text().splitlines()]
    assert [list(line["classes"]) for line in validations if line["kind"] == "validation"] == [NAMES] * 2


def test_labels_are_painted_and_volumes_are_those_of_unions(world):
    labels = labels_of(world / "out/case3.nii.gz")
    stored = nib.load(world / "out/probabilities/case3.nii.gz")
    present = np.rint(stored.get_fdata() * 255) >= 128
    assert present.shape == (*labels.shape, 3)
    painted = np.zeros(labels.shape, np.uint8)
    for region in range(3):
        painted[present[..., region]] = region + 1
    np.testing.assert_array_equal(labels, painted)
    (case,) = json.loads((world / "out/predict_report.json").read_text())["cases"]
    sizes = [np.isin(labels, values).sum() * 1.5 / 1000 for values in ([1, 2, 3], [2, 3], [3])]
    assert list(case["volumes_ml"]) == NAMES
    assert list(case["volumes_ml"].values()) == pytest.approx(sizes, abs=1e-3)
    assert (world / "out/overlays/case3.png").stat().st_size > 1000


def test_scores_are_those_of_unions_of_the_files(world):
    predicted, true = labels_of(world / "out/case3.nii.gz"), labels_of(world / "raw/labelsTs/case3.nii.gz")
    with (world / "scores/metrics.csv").open() as file:
        rows = {row["class"]: row for row in csv.DictReader(file)}
    for name, values in zip(NAMES, ([1, 2, 3], [2, 3], [3]), strict=True):
        one, other = np.isin(predicted, values), np.isin(true, values)
        expected = 2 * (one & other).sum() / (one.sum() + other.sum()) if one.any() else 0.0
        assert float(rows[name]["dice"]) == pytest.approx(expected, abs=1e-5)
        assert float(rows[name]["reference_ml"]) == pytest.approx(other.sum() * 1.5 / 1000, abs=1e-6)


def test_a_comparison_counts_the_voxels_of_unions(world):
    predicted, true = labels_of(world / "out/case3.nii.gz"), labels_of(world / "raw/labelsTs/case3.nii.gz")
    (case,) = json.loads((world / "scores/metrics.json").read_text())["cases"]
    rows = _Counter(Manifest.load(world / "m.json"), RunKey("arm", 0, None, None), 1.0).rows(case)
    expected = {"background": ((predicted == 0) & (true == 0)).sum()}
    for name, values in zip(NAMES, ([1, 2, 3], [2, 3], [3]), strict=True):
        expected[name] = (np.isin(predicted, values) & np.isin(true, values)).sum()
    assert {row.structure: row.shared for row in rows} == expected


BY_MONAI = """
import sys
from monai.bundle import run
images, results, data = sys.argv[1:]
run(config_file="configs/inference.json", bundle_root=".", dataset_dir=images, output_dir=results)
run(config_file="configs/train.json", bundle_root=".", dataset_dir=data, epochs=1, val_interval=1)
"""


def test_monai_alone_gives_the_same_voxels_and_trains_on(world, tmp_path):
    shutil.copytree(world / "run" / "bundle", tmp_path / "copy")
    manifest = json.loads((world / "m.json").read_text())
    (world / "dataset.json").write_text(json.dumps({key: manifest[key] for key in ("training", "validation")}))
    places = [world / "raw/imagesTs", tmp_path / "theirs", world]
    elsewhere(tmp_path / "copy", "-c", BY_MONAI, *map(str, places))
    np.testing.assert_array_equal(labels_of(tmp_path / "theirs/case3.nii.gz"), labels_of(world / "out/case3.nii.gz"))
    assert (tmp_path / "copy/models/model_finetuned.pt").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--task", "dtc"), "and dtc is for classes that do not overlap; accepted are supervised, rotation,"),
        (("--task", "mean_teacher"), "mean_teacher is for classes that do not overlap"),
        (("--task", "dmpct"), "stages.0.views are sagittal, coronal, axial, which vote for one class; accepted is one"),
        (("--task", "self_training"), "stages.0.rounds makes labels of one class a voxel; accepted is none"),
        (("--task", "locally_adaptive"), "loss locally_adaptive is for classes that do not overlap"),
        (("--task", "classify"), "data.target is images, which have one class each"),
    ],
)
def test_what_cannot_learn_regions_is_refused_in_one_line(words, told, world, tmp_path, capfd):
    capfd.readouterr()
    assert command("train", *words, "--data", world / "m.json", "-o", tmp_path / "run") == 2
    said = " ".join(capfd.readouterr().err.split())
    assert told in said, said
    assert "Traceback" not in said
    assert not (tmp_path / "run" / "bundle").exists()


def test_a_bundle_that_paints_others_is_refused(world, tmp_path):
    shutil.copytree(world / "run" / "bundle", tmp_path / "copy")
    file = tmp_path / "copy/configs/inference.json"
    config = json.loads(file.read_text())
    config["inferer"]["paint_order"] = [3, 2, 1]
    file.write_text(json.dumps(config))
    with pytest.raises(BundleError, match="inferer paints other regions than the labels have"):
        open_bundle(tmp_path / "copy")
