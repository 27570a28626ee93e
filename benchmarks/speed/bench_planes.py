"""Three planes predicted and fused: labels and confidences as they come, beside three full maps of probabilities.

    python benchmarks/speed/bench_planes.py [--size 512 512 300] [--classes 17] [--only ours|maps]

The network of each plane is one 1x1 convolution, so that what is measured is all but the network. Each candidate runs
in a process of its own, whose peak memory is its own too.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.portable.inference.multi_view import ViewsInferer
from medseg.portable.networks.adapters import Planar, Views
from medseg.portable.planes import PLANES

GB = 1e9


def networks_of(classes: int) -> Views:
    """Different ones for each plane, so that there is something to vote about."""
    torch.manual_seed(0)
    return Views({view: Planar(nn.Conv2d(1, classes, 1), axis) for axis, view in enumerate(PLANES)}).eval()


def ours(image: Tensor, views: Views) -> Tensor:
    """Whole slices as windows, labels `(X, Y, Z)` out."""
    return ViewsInferer(image.shape[2:], PLANES, overlap=0)(image, views)[0, 0]


def maps(image: Tensor, views: Views) -> Tensor:
    """The obvious way: float32 probabilities of all classes of all planes, then the rule of the vote."""
    size = image.shape[2:]
    found = []
    for axis, network in enumerate(views.networks.values()):
        classes = network.network.out_channels
        probabilities = torch.empty((classes, *size))
        for i in range(size[axis]):
            logits = network.network(image.select(axis + 2, i))
            probabilities.select(axis + 1, i).copy_(logits.softmax(1)[0])
        found.append(probabilities)
    sagittal, coronal, axial = (p.argmax(0).to(torch.uint8) for p in found)
    fused = torch.where(coronal == axial, coronal, sagittal)
    differ = (sagittal != coronal) & (coronal != axial) & (sagittal != axial)
    for p in found[1:]:
        torch.maximum(found[0], p, out=found[0])
    return torch.where(differ, found[0].argmax(0).to(torch.uint8), fused)


@torch.no_grad()
def measure(name: str, size: Sequence[int], classes: int) -> None:
    """Print seconds, the peak above what was there before, and a sum to compare the labels by."""
    image, views = torch.randn((1, 1, *size), generator=torch.Generator().manual_seed(1)), networks_of(classes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, process = time.perf_counter(), time.process_time()
    labels = {"ours": ours, "maps": maps}[name](image, views)
    wall, process = time.perf_counter() - wall, time.process_time() - process
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / GB
    total = int(labels.sum(dtype=torch.int64))
    print(
        f"{name}: {wall:.1f} s ({process:.1f} s of process time), {peak:.2f} GB more at the peak, labels sum to {total}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs=3, type=int, default=[512, 512, 300])
    parser.add_argument("--classes", type=int, default=17)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=["ours", "maps"])
    parser.add_argument("--here", choices=["ours", "maps"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        torch.set_num_threads(options.threads)
        measure(options.here, options.size, options.classes)
        return
    for name in [options.only] if options.only else ["ours", "maps"]:
        # the maps may well be more than this machine has: then the process is killed, and that is the result
        done = subprocess.run([sys.executable, *sys.argv, "--here", name], check=False)
        if done.returncode:
            print(f"{name}: ended with {done.returncode}")


if __name__ == "__main__":
    main()
