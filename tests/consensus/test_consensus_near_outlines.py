"""Votes near outlines: in part for the structure and in part for what lies beside it, by how near the outline is."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.consensus.fuse import run
from medseg.consensus.fusers.gcssl.raters.missing_votes import count_votes
from medseg.consensus.fusers.gcssl.raters.near_outlines import SoftVotes, count_near_outlines, soften
from medseg.consensus.fusers.gcssl.raters.outlines import Outlines, find_drawn
from medseg.consensus.fusers.gcssl.region import find_region
from medseg.consensus.fusers.vote_patterns import find_patterns
from medseg.consensus.study import MISSING, Rater, Study

UNITS = (1.0, 1.0, 1.0)


def line(start: int, stop: int, value: int = 1) -> np.ndarray:
    """A rater's labels on a line: `value` from the first to before the second."""
    labels = np.zeros((60, 1, 1), np.uint8)
    labels[start:stop] = value
    return labels


def study_of(labels: list[np.ndarray], classes: int = 2, image: np.ndarray | None = None) -> Study:
    raters = tuple(Rater(f"r{n}", array) for n, array in enumerate(labels))
    return Study(raters, tuple(f"class{c}" for c in range(classes)), UNITS, image)


def softened(labels: list[np.ndarray], classes: int = 2) -> tuple[np.ndarray, list[SoftVotes]]:
    """Positions of the disputed voxels on the line, and what is said about each structure."""
    region = find_region(labels, UNITS)
    patterns = find_patterns(study_of([each[region.outer_box] for each in labels], classes), crop=False)
    drawn = find_drawn(region, patterns, patterns.rows_at(region.disputed_positions()))
    return np.flatnonzero(region.disputed) + region.box[0].start, soften(drawn, region)


def votes_of(labels: list[np.ndarray], classes: int = 2, thin: float = 0.0) -> dict[int, list[float]]:
    """Position of each disputed voxel -> the votes for each class, of raters with the weight 1."""
    region = find_region(labels, UNITS)
    positions, near = softened(labels, classes)
    given = region.labels[:, region.disputed]
    weights = np.ones(len(labels))
    votes = count_votes(given, [None] * len(labels), weights, classes)
    count_near_outlines(votes, near, study_of(labels, classes), region, weights, thin)
    np.testing.assert_allclose(votes.votes.sum(axis=0), votes.total, rtol=1e-5)
    return {int(place): votes.votes[:, n].tolist() for n, place in enumerate(positions)}


def test_how_deep_a_voxel_lies_by_hand():
    raters = [line(10, 20), line(10, 14), np.where(line(0, 15) > 0, MISSING, line(15, 20)).astype(np.uint8)]
    region = find_region(raters, UNITS)
    outlines = Outlines(region, (slice(0, region.labels.shape[1]), slice(0, 1), slice(0, 1)), 1)
    places = outlines.voxels + region.box[0].start
    assert places.tolist() == list(range(10, 20))
    assert outlines.signed[0].tolist() == [-1, -2, -3, -4, -5, -5, -4, -3, -2, -1]
    assert outlines.signed[1].tolist() == [-1, -2, -2, -1, 1, 2, 3, 4, 5, 6]
    # before 15 nothing is annotated, which is no boundary
    assert outlines.signed[2].tolist() == [5, 4, 3, 2, 1, -5, -4, -3, -2, -1]


def test_shares_by_hand():
    # each outline is 2 inside of the next one, at either end: the pairs' medians are 2, 2 and 4, and b = 2
    positions, (near,) = softened([line(20, 40), line(18, 42), line(16, 44)])
    assert positions.tolist() == [16, 17, 18, 19, 40, 41, 42, 43]
    assert (near.c, near.voxels.tolist()) == (1, list(range(8)))
    # the outlines are at 39.5, 41.5 and 43.5: p = 1/2 + (39.5 - x) / 4 and so on, at x = 40 to 43
    np.testing.assert_allclose(near.inside[0, 4:], [0.375, 0.125, 0, 0], atol=1e-3)
    np.testing.assert_allclose(near.inside[1, 4:], [0.875, 0.625, 0.375, 0.125], atol=1e-3)
    np.testing.assert_allclose(near.inside[2, 4:], [1, 1, 0.875, 0.625], atol=1e-3)
    np.testing.assert_array_equal(near.inside[:, :4], near.inside[:, :3:-1])


def test_the_boundary_is_the_mean_of_near_outlines_and_not_their_median():
    # half lengths 10, 10, 11, 16 and 16: the pairs' medians are 0, 0, 1, 1, 5, 5 and four times 6, and b is at most 3
    raters = [line(30 - half, 30 + half) for half in (10, 10, 11, 16, 16)]
    votes = votes_of(raters)
    # at 41 the outlines are 1.5, 1.5 and 0.5 inside of it and twice 4.5 beyond it: 1/2 - 1.5 / 6 and so on
    assert votes[41][1] == pytest.approx(0.25 + 0.25 + 0.4167 + 1 + 1, abs=2e-3)
    has_it = [place for place, (background, structure) in votes.items() if structure > background]
    assert max(has_it) == 41, "at 42 it is 0.083 + 0.083 + 0.25 + 1 + 1 of 5"
    assert [bool(array[40, 0, 0]) for array in raters].count(True) == 3
    assert [bool(array[41, 0, 0]) for array in raters].count(True) == 2, "the median outline is at 40.5"


