"""The fuser as a whole: weights by self-consistency, gaps, unanimity, symmetries, and `medseg.fuse` on arrays."""

from __future__ import annotations

import importlib.util
import itertools
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

import medseg
from medseg.consensus.boxes import relative_spacing
from medseg.consensus.fuse import run
from medseg.consensus.fusers.gcssl.graph_cut import decision
from medseg.consensus.fusers.gcssl.graph_cut.alpha_expansion import minimise
from medseg.consensus.fusers.gcssl.graph_cut.energy import find_pairs
from medseg.consensus.fusers.gcssl.graph_cut.minimum_cut import installed_solver
from medseg.consensus.fusers.gcssl.raters.forest import leaf_membership
from medseg.consensus.fusers.gcssl.raters.missing_votes import (
    WeightedVotes,
    change_by_guesses,
    count_votes,
    range_by_guesses,
)
from medseg.consensus.fusers.gcssl.raters.scores import LeafHistograms, compute_weights, informativeness, kappa
from medseg.consensus.fusers.gcssl.thickness import thickness_factor
from medseg.consensus.study import MISSING, Rater, Study
from medseg.errors import ConfigError, DataError

_FILE = Path(__file__).parents[2] / "benchmarks" / "consensus" / "consensus_phantom.py"
_SPEC = importlib.util.spec_from_file_location("consensus_phantom", _FILE)
phantom = sys.modules["consensus_phantom"] = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(phantom)
Scene, generate = phantom.Scene, phantom.generate

SMALL = Scene(shape=(80, 72, 1))
VOLUME = Scene(shape=(40, 36, 16), spacing_mm=(1.0, 1.0, 2.0))


def gcssl(study: Study, **options):
    return run(study, "gcssl", **options)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * np.count_nonzero((a == 1) & (b == 1)) / (np.count_nonzero(a == 1) + np.count_nonzero(b == 1)))


def column(fused, key: str) -> np.ndarray:
    return np.array([row[key] for row in fused.raters])


@pytest.fixture(scope="module")
def study_2d():
    return generate(SMALL, 0)


# --- numbers by hand


def test_three_by_three_by_hand():
    bins = np.array([0, 0, 0, 0, 1, 1, 0, 1, 1])
    c = np.array([1, 1, 0, 1, 0, 0, 0, 0, 0])
    said = np.stack([bins, bins, c]).astype(np.uint8)
    leave_one_out = LeafHistograms(leaf_membership(bins[:, None].astype(np.int32), 2), said, 2, pseudo=0.0)
    scores = leave_one_out.scores(np.arange(9))
    np.testing.assert_allclose(scores, [1, 1, (0.75 + (2 / 6 + 4) / 6) / 2], atol=1e-6)
    assert scores[2] == pytest.approx(0.7361, abs=5e-5)
    rho = informativeness(kappa(scores, 2))
    assert rho == 1
    weights = compute_weights(scores, 2, "logodds", rho)
    np.testing.assert_allclose(weights, [0.4498, 0.4498, 0.1004], atol=5e-5)
    np.testing.assert_allclose(compute_weights(scores, 2, "sc", rho), [0.3655, 0.3655, 0.2690], atol=5e-5)
    np.testing.assert_allclose(compute_weights(scores, 2, "logodds", 0.0), [1 / 3] * 3)
    grid = (3, 3, 1)
    image, nowhere = bins.reshape(1, *grid).astype(np.float64), np.full(grid, MISSING, np.uint8)
    pairs = find_pairs(np.ones(grid, bool), nowhere, image, (1.0, 1.0, math.inf), 4)
    labels, facts = minimise(pairs.energy(count_votes(said, [None] * 3, weights, 2).costs(), 0.5))
    np.testing.assert_array_equal(labels, bins)
    assert facts["energy"] == pytest.approx(1.149168, abs=2e-6)


