from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from medseg.consensus.fuse import run
from medseg.consensus.statistics.inter_rater_agreement import agreement
from medseg.consensus.statistics.rater_vs_consensus import COLUMNS, csv_rows, rater_table
from medseg.consensus.study import MISSING, Fused, Rater, Study
from medseg.metrics import segmentation_metrics

KRIPPENDORFF = """
1 2 3 3 2 1 4 1 2 . . .
1 2 3 3 2 2 4 1 2 5 . 3
. 3 3 3 2 3 4 2 2 5 1 .
1 2 3 3 2 4 4 1 2 5 1 .
"""
"""Four observers, twelve units, from his "Computing Krippendorff's alpha-reliability"."""

FLEISS = """
0 0 0 0 14 / 0 2 6 4 2 / 0 0 3 5 6 / 0 3 9 2 0 / 2 2 8 1 1
7 7 0 0 0 / 3 2 6 3 0 / 2 5 3 2 2 / 6 5 2 1 0 / 0 2 2 3 7
"""
"""Fourteen raters, ten subjects, five categories: votes per category; the usual worked example."""


def study_of(maps, classes, spacing=(1.0, 1.0, 1.0)) -> Study:
    volumes = [np.asarray(a, np.uint8) for a in maps]
    volumes = [a.reshape(*a.shape, *[1] * (3 - a.ndim)) for a in volumes]
    names = tuple(f"class{c}" for c in range(classes))
    return Study(tuple(Rater(f"e{r}", a) for r, a in enumerate(volumes)), names, spacing)


def blobs(shape, raters=4, seed=0, spacing=(1.0, 1.0, 2.0)) -> Study:
    random = np.random.default_rng(seed)
    wide = [2.5 if n > 1 else 0.0 for n in shape]
    base = ndimage.gaussian_filter(random.normal(size=shape), wide)
    maps = []
    for _ in range(raters):
        wobble = ndimage.gaussian_filter(random.normal(size=shape), wide)
        score = base / base.std() + 0.4 * wobble / wobble.std()
        maps.append(np.where(score > 1.2, 2, np.where(score > 0.5, 1, 0)))
    return study_of(maps, 3, spacing)


def rows_of(study):
    stacked = np.stack([e.labels.ravel() for e in study.raters], 1)
    return [[int(v) for v in row if v != MISSING] for row in stacked]


def kappa_by_the_letter(rows, raters):
    rows = [row for row in rows if len(row) == raters]
    if not rows or raters < 2:
        return None
    values = sorted({v for row in rows for v in row})
    observed = np.mean([sum(row.count(v) * (row.count(v) - 1) for v in values) / raters / (raters - 1) for row in rows])
    expected = sum((sum(row.count(v) for row in rows) / raters / len(rows)) ** 2 for v in values)
    return (observed - expected) / (1 - expected) if len(values) > 1 else None


def alpha_by_the_letter(rows):
    """Every pair of votes, observed within voxels and expected over all of them."""
    rows = [row for row in rows if len(row) > 1]
    pool = [v for row in rows for v in row]
    n = len(pool)
    if len(set(pool)) < 2:
        return None
    observed = sum(
        sum(a != b for i, a in enumerate(row) for j, b in enumerate(row) if i != j) / (len(row) - 1) for row in rows
    )
    expected = sum(a != b for i, a in enumerate(pool) for j, b in enumerate(pool) if i != j)
    return 1 - (observed / n) / (expected / n / (n - 1))


def test_krippendorffs_own_example():
    lines = KRIPPENDORFF.strip().split("\n")
    study = study_of([[MISSING if v == "." else int(v) for v in line.split()] for line in lines], 6)
    found = agreement(study, resamples=10)["krippendorff_alpha"]["overall"]
    assert found["value"] == pytest.approx(0.743, abs=5e-4)
    assert found["voxels"] == 11


def test_fleiss_worked_example():
    counts = np.array([[int(v) for v in row.split()] for row in FLEISS.replace("\n", " / ").strip(" /").split(" / ")])
    subjects = np.stack([np.repeat(np.arange(5), row) for row in counts])
    found = agreement(study_of(list(subjects.T), 5), resamples=10)["fleiss_kappa"]["overall"]
    assert found["value"] == pytest.approx(0.210, abs=5e-4)
    assert found["voxels"] == 10


