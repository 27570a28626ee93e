from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from oracles.itk_fusers import UNDECIDED, itk_multilabel_staple, itk_staple, itk_voting
from scipy import ndimage

from medseg.consensus.fuse import FUSERS, load_fuser, run
from medseg.consensus.fusers import vote_patterns as patterns_module
from medseg.consensus.fusers.multilabel_staple import class_prior, iterate, multilabel_staple, start
from medseg.consensus.fusers.simple import SimpleOptions, select_raters
from medseg.consensus.fusers.staple import estimate
from medseg.consensus.fusers.vote_patterns import find_patterns
from medseg.consensus.study import MISSING, Rater, Study
from medseg.errors import ConfigError

OTHERS = sorted(set(FUSERS) - {"gcssl"})
"""All methods that do without an image."""


def study_of(labels, classes=None, spacing=(1.0, 1.0, 1.0)) -> Study:
    """One rater per map; 1D and 2D maps get axes of length 1."""
    given_labels = [np.asarray(a, np.uint8) for a in labels]
    volumes = [a.reshape(*a.shape, *[1] * (3 - a.ndim)) for a in given_labels]
    highest = max(int(a[a != MISSING].max(initial=0)) for a in volumes)
    names = tuple(f"class{c}" for c in range(classes or max(highest + 1, 2)))
    return Study(tuple(Rater(f"e{r}", a) for r, a in enumerate(volumes)), names, spacing)


def blobs(shape, raters=5, classes=2, seed=0) -> Study:
    """Raters whose boundaries wobble; the second labels too much."""
    random = np.random.default_rng(seed)
    wide = [3.0 if n > 1 else 0.0 for n in shape]
    base = [ndimage.gaussian_filter(random.normal(size=shape), wide) for _ in range(classes - 1)]
    maps = []
    for r in range(raters):
        fields = [
            b / b.std() + 0.4 * (w := ndimage.gaussian_filter(random.normal(size=shape), wide)) / w.std() for b in base
        ]
        level = 0.9 - 0.3 * (r == 1)
        maps.append(np.where(np.max(fields, 0) > level, np.argmax(fields, 0) + 1, 0))
    return study_of(maps, classes)


def votes_of(draw, classes=3, missing=True, raters=(2, 5)):
    values = [*range(classes), MISSING] if missing else list(range(classes))
    number = draw(st.integers(*raters))
    shape = draw(st.sampled_from([(7, 1, 1), (3, 4, 1), (2, 3, 3)]))
    maps = draw(arrays(np.uint8, (number, *shape), elements=st.sampled_from(values)))
    return study_of(list(maps), classes)


@st.composite
def studies(draw, **options):
    return votes_of(draw, **options)


def voxels(study):
    """The votes at each voxel, as lists with None where a rater abstains."""
    stacked = np.stack([e.labels.ravel() for e in study.raters], 1)
    return [[None if v == MISSING else int(v) for v in row] for row in stacked]


# patterns


@pytest.mark.parametrize(("small", "largest"), [(1 << 16, 1 << 20), (8, 1 << 20), (8, 16)])
@settings(max_examples=40, deadline=None)
@given(study=studies(raters=(1, 6)), order=st.sampled_from("CF"))
def test_patterns_stand_for_every_voxel(small, largest, study, order):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patterns_module, "SMALL", small)
        patch.setattr(patterns_module, "LARGEST", largest)
        patch.setattr(patterns_module, "CHUNK", 5)
        study = replace(study, raters=tuple(replace(e, labels=np.asarray(e.labels, order=order)) for e in study.raters))
        found = find_patterns(study)
        painted = found.to_volume(np.arange(len(found.table)))
        index = found.indices()
    stacked = np.stack([np.minimum(e.labels, 3) for e in study.raters], -1)
    assert (found.table[painted] == stacked).all()
    assert (painted[found.coded_box] == index).all()
    assert (np.bincount(painted.ravel(), minlength=len(found.table)) == found.grid_counts).all()
    assert (np.bincount(painted[found.box].ravel(), minlength=len(found.table)) == found.counts).all()
    assert len(np.unique(found.table, axis=0)) == len(found.table)
    assert not found.table[0].any()


