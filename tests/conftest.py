"""What all tests share: few threads, repeatable property tests, slow ones last, real scans if any."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

# before torch is imported, and inherited by every process that a test starts: the tensors are tiny, and where tests run
# side by side there is a core for each. What the first process sets here, the others inherit: they set it anew.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "2")

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

# Files are flushed to disk against a power cut, which no test makes; a training waits for it a hundred times and more.
os.fsync = os.fstat  # an invalid descriptor still fails

# A background shell starts its children with it ignored, which the processes of tests would inherit.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first, so that most mistakes show within a minute; side by side, files with slow tests first."""
    items.sort(key=_is_slow)
    if "PYTEST_XDIST_WORKER" in os.environ:  # a long file that came last would keep one core busy and the others idle
        long_files = {item.path for item in items if _is_slow(item)}
        items.sort(key=lambda item: item.path not in long_files)


def _is_slow(item: pytest.Item) -> bool:
    return item.get_closest_marker("slow") is not None


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of real scans: `MEDSEG_DATA`, or `shared/data` beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("MEDSEG_DATA", beside))
    if not root.is_dir():
        pytest.skip(f"no real scans: {root} is no folder (set MEDSEG_DATA)")
    return root


@pytest.fixture(scope="module")
def undrawn() -> Iterator[None]:
    """Trainings in this process draw no figures, for modules that say nothing of them; commands draw them."""
    from undrawn import without_figures

    with without_figures():
        yield


@pytest.fixture
def one_core() -> Iterator[None]:
    """The test may run on one core only, as under `taskset`."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system does not bind processes to cores")
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)
