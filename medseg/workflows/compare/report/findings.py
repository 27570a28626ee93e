"""What came out of a comparison: results and differences of its finished runs, and which runs are missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medseg.workflows.compare.report.description import Description
from medseg.workflows.compare.report.differences import Difference, compare_arms
from medseg.workflows.compare.report.measures import Measures, measures_of
from medseg.workflows.compare.report.statistics import ArmResult, summarize
from medseg.workflows.compare.scores.rows import CaseRow, RunKey, RunRow
from medseg.workflows.reports.formatting import count_of


@dataclass(frozen=True)
class Findings:
    """What the report tells.

    Args:
        description: of the comparison.
        runs: finished ones.
        results: of each arm and number of labels that has a finished run.
        differences: of the other arms from the first.
        missing: the runs that are not finished, and why; a phrase each.
    """

    description: Description
    runs: tuple[RunRow, ...]
    results: tuple[ArmResult, ...]
    differences: tuple[Difference, ...]
    missing: tuple[str, ...]

    @property
    def first(self) -> str:
        """Name of the arm that the others are compared with."""
        return self.description.arms[0].name

    @property
    def measures(self) -> Measures:
        """What is shown and tested."""
        return measures_of({name for result in self.results for name in result.over_all})

    @property
    def labels(self) -> list[int | None]:
        """The numbers of labelled subjects, rising; one None where the comparison does not vary them."""
        planned = [key.labels for key in self.description.planned]
        found = {*planned, *(result.labels for result in self.results)} or {None}
        return sorted(found, key=lambda count: -1 if count is None else count)

    def result(self, labels: int | None, arm: str) -> ArmResult | None:
        """Of an arm; None where no run of it is finished."""
        return next((each for each in self.results if (each.labels, each.arm) == (labels, arm)), None)

    def difference(self, labels: int | None, arm: str, metric: str) -> Difference | None:
        """Of an arm from the first; None where there is none."""
        wanted = labels, arm, metric
        return next((each for each in self.differences if (each.labels, each.arm, each.metric) == wanted), None)

    def runs_of(self, labels: int | None, arm: str) -> list[RunRow]:
        """The finished runs of an arm."""
        return [run for run in self.runs if (run.key.labels, run.key.arm) == (labels, arm)]

    def count_planned(self, labels: int | None, arm: str) -> int:
        """How many runs an arm should have."""
        planned = [key for key in self.description.planned if (key.labels, key.arm) == (labels, arm)]
        return max(len(planned), len(self.runs_of(labels, arm)))


def collect(description: Description, runs: Sequence[RunRow], cases: Sequence[CaseRow]) -> Findings:
    """Work out what came out.

    Args:
        description: of the comparison.
        runs: finished and failed ones.
        cases: of all runs; those of runs that are not finished are left out.
    """
    finished = [run for run in runs if not run.message]
    keys = {run.key for run in finished}
    order = [arm.name for arm in description.arms]
    kept = [row for row in cases if row.key in keys]
    kept.sort(key=lambda row: order.index(row.key.arm) if row.key.arm in order else len(order))
    return Findings(
        description,
        tuple(finished),
        tuple(summarize(kept, has_background=description.has_background)),
        tuple(compare_arms(kept, order[0])),
        tuple(_name_missing(description, runs)),
    )


def describe_key(key: RunKey) -> str:
    """A run as people name it: "dtc, seed 1, 4 labelled subjects, fold 0"."""
    parts = [key.arm, f"seed {key.seed}"]
    if key.labels is not None:
        parts.append(count_of(key.labels, "labelled subject"))
    if key.fold is not None:
        parts.append(f"fold {key.fold}")
    return ", ".join(parts)


def _name_missing(description: Description, runs: Sequence[RunRow]) -> list[str]:
    lines = [f"{describe_key(run.key)}: failed, {run.message}" for run in runs if run.message]
    known = {run.key for run in runs}
    for key in description.planned:
        if key not in known:
            lines.append(f"{describe_key(key)}: not finished")
    return lines
