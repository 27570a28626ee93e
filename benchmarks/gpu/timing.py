"""Seconds and GPU memory of a piece of work."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

GIB = 2**30


@dataclass(frozen=True)
class Timing:
    """What one piece of work took.

    Args:
        seconds: of each round.
        peak_gib: most GPU memory that tensors held at once, those from before the work too; None on a CPU.
        result: what the last round returned.
    """

    seconds: list[float]
    peak_gib: float | None
    result: Any = None

    @property
    def median(self) -> float:
        """Seconds of the middle round."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Slowest round over fastest: what differs by less than this is equal."""
        return max(self.seconds) / min(self.seconds)


def synchronize(device: torch.device) -> None:
    """Wait until the GPU has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(run: Callable[[], object], device: torch.device, *, rounds: int, warm_up: int = 1) -> Timing:
    """Time `run` by the clock, from an idle GPU to an idle GPU."""
    for _ in range(warm_up):
        run()
    synchronize(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        result = run()
        synchronize(device)
        seconds.append(time.perf_counter() - began)
    return Timing(seconds, peak_gib(device), result)


def peak_gib(device: torch.device) -> float | None:
    """Most memory that tensors held since the last reset."""
    return torch.cuda.max_memory_allocated(device) / GIB if device.type == "cuda" else None


def free(device: torch.device) -> None:
    """Give back what is no longer used, so that the next candidate starts from nothing."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
