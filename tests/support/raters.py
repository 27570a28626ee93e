"""Small studies with several raters, as files."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from PIL import Image
from scipy import ndimage

AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])


def ball(shape=(24, 20, 12), radius=5.0, shift=(0, 0, 0)) -> np.ndarray:
    grid = np.indices(shape, dtype=float)
    centre = (np.array(shape) - 1) / 2 + shift
    distance = sum(((g - c) * (2 if a == 2 else 1)) ** 2 for a, (g, c) in enumerate(zip(grid, centre, strict=True)))
    return (np.sqrt(distance) < radius).astype(np.uint8)


def image_of(truth: np.ndarray, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 8, truth.shape)
    return (ndimage.gaussian_filter(truth * 60.0, 0.6) + noise).astype(np.int16)


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    """By the ending: NIfTI, NRRD, MHA or a picture; arrays are (X, Y, Z) or (X, Y), colours (X, Y, 3)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith((".nii", ".nii.gz")):
        nib.save(nib.Nifti1Image(array, affine), path)
    elif path.suffix in (".png", ".tif"):
        Image.fromarray(np.ascontiguousarray(np.swapaxes(array, 0, 1))).save(path)
    else:
        image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
        lps = np.diag([-1, -1, 1, 1]) @ affine
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        image.SetSpacing(spacing.tolist())
        image.SetOrigin(lps[:3, 3].tolist())
        image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
        sitk.WriteImage(image, str(path), True)
    return path


def seg_nrrd(path: Path, layers: np.ndarray, fields: dict[str, str], affine: np.ndarray = AFFINE) -> Path:
    """A segmentation as 3D Slicer writes it: layers (L, X, Y, Z)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stacked = np.ascontiguousarray(layers.transpose(3, 2, 1, 0))
    image = sitk.GetImageFromArray(stacked if len(layers) > 1 else stacked[..., 0], isVector=len(layers) > 1)
    lps = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    for key, value in fields.items():
        image.SetMetaData(key, value)
    sitk.WriteImage(image, str(path), True)
    return path


def fields_of(*segments: tuple[str, int, int, str]) -> dict[str, str]:
    """(name, value, layer, colour) of each segment."""
    fields = {}
    for n, (name, value, layer, color) in enumerate(segments):
        fields |= {
            f"Segment{n}_ID": f"Segment_{n + 1}",
            f"Segment{n}_Name": name,
            f"Segment{n}_LabelValue": str(value),
            f"Segment{n}_Layer": str(layer),
            f"Segment{n}_Color": color,
            f"Segment{n}_Tags": f"Terminology~{name}",
        }
    return fields


def write_study(folder: Path, *, value: int = 1, suffix: str = ".nii.gz", seed: int = 0) -> tuple[Path, list[Path]]:
    """An image and three raters: a good one, one who draws too much, one who left half of it out."""
    truth = ball()
    wide, half = ball(radius=6.5), ball(shift=(0.5, 0, 0))
    image = save(folder / f"image{suffix}", image_of(truth, seed))
    drawings = [truth * value, wide * value, half * value]
    drawings[2][:, :10] = 255
    names = ("anna", "bob", "cleo")
    paths = [save(folder / f"{n}{suffix}", d.astype(np.uint8)) for n, d in zip(names, drawings, strict=True)]
    return image, paths
