"""Time left of a run with rounds, from how long like work took."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping

from rich.console import Console

from medseg.workflows.reports.formatting import format_duration

EVERY_SECONDS = 30.0


class TimeLeft:
    """Time left: the work that is left of each kind, times what like work took.

    Args:
        plan: kind -> amount of it in the whole run, such as trainings; one that is half as long counts half.
        shown: False on ranks that stay silent.
    """

    def __init__(self, plan: Mapping[str, float], *, shown: bool = True) -> None:
        self.left = {kind: float(count) for kind, count in plan.items()}
        self.shown = shown
        self._seconds: dict[str, float] = defaultdict(float)
        self._done: dict[str, float] = defaultdict(float)
        self._said = float("-inf")

    def done(self, kind: str, seconds: float, size: float = 1.0) -> None:
        """A piece of work is finished, now or by an earlier command that noted how long it took."""
        self._seconds[kind] += seconds
        self._done[kind] += size
        self.left[kind] = max(0.0, self.left[kind] - size)

    def skip(self) -> None:
        """Nothing more will be done: the rounds ended early."""
        self.left = dict.fromkeys(self.left, 0.0)

    def seconds_left(self, running: str | None = None, left_of_it: float = 0.0, taken: float = 0.0) -> float | None:
        """Seconds left of the whole; None where no work of a kind that is left has been done yet.

        Args:
            running: kind of the work that is being done.
            left_of_it: seconds left of that work, by its own count.
            taken: seconds that it has taken, from which the first of its kind is estimated.
        """
        total = left_of_it
        for kind, count in self.left.items():
            is_running = kind == running
            rest = count - 1 if is_running else count
            if rest <= 0:
                continue
            if self._done[kind]:
                total += rest * self._seconds[kind] / self._done[kind]
            elif is_running:
                total += rest * (taken + left_of_it)
            elif kind == "training":
                return None  # the rest is short beside it
        return total

    def words(self, running: str | None = None, left_of_it: float = 0.0, taken: float = 0.0) -> str:
        """The time left in words, such as "about 34.0 min left of the whole"; empty where it is not known yet."""
        left = self.seconds_left(running, left_of_it, taken)
        return "" if left is None else f"about {format_duration(left)} left of the whole"

    def say(self, what: str, *, now: bool = True) -> None:
        """A line on standard error; without `now` only if the last one was half a minute ago."""
        if not self.shown:
            return
        moment = time.monotonic()
        if not now and moment - self._said < EVERY_SECONDS:
            return
        self._said = moment
        words = self.words()
        line = f"{what} ({words})" if words else what
        Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)
