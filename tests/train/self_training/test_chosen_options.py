"""Thresholds of a rule that labelled validation cases choose, by numbers worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from tagged import write_tagged

from medseg import methods
from medseg.config.between_runs import RuleSpec
from medseg.manifest.manifest import Manifest
from medseg.method import Predictions
from medseg.workflows.train.run import train
from medseg.workflows.train.self_training.labelling import choose_options as module
from medseg.workflows.train.self_training.labelling.choose_options import choose_options, count_overlap, mean_iou
from medseg.workflows.train.self_training.labelling.predict_maps import Predictors


def test_overlap_is_counted_where_the_reference_is_known():
    label = np.array([0, 1, 1, 2, 255, 1])
    reference = np.array([0, 1, 2, 2, 1, 255])
    counts = count_overlap(label, reference, 3)
    assert counts == [[1, 1, 1], [1, 2, 1], [1, 2, 2]]
    assert mean_iou(np.array(counts)) == pytest.approx((1 + 1 / 3 + 1 / 2) / 3)


def test_a_structure_that_is_nowhere_does_not_count():
    assert mean_iou(np.array([[2, 0], [2, 0], [4, 0]])) == 0.5
    assert mean_iou(np.zeros((3, 2), int)) == 0.0


class GivenMaps:
    """Predicts the same maps of every case, and knows no tags."""

    inputs = ("saliency", "image")

    def __init__(self, maps: torch.Tensor, saliency: torch.Tensor, folder: Path) -> None:
        self.maps, self.saliency, self.folder = maps, saliency, folder
        self.networks = Predictors(None)
        self.asked: list[str] = []

    def __enter__(self):
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def predict(self, manifest, case) -> Predictions:
        self.asked.append(case.name)
        return Predictions((), (), maps=[self.maps], inputs={"saliency": self.saliency}, name=case.name)

    def forget(self, case) -> None:
        pass


def with_validation(folder: Path, label: np.ndarray) -> Manifest:
    """The data set of `write_tagged` whose first image is a validation case with a label and saliency, without tags."""
    path = write_tagged(folder)
    content = json.loads(path.read_text())
    first = content["training"].pop(0)
    affine = nib.load(folder / first["image"]).affine
    nib.save(nib.Nifti1Image(label, affine), folder / "reference.nii.gz")
    content["validation"] = [{"image": first["image"], "maps": first["maps"], "label": "reference.nii.gz"}]
    path.write_text(json.dumps(content))
    return Manifest.load(path)


SHAPE = (24, 20, 18)


@pytest.fixture
def half(tmp_path):
    """Ball in the first half of the image; its map is 1 there, 0.4 in half of the rest, and all is salient."""
    label = np.zeros(SHAPE, np.uint8)
    label[:12] = 1
    maps = torch.zeros(2, *SHAPE)
    maps[0, :12], maps[0, 12:18] = 1.0, 0.4
    manifest = with_validation(tmp_path / "data", label)
    return manifest, GivenMaps(maps, torch.ones(SHAPE), tmp_path / "labels" / "chosen_options" / "predictions")


def chosen(monkeypatch, half, folder: Path, **options) -> RuleSpec:
    manifest, store = half
    monkeypatch.setattr(module, "PredictionStore", lambda *_: store)
    spec = RuleSpec(name="auxsegnet", options=options)
    return choose_options(spec, store.networks, torch.device("cpu"), manifest, folder / "labels", 1)


def test_the_smallest_threshold_that_leaves_out_what_is_wrong_is_chosen(half, tmp_path, monkeypatch, capsys):
    """With 0.2 and 0.35 the ball is 18 of 24 rows, of which 12 are right: 2 / 3; with 0.5 it is those 12.

    All is salient, so that nothing is background: its IoU is 0.
    """
    spec = chosen(monkeypatch, half, tmp_path)
    assert spec.options == {"object_threshold": 0.5, "salient_threshold": 0.06}
    said = "object_threshold 0.5 and salient_threshold 0.06, chosen by 1 validation cases: mean IoU"
    err = capsys.readouterr().err
    assert said in err
    assert "0.333 -> 0.500" in err
    found = json.loads((tmp_path / "labels" / "chosen_options.json").read_text())
    assert len(found["tried"]) == 30
    assert found["tried"][0]["iou"] == pytest.approx(1 / 3)


def test_what_the_pipeline_gives_stays_and_nothing_is_asked_twice(half, tmp_path, monkeypatch):
    spec = chosen(monkeypatch, half, tmp_path, object_threshold=0.2)
    assert spec.options == {"object_threshold": 0.2, "salient_threshold": 0.06}
    assert half[1].asked == ["case0"]
    chosen(monkeypatch, half, tmp_path, object_threshold=0.2)
    assert half[1].asked == ["case0"], "the record of the case was read"
    both = {"object_threshold": 0.3, "salient_threshold": 0.1}
    assert chosen(monkeypatch, half, tmp_path, **both).options == both


def test_without_a_label_to_choose_by_it_is_said(tmp_path, capsys):
    manifest = Manifest.load(write_tagged(tmp_path / "data"))
    spec = RuleSpec(name="auxsegnet")
    found = choose_options(spec, Predictors(None), torch.device("cpu"), manifest, tmp_path, 1)
    assert found == spec
    said = "object_threshold 0.2 and salient_threshold 0.06: no validation case has a label and a map called saliency"
    assert said in capsys.readouterr().err


def test_the_defaults_of_a_rule_are_tried_first():
    for name in ("auxsegnet", "group_wsss", "tag_maps"):
        rule = methods.build_rule(name, 3)
        assert {option: values[0] for option, values in rule.tried.items()} == {
            option: getattr(rule, option) for option in rule.tried
        }


def test_a_training_from_tags_chooses_and_goes_on(tmp_path, capfd):
    label = np.zeros(SHAPE, np.uint8)
    label[4:12, 4:12, 4:12] = 1
    manifest = with_validation(tmp_path / "data", label)
    small = ["stages.0.schedule.iterations=2", "stages.1.schedule.iterations=2", "data.patch=[16,16,16]"]
    small += [f"stages.{stage}.network.width=4" for stage in (0, 1)]
    small += [f"stages.{stage}.schedule.workers=0" for stage in (0, 1)]
    run = train("auxsegnet", manifest.path, tmp_path / "run", overrides=small)
    assert "chosen by 1 validation cases: mean IoU" in capfd.readouterr().err
    labels = run / "stage0" / "labels"
    best = json.loads((labels / "chosen_options.json").read_text())["chosen"]
    record = json.loads((labels / "pseudo" / "case1.json").read_text())
    assert record["settings"]["rule"]["options"] == best
