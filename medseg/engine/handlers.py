"""What happens around the steps: ignite handlers with MONAI's `attach`; they act in the order of attaching."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn

from medseg.engine import checkpoint, distributed
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
        self.asked = self.stopped = False  # asked: this process got a signal; stopped: no further step


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


class Together:
    """Keeps several processes in step: their random numbers, and where they stop.

    The random numbers of a step are a function of seed, iteration and rank, since only rank 0 writes checkpoints. A
    signal reaches the processes at different iterations; they ask one another at every tenth.
    """

    def __init__(self, progress: Progress, *, seed: int) -> None:
        self.progress, self.seed = progress, seed

    def attach(self, engine: Engine) -> None:
        """Act around each iteration."""
        engine.add_event_handler(Events.ITERATION_STARTED, self.reseed)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.agree)

    def reseed(self, trainer: MethodTrainer) -> None:
        """Give this rank's random numbers of this iteration."""
        torch.manual_seed((self.seed * 1_000_003 + trainer.state.iteration) * 1009 + distributed.rank())

    def agree(self, trainer: MethodTrainer) -> None:
        """Stop if any process was asked to."""
        if trainer.state.iteration % LOG_EVERY == 0 and distributed.any_of(self.progress.asked):
            self.progress.stopped = True
            trainer.terminate()


@contextmanager
def stop_on_signal(trainer: MethodTrainer, progress: Progress) -> Iterator[None]:
    """First Ctrl-C or TERM: finish this step, save, stop. Second: stop now, with the last checkpoint."""

    def stop(number: int, frame: Any) -> None:
        if progress.asked:
            raise KeyboardInterrupt
        progress.asked = True
        if distributed.world() == 1:  # else `Together` stops all at the same iteration
            progress.stopped = True
            trainer.terminate()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
