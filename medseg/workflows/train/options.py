"""Options of `medseg train` and `medseg plan`, checked before any file is opened."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from medseg.errors import ConfigError
from medseg.options import Option, check_types
from medseg.progress import say

Task = Annotated[str, Option("A pipeline: a name of `medseg list`, a YAML, or an earlier run's folder.")]
Data = Annotated[Path, Option("Manifest of the data set.")]
Overrides = Annotated[tuple[str, ...], Option("Change a setting: a.b=value; repeatable.", ("--set",))]
Methods = Annotated[
    tuple[Any, ...],
    Option("A method of your own, whose file is executed; repeatable.", ("--method",), metavar="FILE.py:Class"),
]
"""In Python a class does as well."""
Device = Annotated[str, Option("auto, cpu, cuda, cuda:N or mps.")]
Budget = Annotated[str | None, Option("Time for training, e.g. 25m: the plan is made to fit this machine.")]
InitFrom = Annotated[Path | None, Option("Run, bundle or encoder whose weights to start from, class by class.")]

Track = Annotated[str | None, Option("Log the numbers there too: mlflow.")]

ALL = "all"
"""Of `--fold`: one training after the other."""

TRACKERS = {"mlflow": ("mlflow", "sqlalchemy", "alembic")}
"""What `--track` takes, and the packages that it needs."""

SECONDS = {"s": 1, "m": 60, "h": 3600}
SHORTEST_BUDGET = 10.0
"""Seconds; loading a case and measuring a step take longer."""


@dataclass(frozen=True)
class PlanOptions:
    """Options of `medseg plan`."""

    task: Task
    data: Data
    output: Annotated[Path, Option("YAML to write; train it with --task.", ("--output", "-o"))]
    overrides: Overrides = ()
    method: Methods = ()
    device: Device = "auto"
    budget: Budget = None
    init_from: InitFrom = None

    def __post_init__(self) -> None:
        if self.budget is not None:
            budget_seconds(self.budget)  # first: what is no text is a number without a unit
        check_types(self)


@dataclass(frozen=True)
class PretrainOptions:
    """Options of `medseg pretrain`."""

    task: Annotated[str, Option("A pre-training: a name of `medseg list`, or a YAML.")]
    data: Annotated[Path, Option("Manifest of the data set; all its training images are seen; labels teach nothing.")]
    output: Annotated[Path | None, Option("Run folder; default runs/TASK-DATA.", ("--output", "-o"))] = None
    overrides: Overrides = ()
    method: Methods = ()
    device: Device = "auto"
    budget: Budget = None
    resume: Annotated[bool, Option("Continue an interrupted run.")] = False
    init_from: Annotated[Path | None, Option("Encoder, run or bundle whose weights to start from.")] = None
    track: Track = None

    def __post_init__(self) -> None:
        if self.budget is not None:
            budget_seconds(self.budget)  # first: what is no text is a number without a unit
        check_types(self)
        check_track(self.track)

    @property
    def folder(self) -> Path:
        """The run folder, which gets the encoder."""
        return self.output or Path("runs") / f"{Path(self.task).stem}-{self.data.stem}"


@dataclass(frozen=True)
class TrainOptions:
    """Options of `medseg train`."""

    task: Task
    data: Data
    output: Annotated[Path | None, Option("Run folder; default runs/TASK-DATA.", ("--output", "-o"))] = None
    overrides: Overrides = ()
    method: Methods = ()
    device: Device = "auto"
    budget: Budget = None
    resume: Annotated[bool, Option("Continue an interrupted run.")] = False
    init_from: InitFrom = None
    start: Annotated[Path | None, Option("Former name of --init-from.")] = None
    folds: Annotated[int | None, Option("Cross-validation: in how many folds to split the subjects.")] = None
    fold: Annotated[str | None, Option("Which fold is the validation: 0, 1, ... or all of them.")] = None
    split_seed: Annotated[int, Option("Of the split into folds.")] = 0
    track: Track = None

    def __post_init__(self) -> None:
        if self.budget is not None:
            budget_seconds(self.budget)  # first: what is no text is a number without a unit
        if self.fold is not None:
            object.__setattr__(self, "fold", str(self.fold))  # in Python it may be a number
        check_types(self)
        check_track(self.track)
        self._check_folds()
        if self.start is not None:
            if self.init_from is not None and self.init_from != self.start:
                raise ConfigError("--start is the former name of --init-from; give one of them")
            say("warning: --start is now called --init-from")
            object.__setattr__(self, "init_from", self.start)
            object.__setattr__(self, "start", None)

    def _check_folds(self) -> None:
        """See that the options of a cross-validation are all there, and no others.

        Raises:
            ConfigError: they are not.
        """
        if self.folds is None:
            if self.fold is not None or self.split_seed:
                raise ConfigError("--fold and --split-seed are of a cross-validation: say --folds as well")
            return
        if self.folds < 2:
            raise ConfigError(f"--folds {self.folds}: accepted are 2 and more")
        accepted = [ALL, *map(str, range(self.folds))]
        if self.fold not in accepted:
            found = "--fold is missing" if self.fold is None else f"--fold {self.fold}"
            raise ConfigError(f"--folds {self.folds}: {found}; accepted are 0 to {self.folds - 1}, or {ALL}")

    @property
    def chosen_folds(self) -> list[int]:
        """The folds to train, in order; none without a cross-validation."""
        if self.folds is None or self.fold is None:
            return []
        return list(range(self.folds)) if self.fold == ALL else [int(self.fold)]

    @property
    def folder(self) -> Path:
        """The run folder; of all folds the folder of their run folders `fold0`, `fold1`, ..."""
        if self.output is not None:
            return self.output
        folder = Path("runs") / f"{Path(self.task).stem}-{self.data.stem}"
        return folder / f"fold{self.fold}" if self.fold not in (None, ALL) else folder


def check_track(track: str | None) -> None:
    """See that what is to follow a run is known and installed.

    Raises:
        ConfigError: it is not.
    """
    if track is None:
        return
    if track not in TRACKERS:
        raise ConfigError(f"--track {track}: accepted is {', '.join(TRACKERS)}")
    missing = [name for name in TRACKERS[track] if find_spec(name) is None]
    if missing:
        raise ConfigError(f"--track {track} needs {' and '.join(missing)}", hint=f"pip install medseg[{track}]")


def budget_seconds(budget: str) -> float:
    """Seconds of "90s", "25m" or "1.5h".

    Raises:
        ConfigError: anything else, less than ten seconds, or a bare number, which could be minutes or seconds.
    """
    text = str(budget).strip()
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text)
    if match and not match[2]:
        raise ConfigError(f"--budget {text}: a unit is missing; {text}m is minutes, {text}s seconds, {text}h hours")
    seconds = float(match[1]) * SECONDS[match[2]] if match else 0.0
    if seconds < SHORTEST_BUDGET:
        raise ConfigError(f"--budget {text!r}: expected at least 10 seconds, such as 90s, 25m or 1.5h")
    return seconds
