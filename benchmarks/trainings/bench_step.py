"""Where the time of one DTC training step goes: V-Net, patches of 112x112x80, 2 labelled + 2 unlabelled.

    python benchmarks/trainings/bench_step.py [--patch 112 112 80] [--width 16] [--rounds 3] [--device auto]
        [--stock-allocator]

Ours: the engine with its loader worker making patches and distance maps, channels-last layout. Beside it, in the same
run and alternating with it, the reference recipe: contiguous layout, and for every labelled patch two SciPy distance
transforms and a boundary search in the training process. Prints seconds (median over rounds), shares, and the median
of the per-round ratios.

Both run with freed memory kept, as `medseg train` does on a CPU; `--stock-allocator` leaves the C library as it is.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from ignite.engine import Events
from scipy.ndimage import distance_transform_edt
from skimage.segmentation import find_boundaries

from medseg import methods
from medseg.config.pipeline import DataSpec, NetworkSpec, Schedule
from medseg.data.cache import VolumeCache
from medseg.data.streams import PatchStreams, make_loader
from medseg.engine.allocator import keep_freed_memory
from medseg.engine.optimizer import make_optimizer
from medseg.engine.trainer import MethodTrainer, Precision, StepSettings
from medseg.manifest.manifest import Manifest
from medseg.networks.factory import NetworkFactory
from medseg.ops.losses import segmentation as losses
from medseg.ops.schedules import sigmoid_rampup

BATCH_SIZE = {"labeled": 2, "unlabeled": 2}
PHASES = ("data", "forward", "loss", "backward", "optimizer", "rest")


def volumes(folder: Path, count: int = 4) -> Manifest:
    """Noise with an ellipsoid, of the size of a left-atrium scan."""
    import json

    import nibabel as nib

    grid = np.indices((176, 144, 88)).reshape(3, -1).T
    inside = (((grid - (88, 72, 44)) / (40, 32, 24)) ** 2).sum(1).reshape(176, 144, 88) < 1
    rng = np.random.default_rng(0)
    cases = []
    for i in range(count):
        image = rng.normal(inside, 1.0).astype(np.float32)
        for kind, array in (("image", image), ("label", inside.astype(np.uint8))):
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / f"{kind}{i}.nii")
        cases.append({"image": f"image{i}.nii", "label": f"label{i}.nii"})
    content = {
        "modality": {"0": "MR"},
        "labels": {"0": "background", "1": "object"},
        "training": cases[:2],
        "unlabeled": [{"image": case["image"]} for case in cases[2:]],
    }
    (folder / "m.json").write_text(json.dumps(content))
    return Manifest.load(folder / "m.json")


class Ours:
    """Our engine, with a clock at every phase."""

    def __init__(self, manifest: Manifest, spec: DataSpec, width: int, device: torch.device, cache: Path) -> None:
        store = VolumeCache(cache)
        streams = {
            "labeled": store.prepare(manifest, manifest.training, spec),
            "unlabeled": store.prepare(manifest, manifest.unlabeled, spec),
        }
        self.method = make_method(spec, width, device).to(memory_format=torch.channels_last_3d)
        dataset = PatchStreams(streams, spec, BATCH_SIZE, seed=0, total=10_000, targets=self.method.targets())
        self.loader = iter(make_loader(dataset, start=0, workers=1, device=device))
        self.device = device
        self.marks: dict[str, float] = {}
        optimizer = make_optimizer(self.method, Schedule())
        self.method.network.register_forward_pre_hook(lambda *_: self.mark("forward starts"))
        self.method.network.register_forward_hook(lambda *_: self.mark("forward ends"))
        self.method.register_forward_hook(lambda *_: self.mark("loss ends"))
        optimizer.register_step_pre_hook(lambda *_: self.mark("backward ends"))
        optimizer.register_step_post_hook(lambda *_: self.mark("optimizer ends"))
        self.optimizer = optimizer

    def mark(self, name: str) -> None:
        """Note the time, after the device has caught up."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.marks[name] = time.perf_counter()

    def step(self) -> dict[str, float]:
        """One step; seconds per phase."""
        self.mark("start")
        batch = next(self.loader)
        self.mark("data ends")
        settings = StepSettings(Precision(self.device), channels_last=True)
        trainer = MethodTrainer(self.method, self.optimizer, [batch], total=1, settings=settings)
        trainer.add_event_handler(Events.ITERATION_STARTED, lambda: self.mark("iteration starts"))
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: self.mark("iteration ends"))
        trainer.run()
        m = self.marks
        found = {
            "data": m["data ends"] - m["start"],
            "forward": m["forward ends"] - m["forward starts"],
            "loss": m["loss ends"] - m["forward ends"],
            "backward": m["backward ends"] - m["loss ends"],
            "optimizer": m["optimizer ends"] - m["backward ends"],
        }
        whole = found["data"] + m["iteration ends"] - m["iteration starts"]
        return found | {"rest": whole - sum(found.values()), "step": whole}


