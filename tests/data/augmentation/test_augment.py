"""Augmentation: one draw, one interpolation, exact copies wherever nothing needs interpolating."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from medseg.config.pipeline import Augment
from medseg.data.affine_sampling import box
from medseg.data.augment import Draw, Source, apply, draw
from medseg.ops.augmentation import transforms as augmentation
from medseg.ops.augmentation.transforms import IntensityTransform

SHAPE = (20, 24, 16)
INTENSITY = ("contrast", "gamma", "noise")


def settings_of(affine: float, intensity: float, **others: dict) -> Augment:
    return Augment(affine={"probability": affine}, **{name: {"probability": intensity} for name in INTENSITY}, **others)


OFF = settings_of(0, 0)
EVERYWHERE = {"flip": {"axes": (0, 1, 2)}, "rot90": {"axes": (0, 1)}}
ALWAYS = settings_of(1, 1, **EVERYWHERE)
GEOMETRY = settings_of(1, 0, **EVERYWHERE)


def drawn_of(**values) -> Draw:
    """A draw with these values, by transforms that turn in the plane of x and y and flip any axis."""
    return Draw(ALWAYS.transforms, values)


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
    image, label = cut(drawn_of(affine=matrix), src, start, patch)
    expected, expected_label = slow_gather(src, start, patch, matrix)
    np.testing.assert_allclose(image, expected, atol=2e-4)
    assert (label[0] != expected_label).mean() < 0.01  # ties of rounding


def test_chunks_of_a_large_patch_join():
    src, patch, start, matrix = source((70, 70, 70), channels=1), (61, 62, 63), (2, 3, 4), rotation(7, 8, 9)
    image, label = cut(drawn_of(affine=matrix), src, start, patch)
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
    for seed in range(20):
        image, label = cut(draw(GEOMETRY, [seed], (14, 14, 14), (1, 1, 1)), src, (13, 13, 13), (14, 14, 14))
        assert np.abs(image - label).max() <= 0.5 + 1e-4  # a ramp interpolates to itself, its label is that rounded


def test_without_affine_a_patch_is_a_copy():
    src = source()
    image, label = cut(draw(OFF, [0], (8, 9, 7), (1, 1, 1)), src, (3, 2, 5), (8, 9, 7))
    np.testing.assert_array_equal(image, src.image.numpy()[:, 3:11, 2:11, 5:12].astype(np.float32))
    np.testing.assert_array_equal(label, src.label.numpy()[:, 3:11, 2:11, 5:12])


def test_identity_map_is_a_copy():
    src = source()
    image, label = cut(drawn_of(affine=np.eye(3)), src, (-3, 18, 5), (8, 9, 7))
    copy, copy_label = cut(drawn_of(), src, (-3, 18, 5), (8, 9, 7))
    np.testing.assert_array_equal(image, copy)
    np.testing.assert_array_equal(label, copy_label)


@pytest.mark.parametrize("axes", [(0, 1), (1, 0), (2, 0)])
@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("flips", [(), (0,), (1, 2), (0, 1, 2)])
def test_turns_and_flips_are_exact(axes, turns, flips):
    src, patch = source(), (8, 6, 7)
    transforms = settings_of(0, 0, rot90={"axes": axes}).transforms
    drawn = Draw(transforms, {"rot90": turns, "flip": flips})
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
    for seed in range(10):
        image, label = cut(draw(GEOMETRY, [seed], patch, (1, 2, 3)), src, [11 if n > 1 else 17 for n in patch], patch)
        assert (image == 17).all()
        assert (label == 17).all()


def test_rotations_are_in_millimetres():
    spacing = np.array([0.5, 1.0, 4.0])
    augment = Augment(affine={"probability": 1, "scale": (1.0, 1.0), "rotate_degrees": (30.0, 30.0, 30.0)})
    for seed in range(5):
        matrix = draw(augment, [seed], (9, 9, 9), spacing).matrix
        in_mm = spacing[:, None] * matrix / spacing
        np.testing.assert_allclose(in_mm @ in_mm.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(in_mm) == pytest.approx(1)


def test_scale_above_one_enlarges():
    augment = Augment(affine={"probability": 1, "scale": (2.0, 2.0), "rotate_degrees": (0.0, 0.0, 0.0)})
    np.testing.assert_allclose(draw(augment, [0], (9, 9, 9), (1, 1, 1)).matrix, np.eye(3) / 2)


def test_probabilities_are_per_patch():
    augment = settings_of(0.3, 0.1, flip={"axes": (0, 1, 2), "probability": 0.2}, rot90={"axes": (0, 1)})
    values = [draw(augment, [seed], (9, 9, 9), (1, 1, 1)).values for seed in range(4000)]
    shares = {
        "affine": np.mean(["affine" in v for v in values]) - 0.3,
        **{f"flip {a}": np.mean([a in v.get("flip", ()) for v in values]) - 0.2 for a in range(3)},
        **{name: np.mean([name in v for v in values]) - 0.1 for name in INTENSITY},
        **{f"turn {k}": np.mean([v.get("rot90", 0) == k for v in values]) - 0.25 for k in range(4)},
    }
    assert max(map(abs, shares.values())) < 0.03, shares
    deviations = [v["noise"][0] for v in values if "noise" in v]
    assert min(deviations) >= 0
    assert 0.09 < max(deviations) <= 0.1


def test_zero_probability_is_never_and_one_always():
    for seed in range(50):
        never, always = (draw(a, [seed], (9, 9, 9), (1, 1, 1)) for a in (OFF, ALWAYS))
        assert never.values == {}
        assert {"affine", *INTENSITY} <= always.values.keys()


def test_one_flip_is_along_one_axis_each_equally_often():
    augment = Augment(**OFF.model_dump(exclude={"flip"}), flip={"axes": (0, 1), "probability": 1.0, "one": True})
    flips = [draw(augment, [seed], (9, 9, 9), (1, 1, 1)).values["flip"] for seed in range(2000)]
    assert set(flips) == {(0,), (1,)}
    assert abs(np.mean([flip == (0,) for flip in flips]) - 0.5) < 0.04
    assert draw(augment, [0], (1, 9, 9), (1, 1, 1)).values["flip"] == (1,)
    assert draw(augment, [0], (1, 1, 9), (1, 1, 1)).values == {}
    seldom = Augment(**OFF.model_dump(exclude={"flip"}), flip={"axes": (0, 2), "probability": 0.25, "one": True})
    flips = [draw(seldom, [seed], (9, 9, 9), (1, 1, 1)).values.get("flip") for seed in range(2000)]
    assert {len(flip) for flip in flips if flip} == {1}
    assert abs(np.mean([flip is not None for flip in flips]) - 0.25) < 0.04
    assert Augment(**augment.model_dump(mode="json")) == augment
    assert "one" not in Augment().model_dump()["flip"]  # as runs were recorded before


def plain(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray) else value


def test_what_one_transform_draws_does_not_depend_on_the_settings_of_the_others():
    alone = Augment(noise={"probability": 1.0})
    for seed in range(20):
        found = [draw(a, [seed], (9, 9, 9), (1, 1, 1)).values["noise"] for a in (ALWAYS, alone)]
        assert found[0] == found[1]


def test_a_new_transform_is_one_class_and_shifts_nobodys_random_numbers(monkeypatch):
    before = [draw(ALWAYS, [seed], (9, 9, 9), (1, 1, 1)).values for seed in range(20)]

    class Inverted(IntensityTransform):
        """Bright becomes dark."""

        about: float = 0.0

        def draw(self, rng, patch, spacing_mm):
            return True if rng.random() < self.probability else None

        def apply(self, image, drawn):
            image.neg_().add_(2 * self.about)

    monkeypatch.setitem(augmentation.TRANSFORMS, "inverted", Inverted)
    augment = Augment(**ALWAYS.model_dump(), inverted={"probability": 1.0, "about": 5.0})
    after = [draw(augment, [seed], (9, 9, 9), (1, 1, 1)).values for seed in range(20)]
    for old, new in zip(before, after, strict=True):
        assert new["inverted"] is True
        assert {k: plain(v) for k, v in new.items() if k != "inverted"} == {k: plain(v) for k, v in old.items()}
    src = source()
    image, _ = cut(drawn_of(), src, (1, 1, 1), (9, 9, 9))
    changed, _ = cut(Draw(augment.transforms, {"inverted": True}), src, (1, 1, 1), (9, 9, 9))
    np.testing.assert_allclose(changed, 10 - image, atol=1e-6)
    assert Augment(**augment.model_dump(mode="json")) == augment


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"sharpen": {}}, "there is no transform 'sharpen'; there are affine, rot90, flip, contrast, gamma, noise"),
        ({"flip": {"axes": [3]}}, "flip.axes.0"),
        ({"flip": {"axis": [0]}}, "flip.axis"),
        ({"gamma": {"probability": 1.5}}, "gamma.probability"),
        ({"noise": "strong"}, "noise"),
        ({"flip_axes": [3]}, "flip.axes.0"),
    ],
)
def test_mistakes_are_told_with_their_place(given, told):
    with pytest.raises(ValidationError) as caught:
        Augment(**given)
    first = caught.value.errors()[0]
    assert told in f"{'.'.join(map(str, first['loc']))} {first['msg']}"


def test_names_of_settings_before_0_2_are_understood():
    flat = Augment(
        affine_probability=0.7, flip_axes=(0, 1), flip_probability=0.4, rot90_axes=(0, 1), intensity_probability=0.5,
        noise_std=0.2, gamma=(0.8, 1.2), contrast=(0.9, 1.1), rotate_degrees=(1, 2, 3), scale=(0.5, 2),
    )  # fmt: skip
    assert flat == Augment(
        affine={"probability": 0.7, "rotate_degrees": (1, 2, 3), "scale": (0.5, 2)},
        flip={"axes": (0, 1), "probability": 0.4},
        rot90={"axes": (0, 1)},
        contrast={"probability": 0.5, "factor": (0.9, 1.1)},
        gamma={"probability": 0.5, "exponent": (0.8, 1.2)},
        noise={"probability": 0.5, "std": 0.2},
    )


def test_gamma_and_contrast_keep_each_channels_range():
    src = source()
    before, labels = cut(drawn_of(), src, (1, 1, 1), (9, 9, 9))
    changed, same = cut(drawn_of(contrast=1.2, gamma=1.4), src, (1, 1, 1), (9, 9, 9))
    axes = (1, 2, 3)
    np.testing.assert_allclose(changed.min(axes), before.min(axes), rtol=1e-5)
    np.testing.assert_allclose(changed.max(axes), before.max(axes), rtol=1e-5)
    np.testing.assert_array_equal(labels, same)
    low, high = before.min(axes, keepdims=True), before.max(axes, keepdims=True)
    mean = before.mean(axes, keepdims=True)
    contrasted = np.clip((before - mean) * 1.2 + mean, low, high)
    expected = ((contrasted - low) / (high - low)) ** 1.4 * (high - low) + low
    np.testing.assert_allclose(changed, expected, atol=1e-4)


def test_noise_has_the_drawn_deviation_and_seed():
    src = source((40, 40, 40), channels=1)
    plain, _ = cut(drawn_of(), src, (1, 1, 1), (38, 38, 38))
    noisy, _ = cut(drawn_of(noise=(0.07, 4)), src, (1, 1, 1), (38, 38, 38))
    again, _ = cut(drawn_of(noise=(0.07, 4)), src, (1, 1, 1), (38, 38, 38))
    assert (noisy - plain).std() == pytest.approx(0.07, rel=0.02)
    np.testing.assert_array_equal(noisy, again)


def test_constant_images_stay_finite():
    src = Source(torch.ones(1, 9, 9, 9, dtype=torch.float16), None, torch.ones(1))
    image = torch.empty(1, 5, 5, 5)
    apply(drawn_of(contrast=1.2, gamma=0.7), src, (0, 0, 0), image, None)
    assert (image == 1).all()


def test_the_volume_is_not_written_to():
    src = source()
    before = src.image.clone()
    for augment in (OFF, ALWAYS):
        cut(draw(augment, [1], SHAPE, (1, 1, 1)), src, (0, 0, 0), SHAPE)
    assert torch.equal(src.image, before)
