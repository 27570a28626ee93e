"""`medseg.predict` and `medseg.fuse` of images in memory: the voxels of files, in the kind that was given."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from models import data_spec, labels_of, make_bundle, make_image
from PIL import Image

import medseg
from medseg.config.pipeline import Intensity
from medseg.errors import ConfigError, DataError

PICTURE = {"spacing_mm": (1.0, 1.0, 1.0), "patch": (16, 16, 1), "modality": ("red", "green", "blue")}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("volumes") / "bundle")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    spec = data_spec(**PICTURE, intensity=Intensity(kind="zscore"))
    return make_bundle(tmp_path_factory.mktemp("photographs") / "bundle", spec)


@pytest.fixture(scope="module")
def by_file(bundle, tmp_path_factory) -> tuple[Path, np.ndarray]:
    """An image and its labels as the command writes them; the image is oblique and stored along LPS."""
    folder = tmp_path_factory.mktemp("files")
    image = make_image(folder / "in/a.nii.gz")
    medseg.predict(bundle, image, folder / "out")
    labels = labels_of(folder / "out/a.nii.gz")
    assert len(np.unique(labels)) > 1
    return image, labels


def test_an_image_of_nibabel(bundle, by_file):
    image = nib.load(by_file[0])
    found = medseg.predict(bundle, image)
    assert isinstance(found, nib.Nifti1Image)
    assert found.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(found.dataobj), by_file[1])
    np.testing.assert_array_equal(found.affine, image.affine)
    assert found.header["sform_code"] == image.header["sform_code"]


def test_an_array(bundle, by_file):
    image = nib.load(by_file[0])
    array = np.asarray(image.dataobj)
    for given in (array, array[None], array.astype(np.float64)):
        found = medseg.predict(bundle, given, affine=image.affine)
        assert isinstance(found, np.ndarray)
        np.testing.assert_array_equal(found, by_file[1])


def test_an_array_with_spacing(bundle, by_file, tmp_path):
    """The axes are those of a file whose affine is the spacing alone."""
    array = np.asarray(nib.load(by_file[0]).dataobj)
    spacing = (1.3, 0.9, 2.2)
    nib.save(nib.Nifti1Image(array, np.diag([*spacing, 1.0])), tmp_path / "a.nii.gz")
    medseg.predict(bundle, tmp_path / "a.nii.gz", tmp_path / "out")
    found = medseg.predict(bundle, array, spacing_mm=spacing)
    np.testing.assert_array_equal(found, labels_of(tmp_path / "out/a.nii.gz"))


def test_an_image_of_simple_itk(bundle, by_file):
    image = sitk.ReadImage(str(by_file[0]))
    found = medseg.predict(bundle, image)
    assert isinstance(found, sitk.Image)
    assert (found.GetSize(), found.GetSpacing(), found.GetDirection()) == (
        image.GetSize(), image.GetSpacing(), image.GetDirection(),
    )  # fmt: skip
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found).T, by_file[1])


def test_a_list_and_scaled_numbers(bundle, tmp_path):
    """Two files, one of whose headers scales its numbers; the list has the labels of both in their order."""
    images = [make_image(tmp_path / f"in/{n}.nii.gz", seed=n) for n in range(2)]
    scaled = nib.load(images[1])
    stored = nib.Nifti1Image(np.asarray(scaled.dataobj), scaled.affine)
    stored.header.set_slope_inter(0.5, 3.0)
    nib.save(stored, images[1])
    medseg.predict(bundle, tmp_path / "in", tmp_path / "out")
    found = medseg.predict(bundle, [nib.load(image) for image in images])
    for n, labels in enumerate(found):
        np.testing.assert_array_equal(np.asarray(labels.dataobj), labels_of(tmp_path / f"out/{n}.nii.gz"))


def test_several_models_and_channels(tmp_path):
    """Channels are a tuple of images, the first axis of an array, or the last one of nibabel's."""
    spec = data_spec(modality=("T1", "T2"), intensity=Intensity(kind="zscore"))
    models = [make_bundle(tmp_path / "one/bundle", spec), make_bundle(tmp_path / "two/bundle", spec, "segresnet")]
    files = [make_image(tmp_path / f"in/a_{n:04d}.nii.gz", seed=n) for n in range(2)]
    medseg.predict(models, tmp_path / "in", tmp_path / "out")
    wanted = labels_of(tmp_path / "out/a.nii.gz")
    images = [nib.load(file) for file in files]
    arrays = np.stack([np.asarray(image.dataobj) for image in images])
    in_one = nib.Nifti1Image(np.moveaxis(arrays, 0, -1), images[0].affine)
    np.testing.assert_array_equal(medseg.predict(models, arrays, affine=images[0].affine), wanted)
    for given in (tuple(images), in_one):
        np.testing.assert_array_equal(np.asarray(medseg.predict(models, given).dataobj), wanted)


