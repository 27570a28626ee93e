"""What the processes do that make batches."""

from __future__ import annotations

import os
import signal
import threading


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
