"""What the processes do that make batches."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from medseg.errors import OutputError

TIMEOUT_SECONDS = 900
"""That a batch may take, far more than any does: one would wait for ever for a worker that failed."""

MANY = 1024
_LOST = "DataLoader"  # in every message of torch on workers that ended or did not answer


def affordable_workers(batch: int, shared: Path, each: int) -> int:
    """Workers that can hand over what they make: by shared memory, as files.

    Args:
        batch: its bytes.
        shared: where shared memory is.
        each: batches of a worker that wait there at a time.
    """
    largest, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if largest != resource.RLIM_INFINITY and largest < batch:
        return 0  # it could not be written, and a worker tells nobody of it
    if not shared.is_dir():
        return MANY
    return int(shutil.disk_usage(shared).free / batch / each)  # beyond it a bus error would end them


@contextmanager
def lost_workers() -> Iterator[None]:
    """An error of one line where a worker ended or did not answer.

    Raises:
        OutputError: what to do.
    """
    try:
        yield
    except RuntimeError as error:
        if _LOST not in str(error):
            raise
        reason = str(error).splitlines()[0]
        hint = "--resume goes on; where memory is short begin with --set stages.0.schedule.workers=0"
        raise OutputError(f"a process that makes batches is lost ({reason})", hint=hint) from error


def answer_no_signals(worker: int) -> None:
    """The training process alone answers signals: it finishes its step, saves, and ends the workers.

    Ctrl-C reaches a whole process group; so does the TERM of torchrun and of many schedulers. The TERM by which the
    training process ends its workers must still do so, or both would wait for each other.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # elsewhere nobody tells who sent a signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_by_parent, daemon=True).start()


def _end_by_parent() -> None:
    parent = os.getppid()
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


@contextmanager
def one_thread() -> Iterator[None]:
    """What a loader worker has, here too: how work is split over threads shows in the last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
