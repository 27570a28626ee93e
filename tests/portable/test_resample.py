"""Resampling: geometry, interpolation and agreement with torch's own filters."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged, NormalizeIntensityd, Orientationd, ScaleIntensityRanged

from medseg.config.pipeline import DataSpec, Intensity
from medseg.data.preprocessing_config import instantiate, preprocessing
from medseg.portable.resample import (
    Resampled,
    linear_weights,
    resample_linear,
    resample_nearest,
    resampled_affine,
    resampled_size,
)


def volume(shape=(9, 11, 7), spacing=(1.0, 2.0, 3.0), channels=1) -> MetaTensor:
    affine = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([-4.0, 7.0, 11.0])
    values = torch.rand(channels, *shape, generator=torch.Generator().manual_seed(0))
    return MetaTensor(values, affine=affine)


@settings(max_examples=30, deadline=None)
@given(st.tuples(*[st.integers(2, 40)] * 3), st.tuples(*[st.integers(2, 40)] * 3))  # torch errs at a width of 1
def test_weights_equal_torch_antialiased_bilinear(old, new):
    image = torch.rand(2, *old)
    ours = resample_linear(image, new)
    pictures = F.interpolate(image.reshape(1, -1, *old[1:]), size=new[1:], mode="bilinear", antialias=True)
    columns = pictures.reshape(1, 2, old[0], -1)
    theirs = F.interpolate(columns, size=(new[0], columns.shape[-1]), mode="bilinear", antialias=True)
    torch.testing.assert_close(ours, theirs.reshape(2, *new), atol=1e-4, rtol=0)


def test_refining_is_torch_trilinear():
    image = torch.rand(1, 6, 5, 4)
    theirs = F.interpolate(image[None], size=(9, 13, 4), mode="trilinear", align_corners=False)[0]
    torch.testing.assert_close(resample_linear(image, (9, 13, 4)), theirs)


@pytest.mark.parametrize(("n_in", "n_out"), [(1, 1), (1, 5), (5, 1), (100, 33), (33, 100), (512, 341)])
def test_weights_sum_to_one_and_are_symmetric(n_in, n_out):
    weights = linear_weights(n_in, n_out)
    torch.testing.assert_close(weights.sum(1), torch.ones(n_out))
    torch.testing.assert_close(weights, weights.flip(0, 1))


def test_constant_stays_constant_and_field_of_view_is_kept():
    image = volume()
    image[:] = 3.5
    out = Resampled("image", (1.7, 1.1, 4.0))({"image": image})["image"]
    torch.testing.assert_close(out.as_tensor(), torch.full_like(out.as_tensor(), 3.5))
    for corner in (-0.5, 1.0):  # outer faces of the first voxel; of the last below
        before = image.affine[:3, :3] @ torch.full((3,), -0.5, dtype=torch.float64) + image.affine[:3, 3]
        after = out.affine[:3, :3] @ torch.full((3,), -0.5, dtype=torch.float64) + out.affine[:3, 3]
        if corner > 0:
            before = before + image.affine[:3, :3] @ torch.tensor(image.shape[1:], dtype=torch.float64)
            after = after + out.affine[:3, :3] @ torch.tensor(out.shape[1:], dtype=torch.float64)
        torch.testing.assert_close(before, after)


def test_a_linear_ramp_keeps_its_world_values():
    image = volume(shape=(40, 8, 8), spacing=(1.0, 1.0, 1.0))
    image[:] = torch.arange(40.0)[None, :, None, None]
    out = Resampled("image", (0.6, 1.0, 1.0))({"image": image})["image"]
    x = out.affine[0, 0] * torch.arange(out.shape[1]) + out.affine[0, 3] - image.affine[0, 3]
    torch.testing.assert_close(out.as_tensor()[0, 2:-2, 0, 0].double(), x[2:-2], atol=1e-4, rtol=0)


def test_nearest_keeps_values_and_dtype_and_takes_the_voxel_that_holds_the_centre():
    label = torch.tensor([0, 3, 7, 200], dtype=torch.uint8).reshape(1, 4, 1, 1)
    out = resample_nearest(label, (8, 1, 1))
    assert out.dtype == torch.uint8
    assert out.flatten().tolist() == [0, 0, 3, 3, 7, 7, 200, 200]
    assert resample_nearest(label, (2, 1, 1)).flatten().tolist() == [3, 200]


def test_equal_spacing_is_left_alone_but_becomes_float():
    image = volume(shape=(5, 5, 5), spacing=(1.0, 1.0, 1.0))
    integers = (image * 100).to(torch.int16)
    out = Resampled("image", (1.0005, 1.0, 1.0))({"image": integers})["image"]
    assert out.shape == integers.shape
    assert out.dtype == torch.float32
    assert torch.equal(out.affine, integers.affine)


def test_axes_can_be_kept():
    out = Resampled("image", (9.0, 1.0, 1.0), axes=(False, True, False))({"image": volume()})["image"]
    assert out.shape[1:] == (9, 22, 7)


def test_single_slices_survive():
    out = Resampled("image", (2.0, 2.0, 8.0))({"image": volume(shape=(9, 11, 1))})["image"]
    assert out.shape[1:] == (4, 11, 1)


@pytest.mark.parametrize(("n", "mm", "target", "expected"), [(10, 1, 2, 5), (1, 1, 9, 1), (3, 1, 1.0004, 3)])
def test_size(n, mm, target, expected):
    assert resampled_size(n, mm, target) == expected


def test_affine_of_rotated_grids():
    rotated = torch.eye(4, dtype=torch.float64)
    rotated[:2, :2] = torch.tensor([[0.8, -0.6], [0.6, 0.8]])
    change = resampled_affine(rotated, (10, 10, 10), (5, 20, 10))
    np.testing.assert_allclose(change[:3, :3].norm(dim=0).numpy(), [2, 0.5, 1])


def test_unknown_mode_and_wrong_shape_are_refused():
    with pytest.raises(ValueError, match="cubic"):
        Resampled("image", (1, 1, 1), mode="cubic")
    with pytest.raises(ValueError, match="shape"):
        Resampled("image", (1, 1, 1))({"image": torch.zeros(3, 3)})


def spec(kind: str) -> DataSpec:
    rule = Intensity(kind=kind, low=-100, high=200, mean=40, std=60)
    return DataSpec(
        labels={0: "background", 1: "organ"},
        modality=("CT",),
        spacing_mm=(1, 1, 1),
        patch=(8, 8, 8),
        intensity=rule,
    )


@pytest.mark.parametrize("kind", ["zscore", "window"])
def test_intensity_rules(kind):
    last = preprocessing(spec(kind))[-1]
    transform = instantiate([last])
    image = volume(channels=2) * 1000 - 400
    out = transform({"image": image.clone()})["image"]
    if kind == "zscore":
        assert isinstance(transform.transforms[0], NormalizeIntensityd)
        torch.testing.assert_close(out.mean((1, 2, 3)).as_tensor(), torch.zeros(2), atol=1e-5, rtol=0)
    else:
        assert isinstance(transform.transforms[0], ScaleIntensityRanged)
        expected = (image.as_tensor().clamp(-100, 200) - 40) / 60
        torch.testing.assert_close(out.as_tensor(), expected, atol=1e-5, rtol=0)


def test_preprocessing_is_plain_data():
    text = repr(preprocessing(spec("window"), ("image", "label"), package="scripts"))
    assert "$" not in text
    assert "@" not in text
    assert "medseg" not in text


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SAL", "PIR", "ILA"])
def test_reading_turns_volumes_as_monai_does(axes, tmp_path):
    stored = np.random.default_rng(0).integers(-999, 999, (7, 6, 5)).astype(np.int16)
    affine = np.diag([1.0, 1.2, 3.0, 1.0])
    affine[:3, 3] = [5, -6, 7]
    turns = nib.orientations.axcodes2ornt(axes)
    nib.save(nib.Nifti1Image(stored, affine).as_reoriented(turns), tmp_path / "x.nii.gz")
    ours = instantiate(preprocessing(spec("zscore"))[:2])({"image": tmp_path / "x.nii.gz"})["image"]
    theirs = Compose([LoadImaged("image", ensure_channel_first=True), Orientationd("image", "RAS", labels=None)])
    expected = theirs({"image": tmp_path / "x.nii.gz"})["image"]
    assert torch.equal(ours.as_tensor(), expected.as_tensor())
    torch.testing.assert_close(ours.affine, expected.affine)
    torch.testing.assert_close(
        torch.as_tensor(ours.meta["original_affine"]), torch.as_tensor(nib.load(tmp_path / "x.nii.gz").affine)
    )
    assert [int(n) for n in ours.meta["spatial_shape"]] == list(nib.load(tmp_path / "x.nii.gz").shape)