def test_more_raters_than_an_integer_has_digits():
    random = np.random.default_rng(0)
    maps = random.integers(0, 3, (60, 30, 20, 1)).astype(np.uint8)  # 3^60 codes, 600 different columns
    found = find_patterns(study_of(list(maps), 3))
    assert (found.table[found.to_volume(np.arange(len(found.table)))] == np.moveaxis(maps, 0, -1)).all()
    assert found.codes.dtype.itemsize <= 4


def test_a_crop_counts_its_box_only_and_answers_everywhere():
    maps = np.zeros((3, 60, 50, 40), np.uint8)
    maps[:, 25:30, 20:25, 18:20] = 1
    maps[0, :10] = MISSING
    study = study_of(list(maps), spacing=(1.0, 0.5, 3.0))
    cropped, whole = find_patterns(study), find_patterns(study, crop=False)
    assert cropped.box == (slice(17, 38), slice(4, 41), slice(10, 28))  # 8 voxels, 16 for 8 mm, 8
    assert cropped.counts.sum() == 21 * 37 * 18
    assert whole.counts.sum() == 60 * 50 * 40 == cropped.grid_counts.sum()
    assert cropped.grid_counts[cropped.table[:, 0] == 2].sum() == 10 * 50 * 40
    assert (cropped.to_volume(cropped.table[:, 0]) == np.minimum(maps[0], 2)).all()


def test_a_class_that_the_study_does_not_have_is_refused():
    for extra in (0, MISSING):
        with pytest.raises(ValueError, match="class index 4 in a study of 3 classes"):
            find_patterns(study_of([[0, 1, 4], [0, extra, 2]], 3))


# majority


def vote(row, tie, used):
    cast = [v for v in row if v is not None]
    if not cast:
        return 0, 0.0
    counts = {c: cast.count(c) for c in set(cast)}
    best = sorted(c for c in counts if counts[c] == max(counts.values()))
    share = max(counts.values()) / len(cast)
    if len(best) == 1:
        return best[0], share
    by_use = max(best, key=lambda c: (used[c], -c))
    return {"background": 0, "lowest": best[0], "undecided": MISSING, "prior": by_use}[tie], share


@pytest.mark.parametrize("tie", ["background", "lowest", "undecided", "prior"])
@settings(max_examples=30, deadline=None)
@given(study=studies(classes=4))
def test_majority_votes(tie, study):
    fused = run(study, "majority", tie=tie)
    rows = voxels(study)
    used = [sum(row.count(c) for row in rows) for c in range(4)]
    expected = [vote(row, tie, used) for row in rows]
    assert fused.labels.ravel().tolist() == [label for label, _ in expected]
    np.testing.assert_allclose(fused.confidence.ravel(), [share for _, share in expected], rtol=1e-6)


def test_an_unknown_tie_rule_is_refused():
    with pytest.raises(ConfigError, match=r"tie of majority is .coin.: .*background., .lowest., .undecided. or .prior"):
        run(study_of([[0, 1], [1, 0]]), "majority", tie="coin")


# STAPLE


def staple_by_the_letter(rows):
    """Lists and loops, from the formulas; None abstains."""
    R = len(rows[0])
    cast = [d for row in rows for d in row if d is not None]
    gamma = sum(cast) / len(cast)
    W = [
        float(np.mean([d for d in row if d is not None])) if any(d is not None for d in row) else gamma for row in rows
    ]
    p = q = None
    for iteration in range(10_000):
        before = p, q
        p, q = [], []
        for r in range(R):
            mine = [(row[r], w) for row, w in zip(rows, W, strict=True) if row[r] is not None]
            p.append(sum(w for d, w in mine if d == 1) / sum(w for _, w in mine))
            q.append(sum(1 - w for d, w in mine if d == 0) / sum(1 - w for _, w in mine))
        for x, row in enumerate(rows):
            a, b = gamma, 1 - gamma
            for r, d in enumerate(row):
                if d is not None:
                    a *= p[r] if d else 1 - p[r]
                    b *= 1 - q[r] if d else q[r]
            W[x] = a / (a + b)
        if iteration and max((x - y) ** 2 for x, y in zip([*p, *q], [*before[0], *before[1]], strict=True)) <= 1e-14:
            return W, p, q, iteration
    raise AssertionError("does not settle")


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), holes=st.sampled_from([0.0, 0.2]), raters=st.integers(3, 5))
def test_staple_is_its_formulas(seed, holes, raters):
    random = np.random.default_rng(seed)
    truth = random.random(60) < 0.4
    maps = (truth ^ (random.random((raters, 60)) < random.uniform(0.05, 0.3, (raters, 1)))).astype(np.uint8)
    maps[random.random(maps.shape) < holes] = MISSING
    maps[:, 0], maps[:, 1] = 1, 0  # every rater has both
    study = study_of(list(maps))
    W, p, q, iterations = staple_by_the_letter(voxels(study))
    found = find_patterns(study)
    got = estimate(found.table, found.counts)
    np.testing.assert_allclose(got.sensitivity, p, atol=1e-9)
    np.testing.assert_allclose(got.specificity, q, atol=1e-9)
    np.testing.assert_allclose(found.to_volume(got.truth).ravel(), W, atol=1e-9)
    assert got.iterations == iterations
    assert got.converged


