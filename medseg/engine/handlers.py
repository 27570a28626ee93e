"""What happens around the steps: ignite handlers with MONAI's `attach`; they act in the order of attaching."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from torch import nn

from medseg.engine import checkpoint
from medseg.engine.logs import RunLog, TrainingBar
from medseg.engine.trainer import MethodTrainer

LOG_EVERY = 10
SAVE_EVERY_SECONDS = 120.0


class Progress:
    """What the handlers of a run share.

    Args:
        best: best validation Dice so far, -1 before the first.
    """

    def __init__(self, best: float = -1.0) -> None:
        self.best = best
        self.stopped = False


class LogTerms:
    """Writes the loss terms of every tenth iteration; reading them is the only wait for a GPU."""

    def __init__(self, log: RunLog, bar: TrainingBar) -> None:
        self.log, self.bar = log, bar

    def attach(self, engine: Engine) -> None:
        """Act after each iteration."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, trainer: MethodTrainer) -> None:
        """Log, if it is time."""
        iteration = trainer.state.iteration
        if iteration % LOG_EVERY == 0 or iteration == trainer.total:
            terms = {name: float(value) for name, value in trainer.state.output.items()}
            rate = float(trainer.optimizer.param_groups[0]["lr"])
            self.log.add(iteration, "train", {**terms, "lr": rate})
            self.bar.update(iteration, loss=terms["loss"])


class Validate:
    """Scores the segmenter every so often, on all ranks, and keeps the best weights.

    Args:
        score: gives `{"mean": Dice, "classes": {name: Dice or None}}`.
        segmenter: whose weights are kept in `best.pt`.
        folder: of the run.
        progress: shared.
        every: iterations.
        log: None on ranks that write nothing.
        bar: progress bar.
    """

    def __init__(
        self,
        score: Callable[[], dict[str, Any]],
        segmenter: nn.Module,
        folder: Path,
        progress: Progress,
        *,
        every: int,
        log: RunLog | None,
        bar: TrainingBar,
    ) -> None:
        self.score, self.segmenter, self.folder = score, segmenter, folder
        self.progress, self.every, self.log, self.bar = progress, every, log, bar

    def attach(self, engine: Engine) -> None:
        """Act after each iteration."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, trainer: MethodTrainer) -> None:
        """Validate, if it is time."""
        iteration = trainer.state.iteration
        if self.progress.stopped or (iteration % self.every and iteration != trainer.total):
            return
        score = self.score()
        if self.log:
            self.log.add(iteration, "validation", {"dice": score["mean"], "classes": score["classes"]})
            self.bar.update(iteration, dice=score["mean"])
            weights = self.segmenter.state_dict()
            if score["mean"] > self.progress.best and checkpoint.finite(weights):
                checkpoint.save_atomic(weights, self.folder / "best.pt")
        self.progress.best = max(self.progress.best, score["mean"])


class SaveLast:
    """Keeps `last.pt`: after the first iteration, every two minutes, on stopping and at the end.

    When a checkpoint is written does not change the run; weights that are not finite are never written.
    """

    def __init__(self, scheduler: Any, folder: Path, progress: Progress, *, fingerprint: str) -> None:
        self.scheduler, self.path, self.progress = scheduler, folder / "last.pt", progress
        self.fingerprint, self._saved = fingerprint, time.monotonic()

    def attach(self, engine: Engine) -> None:
        """Act after each iteration."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, trainer: MethodTrainer) -> None:
        """Save, if it is time."""
        due = time.monotonic() - self._saved > SAVE_EVERY_SECONDS
        if not (due or self.progress.stopped or trainer.state.iteration in (1, trainer.total)):
            return
        extra = {"best": self.progress.best}
        state = checkpoint.capture(trainer, self.scheduler, fingerprint=self.fingerprint, extra=extra)
        if checkpoint.finite(state["method"]):
            checkpoint.save_atomic(state, self.path)
        self._saved = time.monotonic()


@contextmanager
def stop_on_signal(trainer: MethodTrainer, progress: Progress) -> Iterator[None]:
    """First Ctrl-C or TERM: finish this step, save, stop. Second: stop now, with the last checkpoint."""

    def stop(number: int, frame: Any) -> None:
        if progress.stopped:
            raise KeyboardInterrupt
        progress.stopped = True
        trainer.terminate()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
