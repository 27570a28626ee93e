"""The queue of runs, with small processes in place of trainings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from medseg import cores
from medseg.errors import ConfigError
from medseg.stopping import Stopped
from medseg.workflows.compare.folder import hold
from medseg.workflows.compare.runs.processes import Child, Usage, end_all, share_cores
from medseg.workflows.compare.runs.queue import RunQueue
from medseg.workflows.compare.scores.rows import RunKey, RunRow

BUSY = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
PATIENT = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("saved"), sys.exit(143)))
print("ready", flush=True)
time.sleep(60)
"""
BIG = "import time; block = bytearray(200_000_000); time.sleep(1.5)"


@dataclass
class FakeRun:
    """A run whose commands are a few lines of Python."""

    path: Path
    key: RunKey
    trains: str = "pass"
    judges: str = "pass"
    taken: Usage = field(default_factory=Usage)
    is_made: bool = False

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    def begin(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)

    def training(self) -> list[str]:
        return ["-c", self.trains]

    def judging(self) -> list[str]:
        return ["-c", self.judges]

    def add_usage(self, usage: Usage) -> None:
        self.taken = self.taken.plus(usage)

    def finish(self) -> RunRow:
        return RunRow(self.key)

    def fail(self, message: str) -> RunRow:
        return RunRow(self.key, message)


def make(folder: Path, *trainings: str, judges: str = "pass") -> list[FakeRun]:
    return [FakeRun(folder / str(n), RunKey("arm", n), code, judges) for n, code in enumerate(trainings)]


def go(runs: list[FakeRun], jobs: int = 1, tick=lambda: None) -> tuple[list[RunRow], RunQueue]:
    ended: list[RunRow] = []
    shares = share_cores(jobs) if jobs <= len(share_cores(1)[0]) else share_cores(1) * jobs
    queue = RunQueue(runs, shares, ended.append, tick)
    queue.run()
    return ended, queue


def test_a_failing_run_is_named_by_its_last_line_and_holds_up_no_other(tmp_path):
    fails = "import sys; print('step 1'); sys.exit('error: image.nii.gz: is damaged')"
    ended, _ = go(make(tmp_path, fails, "pass"))
    assert [(row.key.seed, row.message) for row in ended] == [(0, "image.nii.gz: is damaged"), (1, "")]


def test_a_run_that_cannot_be_judged_says_so(tmp_path):
    ended, _ = go(make(tmp_path, "print('trained')", judges="import sys; sys.exit('error: no space')"))
    assert ended[0].message == "trained, but could not be judged: no space"


def test_a_process_that_says_nothing(tmp_path):
    ended, _ = go(make(tmp_path, "import os; os._exit(3)"))
    assert ended[0].message == "it wrote nothing"


def test_a_process_that_the_system_ends_is_not_named_by_its_progress(tmp_path):
    killed = "import os; print('step 5 of 9', flush=True); os.kill(os.getpid(), 9)"
    ended, _ = go(make(tmp_path, killed))
    assert ended[0].message == "ended by SIGKILL (out of memory?); its last line: step 5 of 9"


def test_the_warnings_of_a_process_are_those_of_its_own_lines(tmp_path):
    log = tmp_path / "log"
    log.write_text("warning: an earlier one\n")
    child = Child(["-c", "print('warning: the machine is busy'); print('done')"], share_cores(1)[0], log)
    while child.poll() is None:
        time.sleep(0.02)
    assert child.warnings() == ["the machine is busy"]


def test_what_a_training_takes_is_measured_with_its_children_and_without_the_judging(tmp_path):
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BUSY!r}])"
    runs = make(tmp_path, child, judges=BUSY)
    go(runs)
    assert 0.3 <= runs[0].taken.cpu_seconds < 0.58, "a child's 0.3 s, not another 0.3 s of judging"
    assert runs[0].taken.wall_seconds > 0.25


def test_peak_memory_is_that_of_the_largest_process(tmp_path):
    runs = make(tmp_path, BIG)
    go(runs)
    assert 2e8 < runs[0].taken.peak_bytes < 2.6e8


def test_usage_adds_time_and_keeps_the_largest_memory():
    assert Usage(1, 2, 30).plus(Usage(10, 20, 3)) == Usage(11, 22, 30)


