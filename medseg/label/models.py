"""The models that a server offers: which bundle of each is in service, opened once and kept."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.bundle import OpenBundle, open_bundle
from medseg.errors import BundleError, ConfigError, OutputError
from medseg.files import write_whole

LIST = "models.json"
SERVICE = "service.json"


def names_of(runs: Sequence[Path]) -> dict[str, Path]:
    """A name for each run or bundle, as it appears in addresses: that of its folder.

    Raises:
        ConfigError: two have the same name.
    """
    found: dict[str, Path] = {}
    for run in runs:
        folder = run.resolve()
        folder = folder.parent if folder.name == "bundle" else folder
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", folder.name) or "model"
        if name in found or name == "consensus":
            raise ConfigError(f"{run}: there is another model called {name}; rename one of the folders")
        found[name] = run.resolve()
    return found


@dataclass(frozen=True)
class Service:
    """What is written of a published model.

    Attributes:
        bundle: folder of the bundle in service, relative to the model's folder.
        origin: digest of the bundle that the server was started with.
        dice: mean Dice on the validation cases when it was published.
    """

    bundle: str
    origin: str
    dice: float


class Model:
    """One model: the bundle that was given, or the better one that was trained from it.

    Args:
        name: as in addresses.
        run: run folder or bundle that the server was started with.
        folder: where trainings and the record of what is in service go.
    """

    def __init__(self, name: str, run: Path, folder: Path) -> None:
        self.name, self.run, self.folder = name, run, folder
        self._lock = threading.Lock()
        self._opened: tuple[Any, OpenBundle] | None = None
        self._origin: str | None = None

    @property
    def bundle(self) -> OpenBundle:
        """The bundle in service; read again only when another one was published."""
        with self._lock:
            key = _stamp(self.folder / SERVICE)
            if self._opened is None or self._opened[0] != key:
                self._opened = key, open_bundle(self.place)
            return self._opened[1]

    @property
    def place(self) -> Path:
        """Folder of the bundle in service."""
        service = self.service
        return self.run if service is None else self.folder / service.bundle

    @property
    def origin(self) -> str:
        """Digest of the bundle that was given."""
        if self._origin is None:
            self._origin = open_bundle(self.run).digest
        return self._origin

    @property
    def service(self) -> Service | None:
        """What was published; None where nothing was, or the given bundle is another one since."""
        record = self.folder / SERVICE
        try:
            service = Service(**json.loads(record.read_text("utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise BundleError(f"is damaged ({error})", path=record, hint="remove it") from error
        return service if service.origin == self.origin else None

    def publish(self, bundle: Path, dice: float) -> None:
        """Put a bundle into service, from the next request on.

        Args:
            bundle: inside the model's folder.
            dice: on the validation cases.

        Raises:
            OutputError: it cannot be written.
        """
        service = Service(bundle.relative_to(self.folder).as_posix(), self.origin, dice)
        write_whole(self.folder / SERVICE, json.dumps(service.__dict__) + "\n")

    @property
    def labels(self) -> dict[str, int]:
        """Name -> value in the results, without the background."""
        data = self.bundle.data
        return {data.labels[value]: value for value in data.label_values[1:]}


def _stamp(record: Path) -> tuple[int, int] | None:
    try:
        found = record.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_ino


def write_list(app: Path, models: dict[str, Path], work: Path) -> None:
    """Tell the app which models there are.

    Raises:
        OutputError: it cannot be written.
    """
    content = {"work": str(work), "models": {name: str(run) for name, run in models.items()}}
    write_whole(app / LIST, json.dumps(content, indent=1) + "\n")


def read_list(app: Path) -> dict[str, Model]:
    """The models of an app folder.

    Raises:
        OutputError: the folder was not made by `medseg label start`.
    """
    try:
        content = json.loads((app / LIST).read_text("utf-8"))
        work, runs = Path(content["work"]), dict(content["models"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError("lists no models", path=app / LIST, hint="start with `medseg label start`") from error
    return {name: Model(name, Path(run), work / name) for name, run in runs.items()}
