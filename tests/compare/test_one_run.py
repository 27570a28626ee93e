"""What a run of a comparison keeps in its folder."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from medseg.workflows.compare.folder import Folder
from medseg.workflows.compare.runs import one_run
from medseg.workflows.compare.runs.one_run import OneRun
from medseg.workflows.compare.runs.plans import warnings_of
from medseg.workflows.compare.runs.processes import Usage
from medseg.workflows.compare.scores.rows import RunKey


def run_in(folder: Path, monkeypatch) -> OneRun:
    """A run of 60 steps whose plan is a word."""
    monkeypatch.setattr(one_run, "read_plan", lambda path: None)
    monkeypatch.setattr(one_run, "count_steps", lambda plan, manifest: 60)
    data = SimpleNamespace(learnt_identity="learnt", judged_identity="judged", learnt=None)
    run = OneRun(Folder(folder), RunKey("a", 0), SimpleNamespace(start=None), data, "cpu", 1.0)
    run.folder.plan(run.key).parent.mkdir()
    run.folder.plan(run.key).write_text("plan")
    return run


def test_time_is_added_up_over_interruptions(tmp_path, monkeypatch):
    run = run_in(tmp_path, monkeypatch)
    run.begin()
    run.add_usage(Usage(10.0, 20.0, 300))
    run.begin()
    run.add_usage(Usage(1.0, 2.0, 30))
    row = run.row()
    assert (row.iterations, row.cpu_seconds, row.wall_seconds, row.peak_bytes) == (60, 11.0, 22.0, 300)


def test_time_that_nobody_noted_is_not_told_as_if_it_were_none(tmp_path, monkeypatch):
    """The command was killed while the training went on: what is noted of the second part alone would be too little."""
    run = run_in(tmp_path, monkeypatch)
    run.begin()
    run.begin()
    run.add_usage(Usage(1.0, 2.0, 30))
    row = run.row()
    assert (row.iterations, row.cpu_seconds, row.wall_seconds, row.peak_bytes) == (60, None, None, None)


def test_judging_again_loses_no_time(tmp_path, monkeypatch):
    run = run_in(tmp_path, monkeypatch)
    run.begin()
    run.add_usage(Usage(10.0, 20.0, 300))
    run.begin()
    assert run.row().cpu_seconds == 10.0


def test_what_was_warned_of_when_a_plan_was_made(tmp_path):
    (tmp_path / "a.json").write_text('{"notes": {"warnings": ["the machine is busy"]}}')
    assert warnings_of(tmp_path / "a.yaml") == ["the machine is busy"]
    assert warnings_of(tmp_path / "b.yaml") == []
