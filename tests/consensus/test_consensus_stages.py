"""Stages of GC-SSL against slow twins: features, posteriors, the region, and the cut on disputed voxels alone."""

from __future__ import annotations

import itertools
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from medseg.consensus.boxes import relative_spacing
from medseg.consensus.fuse import run
from medseg.consensus.fusers.gcssl.graph_cut.alpha_expansion import minimise
from medseg.consensus.fusers.gcssl.graph_cut.energy import Energy, find_pairs
from medseg.consensus.fusers.gcssl.image_features import ImageFeatures, NormalisedImage
from medseg.consensus.fusers.gcssl.raters.forest import leaf_membership
from medseg.consensus.fusers.gcssl.raters.scores import LeafHistograms, compute_weights, informativeness
from medseg.consensus.fusers.gcssl.region import find_region
from medseg.consensus.study import MISSING, Study

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "consensus"))

from consensus_phantom import Scene, generate


def gcssl(study: Study, **options):
    return run(study, "gcssl", **options)


@pytest.mark.parametrize("units", [(1.0, 1.0, math.inf), (1.0, 1.5, 3.0)], ids=["2D", "volume"])
def test_features_against_windows_in_float64(units):
    """Moments, entropy, gradient and curvature, also at the border."""
    random = np.random.default_rng(0)
    shape = (15, 14, 1) if math.isinf(units[2]) else (13, 12, 9)
    image = ndimage.gaussian_filter(random.standard_normal((1, *shape)), 0.8).astype(np.float32)
    normalised = NormalisedImage(image, tuple(slice(0, n) for n in shape), units)
    voxels = np.arange(0, math.prod(shape), 7)
    found = ImageFeatures(normalised).at(voxels)
    values, margin = normalised.values[0].astype(float), normalised.margin
    low, middle, high = np.percentile(image, (1, 50, 99))
    inner = tuple(slice(m, m + n) for m, n in zip(margin, shape, strict=True))
    np.testing.assert_allclose(values[inner], (image[0] - middle) / (high - low), atol=1e-5)
    levels = np.searchsorted(np.quantile(values, np.arange(1, 8) / 8), values)
    real = [a for a in range(3) if math.isfinite(units[a])]
    smooth = ndimage.gaussian_filter(values, [1.5 / u for u in units])
    gradient = [np.gradient(smooth, units[a], axis=a) for a in real]
    length = np.sqrt(sum(g * g for g in gradient))
    bend = sum(np.gradient(g / (length + 1e-3), units[a], axis=a) for g, a in zip(gradient, real, strict=True))
    for row, at in zip(found, zip(*np.unravel_index(voxels, shape), strict=True), strict=True):
        centre = tuple(a + m for a, m in zip(at, margin, strict=True))
        expected = [values[centre]]
        for size in (3, 7):
            half = [0 if math.isinf(u) else int(size / u) // 2 for u in units]
            window = tuple(slice(c - h, c + h + 1) for c, h in zip(centre, half, strict=True))
            x = values[window].ravel()
            deviation = max(x.var(), 1e-8) ** 0.5
            third, fourth = (((x - x.mean()) ** k).mean() / deviation**k for k in (3, 4))
            expected += [x.mean(), deviation, np.clip(third, -10, 10), np.clip(fourth - 3, -10, 30)]
        share = np.bincount(levels[window].ravel(), minlength=8) / x.size
        expected += [-sum(p * math.log2(p) for p in share if p), length[centre], np.clip(bend[centre], -3, 3)]
        np.testing.assert_allclose(row, expected, rtol=2e-3, atol=2e-3)


def test_images_in_either_memory_order_have_the_same_features():
    image = np.random.default_rng(3).normal(size=(1, 20, 24, 16)).astype(np.float32)
    turned = np.asfortranarray(image)  # what nibabel gives
    box = (slice(4, 16), slice(5, 20), slice(4, 12))
    voxels = np.arange(12 * 15 * 8)
    found = [ImageFeatures(NormalisedImage(array, box, (1.0, 1.0, 4.0))).at(voxels) for array in (image, turned)]
    np.testing.assert_array_equal(*found)


def test_posterior_is_the_average_of_the_trees_over_the_frequencies():
    random = np.random.default_rng(0)
    n, trees, classes = 60, 4, 3
    nodes = (random.integers(0, 5, (n, trees)) + 5 * np.arange(trees)).astype(np.int32)
    said = random.integers(0, classes, (2, n)).astype(np.uint8)
    said[1, :20] = MISSING
    histograms = LeafHistograms(leaf_membership(nodes, 5 * trees), said, classes)
    found = histograms.posterior(histograms.leaves, histograms.rates(np.ones(n, bool))[0])
    for r, x in itertools.product(range(2), range(n)):
        known = said[r] != MISSING
        pi = np.array([(said[r][known] == c).mean() for c in range(classes)])
        mean = np.zeros(classes)
        for t in range(trees):
            there = known & (nodes[:, t] == nodes[x, t])
            count = np.array([(said[r][there] == c).sum() for c in range(classes)])
            mean += (count + pi) / (count.sum() + 1) / trees
        np.testing.assert_allclose(found[x, r], mean / pi / (mean / pi).sum(), atol=1e-5)


def test_scores_without_evidence_and_weights_without_image():
    leaves, folds = leaf_membership(np.zeros((6, 1), np.int32), 1), np.array([0, 0, 0, 1, 1, 1])
    said = np.array([[0] * 6, [MISSING] * 6, [0, 0, 0, 1, 1, 1]], np.uint8)  # the last: each label in one fold only
    np.testing.assert_allclose(LeafHistograms(leaves, said, 2).scores(folds), 0.5)
    np.testing.assert_allclose(compute_weights(np.array([0.9, 0.5, 0.6]), 2, "logodds", 0.0), 1 / 3)
    np.testing.assert_allclose(compute_weights(np.array([0.9, 0.5]), 2, [3, 1], 0.0), [0.75, 0.25])  # given ones stay
    assert informativeness(np.array([0.1, 0.3, 0.9])) == pytest.approx(0.5)


def test_the_region_is_measured_in_millimetres():
    a = np.zeros((60, 60, 30), np.uint8)
    a[20:40, 20:40, 10:20] = 1
    b = a.copy()
    b[30, 40, 15] = 1
    region = find_region([a, b], (0.5, 2.0, 1.0))
    assert region.outer_box == (slice(4, 56), slice(12, 49), slice(2, 28))  # 8 mm, but 8 voxels at least
    assert region.units == (1, 4, 2)
    assert np.count_nonzero(region.disputed) == 1
    x, y, z = np.indices(a.shape)
    band = np.zeros(a.shape, bool)
    band[region.box] = region.band
    assert (band == ((x - 30) ** 2 + (4 * (y - 40)) ** 2 + (2 * (z - 15)) ** 2 <= 36)).all()
    assert relative_spacing((5, 5, 1), (2.0, 3.0, 0.1)) == (1, 1.5, math.inf)
    for order in "CF":
        again = find_region([np.asarray(v, order=order) for v in (a, b)], (0.5, 2.0, 1.0))
        assert (again.outer_box, again.box) == (region.outer_box, region.box)


@pytest.mark.parametrize("neighbours", [6, 26])
def test_disputed_voxels_alone_give_the_cut_of_the_whole_grid(neighbours):
    random = np.random.default_rng(4)
    shape, units = (7, 8, 6), (1.0, 1.0, 2.0)
    image, nodes = random.random((1, *shape)), random.random(shape) < 0.3
    fixed = (random.random(shape) < 0.5).astype(np.uint8)
    costs = random.random((2, *shape))
    alone = find_pairs(nodes, fixed, image, units, neighbours)
    labels, _ = minimise(alone.energy(costs[:, nodes], 0.2))
    costs[0][~nodes & (fixed == 1)] = costs[1][~nodes & (fixed == 0)] = 1e3
    every = find_pairs(np.ones(shape, bool), fixed, image, units, neighbours)
    x, y = (np.stack(np.unravel_index(n, shape)) for n in (every.first, every.second))
    distance = np.sqrt((((x - y) * np.array(units)[:, None]) ** 2).sum(axis=0))
    change = -np.log(every.value * distance) / every.beta
    value = np.exp(-alone.beta * change) / distance  # with the same beta
    answer, _ = minimise(Energy(costs.reshape(2, -1), every.first, every.second, 0.2 * value))
    assert (answer.reshape(shape)[nodes] == labels).all()


@pytest.mark.parametrize(
    ("shape", "neighbours"), [((40, 40, 1), 4), ((32, 32, 12), 6), ((32, 32, 12), 18), ((32, 32, 12), 26)]
)
@pytest.mark.parametrize("classes", [2, 4])
def test_2d_images_and_volumes_with_few_and_many_labels(shape, neighbours, classes):
    scene = Scene(("good", "over", "rows"), shape=shape, spacing_mm=(1.0, 1.0, 2.5), classes=classes)
    study, truth = generate(scene, 2)
    fused = gcssl(study, neighbours=neighbours)
    assert (fused.labels == truth).mean() > 0.9
    assert fused.facts["cuts"] == 1 if classes == 2 else fused.facts["cuts"] >= classes
    assert 0 <= fused.confidence.min() <= fused.confidence.max() <= 1


def test_a_flat_axis_counts_for_nothing():
    study, _ = generate(Scene(("good", "over", "holes"), shape=(64, 64, 1)), 0)
    labels = gcssl(study).labels
    assert (gcssl(replace(study, spacing_mm=(1.0, 1.0, 7.0))).labels == labels).all()
    raters = tuple(replace(e, labels=np.moveaxis(e.labels, 2, 0)) for e in study.raters)
    turned = Study(raters, study.classes, study.spacing_mm, np.moveaxis(study.image, 3, 1))
    assert (np.moveaxis(gcssl(turned).labels, 0, 2) == labels).all()


@pytest.mark.parametrize("ssl", [True, False])
def test_a_part_that_nobody_annotated(ssl):
    study, truth = generate(Scene(("good",) * 3, shape=(96, 96, 1)), 0)
    gap = (slice(44, 56), slice(44, 56))
    for rater in study.raters:
        rater.labels[gap] = MISSING
    fused = gcssl(study, ssl=ssl)
    assert fused.facts["unannotated_voxels"] == 144
    assert fused.facts["uncovered_voxels"] == (0 if ssl else 144)
    assert ((fused.confidence[gap] > 0) == ssl).all()
    if ssl:
        assert (fused.labels[gap] == truth[gap]).mean() > 0.95
    else:
        assert not fused.labels[gap].any()


def test_colours_tell_what_brightness_does_not():
    study, truth = generate(Scene(("jitter", "over", "outlier"), shape=(128, 128, 1), contrast=0.0), 0)
    red = truth.astype(np.float32)
    colour = np.stack([red, 1 - red * 0.299 / 0.587, np.zeros_like(red)])  # equally bright
    colour += 0.1 * np.random.default_rng(0).standard_normal(colour.shape).astype(np.float32)
    grey = np.tensordot([0.299, 0.587, 0.114], colour, 1)[None].astype(np.float32)
    by_image = {"weights": "consistency", "omissions": False}
    seen, unseen = (gcssl(replace(study, image=image), **by_image) for image in (colour, grey))
    assert seen.facts["rho"] == 1 > unseen.facts["rho"] + 0.5
    wrong, more = ((fused.labels != truth).sum() for fused in (seen, unseen))
    assert wrong < 0.8 * more
