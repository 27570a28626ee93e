"""The C library's memory settings for prediction and training on a CPU: freed memory is kept for the next step."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # parameters of mallopt(3)


def keep_freed_memory(*, threads: bool = False) -> bool:
    """Let the C library keep what tensors give back instead of returning it to the operating system.

    By default glibc maps every large block anew and unmaps it when it is freed, so that each activation of each step is
    paid for again, page by page; on a virtual machine that was a third of the step of a V-Net
    (`benchmarks/trainings/bench_step.py`). The price: freed blocks do not always fit what comes next, and the process
    holds about a fifth more memory, until it ends.

    Args:
        threads: tensors are made in other threads than the main one. Each would have a heap of its own, which is given
            back whatever the settings are, so that all have to share one; call it before the first of them starts.

    Returns:
        Whether the C library took it: other ones than glibc have no such setting, and nothing changes there.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    settings = [(_TRIM_THRESHOLD, -1), (_MMAP_MAX, 0)]
    if threads:
        settings.append((_ARENA_MAX, 1))
    return all(mallopt(parameter, value) for parameter, value in settings)
