"""`medseg compare` with real trainings: a small comparison from its first run to its page, stopped and continued."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from forking import python
from tiny import FAST, write_dataset

import medseg
from medseg.errors import ConfigError
from medseg.workflows.compare.runs.processes import THREADS, share_cores
from medseg.workflows.compare.scores.rows_csv import read_cases, read_runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STOPPING = Path(__file__).parents[1] / "support" / "stopping_method.py"
SMALL = [*FAST, "data.overlap=0.25", "stages.0.schedule.workers=0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), labeled=3, unlabeled=2, validation=0, test=2)


def command(*arguments: object) -> subprocess.Popen:
    """`medseg compare` as a process of its own; interrupts reach it, whatever the shell of the tests does.

    It and the runs that it starts are copies of a process: what the system counts of them is the little that it takes
    to ask for a copy. That a run's time and memory are counted is tested in `test_compare_queue.py`.
    """
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import medseg.cli as c; c.main()"
    words = [python(), "-c", code, "compare", *map(str, arguments), "--device", "cpu"]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def called(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    process = command(*arguments)
    out, error = process.communicate(timeout=400)
    return process.returncode, out, error


def settings(*more: str) -> list[str]:
    return [word for setting in (*SMALL, *more) for word in ("--set", setting)]


@pytest.fixture(scope="module")
def compared(data, tmp_path_factory) -> tuple[Path, str, str]:
    """Two arms of one seed: the folder, and what was said."""
    folder = tmp_path_factory.mktemp("compared") / "out"
    words = ("--tasks", "supervised,dtc", "--data", data, "-o", folder, *settings())
    code, out, error = called(*words)
    assert code == 0, error
    return folder, out, error


def test_arms_are_trained_judged_and_shown(compared):
    folder, out, error = compared
    assert out.splitlines()[-1] == str(folder / "report.html")
    assert "supervised" in out
    assert "1 of 1" in out
    assert "1 of 2 runs: supervised, seed 0: done, Dice 0." in error
    assert "2 of 2 runs: dtc, seed 0: done, Dice 0." in error
    runs = read_runs(folder / "runs.csv")
    assert [(run.key.arm, run.key.seed, run.iterations, run.message) for run in runs] == [
        ("supervised", 0, 6, ""),
        ("dtc", 0, 6, ""),
    ]
    # of copies that a server makes little is counted; `test_compare_queue.py` measures a process by itself
    assert all(run.cpu_seconds > 0 and run.peak_bytes > 0 for run in runs)
    cases = read_cases(folder / "cases.csv")
    assert [(row.case, row.structure) for row in cases if row.key.arm == "dtc"] == [
        (case, structure) for case in ("case5", "case6") for structure in ("background", "ball", "box")
    ]
    assert "data:image/png" in (folder / "report.html").read_text()
    assert "| supervised | 1 of 1 |" in (folder / "table.md").read_text()


def test_rows_are_those_of_the_evaluation_and_counts_make_its_dice(compared):
    folder, _, _ = compared
    with (folder / "runs" / "dtc-seed0" / "evaluation" / "metrics.csv").open() as stream:
        evaluated = {(row["case"], row["class"]): row for row in csv.DictReader(stream)}
    for row in read_cases(folder / "cases.csv"):
        if row.structure == "background" or row.key.arm != "dtc":
            continue
        expected = float(evaluated[row.case, row.structure]["dice"])
        assert row.metrics["dice"] == pytest.approx(expected, rel=1e-5)
        assert 2 * row.shared / (row.predicted + row.reference) == pytest.approx(expected, rel=1e-5)


def test_what_is_finished_is_not_done_again_nor_where_its_folder_is_gone(compared, data, tmp_path):
    folder, _, _ = compared
    before = read_cases(folder / "cases.csv")
    moved = shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(moved / "runs" / "dtc-seed0")
    trained = (moved / "runs" / "supervised-seed0" / "training" / "run.json").stat().st_mtime_ns
    medseg.compare(tasks="supervised,dtc", data=data, output=moved, overrides=SMALL, device="cpu", resume=True)
    assert read_cases(moved / "cases.csv") == before
    assert not (moved / "runs" / "dtc-seed0").exists()
    assert (moved / "runs" / "supervised-seed0" / "training" / "run.json").stat().st_mtime_ns == trained


def test_a_folder_of_another_comparison_is_refused(compared, data):
    folder, _, _ = compared
    arguments = {"data": data, "output": folder, "device": "cpu"}
    with pytest.raises(ConfigError, match="holds another comparison: iterations was None and is 7"):
        medseg.compare(tasks="supervised,dtc", iterations=7, overrides=SMALL, **arguments)
    with pytest.raises(ConfigError, match="of its arm dtc settings is not what it was"):
        medseg.compare(tasks="dtc", overrides=[*SMALL, "stages.0.schedule.lr=0.5"], **arguments)


def test_a_failing_arm_is_named_and_the_others_go_on(data, tmp_path):
    fails = tmp_path / "failing.py"
    fails.write_text(
        "from medseg.methods.supervised import Supervised\n"
        "class Failing(Supervised):\n"
        "    def forward(self, batch, clock):\n"
        "        raise RuntimeError('no such luck')\n"
    )
    arms = [
        {"name": "bad", "task": "supervised", "method": "failing.py:Failing"},
        {"name": "good", "task": "supervised"},
    ]
    path = tmp_path / "two.yaml"
    path.write_text(json.dumps({"arms": arms, "data": str(data), "set": SMALL}))
    code, _, error = called(path, "-o", tmp_path / "out", "--iterations", 2, "--shard", "1/1")
    assert code == 1, error
    assert "bad, seed 0: failed, " in error
    assert "no such luck" in error
    assert "2 of 2 runs: good, seed 0: done" in error
    assert [run.message.endswith("no such luck") for run in read_runs(tmp_path / "out" / "runs.csv")] == [True, False]


def test_pages_and_tables_name_files_without_their_folders(compared, data):
    folder, _, _ = compared
    for name in ("report.html", "table.md", "runs.csv", "cases.csv"):
        text = (folder / name).read_text()
        assert str(folder.parent) not in text, name
        assert str(data.parent) not in text, name
    assert f"Data: {data.name}." in (folder / "table.md").read_text()


def test_stopped_and_continued_it_comes_out_as_if_it_had_not_been(data, tmp_path):
    path = tmp_path / "one.yaml"
    arms = [{"name": "a", "task": "supervised", "set": {"stages.0.schedule.iterations": 60}}]
    path.write_text(json.dumps({"arms": arms, "data": str(data), "set": SMALL}))
    words = (path, "-o", tmp_path / "out", "--set", "stages.0.schedule.iterations=60")
    process = command(*words)
    log = tmp_path / "out" / "runs" / "a-seed0" / "training" / "metrics.jsonl"
    began = time.monotonic()
    while not (log.exists() and log.stat().st_size):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() - began < 300
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=100)
    assert process.returncode == 130, error
    assert "stopped while comparing" in error.splitlines()[-1]
    assert "continue with:" in error.splitlines()[-1]
    usage = json.loads((tmp_path / "out" / "runs" / "a-seed0" / "usage.json").read_text())
    assert list((tmp_path / "out" / "runs").glob("*/training/**/last.pt"))
    code, _, error = called(*words, "--resume")
    assert code == 0, error
    (row,) = read_runs(tmp_path / "out" / "runs.csv")
    assert row.cpu_seconds > usage["cpu_seconds"], "over both parts"
    assert "--resume" not in error
    plain = tmp_path / "plain"
    words = ["--task", tmp_path / "out" / "plans" / "a.yaml", "--data", data, "--set", "seed=0", "-o", plain]
    threads = dict.fromkeys(THREADS, str(len(share_cores(1)[0])))  # sums depend on their number
    train = [python(), "-m", "medseg", "train", *map(str, words), "--device", "cpu"]
    subprocess.run(train, check=True, capture_output=True, env=os.environ | threads)
    weights = "bundle/models/model.pt"
    assert (plain / weights).read_bytes() == (tmp_path / "out/runs/a-seed0/training" / weights).read_bytes()


def test_shards_share_the_runs_and_a_last_command_collects_them(data, tmp_path):
    words = ("--tasks", "supervised", "--seeds", "0,1", "--labels", "2", "--data", data, "-o", tmp_path / "out")
    words = (*words, "--iterations", 2, *settings())
    processes = [command(*words, "--shard", f"{number}/2") for number in (1, 2)]
    for number, process in enumerate(processes):
        _, error = process.communicate(timeout=400)
        assert process.returncode == 0, error
        assert f"1 of 1 runs: supervised, seed {number}, 2 labelled subjects: done" in error
    code, out, error = called(*words)
    assert code == 0, error
    assert "2 of 2 runs are there already" in error
    assert "2 of 2" in out
    assert "With 2 labelled subjects" in (tmp_path / "out" / "table.md").read_text()


def test_folds_judge_every_labelled_case_out_of_its_fold(data, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", python())
    compared = medseg.compare(
        tasks="supervised", data=data, folds=3, iterations=1, overrides=SMALL, output=tmp_path / "out", device="cpu"
    )
    assert not compared.failed
    judged = {(row.key.fold, row.case) for row in read_cases(tmp_path / "out" / "cases.csv")}
    assert len(judged) == 3
    assert {case for _, case in judged} == {"case0", "case1", "case2"}
    for fold, case in judged:
        learnt = json.loads((tmp_path / "out" / "manifests" / f"supervised-fold{fold}.json").read_text())
        assert case not in json.dumps(learnt["training"])


def test_each_arm_is_sized_once_and_its_plan_is_kept(data, tmp_path):
    words = ("--tasks", "supervised", "--data", data, "-o", tmp_path / "out", "--budget", "10s")
    words = (*words, "--set", "data.overlap=0.25", "--set", "stages.0.schedule.workers=0")
    code, _, error = called(*words)
    assert code == 0, error
    assert "sizing supervised for 10s" in error
    plan = (tmp_path / "out" / "plans" / "supervised.yaml").read_bytes()
    code, _, error = called(*words, "--seeds", "0,1")
    assert code == 0, error
    assert "sizing" not in error
    assert (tmp_path / "out" / "plans" / "supervised.yaml").read_bytes() == plan
    assert "each run sized for 10s" in (tmp_path / "out" / "table.md").read_text()
