"""Results of a comparison: of the folders of its runs, or of its tables where a folder is gone."""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medseg.cores import machine_cores
from medseg.manifest.fields import unit_of
from medseg.manifest.manifest import Manifest
from medseg.portable.io.read import read_header
from medseg.records import read_record
from medseg.workflows.compare.arms.read_arms import Comparison
from medseg.workflows.compare.folder import Folder, data_name, hold
from medseg.workflows.compare.report.description import ArmDescription, Description, Picture
from medseg.workflows.compare.report.findings import Findings, collect
from medseg.workflows.compare.report.measures import OF_VOXELS
from medseg.workflows.compare.report.page import write_report
from medseg.workflows.compare.runs.one_run import OneRun, picture_of, read_result
from medseg.workflows.compare.runs.plans import describe_plan, read_plan, warnings_of
from medseg.workflows.compare.scores.judge import ANSWER
from medseg.workflows.compare.scores.rows import CaseRow, RunKey, RunRow
from medseg.workflows.compare.scores.rows_csv import CASES, RUNS, read_cases, read_runs, write_cases, write_runs
from medseg.workflows.reports.paths import without_folders

MOST_PICTURES = 6
"""Worst cases that the page shows."""


@dataclass
class Results:
    """Rows by run.

    Args:
        runs: a row of each run that is finished or has failed.
        cases: the rows of the cases of each finished run.
    """

    runs: dict[RunKey, RunRow] = field(default_factory=dict)
    cases: dict[RunKey, list[CaseRow]] = field(default_factory=dict)

    def finished(self, key: RunKey) -> bool:
        """Whether a run needs not be made."""
        return key in self.runs and not self.runs[key].message


def read_results(folder: Folder, runs: Sequence[OneRun]) -> Results:
    """What is there of a comparison.

    Raises:
        DataError: a table that is damaged.
    """
    results = Results()
    before = _read_tables(folder)
    for run in runs:
        found = read_result(run)
        if found is None and not run.path.exists() and before.finished(run.key):
            found = before.runs[run.key], before.cases.get(run.key, [])
        if found is not None:
            results.runs[run.key], results.cases[run.key] = found
    return results


def _read_tables(folder: Folder) -> Results:
    """The tables of the folder, which stay when folders of runs are removed."""
    results = Results()
    cases, runs = folder.path / CASES, folder.path / RUNS
    if not (cases.exists() and runs.exists()):
        return results
    results.runs = {row.key: row for row in read_runs(runs)}
    by_key = defaultdict(list)
    for row in read_cases(cases):
        by_key[row.key].append(row)
    results.cases = dict(by_key)
    return results


def _not_asked_for(before: Results, runs: Sequence[OneRun]) -> Results:
    """The finished runs of the tables that are none of these: of another arm, seed or number of labels."""
    asked = {run.key for run in runs}
    others = Results()
    for key, row in before.runs.items():
        if key not in asked and not row.message:
            others.runs[key], others.cases[key] = row, before.cases.get(key, [])
    return others


def write_results(folder: Folder, runs: Sequence[OneRun], describe: Describer) -> Findings:
    """Write the tables and the page of what is there until now.

    The tables keep the finished runs that are not asked for this time: with their folders gone, they are nowhere else.

    Args:
        folder: of the comparison.
        runs: all of the comparison, in their order.
        describe: says what the comparison is.

    Raises:
        OutputError: a file cannot be written.
    """
    with hold(folder.path / ".tables.lock"):  # other commands may write the same
        results = read_results(folder, runs)
        found = [results.runs[run.key] for run in runs if run.key in results.runs]
        rows = [replace(row, message=describe.show(row.message)) for row in found]
        cases = [row for run in runs for row in results.cases.get(run.key, ())]
        others = _not_asked_for(_read_tables(folder), runs)
        other_cases = [row for of_run in others.cases.values() for row in of_run]
        write_cases(folder.path / CASES, [*cases, *other_cases])
        write_runs(folder.path / RUNS, [*rows, *others.runs.values()])
        description = describe(runs, cases)
        write_report(folder.path, description, rows, cases)
    return collect(description, rows, cases)


