"""MONAI Label's background tasks: one of a kind at a time, and none outlives the server.

Each is a process, watched by a thread of the server for which Python would wait before it ends.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import psutil
from monailabel.utils.async_tasks import utils
from monailabel.utils.async_tasks.task import AsyncTask

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
    """As MONAI Label's: the task, or None and why there is none."""
    if force_sync:
        return _stock(method, request, params, force_sync, enqueue)
    with _submitting:
        if not enqueue and _starting(method):
            return None, f"{method} is already running; wait, or stop it"
        _submitted[method] = time.monotonic()
        return _stock(method, request, params, force_sync, enqueue)


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
