from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from medseg.errors import DataError
from medseg.ops.distance import DistanceTargets, inner_boundary, signed_distance

LINE = np.array([0, 0, 0, 1, 1, 1, 1, 1, 0, 0], bool)


def ball(side, radius):
    grid = np.indices((side,) * 3) - (side - 1) / 2
    r = np.sqrt((grid**2).sum(0))
    return r <= radius, r


def back_to_mask(phi):
    """The task transform of the paper, in float64."""
    return 1 / (1 + np.exp(np.clip(1500 * phi.astype(float), -700, 700)))


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def twin(mask, boundary, spacing=None, clip=None):
    """The same from SciPy, as the equations say it."""
    spacing = spacing or (1.0,) * mask.ndim
    if not mask.any() or mask.all():
        return np.full(mask.shape, -1.0 if mask.any() else 1.0)
    p = ndimage.distance_transform_edt(mask, sampling=spacing)
    q = ndimage.distance_transform_edt(~mask, sampling=spacing)
    if boundary == "half":
        h = min(spacing) / 2
        outside, inside = np.maximum(q - h, 0), np.maximum(p - h, 0)
    else:
        cross = ndimage.generate_binary_structure(mask.ndim, 1)
        edge = mask & ~ndimage.binary_erosion(mask, cross, border_value=1)
        outside, inside = q, np.where(edge, 0, p)
    if clip is not None:
        return np.clip(np.where(mask, -inside, outside) / clip, -1, 1)
    return np.where(mask, -inside / (inside.max() or 1), outside / outside.max())


def test_worked_example_on_a_line():
    official = signed_distance(LINE, boundary="zero")
    np.testing.assert_allclose(official, [1, 2 / 3, 1 / 3, 0, -2 / 3, -1, -2 / 3, 0, 1 / 3, 2 / 3], atol=1e-6)
    half = signed_distance(LINE)
    np.testing.assert_allclose(half, [1, 0.6, 0.2, -0.2, -0.6, -1, -0.6, -0.2, 0.2, 0.6], atol=1e-6)
    np.testing.assert_allclose(back_to_mask(official), [0, 0, 0, 0.5, 1, 1, 1, 0.5, 0, 0], atol=1e-12)
    assert ((back_to_mask(half) > 0.5) == LINE).all()
    assert np.mean((back_to_mask(official) - LINE) ** 2) == pytest.approx(0.05)
    assert np.mean((back_to_mask(half) - LINE) ** 2) < 1e-80


def test_worked_example_of_a_square():
    mask = np.zeros((7, 7), bool)
    mask[2:5, 2:5] = True
    phi = signed_distance(mask, boundary="zero")
    assert phi[3, 3] == -1
    assert (phi[mask] == 0).sum() == 8
    np.testing.assert_allclose(phi[[1, 3, 5, 3], [3, 1, 3, 5]], 0.3536, atol=5e-5)
    assert phi[0, 0] == phi[6, 6] == phi[0, 6] == phi[6, 0] == 1


@pytest.mark.parametrize(
    ("side", "radius", "foreground", "edge", "error", "eroded", "floor"),
    [
        (64, 20, 33552, 4064, 0.4813, 0.9355, 0.003876),
        (48, 10, 4224, 968, 0.4626, 0.8706, 0.002188),
        (96, 30, 113104, 9216, 0.4875, 0.9575, 0.002604),
    ],
)
def test_balls(side, radius, foreground, edge, error, eroded, floor):
    mask, r = ball(side, radius)
    assert (mask.sum(), inner_boundary(mask).sum()) == (foreground, edge)
    wide = 2.0 * side  # nothing is clipped
    half = signed_distance(mask, clip=wide) * wide
    assert np.abs(half - (r - radius)).max() == pytest.approx(error, abs=2e-3)
    assert np.abs(signed_distance(mask, boundary="zero", clip=wide) * wide - (r - radius)).max() <= 1.0 + 1e-5
    official = back_to_mask(signed_distance(mask, boundary="zero"))
    assert dice(official > 0.5, mask) == pytest.approx(eroded, abs=5e-5)
    assert dice(official > 0.5, mask) == pytest.approx(2 * (foreground - edge) / (2 * foreground - edge))
    assert dice(official >= 0.5, mask) == 1
    assert np.mean((official - mask) ** 2) == pytest.approx(floor, abs=5e-7)
    assert np.mean((official - mask) ** 2) == pytest.approx(0.25 * edge / side**3)
    exact = back_to_mask(signed_distance(mask))
    assert dice(exact > 0.5, mask) == 1
    assert np.mean((exact - mask) ** 2) < 1e-12


masks = st.one_of(arrays(bool, st.tuples(*[st.integers(1, 9)] * 2)), arrays(bool, st.tuples(*[st.integers(1, 6)] * 3)))


@settings(max_examples=150, deadline=None)
@given(masks, st.sampled_from(["half", "zero"]), st.booleans(), st.sampled_from([None, 2.5, 40.0]))
def test_equals_scipy(mask, boundary, anisotropic, clip):
    spacing = (0.8, 2.5, 1.5)[: mask.ndim] if anisotropic else None
    got = signed_distance(mask, boundary=boundary, spacing_mm=spacing, clip=clip)
    assert got.dtype == np.float32
    assert got.shape == mask.shape
    np.testing.assert_allclose(got, twin(mask, boundary, spacing, clip), atol=4e-6)


@settings(max_examples=60, deadline=None)
@given(masks)
def test_range_and_sign(mask):
    phi = signed_distance(mask)
    assert ((phi < 0) == mask).all()
    assert phi.min() == -1 or not mask.any()
    assert phi.max() == 1 or mask.all()