def cropped_labels(study: Study, box) -> list[np.ndarray]:
    return [rater.labels[box] for rater in study.raters]


@pytest.mark.parametrize("shape", [(64, 64, 1), (40, 36, 20)])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("crop", [True, False])
def test_staple_equals_simpleitk(shape, classes, crop):
    study = blobs(shape, classes=classes)
    study = replace(
        study, raters=tuple(replace(e, labels=np.pad(e.labels, [(12, 14), (9, 15), (0, 0)])) for e in study.raters)
    )
    found = find_patterns(study, crop=crop)
    labels = cropped_labels(study, found.box)
    ours = run(study, "staple", crop=crop)
    best, winner = np.full(labels[0].shape, 0.5), np.zeros(labels[0].shape, np.uint8)
    for c in range(1, classes):
        theirs, name = itk_staple([array == c for array in labels]), f"class{c}"
        assert [e["sensitivity"][name] for e in ours.raters] == pytest.approx(list(theirs.sensitivity), abs=1e-9)
        assert [e["specificity"][name] for e in ours.raters] == pytest.approx(list(theirs.specificity), abs=1e-9)
        assert ours.facts["iterations"][name] == theirs.iterations > 3
        winner[theirs.truth > best] = c
        np.maximum(best, theirs.truth, out=best)
    assert (ours.labels[found.box] == winner).all()
    won = winner > 0
    np.testing.assert_allclose(ours.confidence[found.box][won], best[won], atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), raters=st.integers(3, 6))
def test_staple_of_any_masks_equals_simpleitk(seed, raters):
    random = np.random.default_rng(seed)
    truth = random.random((12, 10, 1)) < random.uniform(0.2, 0.6)
    errors = random.random((raters, 12, 10, 1)) < random.uniform(0.02, 0.35, (raters, 1, 1, 1))
    masks = (truth ^ errors).astype(np.uint8)
    found = find_patterns(study_of(list(masks)), crop=False)
    ours, theirs = estimate(found.table, found.counts), itk_staple(list(masks))
    np.testing.assert_allclose(ours.sensitivity, theirs.sensitivity, atol=1e-7)
    np.testing.assert_allclose(ours.specificity, theirs.specificity, atol=1e-7)
    np.testing.assert_allclose(found.to_volume(ours.truth), theirs.truth, atol=1e-6)


def test_where_simpleitk_divides_0_by_0_staple_has_an_answer():
    everything = np.ones((9, 8, 7), np.uint8)
    theirs = itk_staple([everything] * 3)
    assert np.isnan(theirs.truth).all()
    ours = run(study_of([everything] * 3), "staple")
    assert (ours.labels == 1).all()
    assert ours.raters[0]["sensitivity"] == {"class1": 1.0}
    assert ours.raters[0]["specificity"] == {"class1": None}


def test_simpleitk_takes_a_missing_annotation_for_background_and_staple_does_not():
    study = blobs((40, 36, 8), raters=3, seed=3)
    study.raters[1].labels[20:] = MISSING
    ours = run(study, "staple", crop=False)
    theirs = itk_staple([rater.labels == 1 for rater in study.raters])
    assert ours.raters[1]["sensitivity"]["class1"] > 0.7 > theirs.sensitivity[1]