@settings(max_examples=40, deadline=None)
@given(data=st.data(), raters=st.integers(1, 4))
def test_kappa_alpha_and_dice_are_their_definitions(data, raters):
    values = st.sampled_from([0, 1, 2, MISSING])
    study = study_of(list(data.draw(arrays(np.uint8, (raters, 3, 2, 3), elements=values))), 3)
    found = agreement(study, crop=False, resamples=5)
    rows = rows_of(study)
    raters = sum((e.labels != MISSING).any() for e in study.raters)
    assert found["fleiss_kappa"]["overall"]["value"] == approx(kappa_by_the_letter(rows, raters))
    assert found["krippendorff_alpha"]["overall"]["value"] == approx(alpha_by_the_letter(rows))
    for c in range(3):
        single = [[int(v == c) for v in row] for row in rows]
        assert found["fleiss_kappa"]["classes"][f"class{c}"]["value"] == approx(kappa_by_the_letter(single, raters))
        assert found["krippendorff_alpha"]["classes"][f"class{c}"]["value"] == approx(alpha_by_the_letter(single))
    dice = found["pairwise_dice"]
    for i, a in enumerate(study.raters):
        for j, b in enumerate(study.raters):
            both = (a.labels != MISSING) & (b.labels != MISSING)
            scores = []
            for c in (1, 2):
                p, q = (a.labels == c)[both], (b.labels == c)[both]
                score = 2 * (p & q).sum() / (p.sum() + q.sum()) if p.any() or q.any() else None
                assert dice["classes"][f"class{c}"][i][j] == approx(score)
                scores += [] if score is None else [score]
            assert dice["compared"][i][j] == len(scores)
            assert dice["mean"][i][j] == approx(np.mean(scores) if scores else None)
    json.dumps(found, allow_nan=False)


def approx(value):
    return None if value is None else pytest.approx(value, abs=1e-9)


def test_intervals_draw_whole_blocks():
    """The same draws, done by hand with the labels of each block."""
    study = blobs((16, 12, 1), seed=2)
    found = agreement(study, crop=False, resamples=40, level=0.8, seed=3)
    assert found["bootstrap"] == {"blocks": 12, "resamples": 40, "level": 0.8, "seed": 3}  # 4 by 4 voxels each
    blocks = [
        [[int(e.labels[x, y, 0]) for e in study.raters] for x in range(a, a + 4) for y in range(b, b + 4)]
        for a in range(0, 16, 4)
        for b in range(0, 12, 4)
    ]
    draws = np.random.default_rng(3).multinomial(12, np.full(12, 1 / 12), 40)
    drawn = [[row for n, block in zip(draw, blocks, strict=True) for row in block * int(n)] for draw in draws]
    kappas = [k for rows in drawn if (k := kappa_by_the_letter(rows, 4)) is not None]
    kappa = found["fleiss_kappa"]["overall"]
    assert [kappa["low"], kappa["high"]] == pytest.approx(list(np.percentile(kappas, [10, 90])))
    alpha = found["krippendorff_alpha"]["overall"]
    assert kappa["low"] < alpha["low"] < alpha["value"] < alpha["high"]
    assert alpha["high"] - kappa["high"] < 0.01


def test_intervals_are_wider_than_if_voxels_were_independent():
    study = blobs((64, 64, 1), seed=1)
    random = np.random.default_rng(0)
    order = random.permutation(64 * 64)
    shuffled = replace(
        study, raters=tuple(replace(e, labels=e.labels.ravel()[order].reshape(e.labels.shape)) for e in study.raters)
    )
    wide, narrow = (agreement(s, crop=False)["krippendorff_alpha"]["overall"] for s in (study, shuffled))
    assert wide["value"] == pytest.approx(narrow["value"])
    assert wide["high"] - wide["low"] > 1.5 * (narrow["high"] - narrow["low"])


def test_the_same_seed_gives_the_same_intervals_and_level_widens_them():
    study = blobs((24, 24, 6))
    first, again, other = agreement(study), agreement(study), agreement(study, seed=1)
    assert first == again != other
    overall = agreement(study, level=0.5)["fleiss_kappa"]["overall"]
    assert first["fleiss_kappa"]["overall"]["low"] < overall["low"] < overall["high"]
    with pytest.raises(ValueError, match="level must lie between 0 and 1"):
        agreement(study, level=95)


def test_perfect_agreement_is_1_and_one_class_is_nothing_to_measure():
    one = blobs((16, 16, 4), raters=1).raters[0].labels
    found = agreement(study_of([one] * 3, 3))
    assert found["fleiss_kappa"]["overall"] == {"value": 1.0, "low": 1.0, "high": 1.0, "voxels": found["box_voxels"]}
    assert found["pairwise_dice"]["mean"] == [[1.0] * 3] * 3
    empty = agreement(study_of([np.zeros((9, 9))] * 3, 2))
    assert empty["fleiss_kappa"]["overall"]["value"] is None
    assert empty["pairwise_dice"]["mean"] == [[None] * 3] * 3


# each rater against the consensus


