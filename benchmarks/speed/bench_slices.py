"""Training slices per second for each plane: ours from memory-mapped volumes beside a plain MONAI slice loader.

    python benchmarks/speed/bench_slices.py [--size 256 256 160] [--cases 4] [--batch 16] [--rounds 5] [--workers 0]

MONAI's volumes are decoded once into a `CacheDataset`; whole random slices are cut from each item and put together by
its `DataLoader`. Ours reads slices out of files. Without changes of the slices, and with an affine one of each. Both
start from the same NIfTI files; making the caches is not counted. Process time; candidates take turns.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.data import CacheDataset, DataLoader
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    RandAffined,
    RandSpatialCropSamplesd,
    SqueezeDimd,
)
from rounds import compare

from medseg.config.pipeline import Augment, DataSpec, View
from medseg.data.cache import VolumeCache
from medseg.data.streams import PatchStreams, make_loader
from medseg.manifest.manifest import Manifest
from medseg.portable.planes import PLANES, slice_axis

KEYS = ["image", "label"]
MANY = 10**6


def write_cases(folder: Path, size: tuple[int, ...], cases: int) -> Manifest:
    """Noise with a box in it."""
    rng, training = np.random.default_rng(0), []
    label = np.zeros(size, np.uint8)
    label[tuple(slice(n // 3, n // 2) for n in size)] = 1
    for i in range(cases):
        image = rng.normal(0, 100, size).astype(np.int16)
        nib.save(nib.Nifti1Image(image, np.eye(4)), folder / f"i{i}.nii.gz")
        nib.save(nib.Nifti1Image(label, np.eye(4)), folder / f"l{i}.nii.gz")
        training.append({"image": f"i{i}.nii.gz", "label": f"l{i}.nii.gz"})
    fields = {"modality": {"0": "MR"}, "labels": {"0": "background", "1": "box"}, "training": training}
    return Manifest.build(fields, folder / "m.json")


def ours(manifest: Manifest, folder: Path, view: View, options: argparse.Namespace, affine: bool) -> Iterator[object]:
    """Batches of whole slices, without the choice of slices by class or body, which MONAI's peer does not make."""
    spec = DataSpec(
        labels=manifest.labels,
        modality=manifest.modalities,
        spacing_mm=(1, 1, 1),
        patch=tuple(options.size),
        foreground=0.0,
        augment=Augment(
            affine={"probability": float(affine)},
            **{name: {"probability": 0.0} for name in ("contrast", "gamma", "noise")},
        ),
    ).of_view(view)
    volumes = VolumeCache(folder).prepare(manifest, manifest.training, spec)
    data = PatchStreams({"labeled": volumes}, spec, {"labeled": options.batch}, seed=0, total=MANY)
    return iter(make_loader(data, start=0, workers=options.workers, device=torch.device("cpu")))


def monai(manifest: Manifest, view: View, options: argparse.Namespace, affine: bool) -> Iterator[object]:
    """Batches of whole slices out of volumes in memory."""
    axis = slice_axis(view)
    assert axis is not None
    slice_size = [1 if a == axis else n for a, n in enumerate(options.size)]
    angle = math.radians(15)
    changes = {
        "rotate_range": angle,
        "scale_range": (0.1, 0.1),
        "mode": ["bilinear", "nearest"],
        "padding_mode": "zeros",
    }
    chain = [
        LoadImaged(KEYS),
        EnsureChannelFirstd(KEYS),
        Orientationd(KEYS, axcodes="RAS", labels=None),
        NormalizeIntensityd("image"),
        RandSpatialCropSamplesd(KEYS, slice_size, num_samples=options.batch // options.cases, random_size=False),
        SqueezeDimd(KEYS, dim=axis + 1),
        *([RandAffined(KEYS, prob=1, **changes)] if affine else []),
    ]
    files = [{"image": str(manifest.images(c)[0]), "label": str(manifest.label(c))} for c in manifest.training]
    data = CacheDataset(files, Compose(chain), progress=False)

    def epochs() -> Iterator[object]:
        loader = DataLoader(data, batch_size=options.cases, shuffle=True, num_workers=options.workers)
        while True:
            yield from loader

    return epochs()


def batches(source: Iterator[object], count: int) -> Callable[[], None]:
    """Take some batches."""

    def take() -> None:
        for _ in range(count):
            next(source)

    return take


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs=3, type=int, default=[256, 256, 160])
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument("--batch", type=int, default=16, help="slices, a multiple of the cases")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--batches", type=int, default=4, help="per round")
    parser.add_argument("--clock", choices=["cpu", "wall"], default="cpu", help="wall with workers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        manifest = write_cases(folder, tuple(options.size), options.cases)
        for view in PLANES:
            sources = {
                "MONAI, crop only": monai(manifest, view, options, False),
                "medseg, crop only": ours(manifest, folder / "cache", view, options, False),
                "MONAI, affine": monai(manifest, view, options, True),
                "medseg, affine": ours(manifest, folder / "cache", view, options, True),
            }
            slices = options.batch * options.batches
            title = (
                f"{view}: {slices} slices of {options.cases} volumes {tuple(options.size)}, {options.workers} workers"
            )
            compare(title, {n: batches(s, options.batches) for n, s in sources.items()}, options.rounds, options.clock)


if __name__ == "__main__":
    main()
