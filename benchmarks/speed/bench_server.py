"""A request to a server of `medseg serve` beside the same prediction in one warm process.

Both read the image's file, predict and write a label file; the server also sends it. The two alternate.
Run where MONAI Label is installed: `OMP_NUM_THREADS=1 .venv-label/bin/python benchmarks/speed/bench_server.py`
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import requests
import torch
from scipy.ndimage import gaussian_filter

from medseg.bundle.bundle import write_bundle
from medseg.config.instantiate import build_network
from medseg.config.pipeline import DataSpec, Intensity, NetworkSpec
from medseg.engine.allocator import keep_freed_memory
from medseg.networks import registry
from medseg.serve.models import Model
from medseg.serve.prediction import predict_study

GOAL = 1.15
SHAPE = (192, 192, 96)
TOKEN = secrets.token_hex(16)
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


def make_bundle(folder: Path, width: int) -> Path:
    """A U-Net with random weights: its time is that of any other."""
    data = DataSpec(
        labels={0: "background", 1: "organ"},
        modality=("CT",),
        spacing_mm=(1.5, 1.5, 2.0),
        patch=(96, 96, 64),
        intensity=Intensity(kind="window", low=-200, high=300, mean=40, std=60),
    )
    chosen = NetworkSpec(name="unet", width=width)
    definition = registry.network_def(chosen, patch=data.patch, in_channels=1, out_channels=data.classes)
    network = build_network(definition).eval()
    return write_bundle(folder, network, network_def=definition, data=data, name="bench")


def make_image(path: Path) -> None:
    path.parent.mkdir(parents=True)
    rng = np.random.default_rng(0)
    voxels = gaussian_filter(rng.standard_normal(SHAPE, np.float32), 4) * 4000
    nib.save(nib.Nifti1Image(voxels.astype(np.int16), np.diag([1.0, 1.0, 2.0, 1])), path)


def start(folder: Path, port: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "medseg", "serve", "--studies", folder / "studies", "--port", port]
    command += ["--models", folder / "model", "--work", folder / "work"]
    with (folder / "log").open("wb") as log:
        environment = {**os.environ, "HOME": str(folder), "MEDSEG_TOKEN": TOKEN}
        return subprocess.Popen([str(c) for c in command], stdout=log, stderr=log, env=environment)


def wait(url: str, server: subprocess.Popen) -> None:
    while server.poll() is None:
        try:
            if requests.get(f"{url}/info/", headers=HEADERS, timeout=30).ok:
                return
        except requests.ConnectionError:
            time.sleep(0.5)
    raise SystemExit(f"the server ended with {server.returncode}")


def measure(url: str, server: int, folder: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of each round, by the clock and of the processors; not of the first, which opens the model."""
    model, image = Model("model", folder / "model", folder / "model", folder / "own"), folder / "studies" / "ct.nii.gz"
    times: dict[str, list[float]] = {"in process": [], "request": [], "in process, CPU": [], "request, CPU": []}
    process = psutil.Process(server)
    for number in range(rounds + 1):
        begun, busy = time.perf_counter(), time.process_time()
        predict_study(model, image, folder / "ours.nii.gz")
        between, busy = time.perf_counter(), time.process_time() - busy
        before = sum(process.cpu_times()[:2])
        options = {"image": "ct", "output": "image"}
        answer = requests.post(f"{url}/infer/model", params=options, headers=HEADERS, timeout=600)
        done = time.perf_counter()
        answer.raise_for_status()
        if number:
            times["in process"].append(between - begun)
            times["request"].append(done - between)
            times["in process, CPU"].append(busy)
            times["request, CPU"].append(sum(process.cpu_times()[:2]) - before)
    (folder / "theirs.nii.gz").write_bytes(answer.content)
    ours, theirs = (np.asarray(nib.load(folder / f"{who}.nii.gz").dataobj) for who in ("ours", "theirs"))
    assert (ours == theirs).all()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=int, default=8)
    chosen = parser.parse_args()
    keep_freed_memory()  # as `medseg predict` and the server do
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_bundle(folder / "model", chosen.width)
        make_image(folder / "studies" / "ct.nii.gz")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = start(folder, port)
        try:
            wait(f"http://127.0.0.1:{port}", server)
            times = measure(f"http://127.0.0.1:{port}", server.pid, folder, chosen.rounds)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)
    for what, seconds in times.items():
        print(f"{what:<16} {statistics.median(seconds):8.3f} s   ({min(seconds):.3f} to {max(seconds):.3f})")
    for kind in ("", ", CPU"):
        ratios = [b / a for a, b in zip(times[f"in process{kind}"], times[f"request{kind}"], strict=True)]
        print(f"request / in process{kind}: {statistics.median(ratios):.3f} (goal: at most {GOAL})")


if __name__ == "__main__":
    main()
