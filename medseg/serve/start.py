"""`medseg serve`: check what is given, make the app's folder, and become the server."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from medseg.atomic import make_folder, real_path, write_whole
from medseg.bundle.bundle import open_bundle
from medseg.errors import BundleError, ConfigError
from medseg.progress import say
from medseg.serve.access.settings import Access, write_access
from medseg.serve.models import Model, keep, names_of, write_list
from medseg.serve.standins import folders, python_path

MAIN = '''"""What MONAI Label loads; made by `medseg serve`."""

from medseg.serve.app import MedSegApp

__all__ = ["MedSegApp"]
'''
ENVIRONMENT = {
    "MONAI_LABEL_TRACKING_ENABLED": "false",
    # else every scoring method runs when the server starts and whenever somebody asks for a study
    "MONAI_LABEL_AUTO_UPDATE_SCORING": "false",
    # what `keep_freed_memory` sets, for a server started by the printed line and for what servers start themselves
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "-1",
}
WEB = "medseg.serve.web:app"


def prepare(studies: str, models: Sequence[Path], work: Path, access: Access) -> tuple[Path, dict[str, str]]:
    """Check studies and models, copy the models, and make the folder of the app.

    Args:
        studies: folder or DICOMweb address.
        models: run folders or bundles.
        work: where the app, its logs, copied and trained models go.
        access: who may use the server.

    Returns:
        The app's folder, and environment variables of the server.

    Raises:
        BundleError: a model that is no bundle, or that classifies whole images.
        ConfigError: no studies, or two models of one name.
        OutputError: the folder cannot be made, or a model not be copied.
    """
    if not studies.startswith(("http://", "https://")) and not Path(studies).is_dir():
        raise ConfigError("is no folder of studies", path=studies, hint="make it, or give a DICOMweb address")
    named = names_of(models)
    bundles = {name: open_bundle(run) for name, run in named.items()}
    for name, bundle in bundles.items():
        if bundle.data.regions:
            raise ConfigError(
                f"{name} has regions, which overlap, and clients of the server show one class a voxel",
                path=bundle.path,
                hint="medseg predict writes them, each as a segment of its own with --format dicom-seg",
            )
        if bundle.data.target == "images":
            raise BundleError(
                "classifies whole images; the server serves models that segment",
                path=bundle.path,
                hint="medseg predict classifies images, medseg export writes the network as ONNX",
            )
    modalities = {modality for bundle in bundles.values() for modality in bundle.data.modality}
    app, folder = make_folder(real_path(work) / "app"), make_folder(real_path(work) / "models")
    served = [Model(name, run, keep(bundles[name], folder / name), folder / name) for name, run in named.items()]
    write_whole(app / "main.py", MAIN)
    write_access(app, access)
    write_list(app, served, folder)
    environment = dict(ENVIRONMENT)
    if len(modalities) == 1:
        environment["MONAI_LABEL_DICOMWEB_SEARCH_FILTER"] = json.dumps({"Modality": modalities.pop()})
    return app, {key: os.environ.get(key, value) for key, value in environment.items()}


def arguments(app: Path, studies: str, host: str, port: int) -> list[str]:
    """What follows `monailabel` in the command that starts the server."""
    place = studies if studies.startswith(("http://", "https://")) else str(real_path(Path(studies)))
    where = ["--host", host, "--port", str(port)]
    return ["start_server", "--app", str(app), "--studies", place, *where, "--uvicorn_app", WEB]


def line(given: Sequence[str], environment: Mapping[str, str]) -> str:
    """The command for a shell."""
    whole = {"PYTHONPATH": python_path(), **environment}
    settings = [f"{key}={shlex.quote(value)}" for key, value in whole.items()]
    return " ".join([*settings, "monailabel", *map(shlex.quote, given)])


def check_port(host: str, port: int) -> None:
    """See that the server can listen.

    Raises:
        ConfigError: the port is taken, or the address is none of this machine.
    """
    if not 0 < port < 65536:
        raise ConfigError(f"--port {port}: 1 to 65535 are possible")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"{host}:{port} cannot be used ({error.strerror})", hint="choose another --port or --host"
            ) from error


def become_server(given: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run MONAI Label in this process, as its own command would.

    Raises:
        ConfigError: MONAI Label is not installed here.
    """
    if importlib.util.find_spec("monailabel") is None:
        raise ConfigError(
            "MONAI Label is not installed beside this medseg",
            hint="it wants an environment of its own: see docs/serving.md (make label-env)",
        )
    host, port = (given[given.index(option) + 1] for option in ("--host", "--port"))
    say(f"starting MONAI Label at http://{host}:{port}; Ctrl-C ends it")
    # the tools beside this Python, dcmqi's among them, are found without activating its environment
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    # what has to be stood in for is known by now; processes that the server starts read it from the environment
    os.environ.update({"PATH": path, "PYTHONPATH": python_path(), **environment})
    sys.path[:0] = folders()
    sys.argv = ["monailabel", *given]
    from monailabel.main import Main

    Main().run()
