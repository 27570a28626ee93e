"""The log of a training run: metrics.jsonl, TensorBoard and a progress bar."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from medseg.engine.tracking import MLflowTracker
from medseg.progress import EVERY_SECONDS


class RunLog:
    """Appends records to `metrics.jsonl` and the same numbers to TensorBoard, and to MLflow where it is asked for.

    Args:
        folder: the run folder.
        resume_at: iteration that a resumed run continues from; later records are of work that will be done again
            and are dropped.
        validated: iteration up to which validations count; later ones will be done again, too.
        tracker: gets the same numbers.
    """

    def __init__(
        self,
        folder: Path,
        *,
        resume_at: int = 0,
        validated: int | None = None,
        tracker: MLflowTracker | None = None,
    ) -> None:
        self.folder, self.tracker = folder, tracker
        self.path = folder / "metrics.jsonl"
        kept = self._lines_until(resume_at, resume_at if validated is None else validated)
        self._stream = self.path.open("w", encoding="utf-8")
        self._stream.writelines(line + "\n" for line in kept)
        self._stream.flush()
        purge_step = resume_at + 1 if resume_at else None
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=purge_step)

    def _lines_until(self, trained: int, validated: int) -> list[str]:
        """Lines of an earlier log, up to an iteration of training and one of validation."""
        if not trained:
            return []
        kept = []
        for line in self._whole_lines():
            record = json.loads(line)
            last = validated if record["kind"] == "validation" else trained
            if record["iteration"] <= last:
                kept.append(line)
        return kept

    def _whole_lines(self) -> list[str]:
        """Lines of an earlier log; a kill may have cut the last one."""
        if not self.path.exists():
            return []
        text = self.path.read_text(encoding="utf-8")
        lines = text.splitlines()
        return lines if text.endswith("\n") else lines[:-1]

    def add(self, iteration: int, kind: str, values: dict[str, Any]) -> None:
        """Record `values` (numbers or nested numbers) of one kind, "train" or "validation"."""
        record = {"iteration": iteration, "kind": kind}
        for name, value in values.items():
            is_number = not isinstance(value, float) or isfinite(value)
            record[name] = value if is_number else None
        self._stream.write(json.dumps(record, allow_nan=False) + "\n")
        self._stream.flush()
        scalars = dict(_scalars(kind, values))
        for name, value in scalars.items():
            self._board.add_scalar(name, value, iteration)
        if self.tracker is not None:
            self.tracker.add(self.folder, iteration, scalars)

    def add_pictures(self, iteration: int, pictures: Mapping[str, Tensor]) -> None:
        """Show pictures in TensorBoard, name -> `(1 or 3, height, width)` in [0, 1]."""
        for name, picture in pictures.items():
            self._board.add_image(f"pictures/{name}", picture.cpu(), iteration)

    def close(self) -> None:
        """Flush and close both files."""
        self._stream.close()
        self._board.close()


def _scalars(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """Nested numbers one by one, with the names of those around them before theirs."""
    if isinstance(value, float):
        yield name, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _scalars(f"{name}/{key}", inner)


class TrainingBar:
    """A progress bar on a terminal; a line every half minute elsewhere.

    Args:
        title: what is being trained.
        total: iterations of the run.
        start: iterations done before.
        shown: False on ranks that stay silent.
        note: further text, given the seconds left and those taken; of a larger run that this one is part of.
    """

    def __init__(
        self,
        title: str,
        total: int,
        *,
        start: int = 0,
        shown: bool = True,
        note: Callable[[float, float], str] | None = None,
    ) -> None:
        self.title = title
        self.total = total
        self.start = start
        self.shown = shown
        self.note = note
        self._console = Console(stderr=True)
        self._live = shown and sys.stderr.isatty()
        self._began = time.monotonic()
        self._printed = self._began
        self._score = "Dice -"
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=self._console,
        )
        self._task = self._progress.add_task(title, total=total, completed=start, text="")
        if self._live:
            self._progress.start()

    def update(
        self,
        iteration: int,
        *,
        loss: float | None = None,
        dice: float | None = None,
        balanced_accuracy: float | None = None,
    ) -> None:
        """Show an iteration, its loss, and the last score of the validation cases."""
        if dice is not None:
            self._score = f"Dice {dice:.3f}"
        if balanced_accuracy is not None:
            self._score = f"balanced accuracy {balanced_accuracy:.3f}"
        taken = time.monotonic() - self._began
        left = taken / max(iteration - self.start, 1) * (self.total - iteration)
        text = self._score
        if loss is not None:
            text += f"  loss {loss:.4f}"
        note = f"  {self.note(left, taken)}" if self.note else ""
        if self._live:
            self._progress.update(self._task, completed=iteration, text=text + note)
        elif self.shown and time.monotonic() - self._printed > EVERY_SECONDS:
            self._printed = time.monotonic()
            line = f"{self.title}: {iteration}/{self.total}  {text}  {left / 60:.1f} min left{note}"
            self._console.print(line, highlight=False)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._live:
            self._progress.stop()
