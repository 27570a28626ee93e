"""What the processes do that make batches."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