def test_the_field_of_view_matters_to_staple():
    study = blobs((40, 40, 20), seed=3)
    study = replace(study, raters=tuple(replace(e, labels=np.pad(e.labels, 40)) for e in study.raters))
    cropped, whole = (run(study, "staple", crop=crop) for crop in (True, False))
    assert cropped.facts["box_voxels"] < whole.facts["box_voxels"] / 5
    assert cropped.raters[0]["specificity"]["class1"] < whole.raters[0]["specificity"]["class1"]


def test_staple_of_disputed_voxels_only():
    study = blobs((48, 48, 1), seed=1)
    rows = voxels(study)
    disputed = [row for row in rows if len(set(row)) > 1]
    _, p, q, _ = staple_by_the_letter(disputed)
    got = run(study, "staple", disputed_only=True)
    assert [e["sensitivity"]["class1"] for e in got.raters] == pytest.approx(p, abs=1e-9)
    assert [e["specificity"]["class1"] for e in got.raters] == pytest.approx(q, abs=1e-9)


def test_staple_that_does_not_settle_or_reverses_a_rater_says_so():
    study = blobs((48, 48, 1), seed=1)
    assert any("did not settle in 2" in w for w in run(study, "staple", max_iterations=2).facts["warnings"])
    contrary = replace(study.raters[0], name="contrary", labels=1 - study.raters[0].labels)
    fused = run(replace(study, raters=(*study.raters, contrary)), "staple", crop=False)
    assert any("contrary is estimated worse than chance" in w for w in fused.facts["warnings"])
    assert fused.raters[-1]["weight"] == 0


# multi-label STAPLE


def confusion_by_the_letter(rows, theta, prior):
    """Lists and loops; theta[r][j][c], None abstains."""
    K, R = len(prior), len(theta)
    for _ in range(10_000):
        sums = [[[0.0] * K for _ in range(K)] for _ in range(R)]
        for row in rows:
            W = [prior[c] * np.prod([theta[r][j][c] for r, j in enumerate(row) if j is not None]) for c in range(K)]
            total = sum(W)
            for r, j in enumerate(row):
                if j is not None and total:
                    for c in range(K):
                        sums[r][j][c] += W[c] / total
        change = 0.0
        for r in range(R):
            for c in range(K):
                whole = sum(sums[r][j][c] for j in range(K))
                for j in range(K):
                    new = sums[r][j][c] / whole if whole else theta[r][j][c]
                    change = max(change, abs(new - theta[r][j][c]))
                    theta[r][j][c] = new
        if change < 1e-5:
            return theta
    raise AssertionError("does not settle")


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), holes=st.sampled_from([0.0, 0.2]))
def test_multilabel_staple_is_its_formulas(seed, holes):
    random = np.random.default_rng(seed)
    truth = random.integers(0, 3, 80)
    noise = random.integers(0, 3, (4, 80))
    maps = np.where(random.random((4, 80)) < 0.25, noise, truth).astype(np.uint8)
    maps[random.random(maps.shape) < holes] = MISSING
    study = study_of(list(maps), 3)
    found = find_patterns(study)
    first = start(found, found.counts)
    prior = class_prior(found, found.counts)
    rows = voxels(study)
    cast = [v for row in rows for v in row if v is not None]
    assert prior.tolist() == pytest.approx([cast.count(c) / len(cast) for c in range(3)])
    slow = confusion_by_the_letter(rows, first[:, :3].tolist(), prior.tolist())
    got = iterate(found.table, found.counts, first, prior)
    np.testing.assert_allclose(got.theta[:, :3], slow, atol=1e-9)
    assert got.converged


def maps_of(study: Study) -> list[np.ndarray]:
    return [rater.labels for rater in study.raters]


def test_multilabel_staple_equals_simpleitk_where_no_vote_is_tied():
    study = blobs((40, 36, 8), raters=3, seed=2)
    ours = run(study, "ml-staple", crop=False)
    labels, theirs = itk_multilabel_staple(maps_of(study), 2)
    assert (ours.labels == labels).all()
    mine = np.array([[e["confusion"][c] for c in study.classes] for e in ours.raters])
    np.testing.assert_allclose(mine, np.moveaxis(theirs[:, :2], 1, 2), atol=1e-6)


