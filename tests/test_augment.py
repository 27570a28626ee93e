"""Augmentation: one draw, one interpolation, exact copies wherever nothing needs interpolating."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from medseg.config import Augment
from medseg.data.affine_sampling import box
from medseg.data.augment import Draw, Source, apply, draw

SHAPE = (20, 24, 16)
OFF = Augment(affine_probability=0, intensity_probability=0)
ALWAYS = Augment(affine_probability=1, flip_axes=(0, 1, 2), rot90_axes=(0, 1), intensity_probability=1)


def source(shape=SHAPE, channels=2, seed=0):
    rng = np.random.default_rng(seed)
    image = torch.from_numpy(rng.normal(size=(channels, *shape)).astype(np.float16))
    label = torch.from_numpy(rng.integers(1, 5, (1, *shape), dtype=np.uint8))
    return Source(image, label, image.flatten(1).amin(1).float())


def cut(drawn, src, start, patch):
    image = torch.full((src.image.shape[0], *patch), torch.nan)
    label = torch.full((1, *patch), 77, dtype=torch.uint8)
    apply(drawn, src, start, image, label)
    return image.numpy(), label.numpy()


def rotation(*degrees, zoom=1.0):
    return Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() / zoom


def slow_gather(src, start, patch, matrix):
    """Trilinear and nearest from the definition, voxel by voxel, background beyond the edges."""
    image, label = src.image.float().numpy(), src.label.numpy()[0]
    channels = len(image)
    out, out_label = np.zeros((channels, *patch)), np.zeros(patch, np.uint8)
    middle = (np.array(patch) - 1) / 2
    inside = [lambda v, n=n: 0 <= v < n for n in image.shape[1:]]
    for o in itertools.product(*map(range, patch)):
        point = np.array(start) + middle + matrix @ (np.array(o) - middle)
        low = np.floor(point).astype(int)
        for corner in itertools.product((0, 1), repeat=3):
            at = low + corner
            weight = np.prod(np.where(corner, point - low, 1 - (point - low)))
            known = all(f(v) for f, v in zip(inside, at, strict=True))
            out[(slice(None), *o)] += weight * (image[(slice(None), *at)] if known else src.background.numpy())
        near = np.ceil(point - 0.5).astype(int)
        if all(f(v) for f, v in zip(inside, near, strict=True)):
            out_label[o] = label[tuple(near)]
    return out, out_label


@pytest.mark.parametrize("start", [(5, 6, 2), (-3, 14, 9), (40, 0, 0)])
@pytest.mark.parametrize("patch", [(9, 8, 7), (12, 1, 9)])
def test_affine_patch_is_the_definition(start, patch):
    src = source()
    matrix = rotation(20, -13, 31, zoom=0.9) if 1 not in patch else rotation(0, 25, 0)
    image, label = cut(Draw(matrix=matrix), src, start, patch)
    expected, expected_label = slow_gather(src, start, patch, matrix)
    np.testing.assert_allclose(image, expected, atol=2e-4)
    assert (label[0] != expected_label).mean() < 0.01  # ties of rounding


def test_chunks_of_a_large_patch_join():
    src, patch, start, matrix = source((70, 70, 70), channels=1), (61, 62, 63), (2, 3, 4), rotation(7, 8, 9)
    image, label = cut(Draw(matrix=matrix), src, start, patch)
    middle = (np.array(patch) - 1) / 2
    points = np.tensordot(matrix, np.indices(patch) - middle[:, None, None, None], 1)
    points += (np.array(start) + middle)[:, None, None, None]
    whole, beyond = src.image[0].float().numpy(), float(src.background)
    np.testing.assert_allclose(
        image[0], map_coordinates(whole, points, order=1, mode="grid-constant", cval=beyond), atol=1e-3
    )
    near = map_coordinates(src.label[0].numpy(), points, order=0, mode="grid-constant", cval=0)
    assert (label[0] != near).mean() < 1e-3


def test_one_draw_hits_image_and_label_alike():
    x = torch.arange(40.0).view(1, -1, 1, 1).expand(1, 40, 40, 40).contiguous()
    src = Source(x, x.to(torch.uint8), torch.zeros(1))
    rng = np.random.default_rng(3)
    geometry = ALWAYS.model_copy(update={"intensity_probability": 0.0})
    for _ in range(20):
        image, label = cut(draw(geometry, rng, (14, 14, 14), (1, 1, 1)), src, (13, 13, 13), (14, 14, 14))
        assert np.abs(image - label).max() <= 0.5 + 1e-4  # a ramp interpolates to itself, its label is that rounded


def test_without_affine_a_patch_is_a_copy():
    src = source()
    image, label = cut(draw(OFF, np.random.default_rng(0), (8, 9, 7), (1, 1, 1)), src, (3, 2, 5), (8, 9, 7))
    np.testing.assert_array_equal(image, src.image.numpy()[:, 3:11, 2:11, 5:12].astype(np.float32))
    np.testing.assert_array_equal(label, src.label.numpy()[:, 3:11, 2:11, 5:12])


def test_identity_map_is_a_copy():
    src = source()
    image, label = cut(Draw(matrix=np.eye(3)), src, (-3, 18, 5), (8, 9, 7))
    copy, copy_label = cut(Draw(), src, (-3, 18, 5), (8, 9, 7))
    np.testing.assert_array_equal(image, copy)
    np.testing.assert_array_equal(label, copy_label)


@pytest.mark.parametrize("axes", [(0, 1), (1, 0), (2, 0)])
@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("flips", [(), (0,), (1, 2), (0, 1, 2)])
def test_turns_and_flips_are_exact(axes, turns, flips):
    src, patch = source(), (8, 6, 7)
    drawn = Draw(turns=turns, turn_axes=axes, flips=flips)
    shape, start = drawn.source_shape(patch), (3, 2, 1)
    at = (slice(None), *(slice(s, s + n) for s, n in zip(start, shape, strict=True)))
    image, label = cut(drawn, src, start, patch)
    for got, whole in ((image, src.image.float()), (label, src.label)):
        expected = np.rot90(whole.numpy()[at], turns, [a + 1 for a in axes])
        np.testing.assert_array_equal(got, np.flip(expected, [a + 1 for a in flips]))


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(*[st.integers(-30, 30)] * 3),
    st.tuples(*[st.integers(1, 25)] * 3),
    st.tuples(*[st.integers(1, 12)] * 3),
)
def test_box_pads_with_the_background(start, shape, size):
    src = source(size)
    padded = np.stack(
        [np.pad(c, 60, constant_values=b) for c, b in zip(src.image.numpy(), src.background.numpy(), strict=True)]
    )
    at = (slice(None), *(slice(60 + s, 60 + s + n) for s, n in zip(start, shape, strict=True)))
    np.testing.assert_array_equal(box(src.image, start, shape, src.background).numpy(), padded[at])
    outside = np.pad(src.label.numpy()[0], 60)[at[1:]]
    np.testing.assert_array_equal(box(src.label, start, shape, torch.zeros(1)).numpy()[0], outside)


@pytest.mark.parametrize("axis", range(3))
def test_thin_patches_stay_in_their_plane(axis):
    ramp = torch.arange(30.0).view([-1 if a == axis else 1 for a in range(3)]).expand(30, 30, 30)[None].contiguous()
    src, patch = Source(ramp, ramp.to(torch.uint8), torch.zeros(1)), [9, 9, 9]
    patch[axis] = 1
    rng, geometry = np.random.default_rng(0), ALWAYS.model_copy(update={"intensity_probability": 0.0})
    for _ in range(10):
        image, label = cut(draw(geometry, rng, patch, (1, 2, 3)), src, [11 if n > 1 else 17 for n in patch], patch)
        assert (image == 17).all()
        assert (label == 17).all()


def test_rotations_are_in_millimetres():
    spacing = np.array([0.5, 1.0, 4.0])
    augment = ALWAYS.model_copy(update={"scale": (1.0, 1.0), "rotate_degrees": (30.0, 30.0, 30.0)})
    for seed in range(5):
        matrix = draw(augment, np.random.default_rng(seed), (9, 9, 9), spacing).matrix
        in_mm = spacing[:, None] * matrix / spacing
        np.testing.assert_allclose(in_mm @ in_mm.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(in_mm) == pytest.approx(1)


def test_scale_above_one_enlarges():
    matrix = draw(
        ALWAYS.model_copy(update={"scale": (2.0, 2.0), "rotate_degrees": (0.0, 0.0, 0.0)}),
        np.random.default_rng(0), (9, 9, 9), (1, 1, 1),
    ).matrix  # fmt: skip
    np.testing.assert_allclose(matrix, np.eye(3) / 2)


def test_probabilities_are_per_patch():
    augment = ALWAYS.model_copy(
        update={"affine_probability": 0.3, "flip_probability": 0.2, "intensity_probability": 0.1}
    )
    rng = np.random.default_rng(0)
    drawn = [draw(augment, rng, (9, 9, 9), (1, 1, 1)) for _ in range(4000)]
    shares = {
        "affine": np.mean([d.matrix is not None for d in drawn]) - 0.3,
        **{f"flip {a}": np.mean([a in d.flips for d in drawn]) - 0.2 for a in range(3)},
        **{n: np.mean([getattr(d, n) is not None for d in drawn]) - 0.1 for n in ("gamma", "contrast", "noise")},
        **{f"turn {k}": np.mean([d.turns == k for d in drawn]) - 0.25 for k in range(4)},
    }
    assert max(map(abs, shares.values())) < 0.03, shares
    angles = [draw(augment, rng, (9, 9, 9), (1, 1, 1)).noise for _ in range(400)]
    assert all(0 <= a <= augment.noise_std for a in angles if a is not None)


def test_zero_probability_is_never_and_one_always():
    rng = np.random.default_rng(0)
    for _ in range(50):
        never, always = (draw(a, rng, (9, 9, 9), (1, 1, 1)) for a in (OFF, ALWAYS))
        assert (never.matrix, never.turns, never.flips) == (None, 0, ())
        assert (never.contrast, never.gamma, never.noise) == (None, None, None)
        assert all(v is not None for v in (always.matrix, always.contrast, always.gamma, always.noise))


def test_the_stream_of_random_numbers_does_not_depend_on_the_settings():
    states = []
    for augment, patch in ((OFF, (9, 9, 9)), (ALWAYS, (9, 9, 9)), (ALWAYS, (9, 1, 9))):
        rng = np.random.default_rng(5)
        draw(augment, rng, patch, (1, 1, 1))
        states.append(rng.random())
    assert len(set(states)) == 1


def test_gamma_and_contrast_keep_each_channels_range():
    src = source()
    plain, labels = cut(Draw(), src, (1, 1, 1), (9, 9, 9))
    changed, same = cut(Draw(gamma=1.4, contrast=1.2), src, (1, 1, 1), (9, 9, 9))
    axes = (1, 2, 3)
    np.testing.assert_allclose(changed.min(axes), plain.min(axes), rtol=1e-5)
    np.testing.assert_allclose(changed.max(axes), plain.max(axes), rtol=1e-5)
    np.testing.assert_array_equal(labels, same)
    low, high = plain.min(axes, keepdims=True), plain.max(axes, keepdims=True)
    mean = plain.mean(axes, keepdims=True)
    contrasted = np.clip((plain - mean) * 1.2 + mean, low, high)
    expected = ((contrasted - low) / (high - low)) ** 1.4 * (high - low) + low
    np.testing.assert_allclose(changed, expected, atol=1e-4)


def test_noise_has_the_drawn_deviation_and_seed():
    src = source((40, 40, 40), channels=1)
    plain, _ = cut(Draw(), src, (1, 1, 1), (38, 38, 38))
    noisy, _ = cut(Draw(noise=0.07, seed=4), src, (1, 1, 1), (38, 38, 38))
    again, _ = cut(Draw(noise=0.07, seed=4), src, (1, 1, 1), (38, 38, 38))
    assert (noisy - plain).std() == pytest.approx(0.07, rel=0.02)
    np.testing.assert_array_equal(noisy, again)


def test_constant_images_stay_finite():
    src = Source(torch.ones(1, 9, 9, 9, dtype=torch.float16), None, torch.ones(1))
    image = torch.empty(1, 5, 5, 5)
    apply(Draw(gamma=0.7, contrast=1.2), src, (0, 0, 0), image, None)
    assert (image == 1).all()


def test_the_volume_is_not_written_to():
    src = source()
    before = src.image.clone()
    rng = np.random.default_rng(1)
    for augment in (OFF, ALWAYS):
        cut(draw(augment, rng, SHAPE, (1, 1, 1)), src, (0, 0, 0), SHAPE)
    assert torch.equal(src.image, before)
