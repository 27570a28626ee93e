"""Statistics of a comparison: worked out by hand, and beside scipy's."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from scipy import stats

from medseg.workflows.compare.report.differences import (
    bootstrap_interval,
    compare_arms,
    holm,
    signed_rank_p,
    subject_differences,
)
from medseg.workflows.compare.report.statistics import Spread, set_iou, summarize
from medseg.workflows.compare.scores.rows import CaseRow, RunKey


def row(arm: str, seed: int, case: str, dice: float | None, structure: str = "liver", **more) -> CaseRow:
    """A structure that is in both the prediction and the reference, unless `more` says otherwise."""
    metrics = {"dice": dice, "hd95_mm": more.pop("hd95", 5.0), "surface_dice": 0.5}
    key = RunKey(arm, seed, more.pop("labels", None), more.pop("fold", None))
    counts = {"shared": 5, "predicted": 10, "reference": 10}
    return CaseRow(key, case, more.pop("subject", case), structure, metrics, **(counts | more))


EMPTY = {"shared": 0, "predicted": 0, "reference": 0}


# ---- means and spreads


def test_means_over_cases_then_spread_over_seeds_by_hand():
    rows = [
        row("a", 0, "p", 0.8), row("a", 0, "q", 0.6),  # liver of seed 0: 0.7
        row("a", 0, "p", 0.5, "spleen"), row("a", 0, "q", 1.0, "spleen", hd95=None, **EMPTY),  # spleen: 0.5, one absent
        row("a", 1, "p", 0.9), row("a", 1, "q", 0.7),  # liver of seed 1: 0.8
        row("a", 1, "p", 0.0, "spleen", hd95=None, predicted=0),
        row("a", 1, "q", 0.0, "spleen", hd95=None, reference=0),
    ]  # fmt: skip
    (found,) = summarize(rows)
    assert (found.arm, found.labels, found.seeds, found.cases, found.absent) == ("a", None, (0, 1), 2, 1)
    liver, spleen = found.structures["liver"]["dice"], found.structures["spleen"]["dice"]
    assert liver.spread.values == pytest.approx((0.7, 0.8))
    assert liver.spread.mean == pytest.approx(0.75)
    assert liver.spread.sd == pytest.approx(0.1 / 2**0.5)  # of two values their difference over the root of 2
    assert spleen.spread.values == pytest.approx((0.5, 0.0))
    assert found.over_all["dice"].spread.values == pytest.approx(((0.7 + 0.5) / 2, (0.8 + 0.0) / 2))
    assert found.over_all["dice"].undefined == 0
    assert found.structures["spleen"]["hd95_mm"].spread.values == (5.0,)  # seed 1 has none
    assert found.structures["spleen"]["hd95_mm"].undefined == 2  # the absent one is not counted among them
    assert found.over_all["hd95_mm"].undefined == 2


def test_one_seed_has_no_spread():
    assert Spread((0.5,)).sd is None
    assert (Spread().mean, Spread().sd) == (None, None)


def test_a_case_in_five_folds_is_counted_once_and_the_seed_is_the_unit():
    rows = [row("a", seed, f"c{fold}", 0.1 * fold, fold=fold) for fold in range(4) for seed in (0, 1)]
    (found,) = summarize(rows)
    assert found.cases == 4
    assert found.over_all["dice"].spread.values == pytest.approx((0.15, 0.15))


def test_numbers_of_labels_are_apart_and_in_order():
    rows = [row("b", 0, "p", 0.5, labels=16), row("a", 0, "p", 0.6, labels=4), row("a", 0, "p", 0.7, labels=16)]
    assert [(each.labels, each.arm) for each in summarize(rows)] == [(4, "a"), (16, "b"), (16, "a")]


def count(structure: str, shared: int, predicted: int, reference: int, case: str = "p") -> CaseRow:
    metrics = {} if structure == "background" else {"dice": 0.5}
    return CaseRow(RunKey("a", 0), case, case, structure, metrics, shared, predicted, reference)


def test_iou_of_the_whole_set_by_hand():
    rows = [
        count("background", 80, 90, 85), count("disc", 5, 10, 10), count("cup", 0, 0, 5), count("none", 0, 0, 0),
        count("background", 90, 90, 95, "q"), count("disc", 5, 10, 5, "q"), count("cup", 0, 0, 0, "q"),
    ]  # fmt: skip
    background, disc, cup = 170 / (180 + 180 - 170), 10 / (20 + 15 - 10), 0 / 5
    assert set_iou(rows) == pytest.approx({"background": background, "disc": disc, "cup": cup})
    assert summarize(rows)[0].set_iou.values == pytest.approx(((background + disc + cup) / 3,))


def test_no_iou_of_a_set_without_the_background():
    assert set_iou([count("disc", 5, 10, 10)]) == {}
    assert summarize([count("disc", 5, 10, 10)])[0].set_iou == Spread()


# ---- pairs


def test_differences_by_hand_over_structures_images_and_seeds():
    rows = [
        row("b", 0, "s1", 0.9, subject="s"), row("b", 0, "s1", 0.5, "spleen", subject="s"),
        row("b", 0, "s2", 0.7, subject="s"),
        row("b", 1, "s1", 0.8, subject="s"),
        row("b", 0, "t", 0.4), row("b", 1, "t", 0.6), row("b", 2, "t", 0.6),  # the first arm has no seed 2
    ]  # fmt: skip
    first = [
        row("a", 0, "s1", 0.7, subject="s"), row("a", 0, "s1", 0.7, "spleen", subject="s"),
        row("a", 0, "s2", 0.6, subject="s"),
        row("a", 1, "s1", 0.7, subject="s"),
        row("a", 0, "t", 0.5), row("a", 1, "t", 0.5), row("a", 1, "u", 0.5),  # the other arm has no case u
    ]  # fmt: skip
    values = subject_differences(rows, first, "dice")
    # s, seed 0: (0.2 - 0.2) / 2 = 0 of s1 and 0.1 of s2
    assert values == pytest.approx(np.array([[0.05, 0.1], [-0.1, 0.1]]))
    (dice, hd95, surface) = compare_arms([*first, *rows], "a")
    assert (dice.arm, dice.first, dice.metric, dice.subjects, dice.seeds) == ("b", "a", "dice", 2, 2)
    assert dice.mean == pytest.approx((0.075 + 0.0) / 2)
    assert (hd95.metric, hd95.mean, hd95.p) == ("hd95_mm", 0.0, None)
    assert (surface.mean, surface.low, surface.high) == (0.0, 0.0, 0.0)


def test_what_is_defined_in_one_arm_only_is_no_pair():
    rows = [row("b", 0, "p", 0.9, hd95=None, predicted=0), row("b", 0, "q", 0.9, hd95=3.0)]
    first = [row("a", 0, "p", 0.9), row("a", 0, "q", 0.9)]
    assert subject_differences(rows, first, "hd95_mm") == pytest.approx(np.array([[-2.0]]))


def test_a_structure_that_nobody_has_is_no_pair_and_one_that_is_invented_costs():
    absent = {"shared": 0, "reference": 0}
    rows = [row("b", 0, "p", 1.0, predicted=0, **absent), row("b", 0, "q", 0.0, predicted=9, **absent)]
    first = [row("a", 0, "p", 1.0, predicted=0, **absent), row("a", 0, "q", 1.0, predicted=0, **absent)]
    assert subject_differences(rows, first, "dice") == pytest.approx(np.array([[-1.0]]))


def test_folds_are_paired_with_themselves():
    rows = [row("b", 0, "p", 0.9, fold=0), row("b", 0, "q", 0.9, fold=1)]
    first = [row("a", 0, "p", 0.5, fold=0), row("a", 0, "q", 0.5, fold=0)]
    assert subject_differences(rows, first, "dice") == pytest.approx(np.array([[0.4]]))


def test_subjects_are_those_of_the_first_arm():
    rows = [row("b", 0, "p1", 0.9), row("b", 0, "p2", 0.7)]  # a manifest of its own, without subjects
    first = [row("a", 0, "p1", 0.5, subject="p"), row("a", 0, "p2", 0.5, subject="p")]
    assert subject_differences(rows, first, "dice") == pytest.approx(np.array([[0.3]]))


def test_arms_without_the_first_or_anything_in_common():
    assert compare_arms([row("b", 0, "p", 0.5)], "a") == []
    found = compare_arms([row("a", 0, "p", 0.5), row("b", 1, "p", 0.5)], "a")
    assert [(each.mean, each.low, each.p, each.subjects) for each in found] == [(None, None, None, 0)] * 3


def test_the_order_of_the_rows_changes_nothing():
    rng = random.Random(0)
    rows = [row(arm, seed, f"p{n}", rng.random()) for arm in "abc" for seed in range(3) for n in range(8)]
    found = compare_arms(rows, "a", draws=200)
    shuffled = sorted(rows, key=lambda each: (each.key.arm, rng.random()))
    assert compare_arms(shuffled, "a", draws=200) == found


# ---- intervals


def test_equal_differences_have_an_interval_of_no_width():
    assert bootstrap_interval(np.full((5, 3), 0.25)) == (0.25, 0.25)


def test_seeds_are_drawn_too():
    by_seed = np.tile([0.0, 1.0], (50, 1))  # every subject alike: the mean is 0, 0.5 or 1, by the seeds drawn
    assert bootstrap_interval(by_seed) == (0.0, 1.0)
    assert bootstrap_interval(by_seed[:, :1]) == (0.0, 0.0)


def test_with_one_seed_it_is_the_usual_percentile_bootstrap():
    values = np.random.default_rng(1).normal(0.02, 0.05, 20)
    usual = stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", random_state=2)
    found = bootstrap_interval(values[:, None])
    assert found == pytest.approx(tuple(usual.confidence_interval), abs=0.0015)
    assert found == bootstrap_interval(values[:, None])


def test_with_gaps_it_is_what_a_loop_over_all_draws_gives():
    values = np.array([[0.1, 0.3], [np.nan, 0.5], [0.2, np.nan]])
    means = []
    for subjects in itertools.product(range(3), repeat=3):
        for seeds in itertools.product(range(2), repeat=2):
            drawn = [values[subject, list(seeds)] for subject in subjects]
            of_subjects = [np.nanmean(each) for each in drawn if np.isfinite(each).any()]
            means += [np.mean(of_subjects)] if of_subjects else []
    low, high = bootstrap_interval(values, draws=20_000)
    exact = np.sort(means)
    assert low == pytest.approx(np.percentile(exact, 2.5), abs=0.01)
    assert high == pytest.approx(np.percentile(exact, 97.5), abs=0.01)


def test_one_subject_has_no_interval():
    assert bootstrap_interval(np.ones((1, 3))) is None


# ---- tests


def test_signed_ranks_by_hand_and_beside_scipy():
    assert signed_rank_p([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == pytest.approx(2 / 2**6)  # all of one sign
    # rank sum of the negative one is 1; of 64 patterns of signs 2 are as small: both tails are 4 / 64
    assert signed_rank_p([-0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == pytest.approx(4 / 2**6)
    values = np.random.default_rng(0).normal(0.3, 1, 30)
    assert signed_rank_p(values.tolist()) == pytest.approx(stats.wilcoxon(values).pvalue)


def test_differences_of_zero_say_nothing():
    assert signed_rank_p([0.0] * 8) == 1.0
    assert signed_rank_p([0.0, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == pytest.approx(2 / 2**6)
    assert signed_rank_p([0.0] * 7 + [0.1]) == 1.0


def test_differences_that_are_alike_share_their_ranks():
    values = [0.1, 0.1, 0.2, 0.2, -0.1, 0.3, 0.3]
    assert signed_rank_p(values) == pytest.approx(stats.wilcoxon(values).pvalue)


def test_five_subjects_are_not_tested():
    assert signed_rank_p([0.1, 0.2, 0.3, 0.4, 0.5]) is None


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_correction_is_over_all_arms():
    rng = np.random.default_rng(3)
    rows = []
    for n in range(12):
        rows.append(row("a", 0, f"p{n}", 0.5))
        rows += [row(arm, 0, f"p{n}", 0.5 + gain + 0.05 * rng.normal()) for arm, gain in (("b", 0.02), ("c", 0.1))]
    p = {each.arm: each.p for each in compare_arms(rows, "a", draws=100) if each.metric == "dice"}
    alone = {}
    for arm in "bc":
        of_arm = [each for each in rows if each.key.arm in ("a", arm)]
        alone[arm] = compare_arms(of_arm, "a", draws=100)[0].p
    assert [p["b"], p["c"]] == pytest.approx(holm([alone["b"], alone["c"]]))
    assert p["c"] == pytest.approx(2 * alone["c"])