@pytest.mark.parametrize(("shape", "raters", "classes"), [((40, 36, 8), 4, 4), ((48, 48, 1), 6, 3)])
def test_from_simpleitks_own_start_multilabel_staple_ends_where_simpleitk_does(shape, raters, classes):
    """The only deliberate difference is the start: how a tied vote counts in it (see the next test)."""
    study = blobs(shape, raters=raters, classes=classes, seed=5)
    found = find_patterns(study, crop=False)
    labels, theirs = itk_multilabel_staple(maps_of(study), classes)
    _, first = itk_multilabel_staple(maps_of(study), classes, iterations=0)
    first[:, -1] = 1  # its last row stands for no vote; ours for a missing one
    got = iterate(found.table, found.counts, first, class_prior(found, found.counts))
    np.testing.assert_allclose(got.theta[:, :classes], theirs[:, :classes], atol=1e-6)
    assert (found.to_volume(got.truth.argmax(1)) == labels).mean() > 0.9999


def test_simpleitks_start_counts_ties_for_the_wrong_vote_and_ours_does_not():
    study = study_of([[0, 0, 1, 1], [0, 1, 0, 1]])
    _, theirs = itk_multilabel_staple(maps_of(study), 2, iterations=0)
    assert theirs[0].tolist() == [[1, 0], [0.5, 0.5], [1, 0]]  # a pixel of vote 0 stands in the row of vote 1
    found = find_patterns(study)
    ours = start(found, found.counts)
    # each tied pixel in halves: vote 0 of the first rater meets 1 + 1/2 zeros and 1/2 one
    np.testing.assert_allclose(ours[:, :2], [[[0.75, 0.25], [0.25, 0.75]]] * 2)


def test_two_raters_who_differ_are_reconciled():
    study = blobs((48, 48, 1), raters=2, classes=3, seed=4)
    fused = run(study, "ml-staple")
    assert np.isfinite(fused.confidence).all()
    said = np.stack([e.labels for e in study.raters])
    assert (fused.labels == said).any(0).all()


# SIMPLE


def simple_by_the_letter(rows, alpha):
    """Shares and raters kept, for class 1."""
    R = len(rows[0])
    kept, phi = set(range(R)), [1.0] * R

    def shares_of(weights, members):
        out = []
        for row in rows:
            cast = sum(weights[r] for r in members if row[r] is not None)
            out.append(sum(weights[r] for r in members if row[r] == 1) / cast if cast else 0.0)
        return out

    share = shares_of(phi, kept)
    for _ in range(25):
        phi = []
        for r in range(R):
            mine = [(row[r] == 1, s > 0.5) for row, s in zip(rows, share, strict=True) if row[r] is not None]
            sizes = sum(a for a, _ in mine) + sum(b for _, b in mine)
            phi.append(2 * sum(a and b for a, b in mine) / sizes if sizes else 1.0)
        inside = [phi[r] for r in sorted(kept)]
        still = kept
        if len(kept) > 2:
            limit = np.mean(inside) - alpha * np.std(inside)
            still = {r for r in kept if phi[r] >= limit - 1e-12}
            if len(still) < 2:
                still = set(sorted(kept, key=lambda r: (-phi[r], r))[:2])
        following = shares_of(phi, still)
        same = still == kept and [s > 0.5 for s in following] == [s > 0.5 for s in share]
        share, kept = following, still
        if same:
            break
    return share, kept


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), holes=st.sampled_from([0.0, 0.25]), alpha=st.sampled_from([0.3, 1.0, 2.0]))
def test_simple_is_its_description(seed, holes, alpha):
    random = np.random.default_rng(seed)
    truth = random.random(50) < 0.4
    maps = (truth ^ (random.random((5, 50)) < random.uniform(0, 0.4, (5, 1)))).astype(np.uint8)
    maps[random.random(maps.shape) < holes] = MISSING
    study = study_of(list(maps))
    share, kept = simple_by_the_letter(voxels(study), alpha)
    found = find_patterns(study)
    got = select_raters(found, 1, SimpleOptions(alpha))
    assert set(np.flatnonzero(got.kept)) == kept
    assert len(kept) >= 2
    np.testing.assert_allclose(found.to_volume(got.share).ravel(), share, atol=1e-12)


