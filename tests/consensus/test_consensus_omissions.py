"""Gross disagreement: what somebody overlooked or invented, and what a rater weighs who agrees with nobody."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medseg.consensus.fuse import run
from medseg.consensus.fusers.gcssl.raters.agreement import agreement_of_raters
from medseg.consensus.fusers.gcssl.raters.gross_errors import (
    Posterior,
    correlation_of_votes,
    find_gross_errors,
    find_omissions,
    find_posterior,
    trust_in_posterior,
)
from medseg.consensus.fusers.gcssl.raters.outlines import Outlines, find_drawn
from medseg.consensus.fusers.gcssl.raters.scores import compute_weights
from medseg.consensus.fusers.gcssl.region import Region, find_region
from medseg.consensus.fusers.pair_dice import dice_of_pairs
from medseg.consensus.fusers.vote_patterns import VotePatterns, find_patterns
from medseg.consensus.study import MISSING, Rater, Study

LINE = 60
"""Voxels of the line that raters annotate."""


def line(*spans: tuple[int, int], value: int = 1) -> np.ndarray:
    """A rater's labels on a line: `value` from the first to before the second of each pair."""
    labels = np.zeros((LINE, 1, 1), np.uint8)
    for start, stop in spans:
        labels[start:stop] = value
    return labels


def study_of(labels: list[np.ndarray], classes: int = 2, image: np.ndarray | None = None) -> Study:
    raters = tuple(Rater(f"r{n}", array) for n, array in enumerate(labels))
    return Study(raters, tuple(f"class{c}" for c in range(classes)), (1.0, 1.0, 1.0), image)


def patterns_of(region: Region, labels: list[np.ndarray], classes: int) -> VotePatterns:
    return find_patterns(study_of([each[region.outer_box] for each in labels], classes), crop=False)


def gross_of(labels: list[np.ndarray], classes: int = 2) -> tuple[list[int], list[list[int]]]:
    """Positions of G on the line, and rater and class of each structure that lies apart."""
    region = find_region(labels, (1.0, 1.0, 1.0))
    patterns = patterns_of(region, labels, classes)
    rows = patterns.rows_at(region.disputed_positions())
    found = find_gross_errors(find_drawn(region, patterns, rows), patterns, rows)
    positions = np.flatnonzero(region.disputed) + region.box[0].start
    return positions[found.voxels].tolist(), np.argwhere(found.apart).tolist()


def test_an_overlooked_structure_is_gross_and_a_moved_outline_is_not():
    seen = line((10, 30))
    assert gross_of([seen, seen, seen, line()]) == (list(range(10, 30)), [])
    # voxels 12 to 14 are at most 3 from the start of the last rater's outline, 10 and 11 are 5 and 4 away
    assert gross_of([seen, seen, seen, line((15, 30))]) == ([10, 11], [])
    assert gross_of([seen, seen, seen, line((13, 30))]) == ([], [])


def spread_of(labels: list[np.ndarray]) -> float:
    """Median distance of the outlines of class 1 on the line."""
    region = find_region(labels, (1.0, 1.0, 1.0))
    everywhere = tuple(slice(0, length) for length in region.labels.shape[1:])
    return Outlines(region, everywhere, 1).spread


def test_the_spread_of_outlines_by_hand():
    seen = line((10, 30))
    assert spread_of([seen, seen, line()]) == 0, "nobody's outline lies apart, and one rater has none"
    # 10 is 6 from the second's start, 35 is 6 from the first's end; 16 and 29 are inside of the other structure
    assert spread_of([seen, line((16, 36))]) == 6
    # the pairs' medians are 6, 3 and 3
    assert spread_of([seen, line((16, 36)), line((13, 33))]) == 3


