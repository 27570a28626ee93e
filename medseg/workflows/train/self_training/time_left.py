"""Where a run with many pieces is, and how long the whole will take."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping

from rich.console import Console
from torch import nn

from medseg import methods
from medseg.config import Stage
from medseg.errors import ConfigError
from medseg.method import Method
from medseg.workflows.reports.formatting import format_duration

EVERY_SECONDS = 30.0


class Outlook:
    """Time left: the pieces that are left of each kind, times what like pieces took.

    Args:
        plan: kind -> pieces of it in the whole run; a piece that is half as long counts half.
        shown: False on ranks that stay silent.
    """

    def __init__(self, plan: Mapping[str, float], *, shown: bool = True) -> None:
        self.left = {kind: float(count) for kind, count in plan.items()}
        self.shown = shown
        self._seconds: dict[str, float] = defaultdict(float)
        self._done: dict[str, float] = defaultdict(float)
        self._said = float("-inf")

    def done(self, kind: str, seconds: float, size: float = 1.0) -> None:
        """A piece is finished, now or by an earlier command that noted how long it took."""
        self._seconds[kind] += seconds
        self._done[kind] += size
        self.left[kind] = max(0.0, self.left[kind] - size)

    def skip(self) -> None:
        """Nothing more will be done: the rounds ended early."""
        self.left = dict.fromkeys(self.left, 0.0)

    def seconds_left(self, running: str | None = None, left_of_it: float = 0.0, taken: float = 0.0) -> float | None:
        """Seconds left of the whole; None where nothing is known of a kind that is left.

        Args:
            running: kind of the piece that is being made.
            left_of_it: seconds left of that piece, by its own count.
            taken: seconds that it has taken, from which the first of its kind is judged.
        """
        total = left_of_it
        for kind, count in self.left.items():
            rest = max(0.0, count - (kind == running))
            if not rest:
                continue
            if self._done[kind]:
                total += rest * self._seconds[kind] / self._done[kind]
            elif kind == running:
                total += rest * (taken + left_of_it)
            elif kind == "training":
                return None  # the rest is short beside it
        return total

    def words(self, running: str | None = None, left_of_it: float = 0.0, taken: float = 0.0) -> str:
        """What there is to say of it, such as: about 34.0 min left of the whole."""
        left = self.seconds_left(running, left_of_it, taken)
        return "" if left is None else f"about {format_duration(left)} left of the whole"

    def say(self, what: str, *, now: bool = True) -> None:
        """A line on standard error; without `now` only if the last one was half a minute ago."""
        if not self.shown or (not now and time.monotonic() - self._said < EVERY_SECONDS):
            return
        self._said = time.monotonic()
        words = self.words()
        line = f"{what} ({words})" if words else what
        Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)


WARM_PART = 0.5
"""Of the iterations that a network has which starts from its teacher, and a tenth of its learning rate."""


def check_stage(stage: Stage) -> None:
    """Refuse rounds where the method has no rule for them.

    Raises:
        ConfigError: naming the method.
    """
    if stage.rounds and methods.find(stage.method.name).relabel is Method.relabel:
        raise ConfigError(
            f"rounds is {stage.rounds}, and the method {stage.method.name} makes no pseudo-labels",
            hint="take dmpct, or rounds: 0",
        )


def relabeller(stage: Stage, classes: int) -> Method:
    """The stage's method without a network: relabelling knows the votes alone."""
    return methods.build(stage.method.name, nn.Identity(), classes=classes, **stage.method.options)


def student_part(stage: Stage) -> float:
    """How long the training of a student is, of its teacher's."""
    return WARM_PART if relabeller(stage, 2).warm_students else 1.0


def trainings(stage: Stage, unlabeled: int) -> float:
    """Trainings of one network in the whole stage; one that is half as long counts half.

    Args:
        stage: with its views and rounds.
        unlabeled: cases; without any there are no rounds.
    """
    rounds = stage.rounds if unlabeled else 0
    return max(1, len(stage.views)) * (1 + (student_part(stage) * rounds if rounds else 0))
