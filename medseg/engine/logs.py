"""What a run says while it runs: metrics.jsonl, TensorBoard and one progress bar."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter


class RunLog:
    """Appends records to `metrics.jsonl` and the same numbers to TensorBoard.

    Args:
        folder: the run folder.
        resume_at: iteration that a resumed run continues from; later records are of work that will be done again
            and are dropped.
        validated: iteration up to which validations count; later ones will be done again, too.
    """

    def __init__(self, folder: Path, *, resume_at: int = 0, validated: int | None = None) -> None:
        self.path = folder / "metrics.jsonl"
        last = {"validation": resume_at if validated is None else validated}
        records = [(json.loads(line), line) for line in self._lines()] if resume_at else []
        kept = [line for record, line in records if record["iteration"] <= last.get(record["kind"], resume_at)]
        self._stream = self.path.open("w", encoding="utf-8")
        self._stream.writelines(line + "\n" for line in kept)
        self._stream.flush()
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=resume_at + 1 if resume_at else None)

    def _lines(self) -> list[str]:
        """Whole lines of an earlier log; a kill may have cut the last one."""
        if not self.path.exists():
            return []
        text = self.path.read_text(encoding="utf-8")
        return text.splitlines() if text.endswith("\n") else text.splitlines()[:-1]

    def add(self, iteration: int, kind: str, values: dict[str, Any]) -> None:
        """Record `values` (numbers or nested numbers) of one kind, "train" or "validation"."""
        record = {"iteration": iteration, "kind": kind, **values}
        finite = {key: None if isinstance(v, float) and not isfinite(v) else v for key, v in record.items()}
        self._stream.write(json.dumps(finite, allow_nan=False) + "\n")
        self._stream.flush()
        for name, value in values.items():
            if isinstance(value, float):
                self._board.add_scalar(f"{kind}/{name}", value, iteration)
            elif isinstance(value, dict):
                numbers = {key: v for key, v in value.items() if isinstance(v, float)}
                for key, number in numbers.items():
                    self._board.add_scalar(f"{kind}/{name}/{key}", number, iteration)

    def close(self) -> None:
        """Flush and close both."""
        self._stream.close()
        self._board.close()


class TrainingBar:
    """A progress bar on a terminal; a line every half minute elsewhere.

    Args:
        title: what is being trained.
        total: iterations of the run.
        start: iterations done before.
        shown: False on ranks that stay silent.
        aside: further words, given the seconds left and those taken; of a larger run that this is a piece of.
    """

    def __init__(
        self,
        title: str,
        total: int,
        *,
        start: int = 0,
        shown: bool = True,
        aside: Callable[[float, float], str] | None = None,
    ) -> None:
        self.title, self.total, self.start, self.shown, self.aside = title, total, start, shown, aside
        self._console = Console(stderr=True)
        self._live = shown and sys.stderr.isatty()
        self._began = self._said = time.monotonic()
        self._dice = "-"
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
        self._progress = Progress(*columns, TextColumn("{task.fields[said]}"), console=self._console)
        self._task = self._progress.add_task(title, total=total, completed=start, said="")
        if self._live:
            self._progress.start()

    def update(self, iteration: int, *, loss: float | None = None, dice: float | None = None) -> None:
        """Show an iteration, its loss, and the last Dice."""
        if dice is not None:
            self._dice = f"{dice:.3f}"
        taken = time.monotonic() - self._began
        left = taken / max(iteration - self.start, 1) * (self.total - iteration)
        text = f"Dice {self._dice}" + (f"  loss {loss:.4f}" if loss is not None else "")
        more = f"  {self.aside(left, taken)}" if self.aside else ""
        if self._live:
            self._progress.update(self._task, completed=iteration, said=text + more)
        elif self.shown and time.monotonic() - self._said > 30:
            self._said = time.monotonic()
            line = f"{self.title}: {iteration}/{self.total}  {text}  {left / 60:.1f} min left{more}"
            self._console.print(line, highlight=False)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._live:
            self._progress.stop()