def test_scores_of_random_forest_leaves_are_those_of_plain_loops():
    random = np.random.default_rng(0)
    n, trees, raters, classes = 60, 3, 2, 3
    nodes = random.integers(0, 4, (n, trees)) + 4 * np.arange(trees)
    said = random.choice([0, 1, 2, MISSING], (raters, n)).astype(np.uint8)
    folds = random.integers(0, 2, n)
    found = LeafHistograms(leaf_membership(nodes.astype(np.int32), 4 * trees), said, classes).scores(folds)
    for r in range(raters):
        posteriors: list[list[float]] = [[] for _ in range(classes)]
        for x in np.flatnonzero(said[r] != MISSING):
            other = (folds != folds[x]) & (said[r] != MISSING)
            pi = np.array([(said[r][other] == c).mean() for c in range(classes)])
            q = np.zeros(classes)
            for t in range(trees):
                leaf = other & (nodes[:, t] == nodes[x, t])
                counts = np.array([(said[r][leaf] == c).sum() for c in range(classes)])
                q += (counts + pi) / (counts.sum() + 1) / pi / trees
            posteriors[said[r][x]].append(q[said[r][x]] / q.sum())
        assert found[r] == pytest.approx(np.mean([np.mean(values) for values in posteriors]), abs=1e-5)


def pairs_of(study: Study, nodes: np.ndarray) -> list[tuple[tuple, tuple, float]]:
    """Every pair of 8 or 6 neighbours that touches a node: both voxels, and lambda v_xy at S = 2."""
    flat = study.shape[2] == 1
    units = np.array(study.spacing_mm) / min(study.spacing_mm)
    smooth = ndimage.gaussian_filter(
        study.image[0].astype(float), [0.7 / u for u in units[:2]] + [0 if flat else 0.7 / units[2]]
    )
    steps = [
        s for s in itertools.product((-1, 0, 1), repeat=3) if any(s) and (s[2] == 0 if flat else sum(map(abs, s)) == 1)
    ]
    found = {}
    for x in zip(*np.nonzero(nodes), strict=True):
        for step in steps:
            y = tuple(np.add(x, step))
            if min(y) < 0 or any(a >= n for a, n in zip(y, study.shape, strict=True)):
                continue
            found[min(x, y), max(x, y)] = math.hypot(*(np.array(step) * units)), (smooth[x] - smooth[y]) ** 2
    beta = 1 / (2 * np.mean([change for _, change in found.values()]))
    lattice = sum(1 / math.hypot(*(np.array(step) * units)) for step in steps)
    return [(x, y, 2 / lattice * math.exp(-beta * change) / d) for (x, y), (d, change) in found.items()]


@pytest.mark.parametrize("scene", [SMALL, VOLUME, replace(SMALL, classes=4)], ids=["2D", "volume", "4 labels"])
def test_the_reported_energy_is_that_of_the_written_mask(scene):
    study, _ = generate(scene, 1)
    fused = gcssl(study, ssl=False, omissions=False, outlines=False)
    said, weights = np.stack([e.labels for e in study.raters]), column(fused, "weight")
    strength = np.where(said == MISSING, 0, weights[:, None, None, None])
    low, high = np.where(said == MISSING, 254, said).min(axis=0), np.where(said == MISSING, 0, said).max(axis=0)
    nodes, cost = low != high, 0.0
    for x in zip(*np.nonzero(nodes), strict=True):
        at = (slice(None), *x)
        cost += strength[at][said[at] != fused.labels[x]].sum() / strength[at].sum()
    voted = np.array([np.where(said == c, strength, 0).sum(axis=0) for c in range(scene.classes)]).argmax(axis=0)
    units = relative_spacing(study.shape, study.spacing_mm)
    factor = np.ones(study.shape)
    factor[nodes] = thickness_factor(voted.astype(np.uint8), nodes, units, 6.0)
    apart = sum(
        w * min(factor[x], factor[y]) for x, y, w in pairs_of(study, nodes) if fused.labels[x] != fused.labels[y]
    )
    cost += fused.facts["rho"] * apart  # the guard weakens the smoothing as well
    assert fused.facts["nodes"] == np.count_nonzero(nodes) == fused.facts["disputed_voxels"]
    assert fused.facts["energy"] == pytest.approx(cost, rel=2e-4)


