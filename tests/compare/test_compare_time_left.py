"""Time left of a comparison, and the line that shows it."""

from __future__ import annotations

from medseg import progress
from medseg.workflows.compare.runs.time_left import TimeLeft
from medseg.workflows.compare.scores.rows import RunKey


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_time_left_counts_down_within_a_run_and_never_grows():
    keys = [RunKey(arm, seed) for arm in ("a", "b") for seed in (0, 1)]
    clock = Clock()
    left = TimeLeft(keys, 1, 600.0, now=clock)
    assert left.seconds() == 2400
    left.begin(keys[0])
    clock.now = 100.0
    assert left.seconds() == 2300
    clock.now = 650.0
    assert left.seconds() == 1800, "the run takes longer than it was sized for, and is not counted below nothing"
    clock.now = 700.0
    left.end(keys[0])
    assert left.seconds() == 700 + 2 * 600, "another run of the arm takes as long; of the other arm the size holds"


def test_time_left_of_runs_side_by_side():
    """Two at a time: of runs of 60 s, one that has had 20 s and three that wait, the last ends after 60 + 60 s."""
    keys = [RunKey("a", seed) for seed in range(5)]
    clock = Clock()
    left = TimeLeft(keys, 2, now=clock)
    left.begin(keys[0])
    assert left.seconds() is None
    clock.now = 60.0
    left.end(keys[0])
    left.begin(keys[1])
    clock.now = 80.0
    assert left.seconds() == 120, "40 + 60 beside 60 + 60"
    left.leave_out(keys[2])
    assert left.seconds() == 100, "40 + 60 beside 60"


def test_a_run_that_fails_at_once_promises_nothing():
    keys = [RunKey("a", seed) for seed in range(2)]
    clock = Clock()
    left = TimeLeft(keys, 1, now=clock)
    left.begin(keys[0])
    clock.now = 1.0
    left.end(keys[0], failed=True)
    assert left.seconds() is None


def test_the_line_shows_the_time_that_it_is_told(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.show_progress("comparing", unit="runs", left=lambda: 600 - now[0]) as tell:
        for _ in range(5):
            tell(0, 2)
            now[0] += 20.0
    said = capsys.readouterr().err.splitlines()
    assert said == ["comparing: 0 of 2 runs, 9.3 min left", "comparing: 0 of 2 runs, 8.7 min left"]


def test_a_run_that_takes_longer_than_those_before_it_is_told(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.show_progress("comparing", unit="runs", left=lambda: max(0.0, 45 - now[0])) as tell:
        for _ in range(5):
            tell(0, 2)
            now[0] += 20.0
    said = capsys.readouterr().err.splitlines()
    assert said == ["comparing: 0 of 2 runs, 0.1 min left", "comparing: 0 of 2 runs, longer than expected"]