def test_where_outlines_are_far_from_each_other_more_is_wanted_of_an_omission():
    # the pairs' medians are 6, 3, 3 and, with the last rater, 0, 4.5 and 1.5: in the middle 3, so that tau is 9
    raters = [line((10, 30)), line((16, 36)), line((13, 33)), line((10, 14))]
    assert spread_of(raters) == 3
    # from 10 voxels behind the last rater's end, as far as two of the others have it
    assert gross_of(raters)[0] == list(range(23, 33))


def distances_of(labels: list[np.ndarray], reach: float) -> np.ndarray:
    region = find_region(labels, (1.0, 1.0, 1.0))
    everywhere = tuple(slice(0, length) for length in region.labels.shape[1:])
    return np.maximum(Outlines(region, everywhere, 1, reach).signed, 0)


def test_distances_up_to_a_bound_are_those_without_one():
    raters = [line((10, 30)), line((16, 36)), line((50, 58))]
    everything, near = distances_of(raters, np.inf), distances_of(raters, 12.0)
    # from the first rater's end at 29: 30 to 35 are 1 to 6 away, 50 is 21 away
    assert everything[0].tolist() == [0] * 20 + [1, 2, 3, 4, 5, 6] + list(range(21, 29))
    np.testing.assert_array_equal(near, np.where(everything <= 12, everything, np.inf))


def test_outlines_far_from_each_other_are_seen_beyond_the_first_bound():
    # pairs of outlines are 0 and 0, four times 6, four times 12 from each other: in the middle 6, so that tau is 18
    raters = [line((5, 40)), line((5, 40)), line((11, 46)), line((11, 46)), line((17, 28))]
    assert spread_of(raters) == 6
    # 45 is 18 from the last rater's end at 27
    assert gross_of(raters) == ([], [])
    assert gross_of([*raters[:4], line((17, 27))]) == ([45], [])


def test_what_one_rater_alone_has_is_not_overlooked_by_the_others():
    seen = line((10, 30))
    # 5 of 25 voxels are away from everybody else's structure: another one, and no evidence of anything
    assert gross_of([line((10, 30), (40, 45)), seen, seen, seen]) == ([], [[0, 1]])
    # with a second rater's it is a find that the other two overlooked
    both = line((10, 30), (40, 45))
    assert gross_of([both, both, seen, seen]) == ([40, 41, 42, 43, 44], [])


def test_a_rater_who_drew_elsewhere_says_nothing_about_what_the_others_drew():
    seen = line((10, 30))
    assert gross_of([seen, seen, line((11, 30)), line((40, 60))]) == ([], [[3, 1]])


def test_not_annotated_is_not_overlooked():
    seen, part = line((10, 30)), line((10, 30))
    part[:20] = MISSING
    assert gross_of([seen, seen, part, line((12, 30))]) == ([], [])


def test_where_more_raters_pass_by_than_have_it_the_outline_is_in_question():
    # 25 and 26 are within 3 of two outlines that end at 24, two have them, one overlooked the right half
    wide, narrow, half = line((10, 27)), line((10, 24)), line((10, 18))
    assert gross_of([wide, wide, narrow, half])[0] == list(range(21, 27))
    assert gross_of([wide, wide, narrow, narrow, narrow, half])[0] == [21, 22, 23]


def test_correlations_by_hand():
    counts = np.array([1, 1, 1, 1])
    first, second = np.array([1, 1, 0, 0]), np.array([1, 0, 1, 0])
    assert correlation_of_votes(np.stack([first, second], 1), counts) == pytest.approx(0)
    assert correlation_of_votes(np.stack([first, first], 1), counts) == pytest.approx(1)
    assert correlation_of_votes(np.stack([first, 1 - first], 1), counts) == pytest.approx(-1)
    # means 1/2 and 3/4, both 1 in half of the voxels: (1/2 - 3/8) / sqrt(1/4 * 3/16) = 1 / sqrt(3)
    third = np.array([1, 1, 1, 0])
    assert correlation_of_votes(np.stack([first, third], 1), counts) == pytest.approx(1 / math.sqrt(3))
    assert math.isnan(correlation_of_votes(np.stack([first, np.ones(4, int)], 1), counts))
    # where the second annotated nothing in the last voxel, three are left: means 2/3 and 2/3, both in one third
    gap = np.array([1, 0, 1, 2])
    assert correlation_of_votes(np.stack([first, gap], 1), counts) == pytest.approx((1 / 3 - 4 / 9) / (2 / 9))


