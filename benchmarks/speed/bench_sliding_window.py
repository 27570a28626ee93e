"""Sliding windows: ours, labels out, beside MONAI's inferer with an argmax and the network alone on the same windows.

    python benchmarks/speed/bench_sliding_window.py [--classes 2 14] [--network free small unet] [--rounds 5]
    python benchmarks/speed/bench_sliding_window.py --peak 2 14     # peak memory of a whole-body CT, from file to file

One thread, process time unless `--clock wall --threads 2`; candidates take turns. All run with freed memory kept, as
`medseg predict` does on a CPU; `--stock-allocator` leaves the C library as it is.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import UNet
from rounds import compare
from torch import nn

from medseg.bundle.bundle import write_bundle
from medseg.config.pipeline import DataSpec, Intensity
from medseg.engine.allocator import keep_freed_memory
from medseg.portable.inference.sliding_window import SlabInferer
from medseg.portable.inference.windows import (
    extract_windows,
    order_positions,
    slab_axis,
    split_into_batches,
    window_starts,
)
from medseg.workflows.predict.run import predict

SIZE, WINDOW, OVERLAP = (192, 192, 128), (96, 96, 96), 0.5
BODY = (512, 512, 600)
CONV = {"_target_": "monai.networks.nets.UNet", "spatial_dims": 3, "in_channels": 1}


def network_of(name: str, classes: int) -> nn.Module:
    if name == "free":
        return nn.Conv3d(1, classes, 1).eval()
    channels = {"small": (8, 16, 32), "unet": (16, 32, 64, 128)}[name]
    return UNet(3, 1, classes, channels, (2,) * (len(channels) - 1), num_res_units=2).eval()


def alone(network: nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
    """Batches of the windows that the inferer would make, cut beforehand."""
    starts = [window_starts(n, w, OVERLAP) for n, w in zip(SIZE, WINDOW, strict=True)]
    positions = order_positions(starts, slab_axis(SIZE, WINDOW))
    return [extract_windows(image[0], batch, WINDOW) for batch in split_into_batches(positions, 2)]


@torch.no_grad()
def side_by_side(name: str, classes: int, rounds: int, clock: str) -> None:
    torch.manual_seed(0)
    network, image = network_of(name, classes), torch.randn(1, 1, *SIZE)
    windows = alone(network, image)
    ours = SlabInferer(WINDOW, OVERLAP, restore=False)
    monai = {n: SlidingWindowInferer(WINDOW, n, OVERLAP, mode="gaussian") for n in (1, 2, 4)}
    file_affine = torch.diag(torch.tensor([-0.75, 0.75, 1.0, 1.0]).double())
    own_grid = MetaTensor(image[0], affine=torch.diag(torch.tensor([1.0, 1.0, 1.0, 1.0]).double()))
    own_grid.meta.update(original_affine=file_affine, spatial_shape=np.array([256, 256, 128]))
    file_affine[0, 3] = 191.0
    restoring = SlabInferer(WINDOW, OVERLAP)
    equal = (ours(image, network)[0, 0] == monai[2](image, network).argmax(1)[0]).float().mean()
    seconds = []
    for batch in windows:
        start = time.perf_counter()
        network(batch)
        seconds.append((time.perf_counter() - start) / len(batch))
    compare(
        f"{SIZE}, window {WINDOW}, overlap {OVERLAP}, {classes} classes, network '{name}' "
        f"({1000 * min(seconds):.0f} ms per window); labels equal to MONAI's: {100 * float(equal):.4f} %",
        {
            "network alone, the same windows": lambda: [network(batch) for batch in windows],
            "ours, labels": lambda: ours(image, network),
            "ours, labels on a file's grid of 256 x 256 x 128": lambda: restoring(own_grid[None], network),
            "MONAI, batch 1, then argmax": lambda: monai[1](image, network).argmax(1),
            "MONAI, batch 4, then argmax": lambda: monai[4](image, network).argmax(1),
            "MONAI, batch 4, logits only": lambda: monai[4](image, network),
        },
        rounds,
        clock,
    )


def whole_body(classes: int) -> None:
    """Predict a whole-body CT from file to file and print the peak memory of this process."""
    labels = {i: f"class {i}" if i else "background" for i in range(classes)}
    window = Intensity(kind="window", low=-200, high=300, mean=0, std=100)
    spec = DataSpec(labels=labels, modality=("CT",), spacing_mm=(1, 1, 1), patch=(96, 96, 96), intensity=window)
    # the cheapest network that a bundle can hold: one level, one convolution
    definition = {
        **CONV,
        "out_channels": classes,
        "channels": [1, 1],
        "strides": [1],
        "kernel_size": 1,
        "up_kernel_size": 1,
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        network = UNet(3, 1, classes, (1, 1), (1,), kernel_size=1, up_kernel_size=1)
        write_bundle(folder / "bundle", network, network_def=definition, data=spec, name="cheap")
        (folder / "in").mkdir()
        slices = np.random.default_rng(0).integers(-1000, 1000, (8, 8, 600), dtype=np.int16)
        nib.save(nib.Nifti1Image(slices.repeat(64, 0).repeat(64, 1), np.eye(4)), folder / "in" / "body.nii.gz")
        del slices
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        start = time.perf_counter()
        report = predict(folder / "bundle", folder / "in", folder / "out")
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    done = report["cases"][0]["status"]
    print(
        f"| {BODY}, {classes} classes, {done} | {peak:.2f} GiB (before: {before:.2f}) | {seconds:.0f} s |", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, nargs="+", default=[2, 14])
    parser.add_argument("--network", nargs="+", default=["free", "small"], choices=["free", "small", "unet"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=["cpu", "wall"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--stock-allocator", action="store_true")
    parser.add_argument("--peak", type=int, nargs="+", metavar="CLASSES", help="peak memory instead of time")
    parser.add_argument("--body", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.body:
        whole_body(chosen.body)
    elif chosen.peak:
        print("| whole-body CT, from file to file | peak memory of the process | time |\n|---|---|---|", flush=True)
        for classes in chosen.peak:  # a process each: the peak is the process's
            subprocess.run([sys.executable, __file__, "--body", str(classes)], check=True)
    else:
        if not chosen.stock_allocator:
            keep_freed_memory()
        for name in chosen.network:
            for classes in chosen.classes:
                side_by_side(name, classes, chosen.rounds, chosen.clock)


if __name__ == "__main__":
    main()