@dataclass(frozen=True)
class Describer:
    """Says what a comparison is.

    Args:
        comparison: as it was asked for.
        command: that repeats it.
        cores: that each run has.
        versions: package -> version.
        keep_paths: whether pages and tables have absolute paths, and not the names of files alone.
    """

    comparison: Comparison
    command: str
    cores: int
    versions: dict[str, str]
    keep_paths: bool = False

    def show(self, text: str) -> str:
        """A text as pages and tables may have it."""
        return text if self.keep_paths else without_folders(text)

    def __call__(self, runs: Sequence[OneRun], cases: Sequence[CaseRow]) -> Description:
        """The description, with what is known until now."""
        comparison = self.comparison
        data = str(comparison.arms[0].data)
        answers = {run.key: read_record(run.path / ANSWER) for run in runs}
        return Description(
            title=comparison.name,
            command=self.show(self.command),
            arms=tuple(self._arm(arm.name, runs, data) for arm in comparison.arms),
            data=self.show(data),
            judged=self.show(self._judged(runs)),
            effort=self._effort(),
            planned=tuple(run.key for run in runs),
            machine=f"{_processor()}, {self.cores} of {machine_cores()} cores for each run",
            versions=self.versions,
            tolerance_mm=comparison.tolerance_mm,
            unit=unit_of(file for case in Manifest.load(data).cases for file in case.image),
            planar=is_planar(runs, answers, cases),
            has_background=runs[0].data.judged.has_background,
            pictures=tuple(_worst_pictures(runs, answers)),
            notes=tuple(self._notes(runs)),
        )

    def _notes(self, runs: Sequence[OneRun]) -> Iterator[str]:
        """What the comparison's file says of it, and what was warned of when plans were made."""
        if self.comparison.description:
            yield self.comparison.description
        plans = {data_name(run.key): run.folder.plan(run.key) for run in runs}
        for name, plan in plans.items():
            for line in warnings_of(plan):
                yield f"{name}, when it was sized: {self.show(line)}"

    def _arm(self, name: str, runs: Sequence[OneRun], data: str) -> ArmDescription:
        arm = next(arm for arm in self.comparison.arms if arm.name == name)
        first = next(run for run in runs if run.key.arm == name)
        plan = first.folder.plan(first.key)
        return ArmDescription(
            name,
            self.show(arm.task),
            tuple(self.show(each) for each in arm.overrides),
            "" if str(arm.data) == data else self.show(str(arm.data)),
            describe_plan(read_plan(plan)) if plan.exists() else "",
        )

    def _judged(self, runs: Sequence[OneRun]) -> str:
        comparison = self.comparison
        first = runs[0]
        if comparison.test is not None:
            folds = "" if comparison.folds is None else f", by the networks of {comparison.folds} folds"
            return f"{_cases(len(first.data.judged.test))} of the list test of {comparison.test}{folds}"
        if comparison.folds is not None:
            names = {case.name for run in runs for case in run.data.judged.test}
            return f"{_cases(len(names))}, each out of its fold of {comparison.folds}"
        return f"{_cases(len(first.data.judged.test))} of the list test"

    def _effort(self) -> str:
        comparison = self.comparison
        if comparison.budget is not None:
            return f"each run sized for {comparison.budget}"
        if comparison.iterations is not None:
            return f"{comparison.iterations} iterations of each network of each stage"
        return "each pipeline's own number of iterations"


def _cases(number: int) -> str:
    return "1 case" if number == 1 else f"{number} cases"


def is_planar(runs: Sequence[OneRun], answers: Mapping[RunKey, Mapping[str, Any]], cases: Sequence[CaseRow]) -> bool:
    """Whether images are 2D: as the runs' folders say, or where all of them are gone, the first image.

    Args:
        runs: of the comparison.
        answers: run -> what its folder says; nothing where it is gone.
        cases: rows of finished runs.

    Raises:
        DataError: the image cannot be read.
    """
    known = [answer["planar"] for answer in answers.values() if "planar" in answer]
    if known:
        return all(known)
    judged = runs[0].data.judged
    if judged.has_background:
        has_counts = any(not row.metrics for row in cases)
    else:
        has_counts = any(OF_VOXELS.tested in row.metrics for row in cases)  # classes of whole images have none
    if not has_counts:
        return False
    return 1 in read_header(judged.images(judged.test[0])[0]).shape


def _processor() -> str:
    """The model of the processor, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _worst_pictures(runs: Sequence[OneRun], answers: dict[RunKey, dict]) -> list[Picture]:
    """The worst case of each arm, the worst arm first."""
    of_arm: dict[str, Picture] = {}
    for run in runs:
        worst = answers[run.key].get("worst")
        if not worst or not picture_of(run).is_file():
            continue
        picture = Picture(picture_of(run), run.key, worst["case"], worst["dice"])
        known = of_arm.get(run.key.arm)
        if known is None or (known.dice or 0.0) > worst["dice"]:
            of_arm[run.key.arm] = picture
    ranked = sorted(of_arm.values(), key=lambda picture: picture.dice or 0.0)
    return ranked[:MOST_PICTURES]
