"""Options of `medseg compare`, checked before any file is opened."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from medseg.config.pipeline import LARGEST_SEED
from medseg.errors import ConfigError
from medseg.options import Option, check_types, several
from medseg.workflows.train.options import budget_seconds

WHAT, HOW, QUEUE = "What is compared", "How long, judged on what", "The queue of runs"


@dataclass(frozen=True)
class CompareOptions:
    """Options of `medseg compare`; what a YAML of arms says is taken where an option says nothing."""

    comparison: Annotated[Path | None, Option("YAML of arms, as those in `comparisons/`.", argument=True)] = None
    output: Annotated[Path | None, Option("Folder to write; default runs/compare-NAME.", ("--output", "-o"))] = None
    tasks: Annotated[
        tuple[str, ...], Option("Pipelines, one arm each: supervised,dtc.", group=WHAT, metavar="TASK,TASK")
    ] = ()
    arms: Annotated[
        tuple[str, ...], Option("Of all arms these alone: supervised,dtc.", group=WHAT, metavar="ARM,ARM")
    ] = ()
    data: Annotated[Path | None, Option("Manifest of the data set.", group=WHAT)] = None
    overrides: Annotated[
        tuple[str, ...], Option("Change a setting of every arm: a.b=value; repeatable.", ("--set",), WHAT)
    ] = ()
    seeds: Annotated[tuple[str, ...], Option("Of the trainings: 0,1,2.", group=WHAT, metavar="N,N")] = ()
    labels: Annotated[
        tuple[str, ...], Option("Learn from the labels of so many subjects: 4,8,16.", group=WHAT, metavar="N,N")
    ] = ()

    budget: Annotated[str | None, Option("Equal minutes: each arm's plan is made to fit, e.g. 15m.", group=HOW)] = None
    iterations: Annotated[int | None, Option("Equal iterations in every stage of every arm.", group=HOW)] = None
    test: Annotated[Path | None, Option("Manifest whose test cases judge; default: each arm's own.", group=HOW)] = None
    folds: Annotated[int | None, Option("Judge out of fold instead: this many, by subject.", group=HOW)] = None
    split_seed: Annotated[int | None, Option("Of folds and of fewer labels; default 0.", group=HOW)] = None
    tolerance_mm: Annotated[float | None, Option("Of the surface Dice; default 1.", group=HOW)] = None

    jobs: Annotated[int, Option("Runs side by side, each on its own cores.", group=QUEUE)] = 1
    shard: Annotated[str | None, Option("Do every fifth run from the second: 2/5.", group=QUEUE, metavar="N/M")] = None
    resume: Annotated[bool, Option("Go on with the comparison that the folder holds.", group=QUEUE)] = False
    device: Annotated[str, Option("auto, cpu, cuda, cuda:N or mps.", group=QUEUE)] = "auto"
    keep_paths: Annotated[bool, Option("Absolute paths in page and tables, not names alone.", group=QUEUE)] = False

    def __post_init__(self) -> None:
        for name in ("tasks", "arms", "seeds", "labels"):
            object.__setattr__(self, name, split_commas(getattr(self, name)))
        check_types(self)
        if (self.comparison is None) == (not self.tasks):
            found = "is missing" if self.comparison is None else "is given twice: a YAML of arms and --tasks"
            raise ConfigError(f"what to compare {found}; accepted is one YAML of arms, or --tasks supervised,dtc")
        check_seeds(self.seeds, "--seeds")
        check_labels(self.labels, "--labels")
        check_effort(self.budget, self.iterations, "--budget", "--iterations")
        check_judged(self.test, self.folds, "--test", "--folds")
        if self.folds is not None and self.folds < 2:
            raise ConfigError(f"--folds {self.folds}: accepted are 2 and more")
        if self.jobs < 1:
            raise ConfigError(f"--jobs {self.jobs}: accepted are 1 and more")
        if self.tolerance_mm is not None and not 0 <= self.tolerance_mm < float("inf"):
            raise ConfigError(f"--tolerance-mm {self.tolerance_mm}: a length of 0 or more is wanted")
        if self.shard is not None:
            _parse_shard(self.shard)

    @property
    def part(self) -> tuple[int, int]:
        """Which part of the runs this command does, from 0, and of how many parts."""
        number, count = (1, 1) if self.shard is None else _parse_shard(self.shard)
        return number - 1, count


def _parse_shard(shard: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"--shard {shard!r}: accepted are 1/5 to 5/5, for 5 commands")
    return int(match[1]), int(match[2])


def split_commas(given: Any) -> tuple[str, ...]:
    """Values given as "0,1,2", one by one, or both."""
    values = [given] if isinstance(given, int) else several(given)
    parts = [part.strip() for value in values for part in str(value).split(",")]
    return tuple(part for part in parts if part)


def check_seeds(seeds: Sequence[str | int], source: str) -> tuple[int, ...]:
    """Seeds as numbers.

    Args:
        seeds: as they were given.
        source: the option or the file that gives them.

    Raises:
        ConfigError: one that is no whole number from 0 to `LARGEST_SEED`, or the same twice.
    """
    numbers = _whole_numbers(seeds, source, least=0)
    for number in numbers:
        if number > LARGEST_SEED:
            raise ConfigError(f"{source}: {number} is too large; accepted are whole numbers from 0 to {LARGEST_SEED}")
    return numbers


def check_labels(labels: Sequence[str | int], source: str) -> tuple[int, ...]:
    """Numbers of labelled subjects.

    Raises:
        ConfigError: one that is no whole number from 1, or the same twice.
    """
    return _whole_numbers(labels, source, least=1)


def check_effort(budget: str | None, iterations: int | None, of_budget: str, of_iterations: str) -> None:
    """See that the length of the trainings is given once, and possible.

    Raises:
        ConfigError: it is not.
    """
    if budget is not None and iterations is not None:
        raise ConfigError(f"{of_budget} and {of_iterations} are both given; equal minutes are not equal iterations")
    if budget is not None:
        budget_seconds(budget)
    if iterations is not None and iterations < 1:
        raise ConfigError(f"{of_iterations} {iterations}: accepted are 1 and more")


def check_judged(test: Path | str | None, folds: int | None, of_test: str, of_folds: str) -> None:
    """See that what judges is said once.

    Raises:
        ConfigError: it is not.
    """
    if test is not None and folds is not None:
        raise ConfigError(f"{of_test} and {of_folds} are both given; cases of a test list judge, or those out of fold")


def _whole_numbers(given: Sequence[str | int], source: str, *, least: int) -> tuple[int, ...]:
    numbers = []
    for value in given:
        text = str(value)
        if isinstance(value, bool) or not text.isdecimal() or int(text) < least:
            raise ConfigError(f"{source}: {value!r} is none; accepted are whole numbers from {least}, such as 1,2,3")
        numbers.append(int(text))
    if len(set(numbers)) < len(numbers):
        raise ConfigError(f"{source}: {', '.join(map(str, numbers))} has a number twice")
    return tuple(numbers)
