"""How many of the machine's cores this process may use, and how much of them other programs take."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

CONTROL_GROUP = Path("/sys/fs/cgroup/cpu.max")
"""Where a container reads how much processor time it may have (version 2 of Linux' control groups)."""

PROCESSES = Path("/proc")

_MUCH = 0.1
"""Part of the cores' time that is worth a word."""


def usable_cores() -> int:
    """Cores that the system lets this process run on.

    They are fewer than the machine has under `taskset`, in most jobs of a cluster and in containers that are bound to
    some of them or may have the time of some only; more processes than these would only wait for each other.
    """
    allowed = len(core_numbers())
    quota = _quota()
    return allowed if quota is None else max(1, min(allowed, quota))


def machine_cores() -> int:
    """Cores of the machine, whether this process may use them or not."""
    return os.cpu_count() or 1


def core_numbers() -> list[int]:
    """The numbers of the cores that this process may run on."""
    if not hasattr(os, "sched_getaffinity"):
        return list(range(machine_cores()))
    return sorted(os.sched_getaffinity(0))


@contextmanager
def pinned(cores: Sequence[int]) -> Iterator[None]:
    """Processes that are started inside the block may run on these cores only, where the system can do that."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    with suppress(OSError):  # a sandbox may forbid it
        os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        with suppress(OSError):
            os.sched_setaffinity(0, before)


def _quota() -> int | None:
    """Cores whose time the control group of this process may have; None: no limit, or none that can be read."""
    try:
        granted, period = CONTROL_GROUP.read_text(encoding="ascii").split()
        return None if granted == "max" else math.ceil(int(granted) / int(period))
    except (OSError, ValueError):
        return None


@dataclass(frozen=True)
class CoreUse:
    """Use of the cores that this process may use, over some time.

    Args:
        own: processor seconds of this process and of those that it started.
        others: processor seconds of everybody else on these cores.
        wall: seconds by the clock.
        cores: how many cores.
    """

    own: float
    others: float
    wall: float
    cores: int

    @property
    def share_of_others(self) -> float:
        """Part of these cores' time that others took, in [0, 1]."""
        return min(1.0, max(0.0, self.others / max(1e-9, self.wall * self.cores)))

    @property
    def is_contended(self) -> bool:
        """Whether others took a part of the cores that this process could have used: no core was left idle."""
        idle = 1 - (self.own + self.others) / max(1e-9, self.wall * self.cores)
        return self.share_of_others >= _MUCH and idle < _MUCH

    def alone(self, seconds: float, processor_seconds: float, threads: int) -> float:
        """How long a piece of work would have taken on an idle machine.

        Args:
            seconds: that it took.
            processor_seconds: of its threads together.
            threads: that it was spread over.
        """
        least = max(processor_seconds / threads, seconds * (1 - self.share_of_others))
        return min(seconds, least)


class CoreWatch:
    """Counts processor time from when it is made; only Linux tells what others take, elsewhere that is 0."""

    def __init__(self) -> None:
        self._wall = time.monotonic()
        self._busy = _busy_seconds()
        self._own = _own_seconds()

    def use(self) -> CoreUse:
        """What was used since."""
        wall = time.monotonic() - self._wall
        own = _own_seconds() - self._own
        busy = _busy_seconds()
        others = 0.0 if busy is None or self._busy is None else max(0.0, busy - self._busy - own)
        return CoreUse(own, others, wall, usable_cores())


def _busy_seconds() -> float | None:
    """Seconds that the usable cores have worked for anybody since the machine was started."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    names = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    total = 0
    try:
        for line in (PROCESSES / "stat").read_text(encoding="ascii").splitlines():
            name, *ticks = line.split()
            if name in names:
                user, nice, system, _idle, _wait, *interrupts_and_stolen = (int(tick) for tick in ticks[:8])
                total += user + nice + system + sum(interrupts_and_stolen)
    except (OSError, ValueError):
        return None
    return total / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    """Processor seconds of this process and all that it started."""
    if not (PROCESSES / "self" / "stat").exists():
        times = os.times()
        return times.user + times.system + times.children_user + times.children_system
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for folder in PROCESSES.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        number = int(folder.name)
        parents[number] = int(fields[1])
        ticks[number] = sum(int(field) for field in fields[11:15])  # its own, and those of its ended children
    total = 0
    for number, used in ticks.items():
        ancestor = number
        while ancestor not in (0, os.getpid()):
            ancestor = parents.get(ancestor, 0)
        total += used if ancestor else 0
    return total / os.sysconf("SC_CLK_TCK")
