"""Comparisons on a set whose class 0 is one like the others, though its manifest does not say so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from medseg.errors import ConfigError, ManifestError
from medseg.manifest.manifest import Manifest
from medseg.workflows.compare.arms.check_arms import ready_arms
from medseg.workflows.compare.arms.data_sets import identity, split_arm
from medseg.workflows.compare.arms.read_arms import read_comparison
from medseg.workflows.compare.options import CompareOptions
from medseg.workflows.compare.report.statistics import set_iou
from medseg.workflows.compare.scores import judge as judging
from medseg.workflows.compare.scores.judge import ANSWER, judge, write_request
from medseg.workflows.compare.scores.rows import RunKey
from medseg.workflows.compare.scores.rows_csv import CASES, read_cases
from medseg.workflows.train import settings
from medseg.workflows.train.data_set import taken_by

ROOT = Path(__file__).resolve().parents[2]
WITHOUT = {"data.has_background": False}
LABELS = {"0": "sky", "1": "road", "2": "car"}


def write_set(folder: Path) -> Path:
    """Four photographs of 12 x 10, sky above road and a car on it; nothing in the manifest says that 0 is a class."""
    folder.mkdir(exist_ok=True)
    content = {"labels": LABELS, "modality": {"0": "red", "1": "green", "2": "blue"}, "training": [], "test": []}
    for number in range(4):
        label = np.zeros((10, 12), np.uint8)
        label[5:] = 1
        label[6:8, 3:6] = 2
        image = np.random.default_rng(number).integers(0, 255, (10, 12, 3)).astype(np.uint8)
        Image.fromarray(image).save(folder / f"photo{number}.png")
        Image.fromarray(label).save(folder / f"label{number}.png")
        section = "training" if number < 2 else "test"
        content[section].append({"image": f"photo{number}.png", "label": f"label{number}.png"})
    path = folder / "m.json"
    path.write_text(json.dumps(content))
    return path


def comparison(folder: Path, first: dict, second: dict):
    """Two arms with settings of their own."""
    path = folder / "arms.yaml"
    arms = [{"name": "a", "task": "supervised", "set": first}, {"name": "b", "task": "supervised", "set": second}]
    path.write_text(yaml.safe_dump({"data": str(write_set(folder / "data")), "arms": arms}))
    return read_comparison(CompareOptions(path))


def test_a_setting_says_that_a_set_has_no_background(tmp_path):
    manifest = Manifest.load(write_set(tmp_path))
    assert taken_by(settings.load("supervised"), manifest) is manifest
    taken = taken_by(settings.load("supervised", ["data.has_background=false"]), manifest)
    assert manifest.has_background
    assert list(taken.structures.values()) == ["sky", "road", "car"]
    assert taken.save(tmp_path / "taken.json").read_text().count('"background": null') == 1


def test_what_has_no_meaning_without_a_background_is_one_line(tmp_path):
    content = json.loads(write_set(tmp_path).read_text())
    content["training"][0]["classes"] = ["car"]
    manifest = Manifest.build(content, tmp_path / "m.json")
    pipeline = settings.load("supervised", ["data.has_background=false"])
    with pytest.raises(ManifestError, match=r"training\[0\].classes: what a label does not cover") as caught:
        taken_by(pipeline, manifest)
    assert "\n" not in str(caught.value)


def test_what_is_learnt_and_what_judges_have_none(tmp_path):
    found = comparison(tmp_path, WITHOUT, {})
    without, usual = (split_arm(found, arm, settings.load(arm.task, arm.overrides))[0] for arm in found.arms)
    for changed, same in ((without.learnt, usual.learnt), (without.judged, usual.judged)):
        assert same.has_background
        assert not changed.has_background
        assert identity(changed) != identity(same), "a run of the one does not count as one of the other"


def test_arms_are_judged_on_the_same_classes(tmp_path):
    arms, _ = ready_arms(comparison(tmp_path, WITHOUT, WITHOUT), "cpu")
    assert [arm.pipeline.data["has_background"] for arm in arms] == [False, False]
    with pytest.raises(ConfigError, match="of arms a and b one alone has no background"):
        ready_arms(comparison(tmp_path, WITHOUT, {}), "cpu")


def test_the_first_class_is_judged_like_the_others(tmp_path, monkeypatch):
    """By hand: of 60 pixels of sky in each photograph 48 are found, the other 12 called road; one has no prediction."""
    path = write_set(tmp_path / "data")
    content = {**json.loads(path.read_text()), "background": None}
    path.write_text(json.dumps(content))

    def predict(options) -> None:
        prediction = np.array(Image.open(tmp_path / "data/label2.png"))
        prediction[4] = 1
        options.output.mkdir(parents=True)
        Image.fromarray(prediction).save(options.output / "photo2.png")

    monkeypatch.setattr(judging, "run_prediction", predict)
    run = tmp_path / "run"
    write_request(run, RunKey("a", 0), path, "cpu", 1.0)
    judge(run)
    rows = read_cases(run / CASES)
    assert [(row.case, row.structure) for row in rows] == [
        (case, name) for case in ("photo2", "photo3") for name in LABELS.values()
    ]
    assert [(row.shared, row.predicted, row.reference) for row in rows] == [
        (48, 48, 60), (54, 66, 54), (6, 6, 6),
        (0, 0, 60), (0, 0, 54), (0, 0, 6),
    ]  # fmt: skip
    assert [round(row.metrics["dice"], 4) for row in rows[:3]] == [round(96 / 108, 4), round(108 / 120, 4), 1.0]
    assert json.loads((run / ANSWER).read_text())["worst"]["case"] == "photo2"
    assert set_iou(rows) == {}, "of a set with a background that the rows lack"
    wanted = {"sky": 48 / 120, "road": 54 / (66 + 108 - 54), "car": 6 / 12}
    assert set_iou(rows, has_background=False) == pytest.approx(wanted)


@pytest.mark.parametrize("path", sorted((ROOT / "comparisons").glob("*camvid*.yaml")), ids=lambda path: path.stem)
def test_sky_is_a_class_in_comparisons_of_road_scenes(path, monkeypatch):
    monkeypatch.setenv("MEDSEG_DATA", "elsewhere")
    for arm in read_comparison(CompareOptions(path)).arms:
        assert settings.load(arm.task, arm.overrides).data["has_background"] is False, arm.name