def slow_thickness_factor(labels: np.ndarray, at: np.ndarray, units: tuple[float, ...], full: float) -> list[float]:
    """Every voxel near every voxel, and its distance to every voxel of another label."""
    grid = np.argwhere(np.ones(labels.shape, bool))
    sides = np.array([u if math.isfinite(u) else 1.0 for u in units])
    found = []
    for x in np.argwhere(at):
        thickest = 0.0
        for y in grid:
            if labels[tuple(y)] and (np.abs(y - x) <= [int(full / u) for u in units]).all():
                others = grid[labels[tuple(grid.T)] != labels[tuple(y)]]
                thickest = max(thickest, np.sqrt((((others - y) * sides) ** 2).sum(axis=1)).min())
        found.append(min(1.0, thickest / full) ** 2 if thickest else 1.0)
    return found


@pytest.mark.parametrize(("shape", "units"), [((9, 8, 5), (1.0, 1.0, 2.0)), ((12, 11, 1), (1.0, 1.5, math.inf))])
def test_thickness_factor_against_every_pair_of_voxels(shape, units):
    random = np.random.default_rng(3)
    labels = ndimage.zoom(random.integers(0, 3, [-(-n // 3) for n in shape]), [3, 3, 3], order=0)
    labels = np.ascontiguousarray(labels[tuple(slice(n) for n in shape)]).astype(np.uint8)
    at = random.random(shape) < 0.2
    for full in (2.0, 3.5):
        np.testing.assert_allclose(
            thickness_factor(labels, at, units, full), slow_thickness_factor(labels, at, units, full), 1e-5
        )


def test_a_strip_is_as_slender_as_it_is_wide_and_a_disc_is_not_slender():
    labels = np.zeros((64, 64, 1), np.uint8)
    labels[:, 10:13] = 1
    x, y = np.indices((64, 64))
    labels[np.hypot(x - 32, y - 40) < 16] = 1
    units = (1.0, 1.0, math.inf)
    at = np.zeros(labels.shape, bool)
    at[5, 11] = at[32, 55] = at[60, 60] = True  # in the strip, in the disc's rim, in the empty corner
    np.testing.assert_allclose(thickness_factor(labels, at, units, 6.0), [(2 / 6) ** 2, 1, 1], rtol=1e-6)
    np.testing.assert_array_equal(thickness_factor(labels, at, units, 0.0), 1)


@pytest.mark.parametrize("seed", range(3))
def test_vessels_are_not_smoothed_away(seed):
    study, truth = generate(replace(SMALL, kind="vessels"), seed)
    assert dice(gcssl(study).labels, truth) > dice(gcssl(study, thin=0.0).labels, truth)


# --- what must hold


@pytest.mark.parametrize("mode", ["logodds", "sc", "uniform"])
@pytest.mark.parametrize("scene", [SMALL, VOLUME], ids=["2D", "volume"])
def test_identical_raters_give_their_mask(mode, scene):
    study, truth = generate(scene, 0)
    fused = gcssl(replace(study, raters=tuple(Rater(f"e{n}", truth) for n in range(3))), weights=mode)
    np.testing.assert_array_equal(fused.labels, truth)
    np.testing.assert_allclose(column(fused, "weight"), 1 / 3)
    assert fused.facts["nodes"] == 0
    assert (fused.confidence == 1).all()


def test_without_smoothness_it_is_the_weighted_vote(study_2d):
    study, _ = study_2d
    fused = gcssl(study, ssl=False, smoothness=0, omissions=False, outlines=False)
    said, weights = np.stack([e.labels for e in study.raters]), column(fused, "weight")
    votes = np.stack([(weights[:, None, None, None] * (said == c)).sum(axis=0) for c in (0, 1)])
    clear = np.abs(votes[1] - votes[0]) > 1e-6
    np.testing.assert_array_equal(fused.labels[clear], votes.argmax(axis=0)[clear])
    np.testing.assert_allclose(fused.confidence[clear], (votes.max(axis=0) / votes.sum(axis=0))[clear], atol=1e-5)
    assert fused.facts["overruled_voxels"] == 0
    for smoothness in (0.5, 2.0, 8.0):
        facts = gcssl(study, smoothness=smoothness).facts
        assert facts["energy"] < facts["energy_of_votes"]
        assert facts["overruled_voxels"] > 0


@pytest.mark.parametrize("scene", [SMALL, VOLUME, replace(SMALL, classes=4)], ids=["2D", "volume", "4 labels"])
def test_what_all_raters_say_stays(scene):
    study, _ = generate(scene, 3)
    fused = gcssl(study, smoothness=20.0)
    said = np.stack([e.labels for e in study.raters])
    known = said != MISSING
    low, high = np.where(known, said, 254).min(axis=0), np.where(known, said, 0).max(axis=0)
    agreed = low == high
    np.testing.assert_array_equal(fused.labels[agreed], low[agreed])
    assert (fused.confidence[agreed] == 1).all()
    assert np.isin(fused.labels, np.arange(scene.classes)).all()


def test_order_and_side_do_not_matter(study_2d):
    study, _ = study_2d
    answer = gcssl(study)
    other = gcssl(replace(study, raters=study.raters[::-1]))
    assert dice(other.labels, answer.labels) > 0.9999
    np.testing.assert_allclose(column(other, "weight")[::-1], column(answer, "weight"), atol=1e-6)
    turned = tuple(replace(e, labels=np.ascontiguousarray(e.labels[::-1])) for e in study.raters)
    flipped = gcssl(replace(study, raters=turned, image=np.ascontiguousarray(study.image[:, ::-1])))
    assert dice(flipped.labels[::-1], answer.labels) > 0.999


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_outlier_is_found_and_the_truth_nearer_than_by_majority(seed):
    study, truth = generate(Scene(), seed)
    fused = gcssl(study)
    scores = column(fused, "self_consistency")
    assert scores[4] < 0.65
    assert scores[:4].min() > 0.8
    assert fused.raters[4]["weight"] < 0.05
    assert dice(fused.labels, truth) > dice(run(study, "majority").labels, truth) + 0.003


def without_content():
    """A study whose image is noise, and the truth."""
    study, truth = generate(Scene(), 0)
    noise = np.random.default_rng(0).normal(size=study.image.shape).astype(np.float32)
    return replace(study, image=noise), truth


def test_an_image_that_shows_nothing_leaves_equal_weights():
    study, truth = without_content()
    fused = gcssl(study, smoothness=0)
    scores = column(fused, "self_consistency")
    assert ((scores > 0.48) & (scores < 0.58)).all()
    assert fused.facts["rho"] < 0.15
    assert dice(fused.labels, truth) > dice(run(study, "majority").labels, truth) - 0.002


def test_smoothing_costs_little_where_the_image_shows_nothing():
    study, truth = without_content()
    assert dice(gcssl(study).labels, truth) > dice(run(study, "majority").labels, truth) - 0.002


@pytest.mark.parametrize("scene", [SMALL, VOLUME], ids=["2D", "volume"])
def test_silence_is_absence(scene):
    study, _ = generate(scene, 0)
    silent = Rater("silent", np.full(study.shape, MISSING, np.uint8))
    alone = gcssl(study, ssl=False)
    beside = gcssl(replace(study, raters=(silent, *study.raters)), ssl=False)
    np.testing.assert_array_equal(beside.labels, alone.labels)
    np.testing.assert_array_equal(column(beside, "weight"), [0, *column(alone, "weight")])
    assert beside.facts["dropped"] == ["silent"]
    assert "silent annotated no voxel and is left out" in beside.facts["warnings"]


def test_gaps_are_filled_by_what_looks_alike(study_2d):
    study, truth = study_2d
    nobody = np.zeros(study.shape, bool)
    nobody[30:50, 30:42] = True
    said = [np.where(nobody, MISSING, e.labels).astype(np.uint8) for e in study.raters[:3]]
    study = replace(study, raters=tuple(Rater(f"e{n}", labels) for n, labels in enumerate(said)))
    filled, left = gcssl(study), gcssl(study, ssl=False)
    assert (filled.labels == truth)[nobody].mean() > 0.95
    assert filled.facts["soft_votes"] == 3 * nobody.sum()
    assert filled.facts["uncovered_voxels"] == 0
    assert (left.labels[nobody] == 0).all()
    assert (left.confidence[nobody] == 0).all()
    assert left.facts["uncovered_voxels"] == nobody.sum()
    outside = ~nobody & (truth == 0)
    assert (left.labels == truth)[outside].mean() > 0.9


def test_guesses_change_shares_by_no_more_than_they_weigh():
    # votes of strength 0.6 and 0.2 differ by 0.5 of 0.8; guesses of 0.2 leave 0.6 : 0.4 at worst and 0.8 : 0.2 at best
    change = change_by_guesses(np.array([0.8, 0.0, 0.0]), np.array([0.2, 0.3, 0.0]))
    np.testing.assert_allclose(change, [0.4, 2, 0])
    assert 0.5 - change[0] <= 0.2
    assert 0.5 + change[0] >= 0.6


def test_guesses_for_either_of_two_labels_by_hand():
    # votes of 0.6 and 0.2, shares 0.75 and 0.25; guesses of 0.2 leave 0.8 : 0.2 or 0.6 : 0.4, differences 0.6 and 0.2;
    # votes of 0.3 and 0.5 with as much: 0.5 : 0.5 or 0.3 : 0.7, from -0.25 to 0 and -0.4; then nothing to guess
    votes = WeightedVotes(np.array([[0.6, 0.3, 1], [0.2, 0.5, 0]], np.float32), np.array([0.8, 0.8, 1], np.float32))
    raised, lowered = range_by_guesses(votes, np.array([0.2, 0.2, 0], np.float32))
    np.testing.assert_allclose(raised, [0.1, 0.25, 0], atol=1e-6)
    np.testing.assert_allclose(lowered, [0.3, 0.15, 0], atol=1e-6)


@pytest.mark.parametrize("kind", ["ellipsoid", "vessels"])
def test_guesses_where_they_cannot_matter_would_change_no_label(kind, monkeypatch):
    study, _ = generate(replace(SMALL, kind=kind), 0)
    some = gcssl(study)
    monkeypatch.setattr(decision, "change_by_guesses", lambda total, possible: np.full(total.size, 1e3))
    monkeypatch.setattr(decision, "range_by_guesses", lambda votes, possible: np.full((2, possible.size), 1e3))
    all_of_them = gcssl(study)
    assert 0 < some.facts["soft_votes"] < all_of_them.facts["soft_votes"]
    np.testing.assert_array_equal(some.labels, all_of_them.labels)


def test_the_same_seed_gives_the_same(study_2d):
    study, _ = study_2d
    one, two = gcssl(study, seed=7), gcssl(study, seed=7)
    np.testing.assert_array_equal(one.labels, two.labels)
    np.testing.assert_array_equal(one.confidence, two.confidence)
    drop = {key: value for key, value in one.facts.items() if key != "seconds"}
    assert drop == {key: value for key, value in two.facts.items() if key != "seconds"}
    assert one.raters == two.raters


@pytest.mark.parametrize(
    "options", [{"neighbours": 4}, {"local_sc": True}, {"outlines": False}, {"weights": [1, 0, 1, 1, 0]}]
)
def test_other_settings_also_find_the_object(study_2d, options):
    study, truth = study_2d
    assert dice(gcssl(study, **options).labels, truth) > 0.97


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": "best"}, "logodds, consistency, sc, uniform"),
        ({"weights": [1, 2]}, "one per rater"),
        ({"weights": [0] * 5}, "not all 0"),
        ({"smoothness": -1}, "a number >= 0"),
        ({"outlines": True, "local_sc": True}, "outlines and local_sc are both true; accepted is one"),
        ({"smoothness": math.nan}, "a number >= 0"),
        ({"neighbours": 6}, "6 neighbours in a 2D image"),
        ({"trees": 3}, "has no option trees"),
        ({"smoothness": "much"}, "smoothness of gcssl is 'much': .*number"),
        ({"method": "simple", "alpha": "word"}, "alpha of simple is 'word': .*number"),
    ],
)
def test_options_that_make_no_sense(study_2d, options, words):
    study, _ = study_2d
    with pytest.raises(ConfigError, match=words):
        medseg.fuse(study.image[0, ..., 0], [e.labels[..., 0] for e in study.raters], **options)


def test_a_wrong_option_is_refused_before_files_are_opened(tmp_path):
    with pytest.raises(ConfigError, match="gcssl has no option smooth; it has weights"):
        medseg.fuse(tmp_path / "absent.nii.gz", [tmp_path / "absent_too.nii.gz"], smooth=1)
    with pytest.raises(ConfigError, match="smoothness -1"):
        medseg.fuse(tmp_path / "absent.nii.gz", [tmp_path / "absent_too.nii.gz"], smoothness=-1)


# --- medseg.fuse on arrays


def arrays(scene=SMALL, seed=0):
    """Image, annotations and truth; a 2D image without its third axis."""
    study, truth = generate(scene, seed)
    flat = (slice(None), slice(None), 0) if truth.shape[2] == 1 else ()
    return study.image[0][flat], [e.labels[flat] for e in study.raters], truth[flat]


@pytest.mark.parametrize("scene", [SMALL, VOLUME], ids=["2D", "volume"])
def test_label_values_type_and_shape_are_the_users(scene):
    image, annotations, truth = arrays(scene)
    spelled = [np.where(a == MISSING, -1, a.astype(np.int16) * 700) for a in annotations]
    found = medseg.fuse(image, spelled, missing=-1, spacing_mm=scene.spacing_mm[: image.ndim])
    plain = medseg.fuse(image, annotations, spacing_mm=scene.spacing_mm[: image.ndim])
    assert (found.labels.dtype, found.labels.shape) == (np.int16, image.shape)
    np.testing.assert_array_equal(found.labels, plain.labels.astype(np.int16) * 700)
    votes = medseg.fuse(image, annotations, spacing_mm=scene.spacing_mm[: image.ndim], method="majority")
    assert dice(plain.labels, truth) > dice(votes.labels, truth) + 0.003
    np.testing.assert_array_equal(found.n_raters, (np.stack(annotations) != MISSING).sum(axis=0))
    assert found.confidence.min() >= 0
    assert found.confidence.max() <= 1
    assert found.report["label_values"] == [0, 700]
    assert found.report["raters"][3]["coverage"] == 0.5
    assert found.report["solver"] == installed_solver()


def test_colour_channels_and_their_order():
    image, annotations, truth = arrays()
    colour = np.stack([image * 60 + 100, image * 20 + 90, 80 - image * 30], axis=-1).clip(0, 255).astype(np.uint8)
    last = medseg.fuse(colour, annotations)
    first = medseg.fuse(np.moveaxis(colour, -1, 0), annotations)
    np.testing.assert_array_equal(first.labels, last.labels)
    assert dice(last.labels, truth) > 0.97


def test_masks_and_probabilities_together():
    image, annotations, truth = arrays()
    chance = np.where(annotations[0] == 1, 0.8, 0.3).astype(np.float32)
    mixed = medseg.fuse(image, [np.stack([1 - chance, chance]), *annotations[1:]])
    assert dice(mixed.labels, truth) > 0.97
    assert [row["soft"] for row in mixed.report["raters"]] == [True] + [False] * 4
    hard = np.stack([annotations[0] == 0, annotations[0] == 1]).astype(np.float32)
    same, plain = medseg.fuse(image, [hard, *annotations[1:]]), medseg.fuse(image, annotations)
    np.testing.assert_array_equal(same.labels, plain.labels)


def test_one_rater_keeps_the_labels():
    image, annotations, _ = arrays()
    whole = medseg.fuse(image, annotations[:1])
    np.testing.assert_array_equal(whole.labels, annotations[0])
    assert whole.report["raters"][0]["weight"] == 1
    assert whole.report["raters"][0]["self_consistency"] > 0.8
    assert any("no consensus possible" in warning for warning in whole.report["warnings"])
    gaps = annotations[3]
    filled = medseg.fuse(image, [gaps])
    np.testing.assert_array_equal(filled.labels[gaps != MISSING], gaps[gaps != MISSING])
    left = medseg.fuse(image, [gaps], ssl=False)
    assert (left.labels[gaps == MISSING] == 0).all()


def test_raters_who_labelled_nothing():
    image, annotations, _ = arrays()
    nothing = np.zeros_like(annotations[0])
    empty = medseg.fuse(image, [nothing, nothing])
    assert not empty.labels.any()
    assert (empty.confidence == 1).all()
    assert "no rater labelled anything: the consensus is empty" in empty.report["warnings"]
    one = medseg.fuse(image, [*annotations[:2], nothing])
    assert one.report["raters"][2]["empty"]
    assert any("that is kept as a vote" in warning for warning in one.report["warnings"])
    unseen = medseg.fuse(image, [np.full_like(nothing, MISSING)] * 2)
    assert not unseen.labels.any()
    assert (unseen.confidence == 0).all()
    assert "nothing is annotated" in unseen.report["warnings"]


def test_a_region_per_rater_is_a_gap_beyond_it():
    image, annotations, _ = arrays()
    half = np.zeros(image.shape, bool)
    half[: len(half) // 2] = True
    regions = medseg.fuse(image, annotations[:3], regions=[None, half, None])
    gap = np.where(half, annotations[1], MISSING).astype(np.uint8)
    np.testing.assert_array_equal(regions.labels, medseg.fuse(image, [annotations[0], gap, annotations[2]]).labels)


def test_nan_and_constant_images():
    image, annotations, truth = arrays()
    broken = image.copy()
    broken[0, :3] = np.nan
    with pytest.raises(DataError, match="3 voxels that are NaN"):
        medseg.fuse(broken, annotations)
    zeroed = np.nan_to_num(broken)
    np.testing.assert_array_equal(
        medseg.fuse(broken, annotations, nan="zero").labels, medseg.fuse(zeroed, annotations).labels
    )
    constant = medseg.fuse(np.full_like(image, 5), annotations)
    assert constant.report["rho"] == 0
    # nearly alike but for the outlier, who agrees less with the panel
    weights = [row["weight"] for row in constant.report["raters"]]
    np.testing.assert_allclose(weights[:4], weights[0], rtol=0.02)
    assert weights[4] < weights[0]
    assert dice(constant.labels, truth) > 0.94  # the plain vote, smoothed; the vote itself has 0.979
    assert any("the image is constant" in warning for warning in constant.report["warnings"])


def test_many_raters():
    image, annotations, truth = arrays()
    assert dice(medseg.fuse(image, [annotations[n % 5] for n in range(14)]).labels, truth) > 0.97


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda image, a: (image, [a, a[1:]]), "rater2 has size 79x72, the image 80x72"),
        (lambda image, a: (image[None, None, None], [a, a]), "one channel or one frame"),
        (lambda image, a: (np.stack([image] * 4, -1)[None], [a, a]), "one channel or one frame"),
        (lambda image, a: (image, [a, a + 0.25]), "no integers"),
        (lambda image, a: (image, [a, np.stack([a * 3.0, a])]), "outside 0 to 1"),
        (lambda image, a: (image, []), "no annotation"),
        (lambda image, a: (None, [a, a]), "there is none"),
        (lambda image, a: (image.astype(complex), [a, a]), "real numbers"),
    ],
)
def test_arrays_that_do_not_fit(change, words):
    image, annotations, _ = arrays()
    with pytest.raises(DataError, match=words):
        medseg.fuse(*change(image, annotations[0]))
