"""How strongly training patches are changed: slices much, volumes and photographs less; upright where it is asked."""

from __future__ import annotations

import json

import pytest
import yaml
from tiny import write_dataset

from medseg.planning.augmentation import Questions, plan_augment
from medseg.workflows.train import settings
from medseg.workflows.train.checks.streams import learns_from_tags
from medseg.workflows.train.plan import write_plan


def affine(view="volume", given=None, **what) -> dict:
    return plan_augment(view, given or {}, **what)["affine"]


def test_volumes_are_turned_a_little():
    assert affine() == {"rotate_degrees": (15, 15, 15)}  # the rest by default


@pytest.mark.parametrize(
    ("view", "degrees"), [("axial", (0, 0, 30)), ("coronal", (0, 30, 0)), ("sagittal", (30, 0, 0))]
)
def test_slices_are_zoomed_and_turned_about_the_axis_across_them(view, degrees):
    assert affine(view) == {"rotate_degrees": degrees, "scale": (0.7, 1.4), "probability": 0.7}


def test_photographs_are_turned_a_little():
    assert affine("axial", photographs=True) == {"rotate_degrees": (0, 0, 15)}


def test_what_is_asked_about_stays_upright():
    upright = affine("axial", questions=Questions(which_way_up=True))
    assert upright == {"rotate_degrees": (0, 0, 15), "scale": (0.7, 1.4), "probability": 0.7}


def cut(given=None, **what) -> float:
    return plan_augment("axial", given or {}, **what)["crop"]["probability"]


def test_scans_are_cut_and_photographs_and_tagged_images_are_not():
    assert cut() == cut(questions=Questions(which_way_up=True)) == 0.2
    assert cut(photographs=True) == 0
    assert cut(questions=Questions(what_is_shown=True)) == 0
    assert cut({"crop": {"probability": 0.4}}, questions=Questions(what_is_shown=True)) == 0.4


@pytest.mark.parametrize(("task", "probability"), [("supervised", 0.2), ("classify", 0)])
def test_a_plan_knows_that_images_are_classified(task, probability, tmp_path):
    manifest = write_dataset(tmp_path, shape=(24, 20, 4), spacing=(1.0, 1.0, 8.0))
    data_set = json.loads(manifest.read_text())
    for case in data_set["training"]:
        case["tags"] = ["ball"]
    if task == "classify":
        data_set["background"] = None
        data_set["training"] = [{"image": case["image"], "tags": ["ball"]} for case in data_set["training"]]
    manifest.write_text(json.dumps(data_set))
    write_plan(task, manifest, tmp_path / "plan.yaml")
    planned = yaml.safe_load((tmp_path / "plan.yaml").read_text())
    assert planned["data"]["augment"]["crop"]["probability"] == probability


@pytest.mark.parametrize(
    ("task", "expected"),
    [("auxsegnet", True), ("group_wsss", True), ("wilson", True), ("dtc", False), ("crest", False)],
)
def test_it_is_known_which_pipelines_learn_from_tags(task, expected):
    assert learns_from_tags(settings.load(task, [])) == expected


def test_settings_of_the_pipeline_come_first():
    changed = affine("axial", {"affine": {"probability": 0.1}, "crop": {"probability": 0}})
    assert changed == {"rotate_degrees": (0, 0, 30), "scale": (0.7, 1.4), "probability": 0.1}


@pytest.mark.parametrize(("task", "degrees"), [("supervised", 30.0), ("s4l", 15.0)])
def test_a_plan_knows_what_its_method_asks(task, degrees, tmp_path):
    manifest = write_dataset(tmp_path, shape=(24, 20, 4), spacing=(1.0, 1.0, 8.0))
    write_plan(task, manifest, tmp_path / "plan.yaml")
    planned = yaml.safe_load((tmp_path / "plan.yaml").read_text())
    assert planned["data"]["augment"]["affine"]["rotate_degrees"] == [0, 0, degrees]