def test_photographs(photographs, tmp_path):
    """A photograph of 30 rows and 44 columns, as Pillow has it and as an array of columns and rows."""
    pixels = np.random.default_rng(0).integers(0, 255, (30, 44, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    medseg.predict(photographs, tmp_path / "a.png", tmp_path / "out", format="nifti")
    wanted = labels_of(tmp_path / "out/a.nii.gz")
    found = medseg.predict(photographs, Image.fromarray(pixels))
    assert (type(found), found.mode, found.size) == (Image.Image, "L", (44, 30))
    np.testing.assert_array_equal(np.asarray(found).T, wanted.reshape(44, 30))
    np.testing.assert_array_equal(medseg.predict(photographs, pixels.transpose(2, 1, 0)), wanted.reshape(44, 30))
    with pytest.raises(DataError, match=r"30x44x3; accepted is \(3, X, Y\) or .* PIL.Image.fromarray\(array\)"):
        medseg.predict(photographs, pixels)


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.int16)


@pytest.mark.parametrize(
    ("inputs", "options", "words"),
    [
        (zeros(8, 8, 8), {}, "the image: is a volume as an array, and its spacing is unknown; give spacing_mm"),
        (zeros(8, 8, 8), {"spacing_mm": (1, 1)}, "has 3 axes of space and spacing_mm has 2 numbers"),
        (zeros(8, 8, 8), {"spacing_mm": (1, 0, 1)}, "its spacing is 1 x 0 x 1 mm"),
        (zeros(8, 8, 8), {"spacing_mm": (1, 1, 1), "affine": np.eye(4)}, "has spacing_mm and affine; give one"),
        (zeros(8, 8, 8), {"affine": np.eye(3)}, r"has an affine of shape 3x3; accepted is \(4, 4\)"),
        (zeros(8), {}, r"is an array of shape 8; accepted is \(X, Y\) or \(X, Y, Z\)"),
        (zeros(2, 8, 8, 8), {"spacing_mm": (1, 1, 1)}, r"shape 2x8x8x8; accepted is \(X, Y\) or \(X, Y, Z\)"),
        ([zeros(8, 8, 8), "a.nii.gz"], {"spacing_mm": (1, 1, 1)}, "image 1: is a str; accepted are NumPy arrays"),
        ([], {}, "the list of images is empty"),
        ([1, 2], {}, "the input is a list of numbers"),
        (zeros(8, 8, 8).astype(complex), {"spacing_mm": (1, 1, 1)}, "is an array of complex128"),
        (np.full((8, 8, 8), np.nan), {"spacing_mm": (1, 1, 1)}, "512 of 512 voxels are NaN or infinite"),
        ((zeros(8, 8, 8),) * 2, {"spacing_mm": (1, 1, 1)}, "the image: has 2 channels, the model takes 1"),
        (nib.Nifti1Image(zeros(8, 8, 8), np.eye(4)), {"affine": np.eye(4)}, "which has its own spacing"),
        (nib.MGHImage(zeros(8, 8, 8), np.eye(4)), {}, "is a MGHImage; accepted is NIfTI: nibabel.Nifti1Image.from"),
        (sitk.Image([8, 8], sitk.sitkComplexFloat32), {}, "holds complex of 32-bit float"),
        (Image.new("CMYK", (8, 8)), {}, "has the mode CMYK; accepted are L, RGB"),
    ],
)  # fmt: skip
def test_images_that_cannot_be_used(inputs, options, words, bundle):
    with pytest.raises(DataError, match=words):
        medseg.predict(bundle, inputs, **options)


def test_options_that_do_not_go_together(bundle, by_file, tmp_path):
    image, _ = by_file
    for inputs, output, options, words in (
        (zeros(8, 8, 8), tmp_path, {}, "the inputs are images in memory; leave it out"),
        (zeros(8, 8, 8), None, {"strict": True}, "strict is for files; accepted of images in memory are views, fusion"),
        (image, None, {}, "output is missing: the folder"),
        (image, tmp_path, {"spacing_mm": (1, 1, 1)}, "files bring their own spacing"),
    ):
        with pytest.raises(ConfigError, match=words):
            medseg.predict(bundle, inputs, output, **options)


# ---- fuse


def raters() -> tuple[np.ndarray, list[np.ndarray]]:
    truth = np.zeros((24, 20, 6), np.uint8)
    truth[6:16, 5:14, 1:5] = 3
    image = 100.0 * (truth > 0) + np.random.default_rng(0).normal(0, 5, truth.shape)
    return image.astype(np.float32), [truth, np.roll(truth, 1, 0), np.roll(truth, 2, 1)]


def test_fuse_takes_and_gives_images_of_nibabel():
    """One annotation is stored along other axes: its voxels lie where those of the others do."""
    image, labels = raters()
    affine = np.diag([0.8, 0.8, 2.5, 1.0])
    drawn = [nib.Nifti1Image(each, affine) for each in labels]
    flipped = affine @ nib.orientations.inv_ornt_aff(np.array([[0, -1], [1, 1], [2, 1]]), labels[2].shape)
    drawn[2] = nib.Nifti1Image(np.ascontiguousarray(labels[2][::-1]), flipped)
    wanted = medseg.fuse(image, labels, spacing_mm=(0.8, 0.8, 2.5))
    found = medseg.fuse(nib.Nifti1Image(image, affine), drawn)
    np.testing.assert_array_equal(np.asarray(found.labels.dataobj), wanted.labels)
    np.testing.assert_array_equal(np.asarray(found.confidence.dataobj), wanted.confidence)
    np.testing.assert_array_equal(np.asarray(found.n_raters.dataobj), wanted.n_raters)
    assert found.report["raters"][0]["weight"] == wanted.report["raters"][0]["weight"]


def test_fuse_takes_and_gives_images_of_simple_itk():
    _, labels = raters()
    drawn = [sitk.GetImageFromArray(each.T) for each in labels]
    found = medseg.fuse(None, drawn, method="majority")
    wanted = medseg.fuse(None, labels, method="majority")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found.labels).T, wanted.labels)


def test_fuse_takes_and_gives_images_of_pillow():
    _, labels = raters()
    planes = [each[..., 2] for each in labels]
    found = medseg.fuse(None, [Image.fromarray(np.ascontiguousarray(each.T)) for each in planes], method="majority")
    wanted = medseg.fuse(None, planes, method="majority")
    np.testing.assert_array_equal(np.asarray(found.labels).T, wanted.labels)


def test_images_that_cannot_be_fused():
    _, labels = raters()
    drawn = [nib.Nifti1Image(each, np.eye(4)) for each in labels]
    with pytest.raises(ConfigError, match="are an array and an image of nibabel; give all in one way"):
        medseg.fuse(None, [*drawn, labels[0]], method="majority")
    with pytest.raises(ConfigError, match="images bring their own spacing"):
        medseg.fuse(None, drawn, method="majority", spacing_mm=(1, 1, 1))
    moved = np.eye(4)
    moved[0, 3] = 5
    with pytest.raises(DataError, match=r"ben: lies up to 5 mm \(5 voxels\) off the grid of"):
        medseg.fuse(None, [drawn[0], nib.Nifti1Image(labels[1], moved)], method="majority", names=["anna", "ben"])
