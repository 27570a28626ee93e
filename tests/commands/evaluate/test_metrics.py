from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from scipy.spatial.distance import cdist

from medseg.metrics import METRICS, segmentation_metrics

DISTANCES = ("hd95_mm", "hd95_pooled_mm", "hd_mm", "asd_mm", "assd_mm")
SPACINGS = [(1.0, 1.0, 1.0), (0.8, 0.8, 2.5), (3.0, 1.1, 0.7)]


def smooth(shape, seed, share=0.2, sigma=2.0):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma, mode="constant")
    return (noise > np.quantile(noise, 1 - share)).astype(np.uint8)


def one(prediction, reference, spacing=(1.0, 1.0, 1.0), **options):
    return segmentation_metrics(prediction, reference, label_values=[1], spacing_mm=spacing, **options)[1]


def monai(prediction, reference, spacing, tolerance):
    import torch
    from monai.metrics import (
        compute_average_surface_distance,
        compute_hausdorff_distance,
        compute_surface_dice,
    )

    p, r = (torch.from_numpy(np.stack([a == 0, a == 1])[None]) for a in (prediction, reference))
    where = {"spacing": list(spacing)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own deprecated argument
        return {
            "hd_mm": compute_hausdorff_distance(p, r, **where),
            "hd95_mm": compute_hausdorff_distance(p, r, percentile=95, **where),
            "asd_mm": compute_average_surface_distance(p, r, **where),
            "assd_mm": compute_average_surface_distance(p, r, symmetric=True, **where),
            "surface_dice": compute_surface_dice(p, r, class_thresholds=[tolerance], **where),
        }


def surface_points(mask, spacing):
    inside = np.argwhere(mask)
    padded = np.pad(mask, 1)
    steps = np.concatenate([np.eye(mask.ndim, dtype=int), -np.eye(mask.ndim, dtype=int)])
    keep = [any(not padded[tuple(v + s + 1)] for s in steps) for v in inside]
    return inside[np.array(keep, bool)] * np.asarray(spacing)


def twin(prediction, reference, spacing):
    """The definitions by the letter, every pair of surface voxels."""
    apart = cdist(surface_points(prediction > 0, spacing), surface_points(reference > 0, spacing))
    there, back = apart.min(1), apart.min(0)
    both = np.concatenate([there, back])
    return {
        "hd_mm": both.max(),
        "hd95_mm": max(np.percentile(there, 95), np.percentile(back, 95)),
        "hd95_pooled_mm": np.percentile(both, 95),
        "asd_mm": there.mean(),
        "assd_mm": both.mean(),
    }


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", range(3))
def test_equals_monai_and_the_definitions(spacing, seed):
    prediction, reference = smooth((24, 20, 14), seed), smooth((24, 20, 14), seed + 100, share=0.3)
    tolerance = 2.5 * 0.8
    got = one(prediction, reference, spacing, tolerance_mm=tolerance)
    for name, value in monai(prediction, reference, spacing, tolerance).items():
        if name != "surface_dice":  # in float64 the tolerance may fall on either side of an equal distance
            assert got[name] == pytest.approx(float(value), abs=1e-4), name
    for name, value in twin(prediction, reference, spacing).items():
        assert got[name] == pytest.approx(value, abs=1e-4), name
    for safe in (0.0, 1.3):
        found = one(prediction, reference, spacing, tolerance_mm=safe)["surface_dice"]
        assert found == pytest.approx(float(monai(prediction, reference, spacing, safe)["surface_dice"]))


@settings(max_examples=100, deadline=None)
@given(
    arrays(np.uint8, (5, 6, 4), elements=st.integers(0, 1)),
    arrays(np.uint8, (5, 6, 4), elements=st.integers(0, 1)),
    st.sampled_from(SPACINGS),
)
def test_any_two_masks(prediction, reference, spacing):
    got = one(prediction, reference, spacing)
    tp = int((prediction & reference).sum())
    assert (got["tp"], got["fp"], got["fn"]) == (tp, int(prediction.sum()) - tp, int(reference.sum()) - tp)
    json.dumps(got, allow_nan=False)
    if prediction.any() and reference.any():
        assert got["dice"] == pytest.approx(2 * tp / (prediction.sum() + reference.sum()))
        assert got["jaccard"] == pytest.approx(tp / (prediction | reference).sum())
        for name, value in twin(prediction, reference, spacing).items():
            assert got[name] == pytest.approx(value, abs=1e-4), name


def test_noise_goes_through_the_distance_transform_and_agrees():
    rng = np.random.default_rng(0)
    prediction, reference = (rng.integers(0, 2, (12, 13, 9), dtype=np.uint8) for _ in range(2))
    for name, value in twin(prediction, reference, (0.8, 0.8, 2.5)).items():
        assert one(prediction, reference, (0.8, 0.8, 2.5))[name] == pytest.approx(value, abs=1e-4)


def test_equal_masks_and_known_shift():
    mask = np.zeros((20, 20, 20), np.uint8)
    mask[5:10, 5:10, 5:10] = 1
    same = one(mask, mask)
    assert same["dice"] == same["jaccard"] == same["surface_dice"] == 1
    assert all(same[name] == 0 for name in DISTANCES)
    moved = one(np.roll(mask, 2, axis=2), mask, spacing=(1.0, 1.0, 2.5), tolerance_mm=4.9)
    assert moved["dice"] == pytest.approx(2 * 75 / 250)
    assert moved["hd_mm"] == 5.0
    assert moved["volume_error_ml"] == 0
    assert moved["reference_ml"] == pytest.approx(125 * 2.5 / 1000)
    # the two caps are 2 voxels off, the side walls only where they stick out
    assert 0 < moved["surface_dice"] < 1
    assert one(np.roll(mask, 2, axis=2), mask, spacing=(1.0, 1.0, 2.5), tolerance_mm=5.0)["surface_dice"] == 1


def test_percentiles_differ_by_definition():
    reference = np.zeros((30, 30, 30), np.uint8)
    reference[5:25, 5:25, 5:25] = 1
    prediction = reference.copy()
    prediction[5:8, 5:8, 25:28] = 1  # a spur: many far voxels one way, none the other
    got = one(prediction, reference)
    assert got["hd_mm"] == 3
    assert got["hd95_pooled_mm"] <= got["hd95_mm"] <= got["hd_mm"]


@pytest.mark.parametrize(
    ("in_prediction", "in_reference", "situation", "dice"),
    [(False, False, "both_empty", 1.0), (False, True, "missing", 0.0), (True, False, "spurious", 0.0)],
)
def test_empty_masks(in_prediction, in_reference, situation, dice):
    full, empty = smooth((9, 9, 9), 0), np.zeros((9, 9, 9), np.uint8)
    got = one(full if in_prediction else empty, full if in_reference else empty)
    assert got["situation"] == situation
    assert got["dice"] == got["jaccard"] == got["surface_dice"] == dice
    assert all(got[name] is None for name in DISTANCES)
    assert (got["volume_error_percent"] is None) == (not in_reference)
    json.dumps(got, allow_nan=False)


def test_labels_are_measured_apart_by_their_values():
    reference = np.zeros((16, 16, 12), np.int16)
    reference[2:6, 2:6, 2:6], reference[8:14, 8:14, 3:9] = 7, 200
    prediction = np.roll(reference, 1, axis=0)
    options = {"spacing_mm": (1.0, 2.0, 3.0)}
    got = segmentation_metrics(prediction, reference, label_values=[0, 7, 90, 200], **options)
    assert list(got) == [0, 7, 90, 200]
    assert got[90]["situation"] == "both_empty"
    for value in (0, 7, 200):
        alone = (prediction == value).astype(np.uint8), (reference == value).astype(np.uint8)
        assert got[value] == one(*alone, spacing=(1.0, 2.0, 3.0))
    assert list(METRICS) == list(got[7])


def test_flips_turns_swaps_and_spacing():
    prediction, reference = smooth((18, 15, 12), 1), smooth((18, 15, 12), 2)
    base = one(prediction, reference, (1.0, 2.0, 3.0))
    assert one(prediction[::-1, :, ::-1], reference[::-1, :, ::-1], (1.0, 2.0, 3.0)) == pytest.approx(base)
    turned = one(prediction.transpose(2, 0, 1), reference.transpose(2, 0, 1), (3.0, 1.0, 2.0))
    assert turned == pytest.approx(base)
    swapped = one(reference, prediction, (1.0, 2.0, 3.0))
    for name in ("dice", "jaccard", "hd_mm", "hd95_mm", "hd95_pooled_mm", "assd_mm", "surface_dice"):
        assert swapped[name] == pytest.approx(base[name])
    doubled = one(prediction, reference, (2.0, 4.0, 6.0), tolerance_mm=2.0)
    assert doubled["surface_dice"] == base["surface_dice"]
    for name in DISTANCES:
        assert doubled[name] == pytest.approx(2 * base[name])


def test_a_picture_has_a_contour():
    prediction, reference = smooth((30, 26), 3), smooth((30, 26), 4)
    flat = one(prediction[..., None], reference[..., None], (0.5, 0.7, 9.0), tolerance_mm=1.2)
    picture = one(prediction, reference, (0.5, 0.7), tolerance_mm=1.2)
    for name in (*DISTANCES, "dice", "surface_dice"):
        assert flat[name] == pytest.approx(picture[name])
    for name, value in twin(prediction, reference, (0.5, 0.7)).items():
        assert picture[name] == pytest.approx(value, abs=1e-4)


def test_what_nobody_annotated_does_not_count():
    prediction, reference = smooth((20, 18, 10), 5), smooth((20, 18, 10), 6)
    reference[8:, :, 6:] = 255
    got = one(prediction, reference)
    changed = prediction.copy()
    changed[8:, :, 6:] = np.random.default_rng(0).integers(0, 2, changed[8:, :, 6:].shape)
    assert one(changed, reference) == got
    known = reference != 255
    assert got["tp"] == ((prediction == 1) & (reference == 1)).sum()
    assert got["fp"] == ((prediction == 1) & (reference == 0) & known).sum()


def test_one_drawn_slice_is_measured_as_a_picture():
    prediction, reference = smooth((20, 18, 9), 7), smooth((20, 18, 9), 8)
    drawn = np.full_like(reference, 255)
    drawn[:, :, 4] = reference[:, :, 4]
    got = one(prediction, drawn, (1.0, 1.5, 4.0))
    picture = one(prediction[:, :, 4], reference[:, :, 4], (1.0, 1.5))
    for name in (*DISTANCES, "dice", "jaccard", "surface_dice"):
        assert got[name] == pytest.approx(picture[name])


def test_masks_without_any_known_surface():
    reference = np.ones((3, 3, 3), np.uint8)
    padded = np.pad(reference, 2, constant_values=255)
    got = one(np.pad(reference, 2), padded)
    assert got["dice"] == 1
    assert got["surface_dice"] is None
    assert all(got[name] is None for name in DISTANCES)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prediction": np.zeros((4, 4, 3), np.uint8)}, "differ in shape"),
        ({"prediction": np.zeros((4, 4, 4))}, "integers, got float64"),
        ({"spacing_mm": (1.0, 1.0)}, "3 positive numbers"),
        ({"spacing_mm": (1.0, 1.0, -1.0)}, "3 positive numbers"),
    ],
)
def test_bad_arguments(change, words):
    mask = np.zeros((4, 4, 4), np.uint8)
    arguments = {"prediction": mask, "reference": mask, "spacing_mm": (1.0, 1.0, 1.0), **change}
    with pytest.raises(ValueError, match=words):
        segmentation_metrics(**arguments, label_values=[1])
