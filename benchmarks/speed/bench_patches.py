"""One augmented training patch from a cached volume: ours beside MONAI's dictionary transforms.

    python benchmarks/speed/bench_patches.py [--rounds 15] [--patch 96]

Class-guided crop, rotation by up to 15 degrees about each axis, scale 0.9 to 1.1, noise, gamma (ours: contrast
too), all with probability 1. MONAI starts from tensors in memory, ours from memory-mapped files. One thread,
process time, candidates interleaved round by round; the ratio is the median of the per-round ratios.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandCropByPosNegLabeld,
    RandGaussianNoised,
)
from scipy.ndimage import gaussian_filter

from medseg.config.pipeline import Augment, DataSpec
from medseg.data import cached_volume
from medseg.data.cached_volume import CachedVolume, Content
from medseg.data.streams import PatchStreams

SHAPE = (256, 256, 120)


def phantom(seed: int = 0) -> Content:
    """A smooth image with a tenth of its voxels in three classes."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32), 3)
    noise /= noise.std()
    label = np.digitize(noise, [1.3, 1.6, 2.0]).astype(np.uint8)
    return Content(noise[None].astype(np.float16), label, np.eye(4))


def streams(cached: CachedVolume, patch: int, chance: float) -> Callable[[int], object]:
    spec = DataSpec(
        labels={0: "background", 1: "a", 2: "b", 3: "c"},
        modality=("CT",),
        spacing_mm=(1, 1, 1),
        patch=(patch, patch, patch),
        foreground=0.5,
        augment=Augment(
            **{name: {"probability": chance} for name in ("affine", "contrast", "gamma", "noise")},
        ),
    )
    return PatchStreams({"labeled": [cached]}, spec, {"labeled": 1}, seed=0, total=10**6).__getitem__


def monai_chain(content: Content, patch: int) -> Callable[[int], object]:
    keys, angle = ["image", "label"], math.radians(15)
    chain = Compose(
        [
            RandCropByPosNegLabeld(keys, "label", (patch,) * 3, pos=1, neg=1, num_samples=1),
            RandAffined(
                keys,
                prob=1,
                rotate_range=(angle,) * 3,
                scale_range=(0.1,) * 3,
                mode=("bilinear", "nearest"),
                padding_mode="border",
            ),
            RandGaussianNoised("image", prob=1, std=0.1),
            RandAdjustContrastd("image", prob=1, gamma=(0.7, 1.5)),
        ]
    )
    item = {
        "image": MetaTensor(torch.from_numpy(content.image).float()),
        "label": MetaTensor(torch.from_numpy(content.label)[None]),
    }
    return lambda _: chain(dict(item))


def measure(candidates: dict[str, Callable[[int], object]], rounds: int) -> dict[str, np.ndarray]:
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 2):
        for name, run in candidates.items():
            began = time.process_time()
            run(number)
            seconds[name].append(time.process_time() - began)
    return {name: np.array(taken[2:]) for name, taken in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--patch", type=int, default=96)
    options = parser.parse_args()
    torch.set_num_threads(1)
    content = phantom()
    with tempfile.TemporaryDirectory() as folder:
        cached_volume.write(Path(folder), content, seed=0)
        cached = cached_volume.read(Path(folder), "phantom", Path("phantom.nii.gz"), labelled=True)
        assert cached is not None
        results = measure(
            {
                "MONAI dictionary transforms": monai_chain(content, options.patch),
                "medseg, everything": streams(cached, options.patch, 1),
                "medseg, crop only": streams(cached, options.patch, 0),
            },
            options.rounds,
        )
    first = next(iter(results.values()))
    print(f"{options.patch}^3 from {SHAPE}\n\n| case | median s | patches/s | time / first |\n|---|---|---|---|")
    for name, taken in results.items():
        middle = np.median(taken)
        print(f"| {name} | {middle:.4g} | {1 / middle:.3g} | {np.median(taken / first):.3g} |")


if __name__ == "__main__":
    main()
