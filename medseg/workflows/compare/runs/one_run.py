"""One run of a comparison: what is there of it, and the commands that make it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from medseg.atomic import make_folder, write_whole
from medseg.records import RECORD, Record, digest_of, read_record
from medseg.workflows.compare.arms.check_arms import ReadyArm
from medseg.workflows.compare.arms.data_sets import DataSet
from medseg.workflows.compare.folder import Folder
from medseg.workflows.compare.runs.plans import count_steps, read_plan
from medseg.workflows.compare.runs.processes import Usage
from medseg.workflows.compare.scores.judge import TRAINING, WORST, write_request
from medseg.workflows.compare.scores.rows import CaseRow, RunKey, RunRow
from medseg.workflows.compare.scores.rows_csv import CASES, RUNS, read_cases, read_runs, write_runs
from medseg.workflows.train.run_folder import RUN

USAGE, LOG = "usage.json", "log.txt"
COUNTED, LOST = "usage.open", "usage.lost"
"""Files that say that a part of the training is being counted, and that nobody was left to note what one took."""


@dataclass(frozen=True)
class OneRun:
    """One run.

    Args:
        folder: of the comparison.
        key: which run.
        ready: its arm.
        data: what it learns from and is judged on.
        device: of training and prediction.
        tolerance_mm: of the surface Dice.
    """

    folder: Folder
    key: RunKey
    ready: ReadyArm
    data: DataSet
    device: str
    tolerance_mm: float

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.folder.run(self.key)

    @property
    def log(self) -> Path:
        """What its processes say."""
        return self.path / LOG

    @property
    def is_made(self) -> bool:
        """Whether its folder holds the finished run, made of the same plan and data."""
        return self.folder.plan(self.key).exists() and self.record().notes() is not None

    def record(self) -> Record:
        """Of the finished run.

        Raises:
            DataError: its plan cannot be read.
        """
        inputs: dict[str, Any] = {
            "plan": digest_of(self.folder.plan(self.key)),
            "learnt": self.data.learnt_identity,
            "judged": self.data.judged_identity,
            "start": self.ready.start.digest if self.ready.start else None,
        }
        asked = {"key": asdict(self.key), "tolerance_mm": self.tolerance_mm}
        products = [self.path / CASES, self.path / RUNS]
        return Record(self.path / RECORD, inputs=inputs, settings=asked, products=products, version=None)

    def begin(self) -> None:
        """Make the folder ready; what is there of the same run, interrupted, stays."""
        record = self.record()
        if not record.begun:
            for name in (USAGE, COUNTED, LOST):
                (self.path / name).unlink(missing_ok=True)
        elif (self.path / COUNTED).exists():  # this command was killed while the training went on
            write_whole(self.path / LOST, "")
        record.begin(self.path / TRAINING)
        write_whole(self.path / COUNTED, "")
        (self.path / RUNS).unlink(missing_ok=True)  # why it failed the last time
        judged = self.folder.judged(self.key)
        write_request(self.path, self.key, judged, self.device, self.tolerance_mm)

    def training(self) -> list[str]:
        """Arguments of `python` that train it, or go on with its training."""
        training = self.path / TRAINING
        arguments = ["-m", "medseg", "train", "--task", str(self.folder.plan(self.key))]
        arguments += ["--data", str(self.folder.manifest(self.key)), "--set", f"seed={self.key.seed}"]
        arguments += ["--device", self.device, "--output", str(training)]
        for own in self.ready.arm.method:
            arguments += ["--method", own]
        if self.ready.arm.init_from is not None:
            arguments += ["--init-from", str(self.ready.arm.init_from)]
        if (training / RUN).exists():
            arguments.append("--resume")
        return arguments

    def judging(self) -> list[str]:
        """Arguments of `python` that predict and evaluate its test cases."""
        return ["-m", "medseg.workflows.compare.scores.judge", str(self.path)]

    def add_usage(self, usage: Usage) -> None:
        """Add what a part of the training took, up to its end or an interruption."""
        total = self.usage().plus(usage)
        write_whole(make_folder(self.path) / USAGE, json.dumps(asdict(total)) + "\n")
        (self.path / COUNTED).unlink(missing_ok=True)

    def usage(self) -> Usage:
        """What the training took until now, over all its parts."""
        found = read_record(self.path / USAGE)
        return Usage(**found) if found else Usage()

    def row(self) -> RunRow:
        """Of the run, with what its training took until now; without it, where a part of that is not known."""
        steps = count_steps(read_plan(self.folder.plan(self.key)), self.data.learnt)
        if (self.path / LOST).exists():
            return RunRow(self.key, "", steps)
        usage = self.usage()
        return RunRow(self.key, "", steps, usage.cpu_seconds, usage.wall_seconds, usage.peak_bytes or None)

    def finish(self) -> RunRow:
        """Record that it is trained and judged."""
        row = self.row()
        write_runs(self.path / RUNS, [row])
        self.record().finish()
        return row

    def fail(self, message: str) -> RunRow:
        """Note why it failed; it can be tried again."""
        row = replace(self.row(), message=message)
        write_runs(self.path / RUNS, [row])
        return row


def read_result(run: OneRun) -> tuple[RunRow, list[CaseRow]] | None:
    """What its folder says: the rows of a finished run, or why it failed; None where neither is there."""
    if run.is_made:
        return read_runs(run.path / RUNS)[0], read_cases(run.path / CASES)
    if (run.path / RUNS).exists():
        rows = read_runs(run.path / RUNS)
        if rows and rows[0].message:
            return rows[0], []
    return None


def picture_of(run: OneRun) -> Path:
    """Its worst case."""
    return run.path / WORST
