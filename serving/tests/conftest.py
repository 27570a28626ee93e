"""Real servers in processes of their own, and small trained models for them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))  # the generated data set that all tests share
os.environ.setdefault("OMP_NUM_THREADS", "1")

from servers import Server, free_port
from tiny import write_dataset

ENOUGH = ["stages.0.network.width=4", "stages.0.schedule.workers=0", "stages.0.schedule.validate_every=40"]
VOLUMES = [*ENOUGH, "stages.0.schedule.iterations=40", "data.patch=[16,16,16]", "data.spacing_mm=[1.2,1,1.5]"]
PLANES = [*ENOUGH, "stages.0.schedule.iterations=20", "stages.0.rounds=1", "data.patch=[32,32,32]"]
MODELS = {
    "ball_mr_segmentation": ("supervised", [*VOLUMES, "stages.0.network.name=vnet"]),
    "dtc_ball": ("dtc", VOLUMES),
    "planes_segmentation": ("dmpct", [*PLANES, "data.spacing_mm=[1,1,1]"]),
}


def medseg(*arguments: object) -> subprocess.CompletedProcess:
    """Run a command of medseg; it must succeed."""
    command = [sys.executable, "-m", "medseg", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """A manifest with two labelled, two unlabelled, one validation and one test case."""
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def train(data, tmp_path_factory) -> Callable[[str], Path]:
    """Trains one of `MODELS` once; gives its run folder."""
    folder = tmp_path_factory.mktemp("runs")

    def trained(name: str) -> Path:
        task, settings = MODELS[name]
        if not (folder / name).exists():
            chosen = [part for text in settings for part in ("--set", text)]
            medseg("train", "--task", task, "--data", data, "--output", folder / name, "--device", "cpu", *chosen)
        return folder / name

    return trained


@pytest.fixture
def studies(data, tmp_path) -> Path:
    """A folder with all images and no label."""
    folder = tmp_path / "studies"
    folder.mkdir()
    for image in sorted(data.parent.glob("case?.nii.gz")):
        shutil.copy(image, folder)
    return folder


@pytest.fixture
def serve(tmp_path) -> Iterator[Callable[..., Server]]:
    """Starts servers of `medseg label start`; all are stopped after the test."""
    running: list[Server] = []

    def start(studies: object, *models: Path, **environment: str) -> Server:
        port = free_port()
        work = tmp_path / f"work{len(running)}"
        command = [sys.executable, "-m", "medseg", "label", "start", "--studies", studies, "--models", *models]
        command += ["--port", port, "--work", work]
        server = Server([str(part) for part in command], port, tmp_path / f"home{len(running)}", environment)
        server.work = work
        running.append(server)
        return server.wait()

    yield start
    for server in running:
        server.stop(signal.SIGTERM)