def test_simple_drops_an_outlier_and_keeps_equals():
    study = blobs((40, 40, 1), raters=4, seed=0)
    odd = Rater("odd", np.roll(study.raters[0].labels, 13, 0))
    fused = run(replace(study, raters=(*study.raters, odd)), "simple")
    assert fused.raters[-1]["dropped_for"] == ["class1"]
    assert fused.raters[-1]["weight"] == 0
    equal = run(replace(study, raters=tuple(Rater(f"{r}", study.raters[0].labels) for r in range(7))), "simple")
    assert all(not e["dropped_for"] and e["weight"] == pytest.approx(1 / 7) for e in equal.raters)
    with pytest.raises(ConfigError, match="alpha must not be negative"):
        run(study, "simple", alpha=-1)


# shape-based averaging


def signed_by_the_letter(labels, c, spacing):
    """Every pair of annotated voxels; None where there is no boundary."""
    where = np.argwhere(labels != MISSING)
    mm = np.asarray(spacing)
    inside = [v for v in where if labels[tuple(v)] == c]
    outside = [v for v in where if labels[tuple(v)] != c]
    if not inside or not outside:
        return None
    half, out = 0.5 * min(spacing), {}
    for v in where:
        others, sign = (outside, -1) if labels[tuple(v)] == c else (inside, 1)
        out[tuple(v)] = sign * (min(float(np.linalg.norm((v - o) * mm)) for o in others) - half)
    return out


@settings(max_examples=25, deadline=None)
@given(study=studies(classes=3, raters=(2, 4)), spacing=st.sampled_from([(1.0, 1.0, 1.0), (0.7, 1.3, 2.5)]))
def test_shape_average_is_its_description(study, spacing):
    study = replace(study, spacing_mm=spacing)
    got = run(study, "sba").labels
    voted = run(study, "majority").labels
    fields = [[signed_by_the_letter(e.labels, c, spacing) for e in study.raters] for c in range(3)]
    for voxel in np.ndindex(*study.shape):
        cast = [int(e.labels[voxel]) for e in study.raters if e.labels[voxel] != MISSING]
        means = {}
        for c in sorted(set(cast)):
            known = [f[voxel] for f in fields[c] if f is not None and voxel in f]
            if known and 2 * len(known) >= len(cast):
                means[c] = float(np.mean(known))
        if means:
            assert means[int(got[voxel])] <= min(means.values()) + 1e-5
        else:
            assert got[voxel] == voted[voxel]


def test_shape_average_of_three_intervals_in_mm():
    # ends at 4, 6 and 14 voxels of 2 mm: the mean boundary lies at 8 voxels, the majority's at 6
    maps = [[1] * n + [0] * (30 - n) for n in (4, 6, 14)]
    study = study_of(maps, spacing=(2.0, 3.0, 3.0))
    assert run(study, "sba").labels.sum() == 8
    assert run(study, "majority").labels.sum() == 6


# all of them


@pytest.mark.parametrize("method", OTHERS)
@pytest.mark.parametrize("shape", [(30, 28, 1), (20, 18, 12)])
@pytest.mark.parametrize("classes", [2, 4])
def test_identical_raters_give_that_mask(method, shape, classes):
    one = blobs(shape, raters=1, classes=classes).raters[0].labels
    fused = run(study_of([one, one.copy(), one.copy()], classes), method)
    assert (fused.labels == one).all()
    np.testing.assert_allclose(fused.confidence, 1, atol=1e-6)
    assert [e["weight"] for e in fused.raters] == pytest.approx([1 / 3] * 3)
    assert fused.labels.dtype == np.uint8
    assert fused.confidence.dtype == np.float32


@pytest.mark.parametrize("method", OTHERS)
def test_order_orientation_and_layout_do_not_matter(method):
    study = blobs((30, 28, 6), raters=5, classes=3, seed=6)
    study.raters[3].labels[:9] = MISSING
    fused = run(study, method)
    turned = run(replace(study, raters=study.raters[::-1]), method)
    assert (fused.labels == turned.labels).all()
    np.testing.assert_allclose(fused.confidence, turned.confidence, atol=1e-6)
    flipped = replace(study, raters=tuple(replace(e, labels=e.labels[::-1, :, ::-1]) for e in study.raters))
    assert (run(flipped, method).labels[::-1, :, ::-1] == fused.labels).all()
    fortran = replace(study, raters=tuple(replace(e, labels=np.asfortranarray(e.labels)) for e in study.raters))
    assert (run(fortran, method).labels == fused.labels).all()