def test_trust_falls_between_its_bounds():
    assert [trust_in_posterior(value) for value in (-0.1, 0.12, 0.18, 0.5)] == [1, 1, 0, 0]
    assert trust_in_posterior(0.15) == pytest.approx(0.5)
    assert trust_in_posterior(math.nan) == 1


def test_a_structure_is_trusted_by_its_own_votes_or_by_all():
    posterior = Posterior(np.zeros((1, 4)), np.array([math.nan, 0.3, 0.12, math.nan]), 0.15)
    assert posterior.trusts() == pytest.approx([1, 0.5, 1, 1])


def test_a_rater_of_another_structure_does_not_make_the_others_look_independent():
    # the first two overlook the same half; the last has a part of the other half, and the most of it elsewhere
    lines = [line((10, 20)), line((10, 20)), line((10, 30)), line((10, 30)), line((25, 45))]
    patterns = find_patterns(study_of(lines))
    apart = np.zeros((5, 2), bool)
    assert find_posterior(patterns, apart).correlations[1] < 0.5
    apart[4, 1] = True
    assert find_posterior(patterns, apart).correlations[1] == pytest.approx(1)


def test_pairs_of_raters_by_hand():
    # Dice 2 * 5 / 20 of the third with either of the first two, 1 of these
    patterns = find_patterns(study_of([line((10, 20)), line((10, 20)), line((15, 25))]))
    np.testing.assert_allclose(dice_of_pairs(patterns)[0], [[1, 1, 0.5], [1, 1, 0.5], [0.5, 0.5, 1]])


def agreement_of(labels: list[np.ndarray], classes: int = 2, omissions: bool = False) -> np.ndarray:
    region = find_region(labels, (1.0, 1.0, 1.0))
    patterns = patterns_of(region, labels, classes)
    rows = patterns.rows_at(region.disputed_positions())
    drawn = find_drawn(region, patterns, rows)
    return agreement_of_raters(patterns, find_omissions(drawn, patterns, rows) if omissions else None)


def test_agreement_with_the_panel_by_hand():
    ten = line((10, 20))
    # the panel is the first two's; the third has 5 of its 10 voxels: Dice 0.5, (1 - 0.5^2)^2
    np.testing.assert_allclose(agreement_of([ten, ten, line((15, 25))]), [1, 1, 0.5625])
    # who meets nobody keeps a twentieth, and where nobody meets anybody all are alike
    np.testing.assert_allclose(agreement_of([ten, ten, ten, line((40, 50))]), [1, 1, 1, 0.05])
    np.testing.assert_allclose(agreement_of([ten, line((30, 40)), line((50, 60))]), [1, 1, 1])
    # what a rater did not annotate is not compared
    part = ten.copy()
    part[15:] = MISSING
    np.testing.assert_allclose(agreement_of([ten, ten, line((15, 25)), part]), [1, 1, 0.5625, 1])


def test_of_two_raters_neither_is_the_better_one():
    np.testing.assert_allclose(agreement_of([line((10, 20)), line((12, 18))]), [1, 1])
    np.testing.assert_allclose(agreement_of([line((10, 20)), line((15, 25))]), [1, 1])


def test_who_overlooked_a_structure_agrees_less():
    study, _ = panel_of_different_protocols()
    labels = [rater.labels for rater in study.raters]
    # three of five did not look for the second disc: with votes alone those who found it seem wrong about it
    np.testing.assert_allclose(agreement_of(labels, 3), [0.5625, 0.5625, 1, 1, 1])
    np.testing.assert_allclose(agreement_of(labels, 3, omissions=True), [1, 1, 0.5625, 0.5625, 0.5625])


