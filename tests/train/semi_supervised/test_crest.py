"""CReST: rates, exact shares and distribution alignment against values worked out by hand."""

from __future__ import annotations

import json
import math
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from given_networks import factory
from tiny import write_dataset

from medseg import methods
from medseg.errors import ConfigError
from medseg.method import Clock, Predictions
from medseg.methods.crest import SLOTS
from medseg.ops.semi_supervised.alignment import align, alignment_exponent, alignment_target
from medseg.ops.semi_supervised.rebalancing import (
    choose_share,
    class_rates,
    count_scores,
    decide_class,
    keep_share,
    ordered_code,
)
from medseg.ops.semi_supervised.regions import mean_confidence
from medseg.portable.inference.label_sink import top_log_odds
from medseg.workflows.train.run import train
from medseg.workflows.train.self_training.labelling.precision import count_right, low_precision, summarize
from medseg.workflows.train.stages.stage import StageRun

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.mark.parametrize(
    ("counts", "alpha", "worked_out"),
    [
        ((100, 10, 1), 1 / 3, (0.21544, 0.46416, 1)),
        ((100, 10, 1), 1 / 2, (0.1, 0.31623, 1)),
        ((100, 10, 1), 1, (0.01, 0.1, 1)),
        ((100, 10, 1), 0, (1, 1, 1)),
        ((10, 100, 1), 1 / 3, (0.46416, 0.21544, 1)),
        ((1000, 300, 50, 5), 1 / 3, (0.171, 0.368, 0.669, 1)),
        ((100, 0, 1), 1 / 2, (0.1, 0, 1)),
        ((7, 7, 7), 1 / 3, (1, 1, 1)),
        ((0, 0), 1 / 3, (0, 0)),
    ],
)
def test_rates_by_rank(counts, alpha, worked_out):
    assert class_rates(counts, alpha=alpha) == pytest.approx(worked_out, abs=5e-4)


def test_rates_of_a_geometric_tail():
    counts = [1000 * 100 ** (-rank / 9) for rank in range(10)]
    wanted = (0.21544, 0.25551, 0.30303, 0.35938, 0.42622, 0.50548, 0.59948, 0.71097, 0.84319, 1)
    assert class_rates(counts, alpha=1 / 3) == pytest.approx(wanted, abs=1e-5)
    assert class_rates(counts, alpha=1 / 3, rate="inverse") == pytest.approx(wanted, abs=1e-5)


def test_rates_by_size():
    assert class_rates((1000, 300, 50, 5), alpha=1 / 3, rate="inverse") == pytest.approx(
        (0.171, 0.255, 0.464, 1), abs=5e-4
    )
    voxels = class_rates((10**7, 2 * 10**5, 5000), alpha=1 / 3, rate="inverse")
    assert voxels == pytest.approx((0.0794, 0.2924, 1), abs=5e-4)
    assert class_rates((10**4, 1), alpha=1 / 3) == pytest.approx((0.0464, 1), abs=1e-4)
    assert class_rates((10**9, 1), alpha=1, least=0.01) == [0.01, 1]


def test_classes_of_one_size_share_the_mean_of_their_ranks():
    assert class_rates((50, 50, 10), alpha=1 / 3) == pytest.approx(((0.5848 + 1) / 2, (0.5848 + 1) / 2, 1), abs=1e-4)


def test_codes_keep_the_order_of_the_scores():
    scores = np.array([-60000, -1.5, -1e-7, 0.0, 1e-7, 0.5, 3.0, 3.002, 60000], np.float16)
    codes = ordered_code(scores)
    assert (np.diff(codes) > 0).all()
    assert (ordered_code(-scores) == -codes).all()


def kept_of(scores: dict[str, np.ndarray], rate: float, seed: int = 0) -> dict[str, np.ndarray]:
    codes = {name: ordered_code(each) for name, each in scores.items()}
    decided = decide_class({name: count_scores(each) for name, each in codes.items()}, rate, seed)
    return {name: keep_share(each, decided, seed=seed, name=name) for name, each in codes.items()}


def test_the_most_confident_are_kept_by_hand():
    """floor(0.46416 * 8) = 3."""
    kept = kept_of({"a": np.array([0.99, 0.5, 0.9, 0.8, 0.7, 0.6, 0.55, 0.97])}, 0.46416)
    assert np.flatnonzero(kept["a"]).tolist() == [0, 2, 7]


