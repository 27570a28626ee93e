"""Time left of a comparison: what like runs took, less what those under way have had of it."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from statistics import mean

from medseg.workflows.compare.scores.rows import RunKey


class TimeLeft:
    """Counts down while runs are made, and learns from each that ends.

    Args:
        runs: those that are to be made.
        jobs: how many are made at a time.
        first_guess: seconds of a run, as long as none has ended; None: not known.
        now: a clock, in seconds.
    """

    def __init__(
        self,
        runs: Sequence[RunKey],
        jobs: int,
        first_guess: float | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._waiting = Counter(key.arm for key in runs)
        self._jobs, self._first_guess, self._now = jobs, first_guess, now
        self._begun: dict[RunKey, float] = {}
        self._taken: dict[str, list[float]] = defaultdict(list)

    def begin(self, key: RunKey) -> None:
        """A run is started."""
        self._waiting[key.arm] -= 1
        self._begun[key] = self._now()

    def leave_out(self, key: RunKey) -> None:
        """A run is not made here: another command makes it."""
        self._waiting[key.arm] -= 1

    def end(self, key: RunKey, *, failed: bool = False) -> None:
        """A run has ended; how long one took that failed says nothing of the others."""
        taken = self._now() - self._begun.pop(key)
        if not failed:
            self._taken[key.arm].append(taken)

    def seconds(self) -> float | None:
        """Seconds left; None as long as nothing is known of how long a run takes.

        A run that takes longer than those before it counts as one that ends at any moment, so that the time never
        grows while it is made.
        """
        lanes = [0.0] * max(0, self._jobs - len(self._begun))
        for key, begun in self._begun.items():
            whole = self._of_a_run(key.arm)
            if whole is None:
                return None
            lanes.append(max(0.0, whole - (self._now() - begun)))
        for arm in self._waiting.elements():
            whole = self._of_a_run(arm)
            if whole is None:
                return None
            lanes.sort()
            lanes[0] += whole  # it is started where a core becomes free first
        return max(lanes)

    def _of_a_run(self, arm: str) -> float | None:
        if self._taken[arm]:
            return mean(self._taken[arm])
        if self._first_guess is not None:
            return self._first_guess
        everything = [taken for of_arm in self._taken.values() for taken in of_arm]
        return mean(everything) if everything else None