@pytest.mark.parametrize("method", OTHERS)
def test_who_annotated_nothing_is_as_good_as_away(method):
    study = blobs((30, 28, 6), raters=4, classes=3, seed=7)
    silent = Rater("silent", np.full(study.shape, MISSING, np.uint8))
    fused, joined = run(study, method), run(replace(study, raters=(*study.raters, silent)), method)
    assert (fused.labels == joined.labels).all()
    np.testing.assert_allclose(fused.confidence, joined.confidence, atol=1e-6)
    assert joined.facts["dropped"] == ["silent"]
    assert joined.raters[-1]["weight"] == 0
    assert any("silent annotated no voxel" in w for w in joined.facts["warnings"])


@pytest.mark.parametrize("method", OTHERS)
@pytest.mark.parametrize("value", [0, 1, MISSING])
def test_all_empty_all_full_or_nothing_annotated(method, value):
    fused = run(study_of([np.full((9, 8, 7), value)] * 3, 2), method)
    assert (fused.labels == (value == 1)).all()
    assert np.isfinite(fused.confidence).all()
    expected = {0: "the consensus is empty", 1: "no rater called any voxel background", MISSING: "nothing is annotated"}
    assert any(expected[value] in w for w in fused.facts["warnings"])
    json.dumps([fused.facts, fused.raters], allow_nan=False)


@pytest.mark.parametrize("method", OTHERS)
def test_one_empty_rater_is_a_vote(method):
    study = blobs((30, 28, 1), raters=4, seed=8)
    empty = Rater("blind", np.zeros(study.shape, np.uint8))
    fused = run(replace(study, raters=(*study.raters, empty)), method)
    assert fused.facts["empty"] == ["blind"]
    assert any("blind labelled nothing" in w for w in fused.facts["warnings"])
    assert fused.labels.any()
    if method == "staple":
        assert fused.raters[-1]["sensitivity"]["class1"] == 0
        assert fused.raters[-1]["weight"] == 0


@pytest.mark.parametrize("method", OTHERS)
def test_what_nobody_annotated_is_background_without_confidence(method):
    study = blobs((30, 28, 1), raters=3, seed=9)
    for rater in study.raters:
        rater.labels[:5] = MISSING
    fused = run(study, method)
    assert not fused.labels[:5].any()
    assert not fused.confidence[:5].any()
    assert fused.facts["uncovered_voxels"] == 5 * 28


@pytest.mark.parametrize("method", OTHERS)
def test_probabilities_count_as_their_likeliest_class_and_that_is_said(method):
    study = blobs((20, 20, 1), raters=3, seed=1)
    soft = np.stack([1 - study.raters[0].labels, study.raters[0].labels]).astype(np.float32)
    fused = run(replace(study, raters=(replace(study.raters[0], probabilities=soft), *study.raters[1:])), method)
    assert fused.facts["from_probabilities"] == ["e0"]
    assert (fused.labels == run(study, method).labels).all()


def test_majority_equals_simpleitks_voting():
    study = blobs((30, 28, 6), raters=4, classes=3, seed=3)
    ours, theirs = run(study, "majority"), itk_voting(maps_of(study))
    assert (ours.labels == np.where(theirs == UNDECIDED, 0, theirs)).all()
    assert ours.facts["tied_voxels"] == np.count_nonzero(theirs == UNDECIDED) > 0
    assert (run(study, "majority", tie="undecided").labels == theirs).all()


# their names


def test_every_fuser_is_the_function_it_is_listed_as():
    assert load_fuser("ml-staple") is load_fuser("ml-staple-fast") is multilabel_staple
    assert OTHERS == ["majority", "ml-staple", "sba", "simple", "staple"]


@pytest.mark.parametrize(("old", "new"), [("staple-fast", "staple"), ("ml-staple-fast", "ml-staple")])
def test_a_former_name_works_with_one_warning(old, new):
    study = blobs((20, 20, 1), raters=3, seed=1)
    before, after = run(study, old), run(study, new)
    assert (before.labels == after.labels).all()
    assert before.facts["method"] == after.facts["method"] == new
    assert before.facts["warnings"] == [*after.facts["warnings"], f"method {old} is now called {new}; use that name"]


def test_a_method_that_has_been_removed_names_its_successor():
    with pytest.raises(ConfigError, match=r"^method voting-itk has been removed; use majority$"):
        run(blobs((20, 20, 1)), "voting-itk")