def test_runs_side_by_side_have_cores_of_their_own(tmp_path):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core")
    write = "import os; print(sorted(os.sched_getaffinity(0)), os.environ['OMP_NUM_THREADS'], flush=True)"
    meet = "import time; time.sleep(0.5)"
    runs = make(tmp_path, f"{write}; {meet}", f"{write}; {meet}")
    go(runs, jobs=2)
    said = [run.log.read_text().split("\n")[0] for run in runs]
    share = len(share_cores(2)[0])
    assert said[0] != said[1]
    assert all(line.endswith(f"] {share}") for line in said)


def test_shares_of_cores_are_equal_and_apart():
    everything = share_cores(1)[0]
    for jobs in range(1, len(everything) + 1):
        shares = share_cores(jobs)
        assert len({len(share) for share in shares}) == 1
        assert len({core for share in shares for core in share}) == sum(map(len, shares))
    with pytest.raises(ConfigError, match=r"--jobs 9999: this process may use \d+ cores"):
        share_cores(9999)


def test_a_container_with_the_time_of_one_core_has_one_to_share(tmp_path, monkeypatch):
    monkeypatch.setattr(cores, "CONTROL_GROUP", tmp_path / "cpu.max")
    cores.CONTROL_GROUP.write_text("100000 100000\n")
    assert len(share_cores(1)[0]) == 1
    with pytest.raises(ConfigError, match="--jobs 2: this process may use 1 cores"):
        share_cores(2)


def test_a_run_of_another_command_is_left_to_it(tmp_path):
    runs = make(tmp_path, "pass", "pass")
    with hold(runs[0].path / ".lock"):
        ended, queue = go(runs)
    assert [row.key.seed for row in ended] == [1]
    assert queue.elsewhere == [runs[0]]


def test_a_run_that_another_command_has_made_meanwhile_is_not_made_again(tmp_path):
    """Two commands begin at once; the other has let a run go, finished, when this one comes to it."""
    runs = make(tmp_path, "pass", "open('trained', 'w')", "pass")

    def tick() -> None:
        runs[1].is_made = True

    ended, queue = go(runs, tick=tick)
    assert [row.key.seed for row in ended] == [0, 2]
    assert queue.made_elsewhere == [runs[1]]
    assert not runs[1].log.exists()
    with hold(runs[1].path / ".lock", wait=False) as free:
        assert free is not None


def test_a_process_keeps_the_lock_when_the_command_that_started_it_is_gone(tmp_path):
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from medseg.workflows.compare.folder import hold\n"
        "from medseg.workflows.compare.runs.processes import Child, share_cores\n"
        "folder = Path(sys.argv[1])\n"
        "with hold(folder / '.lock') as lock:\n"
        "    code = 'import time; time.sleep(1.5)'\n"
        "    child = Child(['-c', code], share_cores(1)[0], folder / 'log', [lock.fileno()])\n"
        "    import os\n"
        "    os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    with hold(tmp_path / ".lock", wait=False) as taken:
        assert taken is None, "its child goes on"
    with hold(tmp_path / ".lock") as free:
        assert free is not None


def test_an_interruption_lets_all_processes_save_and_counts_what_they_took(tmp_path):
    runs = make(tmp_path, PATIENT)

    def tick() -> None:
        if runs[0].log.exists() and "ready" in runs[0].log.read_text():
            raise Stopped(number=signal.SIGTERM)

    with pytest.raises(Stopped) as stop:
        go(runs, tick=tick)
    assert stop.value.number == signal.SIGTERM
    assert runs[0].log.read_text().split() == ["ready", "saved"]
    assert runs[0].taken.wall_seconds > 0
    with hold(runs[0].path / ".lock", wait=False) as free:
        assert free is not None


def test_a_second_interruption_ends_what_does_not_listen(tmp_path):
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('x', flush=True); time.sleep(60)"
    child = Child(["-c", deaf], share_cores(1)[0], tmp_path / "log")
    while "x" not in (tmp_path / "log").read_text():
        time.sleep(0.02)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            end_all([child])
    finally:
        signal.signal(signal.SIGINT, before)
    while child.poll() is None:
        assert time.monotonic() - began < 20
    assert child.poll() == -signal.SIGKILL