@pytest.mark.parametrize(("there", "rate", "added"), [(60, 0.21544, 12), (20, 0.46416, 9), (8, 1.0, 8), (0, 1.0, 0)])
def test_numbers_added_by_hand(there, rate, added):
    scores = np.random.default_rng(0).random(there)
    assert int(kept_of({"a": scores[: there // 3], "b": scores[there // 3 :]}, rate)["b"].sum()) <= added
    assert (
        sum(int(each.sum()) for each in kept_of({"a": scores[: there // 3], "b": scores[there // 3 :]}, rate).values())
        == added
    )


def test_the_share_is_that_of_a_full_sort_over_all_cases():
    rng = np.random.default_rng(0)
    scores = {name: rng.normal(5, 3, 250_000).astype(np.float16) for name in "abcd"}
    kept = kept_of(scores, 0.27144)
    assert sum(int(each.sum()) for each in kept.values()) == 271_440
    chosen = np.concatenate([scores[name][kept[name]] for name in scores])
    left = np.concatenate([scores[name][~kept[name]] for name in scores])
    assert chosen.min() >= left.max()


def test_of_equal_scores_exactly_the_share_is_kept_and_the_same_again():
    scores = {"a": np.full(900, 12.0), "b": np.concatenate([np.full(90, 12.0), np.linspace(0, 1, 110)])}
    first, again = kept_of(scores, 0.3), kept_of(scores, 0.3)
    assert sum(int(each.sum()) for each in first.values()) == 330
    assert all((first[name] == again[name]).all() for name in scores)
    assert int(first["b"][90:].sum()) == 0
    other = kept_of(scores, 0.3, seed=1)
    assert any((first[name] != other[name]).any() for name in scores)


def test_schedules_by_hand():
    assert [alignment_exponent(g, 5, 0.5) for g in range(6)] == pytest.approx([1, 0.9, 0.8, 0.7, 0.6, 0.5])
    assert [alignment_exponent(g, 5, 0.8) for g in range(6)] == pytest.approx([1, 0.96, 0.92, 0.88, 0.84, 0.8])
    assert alignment_exponent(0, 0, 0.5) == 1


@pytest.mark.parametrize(
    ("exponent", "target"),
    [
        (1, (0.90090, 0.09009, 0.00901)),
        (0.75, (0.82682, 0.14703, 0.02615)),
        (0.5, (0.70610, 0.22329, 0.07061)),
        (0, (1 / 3, 1 / 3, 1 / 3)),
    ],
)
def test_targets_by_hand(exponent, target):
    shares = torch.tensor([100.0, 10.0, 1.0]) / 111
    assert alignment_target(shares, exponent).tolist() == pytest.approx(target, abs=1e-5)


def test_alignment_by_hand():
    target = alignment_target(torch.tensor([100.0, 10.0, 1.0]) / 111, 0.5)
    q = torch.tensor([0.7, 0.2, 0.1]).view(1, 3, 1, 1)
    predicted = torch.tensor([0.8, 0.15, 0.05])
    assert align(q, target, predicted).flatten().tolist() == pytest.approx((0.58464, 0.28172, 0.13363), abs=1e-4)
    assert align(predicted.view(1, 3, 1, 1), target, predicted).flatten().tolist() == pytest.approx(
        target.tolist(), abs=1e-4
    )
    uniform = torch.full((3,), 1 / 3)
    assert align(q, uniform, uniform).flatten().tolist() == pytest.approx((0.7, 0.2, 0.1), abs=1e-6)


def test_the_moving_average_of_shares_by_hand():
    method = methods.build("crest", factory(2, 3))
    shares = torch.tensor([0.8, 0.15, 0.05]).view(1, 3, 1, 1)
    nothing = {"label": torch.full((1, 1, 1, 1), 255, dtype=torch.uint8)}
    method._follow_shares(shares, nothing)
    assert method.recent.mean(0).tolist() == pytest.approx((0.33698, 0.33190, 0.33112), abs=1e-5)
    for _ in range(SLOTS):
        method._follow_shares(shares, nothing)
    assert method.recent.mean(0).tolist() == pytest.approx((0.8, 0.15, 0.05), abs=1e-6)


def predictions(labels: np.ndarray, log_odds: np.ndarray, name: str) -> Predictions:
    label = torch.from_numpy(labels.astype(np.uint8))
    odds = torch.from_numpy(log_odds.astype(np.float16))
    return Predictions([label], [odds.float().sigmoid().half()], log_odds=[odds], name=name)


def labelled(rule, cases: list[Predictions]) -> list[np.ndarray]:
    decided = rule.decide({case.name: rule.summarize(case) for case in cases})
    return [rule.label(case, decided, 1).numpy() for case in cases]


def test_the_rule_keeps_all_of_the_rare_class_and_a_share_of_the_others_by_hand():
    """Labels 10,000 : 1 and alpha 1/3: floor(0.0464 * 60) = 2 of the background, all of the structure."""
    rule = methods.build_rule("crest", 2)
    rule.class_counts = [10_000, 1]
    labels = np.zeros((4, 4, 4))
    labels[:, 0, 0] = 1
    odds = np.arange(64).reshape(4, 4, 4) / 8
    kept = labelled(rule, [predictions(labels, odds, "a")])[0]
    assert (kept[labels == 1] == 1).all()
    assert np.flatnonzero(kept.ravel() == 0).tolist() == [62, 63]
    assert int((kept == 255).sum()) == 58


def test_thresholds_are_those_of_all_cases():
    rule = methods.build_rule("crest", 2, alpha=1, least_rate=0.0)
    rule.class_counts = [4, 1]
    sure, doubtful = np.full((2, 2, 2), 9.0), np.full((2, 2, 2), 1.0)
    nothing = np.zeros((2, 2, 2))
    first, second = labelled(rule, [predictions(nothing, sure, "a"), predictions(nothing, doubtful, "b")])
    assert int((first == 0).sum()) == 4  # a quarter of 16
    assert (second == 255).all()


def test_regions_are_kept_whole_and_small_ones_left_out():
    rule = methods.build_rule("crest", 2, alpha=1, unit="region", smallest_region=2, least_rate=0.5)
    rule.class_counts = [1, 2]
    labels = np.zeros((8, 4, 4))
    labels[0:2, 0:2, 0] = 1  # 4 voxels, confident
    labels[4:6, 0:2, 0] = 1  # 4 voxels, not confident
    labels[7, 3, 3] = 1  # too small
    odds = np.where(np.arange(8)[:, None, None] < 3, 5.0, 1.0) * np.ones((8, 4, 4))
    kept = labelled(rule, [predictions(labels, odds, "a")])[0]
    assert (kept[0:2, 0:2, 0] == 1).all()
    assert int((kept == 1).sum()) == 4


def test_regions_are_ranked_by_their_mean_probability():
    """(0.999999 + 0.55) / 2 = 0.775 is less than 0.78, though its log-odds are more on average."""
    rule = methods.build_rule("crest", 2, alpha=1, unit="region", smallest_region=2, least_rate=0.5)
    rule.class_counts = [1, 2]
    labels, probability = np.zeros((8, 4, 4)), np.full((8, 4, 4), 0.9)
    labels[0:2, 0, 0] = labels[5:7, 0, 0] = 1
    probability[0:2, 0, 0] = 0.999999, 0.55
    probability[5:7, 0, 0] = 0.78
    kept = labelled(rule, [predictions(labels, np.log(probability / (1 - probability)), "a")])[0]
    assert np.argwhere(kept == 1).tolist() == [[5, 0, 0], [6, 0, 0]]


def test_without_a_background_the_first_class_has_regions_too():
    rule = methods.build_rule("crest", 2, alpha=0, unit="region", smallest_region=4)
    rule.class_counts = [1, 1]
    labels = np.ones((4, 4, 4))
    labels[0, 0, :3] = 0
    for has_background, kept in ((True, 3), (False, 0)):
        rule.has_background = has_background
        found = labelled(rule, [predictions(labels, np.ones((4, 4, 4)), "a")])[0]
        assert int((found == 0).sum()) == kept
        assert int((found == 1).sum()) == 61


def test_mean_confidences_tell_apart_what_is_nearly_certain():
    """By hand: 1 - p is e^-12 and e^-16 on the whole, so that the log-odds of the mean are 12 + log 2 and 16."""
    places = np.array([[[1, 1, 2, 0]]])
    found = mean_confidence(np.array([[[12.0, 40.0, 16.0, 0.0]]], np.float16), places, 2)
    assert found.tolist() == pytest.approx([12 + math.log(2), 16], abs=0.01)


def test_a_random_share_is_as_large_and_no_more_confident():
    labels, odds = np.zeros((10, 10, 10)), np.arange(1000.0).reshape(10, 10, 10) / 100
    kept = {}
    for select in ("top", "random"):
        rule = methods.build_rule("crest", 2, alpha=1, rate="inverse", select=select, least_rate=0.0)
        rule.class_counts = [4, 1]
        first, again = (labelled(rule, [predictions(labels, odds, "a")])[0] for _ in range(2))
        assert (first == again).all()
        kept[select] = first == 0
        assert int(kept[select].sum()) == 250
    assert float(odds[kept["top"]].min()) == 7.5
    assert float(odds[kept["random"]].mean()) == pytest.approx(5, abs=0.5)


def test_of_more_equal_samples_than_can_be_drawn_each_case_keeps_its_share():
    counted = {name: {"score": [5], "count": [600_000_000 * size]} for name, size in (("a", 1), ("b", 2), ("c", 3))}
    cut, quotas = choose_share(counted, 0.25, 0)
    assert cut == 5
    assert quotas == {"a": 150_000_000, "b": 300_000_000, "c": 450_000_000}
    assert sum(choose_share(counted, 1 / 7, 0)[1].values()) == 3_600_000_000 // 7


def test_without_exponent_everything_is_kept():
    rule = methods.build_rule("crest", 3, alpha=0)
    rule.class_counts = [100, 10, 1]
    labels = np.random.default_rng(0).integers(0, 3, (5, 5, 5))
    assert (labelled(rule, [predictions(labels, np.ones((5, 5, 5)), "a")])[0] == labels).all()


def test_a_class_without_labels_adds_nothing():
    rule = methods.build_rule("crest", 3)
    rule.class_counts = [100, 10, 0]
    labels = np.full((3, 3, 3), 2)
    assert (labelled(rule, [predictions(labels, np.ones((3, 3, 3)), "a")])[0] == 255).all()


def test_what_is_not_a_number_is_named_by_its_case():
    rule = methods.build_rule("crest", 2)
    with pytest.raises(ValueError, match="scan7: a probability is not a number"):
        rule.summarize(predictions(np.zeros((2, 2, 2)), np.full((2, 2, 2), np.nan), "scan7"))


def test_log_odds_tell_apart_what_is_nearly_certain():
    logits = torch.tensor([[0.0, 12.0, 14.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    found = top_log_odds(logits[:, :, None, None]).flatten().tolist()
    assert found == pytest.approx([-math.log(2), 12 - math.log(2), 14 - math.log(2)])
    assert len({float(torch.tensor(value).sigmoid().half()) for value in found[1:]}) == 1


def test_generations_run_from_a_manifest_to_a_bundle_and_resume(tmp_path, monkeypatch):
    starts = []
    build = StageRun._build_method

    def built(self, previous):
        method = build(self, previous)
        starts.append({name: value.clone() for name, value in method.network.state_dict().items()})
        return method

    monkeypatch.setattr(StageRun, "_build_method", built)
    manifest = write_dataset(tmp_path / "data", labeled=3, unlabeled=3)
    changes = ["stages.0.schedule.iterations=3", "stages.0.network.width=4", "data.patch=[16,16,16]",
               "stages.0.schedule.workers=0", "stages.0.rounds.count=1"]  # fmt: skip
    run = train("crest", manifest, tmp_path / "run", overrides=changes)
    assert (run / "bundle" / "models" / "model.pt").exists()
    first, second = starts  # each generation begins anew, with the weights of the seed
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    pseudo = sorted((run / "round1" / "pseudo").glob("*.nii.gz"))
    assert len(pseudo) == 3
    values = np.concatenate([np.unique(np.asarray(nib.load(path).dataobj)) for path in pseudo])
    assert set(values) <= {0, 1, 2, 255}
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (judged,) = [each for each in records if each["kind"] == "pseudo"]
    assert set(judged["precision"]) == set(judged["kept_share"]) == {"background", *judged["volume_ml"]}
    shares = [share for share in judged["kept_share"].values() if share is not None]
    assert shares
    assert all(0 <= share <= 1 for share in shares)
    assert "How right the pseudo-labels are" in (run / "summary.html").read_text()
    shutil.rmtree(run / "bundle")
    before = [path.read_bytes() for path in pseudo]
    train("crest", manifest, tmp_path / "run", overrides=changes, resume=True)
    assert [path.read_bytes() for path in pseudo] == before


def test_precision_by_hand():
    """Of class 1 three voxels are predicted, two kept and one of them right; where nobody knows, nothing counts."""
    predicted = np.array([0, 0, 1, 1, 1, 1])
    kept = np.array([0, 255, 1, 1, 255, 1])
    reference = np.array([0, 0, 1, 0, 1, 255])
    counts = count_right(predicted, kept, reference, 3)
    assert counts == {"predicted": [2, 3, 0], "kept": [1, 2, 0], "right": [1, 1, 0]}
    found = summarize([counts, counts], ["background", "a", "b"])
    assert found["precision"] == {"background": 1.0, "a": 0.5, "b": None}
    assert found["kept_share"] == {"background": 0.5, "a": 0.6667, "b": None}
    assert low_precision(found) == []
    (told,) = low_precision({"precision": {"background": 1.0, "a": 0.49, "b": None, "c": 0.2}})
    assert told == "pseudo-labels of which less than half is right, by the validation cases: a 49%, c 20%"
    assert low_precision({}) == []  # of a rule that is not judged


def test_a_rule_for_one_network_is_refused_for_three_planes(tmp_path):
    manifest = write_dataset(tmp_path / "data", labeled=3, unlabeled=2)
    with pytest.raises(ConfigError, match="rule crest is for one view, got axial, coronal"):
        train("crest", manifest, tmp_path / "run", overrides=["stages.0.views=[axial, coronal]"])


def batch_of(dims: int) -> dict[str, dict[str, torch.Tensor]]:
    rng = np.random.default_rng(0)
    shape = (24, 16, 16)[:dims]
    label = torch.zeros(2, 1, *shape, dtype=torch.uint8)
    label[:, :, 4:12, 4:12] = 1
    images = torch.from_numpy(rng.standard_normal((2, 2, 2, *shape), dtype=np.float32))
    return {"labeled": {"image": images[0], "label": label}, "all": {"image": images[1]}}


@pytest.mark.parametrize("dims", [2, 3])
def test_only_confident_voxels_are_learnt_and_the_mean_is_over_all(dims):
    torch.manual_seed(0)
    options = {"jitter": 0.0, "cutout": 0.0}
    method = methods.build("crest", factory(dims, 3), threshold=0.0, **options).eval()
    batch = batch_of(dims)
    logits = method.network(batch["all"]["image"]).detach().float()
    confidence, pseudo = logits.softmax(1).max(1)
    cost = -logits.log_softmax(1).gather(1, pseudo[:, None]).squeeze(1)
    limit = float(confidence.median())
    for threshold, wanted in ((0.0, cost.mean()), (limit, (cost * (confidence >= limit)).mean()), (1.1, 0.0)):
        method.threshold = threshold
        assert float(method(batch, Clock(0, 9))["consistency"].detach()) == pytest.approx(float(wanted), rel=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_alignment_flattens_the_targets_of_later_generations(dims):
    torch.manual_seed(0)
    method = methods.build("crest", factory(dims, 3), alignment=True, threshold=0.0)
    batch = batch_of(dims)
    method.round_count = 2
    for step in range(3):
        assert torch.isfinite(sum(method(batch, Clock(step, 9)).values()))
    q = torch.tensor([0.6, 0.3, 0.1]).view(1, 3, *[1] * dims)
    early = method._align(q)
    method.round_number = 2
    late = method._align(q)
    assert float(late.flatten()[1]) > float(early.flatten()[1])  # class 1 is rarer than the background in the labels


def test_the_averaged_network_is_exported():
    method = methods.build("crest", factory(2, 3))
    assert method.segmenter() is method.average.network


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cutout": 1.0}, "cutout 1"),
        ({"alignment": "yes, please"}, "alignment of method crest"),
        ({"threshold": 95}, "threshold 95: must be at least 0 and at most 1"),
        ({"least_exponent": -0.5}, "least_exponent -0.5: must be at least 0"),
    ],
)
def test_bad_options_of_the_method(options, words):
    with pytest.raises(ConfigError) as caught:
        methods.build("crest", factory(2, 3), **options)
    assert words in str(caught.value)


def test_bad_options_of_the_rule():
    with pytest.raises(ConfigError, match="alpha -1: must be at least 0"):
        methods.build_rule("crest", 3, alpha=-1)
    with pytest.raises(ConfigError, match="unit of rule crest is 'slice'"):
        methods.build_rule("crest", 3, unit="slice")
    with pytest.raises(ConfigError, match="least_rate 2: must be at least 0 and at most 1"):
        methods.build_rule("crest", 3, least_rate=2)
    assert math.isclose(methods.build_rule("crest", 3).alpha, 1 / 3)
