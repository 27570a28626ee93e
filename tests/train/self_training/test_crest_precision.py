"""How right CReST's pseudo-labels would be, by validation cases, and the classes that are left out by that."""

from __future__ import annotations

import json
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from tiny import write_dataset

from medseg import methods
from medseg.errors import ConfigError, ManifestError
from medseg.manifest.manifest import Manifest
from medseg.method import Predictions
from medseg.ops.semi_supervised.rebalancing import count_scores, decide_class, keep_share, ordered_code
from medseg.workflows.train import settings
from medseg.workflows.train.checks.streams import check_all_streams
from medseg.workflows.train.self_training.labelling.precision import judge_rule, low_precision, read_precision


def predictions(labels: np.ndarray, log_odds: np.ndarray, name: str) -> Predictions:
    label, odds = torch.from_numpy(labels.astype(np.uint8)), torch.from_numpy(log_odds.astype(np.float16))
    return Predictions([label], [odds.float().sigmoid().half()], log_odds=[odds], name=name)


@pytest.mark.parametrize(("select", "spread"), [("random", 5.0), ("top", 0.0)])
def test_of_equal_samples_another_case_keeps_the_same_share(select, spread):
    """By hand: (1/4)^1 of 1000 unlabelled voxels are kept, and so are 100 of the 400 of a validation case."""
    rule = methods.build_rule("crest", 2, alpha=1, rate="inverse", select=select, least_rate=0.0)
    rule.class_counts = [4, 1]
    rng = np.random.default_rng(0)
    unlabelled = predictions(np.zeros((10, 10, 10)), 9 + spread * rng.random((10, 10, 10)), "a")
    other = predictions(np.zeros((4, 10, 10)), 9 + spread * rng.random((4, 10, 10)), "validation")
    decided = rule.decide({"a": rule.summarize(unlabelled)})
    assert int((rule.label(unlabelled, decided, 1) == 0).sum()) == 250
    assert int((rule.label(other, rule.for_others(decided), 1) == 0).sum()) == 100
    assert int((rule.label(other, decided, 1) == 0).sum()) == 0, "it has no quota of its own"


def test_single_samples_of_other_cases_are_kept_as_often_as_the_share_says():
    """Three tenths of 2000 images, whose standard deviation is the root of 2000 * 0.3 * 0.7, 20.5."""
    decided = {"cut": 5, "quotas": None, "share": 0.3}
    kept = sum(int(keep_share(np.array([5]), decided, seed=0, name=f"image{n}").sum()) for n in range(2000))
    assert abs(kept - 600) < 3 * 20.5


def test_of_a_class_without_a_rate_or_without_a_sample_other_cases_keep_nothing():
    codes = ordered_code(np.array([3.0, 4.0]))
    for cases, rate in (({"a": count_scores(codes)}, 0.0), ({"a": count_scores(codes[:0])}, 1.0), ({}, 1.0)):
        decided = {**decide_class(cases, rate, 0), "quotas": None}
        assert not keep_share(ordered_code(np.array([9.0])), decided, seed=0, name="other").any()


def test_classes_of_which_too_little_is_right_are_left_out_by_hand():
    rule = methods.build_rule("crest", 3, alpha=0, least_precision=0.5)
    rule.class_counts = [10, 10, 10]
    labels = np.arange(27).reshape(3, 3, 3) % 3
    case = predictions(labels, np.ones((3, 3, 3)), "a")
    decided = rule.decide({"a": rule.summarize(case)})
    assert rule.leave_out(decided, [0.9, 0.5, None]) == (decided, [])
    final, left_out = rule.leave_out(decided, [0.9, 0.49, 1.0])
    assert left_out == [1]
    kept = rule.label(case, final, 1).numpy()
    assert (kept == np.where(labels == 1, 255, labels)).all()
    assert decided["1"]["rate"] == 1, "what was decided first is as it was"


class Store:
    """Predictions of a network that finds the box of every case and calls the upper half of the ball a box too."""

    networks = SimpleNamespace(digest="networks")

    def predict(self, manifest, case):
        label = np.asarray(nib.load(manifest.label(case)).dataobj)
        wrong = (label == 1) & (np.arange(label.shape[2]) >= label.shape[2] // 2)
        return predictions(np.where(wrong, 2, label), np.full(label.shape, 3.0), case.name)

    def forget(self, case):
        pass


@pytest.mark.parametrize("select", ["top", "random"])
@pytest.mark.parametrize(("least", "left_out"), [(0.0, None), (0.99, ["box"])])
def test_the_table_has_every_class_and_says_what_is_left_out(tmp_path, select, least, left_out):
    manifest = Manifest.load(write_dataset(tmp_path / "data", labeled=1, unlabeled=0, validation=2, shape=(12, 10, 8)))
    rule = methods.build_rule("crest", 3, rate="inverse", select=select, least_precision=least)
    rule.class_counts = [100, 10, 10]
    store = Store()
    unlabelled = store.predict(manifest, manifest.training[0])
    decided = rule.decide({unlabelled.name: rule.summarize(unlabelled)})
    final = judge_rule(rule, decided, store, manifest, tmp_path, 1)
    found = read_precision(tmp_path)
    assert found["precision"]["background"] == found["precision"]["ball"] == 1.0
    assert 0.1 < found["precision"]["box"] < 0.99
    assert found["kept_share"]["ball"] == found["kept_share"]["box"] == 1.0
    assert found["kept_share"]["background"] == pytest.approx(0.46416, abs=0.002), "a tenth to the power of a third"
    assert found.get("left_out") == left_out
    assert (final == decided) is (left_out is None)
    told = [line for line in low_precision(found) if "nothing is added of box" in line]
    assert len(told) == (0 if left_out is None else 1)
    assert json.loads((tmp_path / "precision.json").read_text()) == found


def test_without_labelled_validation_cases_nothing_can_be_left_out(tmp_path):
    manifest = Manifest.load(write_dataset(tmp_path, validation=0, shape=(12, 10, 8)))
    check_all_streams(settings.load("crest"), manifest)
    pipeline = settings.load("crest", ["stages.0.rounds.rule.options.least_precision=0.5"])
    with pytest.raises(ManifestError, match="rule crest leaves out classes by labelled validation cases") as caught:
        check_all_streams(pipeline, manifest)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="least_precision 50: must be at least 0 and at most 1"):
        methods.build_rule("crest", 3, least_precision=50)