def table_by_the_letter(rater, consensus, c, ml):
    """Counts voxel by voxel."""
    tp = fp = fn = tn = 0
    for said, true in zip(rater.ravel(), consensus.ravel(), strict=True):
        if MISSING in (said, true):
            continue
        tp, fp = tp + (said == c == true), fp + (said == c != true)
        fn, tn = fn + (said != c == true), tn + (said != c and true != c)
    return {
        "tp": tp, "fp": fp, "fn": fn, "tn": tn,
        "sensitivity": tp / (tp + fn) if tp + fn else None,
        "specificity": tn / (tn + fp) if tn + fp else None,
        "precision": tp / (tp + fp) if tp + fp else None,
        "dice": 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else None,
        "rater_ml": (tp + fp) * ml, "consensus_ml": (tp + fn) * ml, "bias_ml": (fp - fn) * ml,
        "bias_percent": 100 * (fp - fn) / (tp + fn) if tp + fn else None,
    }  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_the_table_is_its_definitions(data):
    values = st.sampled_from([0, 0, 1, 2, MISSING])
    maps = data.draw(arrays(np.uint8, (3, 3, 4, 2), elements=values))
    study = study_of(list(maps[:2]), 3, (0.5, 2.0, 3.0))
    fused = Fused(maps[2], np.ones(study.shape, np.float32))
    table = rater_table(study, fused, tolerance_mm=2.0)
    for entry, rater in zip(table, study.raters, strict=True):
        for c in (1, 2):
            row = entry["classes"][f"class{c}"]
            for name, value in table_by_the_letter(rater.labels, maps[2], c, 0.003).items():
                assert row[name] == approx(value), name
        assert entry["coverage"] == pytest.approx((rater.labels != MISSING).mean())
    json.dumps(table, allow_nan=False)
    lines = list(csv.reader(io.StringIO("\n".join(",".join(str(v) for v in row) for row in csv_rows(table)))))
    assert {len(line) for line in lines} == {len(COLUMNS)}
    assert len(lines) == 1 + 2 * 3


def test_surfaces_are_those_of_the_metrics_and_end_where_annotation_ends():
    study = blobs((24, 24, 8), spacing=(0.8, 0.8, 2.0))
    study.raters[1].labels[:9] = MISSING
    fused = run(study, "majority")
    table = rater_table(study, fused, tolerance_mm=1.5)
    for entry, rater in zip(table, study.raters, strict=True):
        reference = np.where(rater.labels == MISSING, MISSING, fused.labels).astype(np.uint8)
        given_ = {"label_values": [1, 2], "spacing_mm": study.spacing_mm, "tolerance_mm": 1.5}
        expected = segmentation_metrics(rater.labels, reference, **given_)
        for c in (1, 2):
            row = entry["classes"][f"class{c}"]
            assert row["hd95_mm"] == pytest.approx(expected[c]["hd95_mm"])
            assert row["surface_dice"] == pytest.approx(expected[c]["surface_dice"])
        for name in ("dice", "hd95_mm", "bias_ml", "specificity"):
            mean = np.mean([entry["classes"][f"class{c}"][name] for c in (1, 2)])
            assert entry["overall"][name] == pytest.approx(mean)
            assert entry["overall"]["n"][name] == 2


def test_classes_that_one_side_lacks_are_counted_and_not_averaged_away():
    truth = np.zeros((20, 20, 1), np.uint8)
    truth[2:8, 2:8], truth[12:18, 2:8] = 1, 2
    lacking, inventing = truth.copy(), truth.copy()
    lacking[lacking == 2], inventing[12:18, 12:18] = 0, 3
    study = study_of([lacking, inventing], 5)
    table = rater_table(study, Fused(truth, np.ones(truth.shape, np.float32)))
    first, second = table
    assert first["classes"]["class2"]["situation"] == "missing"
    assert (first["classes"]["class2"]["dice"], first["classes"]["class2"]["hd95_mm"]) == (0, None)
    assert first["classes"]["class2"]["bias_percent"] == -100
    assert second["classes"]["class3"]["situation"] == "spurious"
    assert second["classes"]["class4"]["dice"] is None
    assert first["overall"]["situations"] == {"both": 1, "missing": 1, "spurious": 0, "both_empty": 2}
    assert first["overall"]["dice"] == 0.5  # the lacking class counts as 0
    assert (first["overall"]["n"]["dice"], first["overall"]["n"]["hd95_mm"]) == (2, 1)


def test_a_rater_without_any_voxel_has_a_row_of_nothing():
    study = blobs((16, 16, 4), raters=3)
    silent = Rater("silent", np.full(study.shape, MISSING, np.uint8))
    study = replace(study, raters=(*study.raters, silent))
    row = rater_table(study, run(study, "majority"))[-1]
    assert row["coverage"] == 0
    assert row["classes"]["class1"]["situation"] == "both_empty"
    assert row["overall"]["dice"] is None
    assert row["classes"]["class1"]["specificity"] is None
    assert agreement(study)["pairwise_dice"]["mean"][3] == [None] * 4