def test_weights_with_agreement_by_hand():
    # log odds 2.197, 2.197, 0.405 with the roots 1.482, 1.482, 0.637, of 3.601: 0.4116, 0.4116, 0.1768
    scores = np.array([0.9, 0.9, 0.6])
    ones = np.ones(3)
    np.testing.assert_allclose(compute_weights(scores, 2, "logodds", 1.0, ones), [0.4116, 0.4116, 0.1768], atol=1e-4)
    half = np.array([1, 0.5, 1])
    np.testing.assert_allclose(compute_weights(scores, 2, "logodds", 1.0, half), [0.5183, 0.2591, 0.2226], atol=1e-4)
    # who is more self-consistent than the median rater gains nothing by it
    first, second, _ = compute_weights(np.array([0.99, 0.8, 0.6]), 2, "logodds", 1.0, ones)
    assert first == second
    np.testing.assert_allclose(compute_weights(scores, 2, "consistency", 1.0, half), scores_alone(scores))


def scores_alone(scores: np.ndarray) -> np.ndarray:
    odds = np.log(scores / (1 - scores))
    return odds / odds.sum()


def panel_of_different_protocols() -> tuple[Study, np.ndarray]:
    """A disc that five raters drew, and a second one that two of them looked for."""
    x, y = np.mgrid[:64, :64]
    truth = np.zeros((64, 64, 1), np.uint8)
    truth[(x - 20) ** 2 + (y - 20) ** 2 < 100, 0] = 1
    truth[(x - 44) ** 2 + (y - 44) ** 2 < 100, 0] = 2
    image = truth[None] + np.random.default_rng(0).normal(0, 0.1, truth.shape).astype(np.float32)
    first_only = np.where(truth == 1, 1, 0).astype(np.uint8)
    return study_of([truth, truth, first_only, first_only, first_only], 3, image.astype(np.float32)), truth


def test_what_two_of_five_looked_for_is_kept():
    study, truth = panel_of_different_protocols()
    fused = run(study)
    np.testing.assert_array_equal(fused.labels, truth)
    assert fused.facts["gross_voxels"] == np.count_nonzero(truth == 2)
    by_votes = run(study, omissions=False)
    assert not (by_votes.labels == 2).any()
    assert "gross_voxels" not in by_votes.facts


def test_each_structure_shows_for_itself_whether_its_errors_are_shared():
    study, truth = panel_of_different_protocols()
    # three draw the first disc two pixels wider, all of them alike
    x, y = np.mgrid[:64, :64]
    wide = ((x - 20) ** 2 + (y - 20) ** 2 < 144)[..., None]
    raters = [np.where(wide, 1, rater.labels).astype(np.uint8) for rater in study.raters[2:]]
    drawn = [*(rater.labels for rater in study.raters[:2]), *raters]
    fused = run(study_of(drawn, 3, study.image))
    # of the first disc two pairs vary together, and inside of the second nobody varies
    first, second = fused.facts["vote_correlation"]
    assert first > 0.18
    assert second is None
    assert fused.facts["trust_in_posterior"] == [0, 1]
    np.testing.assert_array_equal(fused.labels == 2, truth == 2)


def test_with_two_raters_nothing_is_known_of_omissions():
    study, _ = panel_of_different_protocols()
    fused = run(Study(study.raters[1:3], study.classes, study.spacing_mm, study.image))
    assert fused.facts["trust_in_posterior"] == []
    assert fused.facts["gross_voxels"] == 0


def test_raters_and_sides_in_any_order():
    study, _ = panel_of_different_protocols()
    turned = Study(study.raters[::-1], study.classes, study.spacing_mm, study.image)
    np.testing.assert_array_equal(run(turned).labels, run(study).labels)
