"""Handlers of a training run: log, validation, checkpoints and stopping; they act in the order of attaching."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from medseg.engine import checkpoint, distributed
from medseg.engine.logs import RunLog, TrainingBar
from medseg.engine.run_progress import RunProgress
from medseg.engine.trainer import MethodTrainer
from medseg.networks.weight_files import sha256_of
from medseg.stopping import Stopped, describe_stop

LOG_EVERY = 10
PICTURES_EVERY = 500
SAVE_EVERY_SECONDS = 120.0


class LogTerms:
    """Writes the loss terms of every tenth iteration, what the method wants to be watched, and now and then pictures.

    Reading them is the only wait for a GPU.

    Args:
        log: of the run.
        bar: progress bar.
        classes: their names.
    """

    def __init__(self, log: RunLog, bar: TrainingBar, classes: Sequence[str]) -> None:
        self.log = log
        self.bar = bar
        self.classes = tuple(classes)

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
            watched = {name: self._numbers(value) for name, value in trainer.method.watched().items()}
            if watched:
                self.log.add(iteration, "watched", watched)
            if iteration == LOG_EVERY or iteration % PICTURES_EVERY == 0 or iteration == trainer.total:
                self.log.add_pictures(iteration, trainer.method.pictures())
            self.bar.update(iteration, loss=terms["loss"])

    def _numbers(self, value: Tensor) -> float | dict[str, float]:
        """One number, or one under the name of each class."""
        if value.ndim == 0:
            return float(value)
        names = self.classes if len(value) == len(self.classes) else [str(number) for number in range(len(value))]
        return dict(zip(names, value.tolist(), strict=True))


class Validate:
    """Scores the segmenter every so often, on all ranks, and keeps the best weights.

    Args:
        score: gives `{"mean": Dice, "classes": {name: Dice or None}}`; of images that are classified balanced accuracy
            and recalls, and their `accuracy`. Where it chooses between heads of the segmenter, also `head`, whose score
            this is, and `heads`, the mean of each.
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
        progress: RunProgress,
        *,
        every: int,
        log: RunLog | None,
        bar: TrainingBar,
    ) -> None:
        self.score = score
        self.segmenter = segmenter
        self.best_weights = folder / "best.pt"
        self.progress = progress
        self.every = every
        self.log = log
        self.bar = bar

    def attach(self, engine: Engine) -> None:
        """Act after each iteration."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, trainer: MethodTrainer) -> None:
        """Validate, if it is time; a run that is being stopped does it when it is continued."""
        if not self.progress.stopped and self._due(trainer):
            self._validate(trainer.state.iteration)

    def catch_up(self, trainer: MethodTrainer) -> None:
        """Validate what an interruption left out, before the next step: the run goes on as an unbroken one."""
        if self._due(trainer) and self.progress.validated < trainer.state.iteration:
            self._validate(trainer.state.iteration)

    def _due(self, trainer: MethodTrainer) -> bool:
        iteration = trainer.state.iteration
        return iteration > 0 and (iteration % self.every == 0 or iteration == trainer.total)

    def _validate(self, iteration: int) -> None:
        score = self.score()
        if self.log:
            name = "balanced_accuracy" if "accuracy" in score else "dice"
            others = {key: value for key, value in score.items() if key != "mean"}
            self.log.add(iteration, "validation", {name: score["mean"], **others})
            self.bar.update(iteration, **{name: score["mean"]})
            weights = self.segmenter.state_dict()
            if score["mean"] > self.progress.best and checkpoint.all_finite(weights):
                checkpoint.save_atomic(weights, self.best_weights)
                self.progress.best_sha256 = sha256_of(self.best_weights)
                self.progress.head = score.get("head")
                self.progress.unsaved_best = True
        self.progress.best = max(self.progress.best, score["mean"])
        self.progress.follow_heads(score.get("heads", {}))
        self.progress.validated = iteration


class SaveLast:
    """Keeps `last.pt`: after the first iteration, with new best weights, every two minutes, on stopping, at the end.

    When a checkpoint is written does not change the run; weights that are not finite are never written.
    """

    def __init__(self, scheduler: Any, folder: Path, progress: RunProgress, *, fingerprint: str) -> None:
        self.scheduler = scheduler
        self.path = folder / "last.pt"
        self.progress = progress
        self.fingerprint = fingerprint
        self._saved_at = time.monotonic()

    def attach(self, engine: Engine) -> None:
        """Act after each iteration."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, trainer: MethodTrainer) -> None:
        """Save, if it is time."""
        due = time.monotonic() - self._saved_at > SAVE_EVERY_SECONDS
        first_or_last = trainer.state.iteration in (1, trainer.total)
        if not (due or first_or_last or self.progress.unsaved_best or self.progress.stopped):
            return
        extra = self.progress.to_checkpoint()
        state = checkpoint.capture(trainer, self.scheduler, fingerprint=self.fingerprint, extra=extra)
        if checkpoint.all_finite(state["method"]):
            checkpoint.save_atomic(state, self.path)
            self.progress.saved = trainer.state.iteration
        self.progress.unsaved_best = False
        self._saved_at = time.monotonic()


class Reseed:
    """Seeds each process before every step by seed, iteration and rank: only rank 0's generator is in checkpoints."""

    def __init__(self, *, seed: int) -> None:
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """Act before each iteration."""
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, trainer: MethodTrainer) -> None:
        """Seed this rank's generator."""
        torch.manual_seed((self.seed * 1_000_003 + trainer.state.iteration) * 1009 + distributed.rank())


class Stop:
    """Ends the run after a whole step when a signal came, before the other handlers act, so that they save it.

    A signal reaches several processes at different iterations; they agree on one at every tenth.
    """

    def __init__(self, progress: RunProgress) -> None:
        self.progress = progress

    def attach(self, engine: Engine) -> None:
        """Act after each iteration."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, trainer: MethodTrainer) -> None:
        """Stop, if any process got a signal."""
        stop = bool(self.progress.signal)
        if distributed.world() > 1:
            iteration = trainer.state.iteration
            agree_now = iteration % LOG_EVERY == 0 or iteration == trainer.total
            stop = distributed.any_process(stop) if agree_now else False
        if stop:
            self.progress.stopped = True
            trainer.terminate()


@contextmanager
def stop_on_signal(trainer: MethodTrainer, progress: RunProgress) -> Iterator[None]:
    """First Ctrl-C or TERM: finish this step, save, stop. Second: stop now, with the last checkpoint.

    Raises:
        Stopped: after either; its message has the iteration, and what is saved.
    """

    def stop(number: int, frame: Any) -> None:
        if progress.signal:
            raise Stopped(number=number)
        progress.signal = number
        if distributed.rank() == 0:
            _print_from_handler("stopping after this iteration; once more stops at once")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
        if progress.stopped or (progress.signal and distributed.world() == 1):
            raise Stopped(number=progress.signal or signal.SIGINT)
    except KeyboardInterrupt as error:
        iteration = trainer.state.iteration
        place = f"at {iteration} of {trainer.total} iterations"
        raise describe_stop(error, place, _describe_saved(iteration, progress.saved)) from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _describe_saved(iteration: int, saved: int) -> str:
    if saved == iteration:
        return "saved"
    if saved:
        return f"the last checkpoint is of iteration {saved}"
    return "before the first checkpoint"


def _print_from_handler(line: str) -> None:
    """Write to standard error from a signal's handler, which may have interrupted code that holds its lock."""
    with suppress(OSError, ValueError):  # nobody may be left to read it
        below = "\n" if sys.stderr.isatty() else ""  # the progress bar
        os.write(2, f"{below}{line}\n".encode())
