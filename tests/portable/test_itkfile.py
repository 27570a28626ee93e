"""SimpleITK and itk, which read NRRD and MetaImage for us, must agree."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from medseg.portable.io import itk_formats

TYPES = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"]


@pytest.mark.parametrize("suffix", ["nrrd", "mha"])
@pytest.mark.parametrize("kind", [*TYPES, "vector", "2d"])
def test_both_packages_see_the_same(tmp_path, suffix, kind):
    rng = np.random.default_rng(0)
    shape = (6, 7) if kind == "2d" else (5, 6, 7)
    array = (rng.random((*shape, 3) if kind == "vector" else shape) * 100).astype("int16" if kind == "2d" else "f4")
    image = sitk.GetImageFromArray(array.astype(kind) if kind in TYPES else array, isVector=kind == "vector")
    image.SetSpacing((1.5, 2.0, 3.0)[: len(shape)])
    image.SetOrigin((4.0, -5.0, 6.0)[: len(shape)])
    if len(shape) == 3:
        image.SetDirection((0, 0.6, 0.8, 1, 0, 0, 0, 0.8, -0.6))
    path = tmp_path / f"x.{suffix}"
    sitk.WriteImage(image, str(path))
    first, second = itk_formats.by_simpleitk(path), itk_formats.by_itk(path)
    for name in ("size", "components", "dtype"):
        assert getattr(first, name) == getattr(second, name), name
    for name in ("spacing", "origin", "direction"):
        assert np.allclose(getattr(first, name), getattr(second, name), atol=1e-6), name
    if kind == "int8":
        with pytest.raises(RuntimeError, match="SimpleITK can"):
            second.array()
    else:
        assert np.array_equal(first.array(), second.array())


def test_complex_voxels_are_no_plain_numbers(tmp_path):
    path = tmp_path / "x.mha"
    sitk.WriteImage(sitk.Image((2, 2, 2), sitk.sitkUInt8), str(path))
    assert itk_formats.by_simpleitk(path).dtype == np.uint8
    with pytest.raises(RuntimeError):
        itk_formats.by_itk(tmp_path / "x.txt")
