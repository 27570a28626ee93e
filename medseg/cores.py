"""How many of the machine's cores this process may use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Cores that the system lets this process run on.

    They are fewer than the machine has under `taskset`, in most jobs of a cluster and in containers that are bound to
    some of them; more processes than these would only wait for each other.
    """
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
