"""Resampling and the whole deterministic preprocessing, beside MONAI's stock transforms, SciPy, SimpleITK and torch.

    python benchmarks/speed/bench_resample.py [--rounds 7]

One thread, process time; candidates take turns. A CT of 256 x 256 x 120 voxels of 0.8 x 0.8 x 2.5 mm to
1.5 x 1.5 x 2 mm; the item is image and label from .nii.gz, oriented, resampled, scaled (ours keeps the field of view
and is antialiased, which the others are not).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813
import torch
import torch.nn.functional as F  # noqa: N812
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    CropForegroundd,
    LoadImaged,
    Orientationd,
    ScaleIntensityRanged,
    Spacing,
    Spacingd,
)
from rounds import compare
from scipy.ndimage import gaussian_filter, zoom

from medseg.config.pipeline import DataSpec, Intensity
from medseg.data.preprocessing_config import instantiate, preprocessing
from medseg.portable.resample import Resampled

SHAPE, OLD, NEW = (256, 256, 120), (0.8, 0.8, 2.5), (1.5, 1.5, 2.0)


def ct(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A CT-like volume, int16: air around a body with organs and noise; and its labels."""
    rng = np.random.default_rng(seed)
    texture = gaussian_filter(rng.normal(size=SHAPE).astype(np.float32), 6)
    texture /= texture.std()
    x, y, _ = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    body = x**2 / 0.6 + y**2 / 0.4 < 1
    image = np.where(body, 40 + 60 * texture + rng.normal(0, 12, SHAPE), -1000)
    label = np.digitize(texture, [1.2, 1.8]) * body
    return image.round().astype(np.int16), label.astype(np.uint8)


def resampling(image: np.ndarray, rounds: int) -> None:
    volume = torch.from_numpy(image.astype(np.float32))[None]
    meta = MetaTensor(volume, affine=torch.diag(torch.tensor([*OLD, 1.0]).double()))
    ours, monai = Resampled("image", NEW), Spacing(NEW, mode="bilinear")
    size = tuple(ours({"image": meta})["image"].shape[1:])
    picture = sitk.GetImageFromArray(volume[0].numpy())
    picture.SetSpacing(OLD[::-1])
    resample = sitk.ResampleImageFilter()
    resample.SetReferenceImage(sitk.Image(*[int(n) for n in size[::-1]], sitk.sitkFloat32))
    resample.SetOutputSpacing([o * n / m for o, n, m in zip(OLD[::-1], SHAPE[::-1], size[::-1], strict=True)])
    resample.SetSize([int(n) for n in size[::-1]])
    factors = [m / n for m, n in zip(size, SHAPE, strict=True)]
    compare(
        f"Resampling {SHAPE} of {OLD} mm to {size} of {NEW} mm, linear",
        {
            "MONAI Spacing, bilinear": lambda: monai(meta),
            "ours, antialiased": lambda: ours({"image": meta}),
            "torch interpolate, trilinear": lambda: F.interpolate(volume[None], size=size, mode="trilinear"),
            "SimpleITK Resample, linear": lambda: resample.Execute(picture),
            "scipy zoom, order 1": lambda: zoom(volume[0].numpy(), factors, order=1),
        },
        rounds,
    )


def items(image: np.ndarray, label: np.ndarray, folder: Path, rounds: int) -> None:
    affine = np.diag([-OLD[0], -OLD[1], OLD[2], 1.0])
    files = {"image": str(folder / "image.nii.gz"), "label": str(folder / "label.nii.gz")}
    nib.save(nib.Nifti1Image(image, affine), files["image"])
    nib.save(nib.Nifti1Image(label, affine), files["label"])
    keys = ["image", "label"]
    scale = {"a_min": -160, "a_max": 240, "b_min": 0, "b_max": 1, "clip": True}
    monai = [
        LoadImaged(keys, ensure_channel_first=True),
        Orientationd(keys, "RAS", labels=None),
        Spacingd(keys, NEW, mode=("bilinear", "nearest")),
        ScaleIntensityRanged("image", **scale),
    ]
    cropped = CropForegroundd(keys, source_key="image", allow_smaller=True)
    window = Intensity(kind="window", low=-160, high=240, mean=40, std=100)
    spec = DataSpec(
        labels={0: "a", 1: "b", 2: "c"}, modality=("CT",), spacing_mm=NEW, patch=(96, 96, 96), intensity=window
    )
    ours = instantiate(preprocessing(spec, keys))
    stock, with_crop = Compose(monai), Compose([*monai, cropped])
    compare(
        "One preprocessed item from .nii.gz, image and label",
        {
            "MONAI: load, orient, Spacingd, scale": lambda: stock(files),
            "MONAI, and CropForegroundd": lambda: with_crop(files),
            "ours: verified read, orient, resample, window": lambda: ours(files),
        },
        rounds,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    image, label = ct()
    resampling(image, rounds)
    with tempfile.TemporaryDirectory() as folder:
        items(image, label, Path(folder), rounds)


if __name__ == "__main__":
    main()