class Reference:
    """The recipe of the published code, on the same network."""

    def __init__(self, spec: DataSpec, width: int, device: torch.device) -> None:
        self.method, self.device = make_method(spec, width, device), device
        self.optimizer = make_optimizer(self.method, Schedule())

    def step(self, batch: dict) -> dict[str, float]:
        """One step; seconds per phase."""
        began = time.perf_counter()
        images = torch.cat([batch["labeled"]["image"], batch["unlabeled"]["image"]]).contiguous().to(self.device)
        label = batch["labeled"]["label"].to(self.device)
        output = self.method.network(images)
        logits, z = output[:, :2], output[:, 2:].tanh()
        forward = time.perf_counter()
        phi = torch.stack([published_map(row[0].cpu().numpy()) for row in label])[:, None].to(self.device)
        mapped = time.perf_counter()
        inside = torch.sigmoid(-1500 * z)
        loss = losses.soft_dice(logits[:2], label) + 0.3 * ((z[:2] - phi) ** 2).mean()
        losses.cross_entropy(logits[:2], label).item()  # computed and logged, not trained on
        loss = loss + sigmoid_rampup(0.5, 40) * ((inside - logits.softmax(1)[:, 1:]) ** 2).mean()
        lost = time.perf_counter()
        self.optimizer.zero_grad()
        loss.backward()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        back = time.perf_counter()
        self.optimizer.step()
        loss.item()
        end = time.perf_counter()
        return {
            "forward": forward - began, "distance maps": mapped - forward, "loss": lost - mapped,
            "backward": back - lost, "optimizer": end - back, "step": end - began,
        }  # fmt: skip


def published_map(mask: np.ndarray) -> torch.Tensor:
    """The signed distance map as the paper's code makes it: two transforms and a boundary search."""
    outside, inside = distance_transform_edt(mask == 0), distance_transform_edt(mask)
    boundary = find_boundaries(mask, mode="inner")
    phi = (outside - outside.min()) / np.ptp(outside) - (inside - inside.min()) / np.ptp(inside)
    phi[boundary] = 0
    return torch.from_numpy(phi.astype(np.float32))


def make_method(spec: DataSpec, width: int, device: torch.device) -> methods.Method:
    torch.manual_seed(0)
    return methods.build("dtc", NetworkFactory(NetworkSpec(name="vnet", width=width), spec)).to(device).train()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patch", type=int, nargs=3, default=[112, 112, 80])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--stock-allocator", action="store_true")
    chosen = parser.parse_args()
    name = ("cuda" if torch.cuda.is_available() else "cpu") if chosen.device == "auto" else chosen.device
    device = torch.device(name)
    if device.type == "cpu" and not chosen.stock_allocator:
        keep_freed_memory()
    spec = DataSpec(
        labels={0: "background", 1: "object"},
        modality=("MR",),
        spacing_mm=(1, 1, 1),
        patch=tuple(chosen.patch),
    )
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        ours = Ours(volumes(folder), spec, chosen.width, device, folder / "cache")
        reference = Reference(spec, chosen.width, device)
        batch = next(ours.loader)
        ours.step(), reference.step(batch)  # warm-up
        rounds = [(ours.step(), reference.step(batch)) for _ in range(chosen.rounds)]
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {device}")
    for title, found in (("ours", [a for a, _ in rounds]), ("reference", [b for _, b in rounds])):
        medians = {phase: statistics.median(one[phase] for one in found) for phase in found[0]}
        print(f"\n| {title} | seconds | share |\n|---|---|---|")
        for phase, seconds in medians.items():
            print(f"| {phase} | {seconds:.3f} | {seconds / medians['step']:.1%} |")
        if title == "ours":
            other = 1 - statistics.median((one["forward"] + one["backward"]) / one["step"] for one in found)
            print(f"| all but forward and backward | | {other:.2%} |")
    ratio = statistics.median(a["step"] / b["step"] for a, b in rounds)
    print(f"\nstep, ours over reference: {ratio:.3f}")


if __name__ == "__main__":
    main()