def test_range_of_the_official_map():
    phi = signed_distance(ball(20, 6)[0], boundary="zero")
    assert (phi.min(), phi.max()) == (-1, 1)


@pytest.mark.parametrize("boundary", ["half", "zero"])
def test_absent_full_and_single_voxel(boundary):
    empty = np.zeros((5, 4, 3), bool)
    assert (signed_distance(empty, boundary=boundary) == 1).all()
    assert (signed_distance(~empty, boundary=boundary) == -1).all()
    assert (signed_distance(empty, boundary=boundary, clip=3.0) == 1).all()
    assert (signed_distance(~empty, boundary=boundary, clip=3.0) == -1).all()
    empty[2, 2, 1] = True
    assert signed_distance(empty, boundary=boundary)[2, 2, 1] == (-1 if boundary == "half" else 0)


@pytest.mark.parametrize("boundary", ["half", "zero"])
def test_flips_and_turns_commute_but_cropping_does_not(boundary):
    mask = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(20, 20, 14)), 3) > 0.02
    phi = signed_distance(mask, boundary=boundary)
    for axis in range(3):
        assert (signed_distance(np.flip(mask, axis), boundary=boundary) == np.flip(phi, axis)).all()
    assert (signed_distance(np.rot90(mask), boundary=boundary) == np.rot90(phi)).all()
    # the trap: a map of the whole volume must not be cropped in place of the patch's own
    assert np.abs(signed_distance(mask[:8], boundary=boundary) - phi[:8]).max() > 0.05


@pytest.mark.parametrize("shape", [(12, 10), (12, 10, 1), (12, 10, 8)])
@pytest.mark.parametrize("clip", [None, 4.0])
def test_targets_are_one_against_the_rest(shape, clip):
    label = np.random.default_rng(1).integers(0, 3, shape, dtype=np.int64)
    spacing = (1.0, 2.0, 3.0)[: len(shape)]
    make = pickle.loads(pickle.dumps(DistanceTargets(4, spacing_mm=spacing, clip=clip)))
    got = make(label)
    assert got["distance"].shape == got["distance_valid"].shape == (3, *shape)
    assert got["distance"].dtype == np.float32
    assert got["distance_valid"].all()
    for c in range(1, 4):
        np.testing.assert_allclose(got["distance"][c - 1], twin(label == c, "half", spacing, clip), atol=4e-6)
    assert (got["distance"][2] == 1).all()  # the class that is not there


def fillings(label):
    holes = np.argwhere(label == 255)
    for values in itertools.product((0, 1), repeat=len(holes)):
        filled = label.copy()
        filled[tuple(holes.T)] = values
        yield filled


@pytest.mark.parametrize("boundary", ["half", "zero"])
@pytest.mark.parametrize("clip", [None, 2.0])
@pytest.mark.parametrize("spacing", [None, (1.0, 2.2)])
def test_valid_where_no_filling_changes_the_value(boundary, clip, spacing):
    rng = np.random.default_rng(3)
    make = DistanceTargets(2, boundary, spacing, clip)
    some_valid = some_doubtful = 0
    for _ in range(25):
        label = np.zeros((7, 6), np.uint8)
        label[1:5, 2:] = rng.random((4, 4)) < 0.8
        label.reshape(-1)[rng.choice(label.size, 5, replace=False)] = 255
        got = make(label)
        valid = got["distance_valid"][0].astype(bool)
        maps = np.stack([make(filled)["distance"][0] for filled in fillings(label)])
        same = np.ptp(maps, axis=0) == 0
        assert not valid[label == 255].any()
        assert same[valid].all()
        assert (got["distance"][0][valid] == maps[0][valid]).all()
        if clip is not None:  # then the criterion is exact, not only safe
            assert (valid == (same & (label != 255))).all()
        some_valid += valid.sum()
        some_doubtful += (~valid).sum()
    assert some_valid > 0
    assert some_doubtful > 0


def test_nothing_is_known_of_a_class_that_might_hide():
    label = np.zeros((6, 6), np.uint8)
    label[0, 0] = 255
    assert not DistanceTargets(2)(label)["distance_valid"].any()
    label[:] = 255
    got = DistanceTargets(3, clip=2.0)(label)
    assert not got["distance_valid"].any()
    assert np.isfinite(got["distance"]).all()


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (np.ones((4, 4), np.float32), "integers, got float32"),
        (np.full((4, 4), 7, np.uint8), "0 to 2 and 255"),
        (np.full((4, 4), -1, np.int16), "from -1 to -1"),
    ],
)
def test_bad_labels_are_refused(label, words):
    with pytest.raises(DataError, match=words):
        DistanceTargets(3)(label)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"boundary": "outer"}, "'half' or 'zero', got 'outer'"),
        ({"spacing_mm": (1.0, 0.0)}, "2 positive numbers"),
        ({"clip": -1.0}, "positive distance"),
    ],
)
def test_bad_settings_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        signed_distance(np.zeros((3, 3), bool), **options)
    with pytest.raises(ValueError, match=words):
        DistanceTargets(2, **options)


def test_bad_masks_and_sizes_are_refused():
    with pytest.raises(ValueError, match="boolean, got uint8"):
        signed_distance(np.zeros((3, 3), np.uint8))
    with pytest.raises(ValueError, match="at least 2 classes"):
        DistanceTargets(1)
    with pytest.raises(ValueError, match="2 spacings for a label of 3 axes"):
        DistanceTargets(2, spacing_mm=(1.0, 1.0))(np.zeros((3, 3, 3), np.uint8))
