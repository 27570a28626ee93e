"""MONAI Label's background tasks: one of a kind at a time, and none outlives the server.

Each is a process, watched by a thread of the server for which Python would wait before it ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import psutil
from monailabel.utils.async_tasks import utils
from monailabel.utils.async_tasks.task import AsyncTask

from medseg.errors import ConfigError

STARTS = 30.0
"""Seconds that a task may need until it is a process; one that never became any does not bar others for ever."""
STOPS = 10.0
"""Seconds that stopping all tasks may take."""
_submitting = threading.Lock()
_submitted: dict[str, float] = {}


def install() -> None:
    """Let MONAI Label start its tasks by `run`."""
    AsyncTask.run = staticmethod(run)


_stock = AsyncTask.run


def run(
    method: str, request: Any = None, params: Any = None, force_sync: bool = False, enqueue: bool = False
) -> tuple[Any, str | None]:
    """Start a background task: the task, or None and why there is none.

    Raises:
        ConfigError: settings that would change the task's process.
    """
    check_settings(params)
    if force_sync:
        return _stock(method, request, params, force_sync, enqueue)
    with _submitting:
        if not enqueue and _starting(method):
            return None, f"{method} is already running; wait, or stop it"
        _submitted[method] = time.monotonic()
        return _stock(method, request, params, force_sync, enqueue)


def check_settings(given: Any) -> None:
    """Refuse a client's settings that MONAI Label makes the environment of a process of, or cannot.

    Raises:
        ConfigError: a folder that Python would import from, or GPUs in another form than "all" or "0,1".
    """
    if not isinstance(given, Mapping):
        return
    if "bundle_path" in given:
        raise ConfigError("bundle_path is not taken from clients; leave it away")
    if not isinstance(given.get("gpus", ""), str):
        raise ConfigError(f'gpus is {given["gpus"]!r}; "all" or numbers such as "0,1" are possible')
    for inner in given.values():  # settings of each model or method, where a request starts all of them
        check_settings(inner)


def _starting(method: str) -> bool:
    """Whether the newest task is one that is no process yet, which MONAI Label does not count."""
    tasks = utils.background_tasks.get(method) or [{}]
    soon = time.monotonic() - _submitted.get(method, -STARTS) < STARTS
    return soon and tasks[-1].get("status") == "SUBMITTED"


def stop_all() -> None:
    """Stop what runs and forget what waits."""
    for executor in utils.background_executors.values():
        executor.shutdown(wait=False, cancel_futures=True)
    latest = time.monotonic() + STOPS
    for method in list(utils.background_processes):
        while utils.background_processes[method] and time.monotonic() < latest:
            try:
                utils.stop_background_task(method)
            except (psutil.NoSuchProcess, StopIteration):  # it ended; the thread that watches it takes it off the list
                time.sleep(0.05)
