"""Real servers in processes of their own, and small trained models for them."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))  # the generated data set that all tests share
os.environ.setdefault("OMP_NUM_THREADS", "1")

from archives import orthanc_in  # noqa: E402
from servers import Server, free_port  # noqa: E402
from tiny import write_dataset  # noqa: E402

from medseg.workflows.train import run as training  # noqa: E402

ENOUGH = ["stages.0.network.width=4", "stages.0.schedule.workers=0", "stages.0.schedule.validate_every=40"]
VOLUMES = [
    *ENOUGH,
    "stages.0.schedule.iterations=40",
    "data.patch=[16,16,16]",
    "data.spacing_mm=[1.2,1,1.5]",
    "data.augment.crop.probability=0",
    "stages.0.network.options.norm=instance",
]  # both structures after 40 steps
SLICES = [*ENOUGH, "stages.0.schedule.iterations=20", "stages.0.rounds.count=1", "data.patch=[32,32,32]"]
BALL, DTC, PLANES = "ball_mr_segmentation", "dtc_ball", "planes_segmentation"
MODELS = {
    BALL: ("supervised", [*VOLUMES, "stages.0.network.name=vnet"]),
    DTC: ("dtc", VOLUMES),
    PLANES: ("dmpct", [*SLICES, "data.spacing_mm=[1,1,1]"]),
}


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
            training.train(task, data, folder / name, overrides=settings, device="cpu")
        return folder / name

    return trained


def images_of(data: Path, folder: Path) -> Path:
    """A folder with all images and no label."""
    folder.mkdir()
    for image in sorted(data.parent.glob("case?.nii.gz")):
        shutil.copy(image, folder)
    return folder


def launch(studies: object, models: list[Path], place: Path, *options: str, **environment: str) -> Server:
    """A server of `medseg serve` that is on its way."""
    port = free_port()
    command = [sys.executable, "-m", "medseg", "serve", "--studies", studies, "--models", *models]
    command += ["--port", port, "--work", place / "work", *options]
    server = Server([str(part) for part in command], port, place / "home", environment)
    server.work = place / "work"
    return server


def start(studies: object, models: list[Path], place: Path, *options: str, **environment: str) -> Server:
    """A server of `medseg serve`, once it answers; it and the tests know its token as a service does."""
    token = secrets.token_hex(16)
    server = launch(studies, models, place, *options, MEDSEG_TOKEN=token, **environment)
    server.token = token
    return server.wait()


@pytest.fixture(scope="session")
def app(data, train, tmp_path_factory) -> Iterator[Server]:
    """A server of two models over a folder of six images; its runs are copies, which may be trained further."""
    place = tmp_path_factory.mktemp("app")
    runs = [shutil.copytree(train(name), place / name) for name in (BALL, PLANES)]
    (place / "temporary").mkdir()
    server = start(images_of(data, place / "studies"), runs, place, TMPDIR=str(place / "temporary"))
    server.studies = place / "studies"
    server.watches(place / "temporary")
    yield server
    server.stop(signal.SIGTERM)


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory) -> Iterator[Server]:
    """A DICOM store of its own on loopback."""
    store = orthanc_in(tmp_path_factory.mktemp("orthanc"))
    if store is None:
        pytest.skip("Orthanc is not installed (apt-get install orthanc orthanc-dicomweb)")
    try:
        yield store.wait("/system")
    finally:
        store.stop(signal.SIGTERM)


def serve(orthanc: Server, run: Path, place: Path) -> Server:
    temporary = place / "temporary"
    temporary.mkdir()
    server = start(f"{orthanc.url}/dicom-web", [run], place / "label", TMPDIR=str(temporary))
    server.watches(temporary)
    return server
