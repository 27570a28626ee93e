"""The models that a server offers: which bundle of each is in service, opened once and kept."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.atomic import make_folder, real_path, write_whole
from medseg.bundle.bundle import OpenBundle, open_bundle
from medseg.errors import BundleError, ConfigError, OutputError
from medseg.portable.io.write import remove_leftovers, temporary_name

LIST = "models.json"
SERVICE = "service.json"
GIVEN = "given-"


def names_of(runs: Sequence[Path]) -> dict[str, Path]:
    """A name for each run or bundle, as it appears in addresses: that of its folder.

    Raises:
        ConfigError: two have the same name.
    """
    found: dict[str, Path] = {}
    for run in runs:
        folder = real_path(run)
        folder = folder.parent if folder.name == "bundle" else folder
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", folder.name) or "model"
        if name in found or name == "consensus":
            raise ConfigError(f"{run}: there is another model called {name}; rename one of the folders")
        found[name] = real_path(run)
    return found


@dataclass(frozen=True)
class Service:
    """The record of a published model.

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
        run: run folder or bundle that the server was started with; training goes on with its settings and cases.
        given: the server's own copy of its bundle, see `keep`.
        folder: where trainings and the record of what is in service go.
    """

    def __init__(self, name: str, run: Path, given: Path, folder: Path) -> None:
        self.name, self.run, self.given, self.folder = name, run, given, folder
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
        return self.given if service is None else self.folder / service.bundle

    @property
    def origin(self) -> str:
        """Digest of the bundle that was given."""
        if self._origin is None:
            self._origin = open_bundle(self.given).digest
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
        return {name: value for value, name in data.structures.items()}


def _stamp(record: Path) -> tuple[int, int] | None:
    try:
        found = record.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_ino


def keep(bundle: OpenBundle, folder: Path) -> Path:
    """Copy a bundle into a model's folder, so that nothing that is done with the server reaches the user's run.

    Args:
        bundle: of the run that the server was started with.
        folder: of the model.

    Returns:
        The copy; an older one of an equal bundle is taken again, those of others are removed.

    Raises:
        BundleError: the bundle was changed meanwhile.
        OutputError: it cannot be copied.
    """
    kept = make_folder(folder) / f"{GIVEN}{bundle.digest[:16]}"
    if not _is_copy(kept, bundle):
        remove_leftovers(folder)
        part = temporary_name(kept)
        try:
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(bundle.path, part, ignore=shutil.ignore_patterns("__pycache__"))
            if not _is_copy(part, bundle):
                raise BundleError("was changed while the server copied it", path=bundle.path, hint="start it again")
            shutil.rmtree(kept, ignore_errors=True)  # damaged
            part.rename(kept)
        except (OSError, shutil.Error) as error:
            raise OutputError(f"cannot be copied ({error})", path=bundle.path, hint=f"see to {folder}") from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
    for other in folder.glob(f"{GIVEN}*"):
        if other != kept:
            shutil.rmtree(other, ignore_errors=True)
    return kept


def _is_copy(folder: Path, bundle: OpenBundle) -> bool:
    try:
        return folder.is_dir() and open_bundle(folder).digest == bundle.digest
    except BundleError:
        return False


def write_list(app: Path, models: Sequence[Model], work: Path) -> None:
    """Tell the app which models there are.

    Raises:
        OutputError: it cannot be written.
    """
    places = {model.name: {"run": str(model.run), "given": str(model.given)} for model in models}
    content = {"work": str(work), "models": places}
    write_whole(app / LIST, json.dumps(content, indent=1) + "\n")


def read_list(app: Path) -> dict[str, Model]:
    """The models of an app folder.

    Raises:
        OutputError: the folder was not made by `medseg serve`.
    """
    try:
        content = json.loads((app / LIST).read_text("utf-8"))
        work = Path(content["work"])
        places = {name: (Path(place["run"]), Path(place["given"])) for name, place in content["models"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise OutputError("lists no models", path=app / LIST, hint="start with `medseg serve`") from error
    return {name: Model(name, run, given, work / name) for name, (run, given) in places.items()}
