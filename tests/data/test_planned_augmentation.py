"""How strongly training patches are changed: scans much, photographs little, upright where a method asks for it."""

from __future__ import annotations

import pytest
import yaml
from tiny import write_dataset

from medseg.planning.augmentation import plan_augment
from medseg.workflows.train.plan import write_plan


def affine(view="volume", given=None, **what) -> dict:
    return plan_augment(view, given or {}, **what)["affine"]


def test_scans_are_turned_by_thirty_degrees_and_zoomed():
    assert affine() == {"rotate_degrees": (30, 30, 30), "scale": (0.7, 1.4), "probability": 0.7}


@pytest.mark.parametrize(
    ("view", "degrees"), [("axial", (0, 0, 30)), ("coronal", (0, 30, 0)), ("sagittal", (30, 0, 0))]
)
def test_slices_are_turned_about_the_axis_across_them(view, degrees):
    assert affine(view)["rotate_degrees"] == degrees


def test_photographs_are_turned_a_little():
    assert affine("axial", photographs=True) == {"rotate_degrees": (0, 0, 15)}  # the rest by default


def test_what_is_asked_about_stays_upright():
    upright = affine("axial", asks_upright=True)
    assert upright == {"rotate_degrees": (0, 0, 15), "scale": (0.7, 1.4), "probability": 0.7}


def test_settings_of_the_pipeline_come_first():
    changed = affine("axial", {"affine": {"probability": 0.1}, "crop": {"probability": 0}})
    assert changed == {"rotate_degrees": (0, 0, 30), "scale": (0.7, 1.4), "probability": 0.1}


@pytest.mark.parametrize(("task", "degrees"), [("supervised", 30.0), ("s4l", 15.0)])
def test_a_plan_knows_what_its_method_asks(task, degrees, tmp_path):
    manifest = write_dataset(tmp_path)
    write_plan(task, manifest, tmp_path / "plan.yaml")
    planned = yaml.safe_load((tmp_path / "plan.yaml").read_text())
    assert planned["data"]["augment"]["affine"]["rotate_degrees"] == [degrees, degrees, degrees]
