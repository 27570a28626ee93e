"""Side-by-side timing for the benches: candidates take turns, so that a busy machine disturbs all alike."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

CLOCKS = {"cpu": time.process_time, "wall": time.perf_counter}


def compare(
    title: str, candidates: dict[str, Callable[[], object]], rounds: int, clock: str = "cpu", warm_up: bool = True
) -> dict[str, float]:
    """Print a table; the ratio is the median of the per-round ratios to the first candidate.

    Returns:
        The ratio of each candidate.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    now = CLOCKS[clock]
    for run in candidates.values() if warm_up else ():
        run()
    for _ in range(rounds):
        for name, run in candidates.items():
            start = now()
            run()
            seconds[name].append(now() - start)
    first = np.array(next(iter(seconds.values())))
    print(f"\n**{title}**\n\n| case | median s ({clock}) | time / first |\n|---|---|---|")
    ratios = {name: float(np.median(np.array(taken) / first)) for name, taken in seconds.items()}
    for name, taken in seconds.items():
        print(f"| {name} | {np.median(taken):.4g} | {ratios[name]:.3g} |", flush=True)
    return ratios