def test_who_has_nothing_near_says_nothing_about_where_the_boundary_is():
    # the last rater overlooked the right half; the pairs' medians are 2, 4, 2 and, with that one, 0, 7 and 9: b = 3
    raters = [line(20, 40), line(18, 42), line(16, 44), line(20, 30)]
    positions, (near,) = softened(raters)
    assert positions.tolist() == [*range(16, 20), *range(30, 44)]
    # up to 35 that one's outline is within 2 b
    assert positions[near.voxels].tolist() == [*range(16, 20), *range(30, 36)]
    votes = votes_of(raters)
    assert [votes[x][1] for x in (39, 40, 41, 42, 43)] == [3, 2, 2, 1, 1]
    # who did not annotate the right half says nothing that could be waited for
    silent = line(20, 30)
    silent[30:] = MISSING
    positions, (near,) = softened([*raters[:3], silent])
    assert {40, 41, 42, 43} <= set(positions[near.voxels].tolist())


def test_equal_outlines_and_single_voxels_keep_their_votes():
    seen = line(10, 30)
    assert softened([seen, seen, seen, line(10, 31)])[1] == []


def test_what_a_rater_takes_from_the_structure_goes_to_what_others_say():
    # class 2 lies around class 1
    raters = [line(5, 55, 2) - line(start, 60 - start) for start in (20, 18, 16)]
    votes = votes_of(raters, classes=3)
    assert all(background == 0 for background, *_ in votes.values())
    # at 41: 0.125, 0.625 and 1 for class 1
    np.testing.assert_allclose(votes[41], [0, 1.75, 1.25], atol=1e-3)


def test_thin_structures_keep_the_votes():
    # the votes give 21 to 23, which is 2 thick: with `thin` 8 a sixteenth of each vote is replaced; b = 1
    raters = [line(20, 23), line(21, 24), line(22, 25)]
    plain = {place: sum(bool(array[place, 0, 0]) for array in raters) for place in (20, 21, 23, 24)}
    whole, part = votes_of(raters), votes_of(raters, thin=8.0)
    assert whole[20][1] == pytest.approx(0.75 + 0.25, abs=1e-3), "half a voxel inside of one, half outside of another"
    assert set(whole) == set(part) == set(plain)
    for place, (_, structure) in part.items():
        assert structure == pytest.approx(plain[place] + (whole[place][1] - plain[place]) / 16, abs=1e-3)


def test_what_soft_raters_say_stays():
    labels = [line(20, 40), line(18, 42), line(16, 44)]
    region = find_region(labels, UNITS)
    _, near = softened(labels)
    soft = np.stack([1.0 - labels[1], labels[1]]).astype(np.float32)
    raters = [Rater("a", labels[0]), Rater("b", labels[1], soft), Rater("c", labels[2])]
    study = Study(tuple(raters), ("class0", "class1"), UNITS, None)
    given = region.labels[:, region.disputed]
    votes = count_votes(given, [None] * 3, np.array([0.0, 1.0, 0.0]), 2)
    before = votes.votes.copy()
    count_near_outlines(votes, near, study, region, np.array([0.0, 1.0, 0.0]), 0.0)
    np.testing.assert_array_equal(votes.votes, before)


def ball(radius: float, size: int = 40) -> np.ndarray:
    """A ball of class 1 in the middle of a cube of voxels."""
    axes = np.ogrid[:size, :size, :size]
    return (sum((axis - (size - 1) / 2) ** 2 for axis in axes) <= radius**2).astype(np.uint8)


def test_three_who_draw_wide_do_not_decide_alone():
    truth = ball(12)
    raters = [ball(14), ball(14), ball(14), ball(12), ball(10)]
    noise = np.random.default_rng(0).normal(0, 0.1, truth.shape).astype(np.float32)
    study = study_of(raters, image=noise[None])  # which shows nothing
    wide = run(study, "gcssl", weights="uniform", outlines=False).labels
    fused = run(study, "gcssl", weights="uniform").labels
    dice = {name: 2 * (truth & labels).sum() / (truth.sum() + labels.sum()) for name, labels in
            {"votes": wide, "outlines": fused}.items()}  # fmt: skip
    assert dice["outlines"] > dice["votes"] + 0.05
    # b = 2, and half of the votes are for radii up to 13: 3 * 0.75 + 0.25 + 0
    assert ball(12.5).sum() < fused.sum() < ball(13.5).sum()


def test_clear_votes_stand_and_who_drew_something_else_has_no_say():
    # at 41 four of five are against, and one draws far too wide: no vote alone decides
    raters = [line(30 - half, 30 + half) for half in (10, 10, 10, 12, 16)]
    votes = votes_of(raters)
    assert votes[44] == [4, 1]
    # who drew something else goes with the mean of the others, which is 1/2 of two
    _, (near,) = softened([line(10, 20), line(12, 22), line(40, 50)])
    assert near.apart.tolist() == [False, False, True]


def test_two_raters_have_no_mean_outline():
    study = study_of([ball(14), ball(10)], image=ball(12).astype(np.float32)[None])
    with_outlines, without = run(study, "gcssl", outlines=True), run(study, "gcssl")
    np.testing.assert_array_equal(with_outlines.labels, without.labels)
