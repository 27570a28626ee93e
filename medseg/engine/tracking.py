"""Sends the numbers of a training run to MLflow too, by MONAI's handler: `--track mlflow`."""

from __future__ import annotations

import json
import logging
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any

from ignite.engine import Engine
from monai.handlers import MLFlowHandler

from medseg import __version__ as version
from medseg.atomic import write_whole
from medseg.engine import distributed
from medseg.errors import ConfigError
from medseg.progress import say

RECORD = "mlflow.json"
"""In the run folder: which run of MLflow it is."""

STORE = "mlflow.db"
"""In the run folder, unless `MLFLOW_TRACKING_URI` names another place."""

LARGEST_BATCH = 100  # parameters that MLflow takes at once
PASSWORD = re.compile(r"//[^/@\s]*@")
FORBIDDEN = re.compile(r"[^/\w.\- :]")  # in names of MLflow


class RunHandler(MLFlowHandler):
    """MONAI's handler without parameters of an engine: a run of medseg may have several, one for each network."""

    default_tracking_params: list[str] = []  # noqa: RUF012  # as MONAI declares it


class MLflowTracker:
    """The run of MLflow that follows a run folder.

    A run that is continued is continued there as well. Where MLflow cannot be reached any more the training goes on
    without it, and says so once.

    Args:
        folder: the run folder.
        handler: of MONAI.
        run_id: of its run.
        continued: whether MLflow may have numbers of that run already.
    """

    def __init__(self, folder: Path, handler: MLFlowHandler, run_id: str, *, continued: bool = False) -> None:
        self.folder = folder
        self.handler = handler
        self.client = handler.client
        self.run_id = run_id
        self._continued = continued
        self._logged: dict[str, int] = {}
        self._lost = False

    def add(self, place: Path, iteration: int, values: Mapping[str, float]) -> None:
        """Log numbers of one network.

        What an earlier command logged, and did again after it was continued, is there already, with the same values.

        Args:
            place: the folder of the network's log; below the run folder its path goes before the names.
            iteration: step of that network.
            values: by name, such as `train/loss`; those that are not finite are left out.
        """
        inner = place.relative_to(self.folder).as_posix()
        before = "" if inner == "." else f"{inner}/"
        named = {FORBIDDEN.sub("_", before + name): value for name, value in values.items() if isfinite(value)}
        self._try(lambda: self._log(iteration, named))

    def _log(self, iteration: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        moment = int(time.time() * 1000)
        new = {name: value for name, value in values.items() if iteration > self._last_step(name)}
        metrics = [Metric(name, value, moment, iteration) for name, value in new.items()]
        self.client.log_batch(self.run_id, metrics=metrics)
        self._logged |= dict.fromkeys(new, iteration)

    def _last_step(self, name: str) -> int:
        """The last step of a number that MLflow has; -1: none."""
        if name not in self._logged:
            history = self.client.get_metric_history(self.run_id, name) if self._continued else []
            self._logged[name] = max((each.step for each in history), default=-1)
        return self._logged[name]

    def add_settings(self, settings: Mapping[str, Any]) -> None:
        """Log settings as parameters, unless they are there.

        Args:
            settings: of any depth; a parameter is called as `--set` calls the setting.
        """
        from mlflow.entities import Param

        known = self.client.get_run(self.run_id).data.params
        found = {FORBIDDEN.sub("_", name): value for name, value in _flat("", settings)}
        pending = iter([Param(name, value) for name, value in found.items() if name not in known])
        while batch := list(islice(pending, LARGEST_BATCH)):
            self.client.log_batch(self.run_id, params=batch)

    def end(self, status: str) -> None:
        """Say how the run ended: FINISHED, KILLED (it can be continued) or FAILED."""
        self.handler.run_finish_status = status
        self._try(self.handler.close)

    def _try(self, act: Callable[[], None]) -> None:
        """Do what may fail without an end to the training; after the first failure nothing is tried any more."""
        from mlflow.exceptions import MlflowException

        if self._lost:
            return
        try:
            act()
        except MlflowException as error:
            self._lost = True
            say(f"warning: MLflow: {_first_line(error)}; the rest of this run is not tracked, metrics.jsonl has it all")


@contextmanager
def tracked(track: str | None, folder: Path, settings: Mapping[str, Any]) -> Iterator[MLflowTracker | None]:
    """Follow what is trained inside the block; the first process does so for all.

    Args:
        track: "mlflow"; None: nothing follows.
        folder: the run folder; with checkpoints in it the run of MLflow is continued that followed them.
        settings: of the resolved plan.

    Yields:
        What the logs give their numbers to.

    Raises:
        ConfigError: MLflow is not installed or cannot be reached.
    """
    if track is None or distributed.rank() != 0:
        yield None
        return
    tracker = _open(folder, settings)
    status = "FAILED"
    try:
        yield tracker
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.end(status)


def _open(folder: Path, settings: Mapping[str, Any]) -> MLflowTracker:
    from mlflow.exceptions import MlflowException

    for name in ("mlflow", "alembic"):  # tell when they make a new store
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # by default minutes go by before it gives up
    store = os.environ.get("MLFLOW_TRACKING_URI") or sqlite_address(folder / STORE)
    try:
        tracker = _join(folder, store)
        tracker.add_settings(settings)
    except (MlflowException, ValueError) as error:
        hint = "MLFLOW_TRACKING_URI names a server or a database, such as sqlite:///runs/mlflow.db"
        line = f"--track mlflow: {_first_line(error)}; the store is {store}"
        raise ConfigError(PASSWORD.sub("//", line), hint=hint) from error
    return tracker


def _join(folder: Path, store: str) -> MLflowTracker:
    """The run of MLflow that followed a run folder before, or a new one."""
    record = folder / RECORD
    begun = any(folder.glob("**/last.pt"))
    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "medseg")
    # MONAI's handler goes on with an unfinished run of the same name, which may be another folder's
    unique = f"{folder.name}-{uuid.uuid4().hex}"
    handler = RunHandler(tracking_uri=store, experiment_name=experiment, run_name=unique)
    if begun and record.is_file():
        run_id = json.loads(record.read_text(encoding="utf-8"))["run_id"]
        handler.client.update_run(run_id, status="RUNNING")
        handler.cur_run = handler.client.get_run(run_id)
        return MLflowTracker(folder, handler, run_id, continued=True)
    handler.start(Engine(lambda engine, batch: None))
    run: Any = handler.cur_run
    run_id = run.info.run_id
    handler.client.set_tag(run_id, "mlflow.runName", folder.name)
    handler.client.set_tag(run_id, "medseg.version", version)
    write_whole(record, json.dumps({"run_id": run_id}) + "\n")
    return MLflowTracker(folder, handler, run_id)


def sqlite_address(path: Path) -> str:
    """The address of a store in a file, with the signs encoded that mean something in addresses."""
    encoded = path.absolute().as_posix().replace("%", "%25").replace("?", "%3F")
    return f"sqlite:///{encoded}"


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Settings one by one, by the names that `--set` has for them."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}" if name else str(key), inner)
    elif isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        for number, inner in enumerate(value):
            yield from _flat(f"{name}.{number}", inner)
    elif name:
        yield name, value if isinstance(value, str) else json.dumps(value)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
