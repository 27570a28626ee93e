"""What to do when memory runs out: the next smaller way of predicting a volume."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil, gcd

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; torch's CPU allocator has no type of its own for it."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


@dataclass(frozen=True)
class Attempt:
    """With what a volume is predicted.

    Attributes:
        window: voxels of a window.
        batch: windows at once.
        device: where the sums are kept.
    """

    window: tuple[int, int, int]
    batch: int
    device: torch.device

    def smaller(self) -> tuple[Attempt, str] | None:
        """What to try next and how to say it; None when nothing is left."""
        if self.batch > 1:
            half = self.batch // 2
            noun = "windows" if half > 1 else "window"
            return replace(self, batch=half), f"{half} {noun} at once"
        if self.device.type != "cpu":
            return replace(self, device=torch.device("cpu")), "the sums in main memory"
        # networks take multiples of some power of two, 16 for most, that divides the given window
        halves = []
        for length in self.window:
            multiple = gcd(length, 16)
            halves.append(max(multiple, ceil(length / (2 * multiple)) * multiple))
        x, y, z = halves
        if (x, y, z) == self.window:
            return None
        return replace(self, window=(x, y, z)), f"windows of {x} x {y} x {z} voxels, which see less around them"


def with_less_memory(attempt: Attempt, predict: Callable[[Attempt], Tensor]) -> Tensor:
    """Call `predict` with ever smaller attempts until one fits, with one line of warning for each step.

    Raises:
        Exception: the first lack of memory if nothing fits, and whatever else `predict` raises at the first
            attempt.
    """
    shortage: Exception | None = None
    while True:
        try:
            return predict(attempt)
        except Exception as error:
            following = attempt.smaller() if out_of_memory(error) else None
            if following is None:
                raise (shortage or error) from None  # a network may refuse a smaller window in its own words
            shortage = shortage or error.with_traceback(None)  # its frames would hold the memory
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        attempt, how = following
        logger.warning("not enough memory; trying again with %s", how)
