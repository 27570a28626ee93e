"""Ctrl-C and SIGTERM: one line that says where the command was, what is kept, and how to go on."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from models import make_bundle, make_image
from test_consensus_command import VOTE, write_manifest
from tiny import FAST, write_dataset

from medseg.cli import main
from medseg.cli.run import continue_command
from medseg.cores import usable_cores
from medseg.stopping import Stopped, describe_stop, report_stop

OWN = f"{Path(__file__).parents[2] / 'support' / 'stopping_method.py'}:Stopping"


@pytest.fixture(autouse=True)
def interrupts():
    """A background shell starts its children with the interrupt ignored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def ended(capfd, *arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command in this process."""
    capfd.readouterr()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return (end.value.code or 0, *capfd.readouterr())


def signal_at(monkeypatch, place: str, call: int, number: int = signal.SIGINT) -> None:
    """Send this process a signal at the n-th call of a function."""
    module, _, name = place.rpartition(".")
    owner = importlib.import_module(module)
    original, calls = getattr(owner, name), []

    def with_signal(*given, **options):
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return original(*given, **options)

    monkeypatch.setattr(owner, name, with_signal)


# ---- the words


def test_an_interruption_gathers_what_each_caller_knows():
    with (
        pytest.raises(Stopped) as caught,
        report_stop("in round 1 of 2", "what is finished is saved"),
        report_stop(lambda: "at 13 of 400 iterations", "saved"),
    ):
        raise KeyboardInterrupt
    assert str(caught.value) == "stopped in round 1 of 2, at 13 of 400 iterations, saved"
    assert caught.value.number == signal.SIGINT
    assert isinstance(caught.value, KeyboardInterrupt)
    by_scheduler = describe_stop(Stopped(number=signal.SIGTERM), "while planning")
    assert (str(by_scheduler), by_scheduler.number) == ("stopped while planning", signal.SIGTERM)
    assert str(Stopped()) == "stopped"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("train --task dtc --set 'a=[1, 2]'", "continue with: medseg train --task dtc --set 'a=[1, 2]' --resume"),
        ("--debug train --task dtc --resume", "continue with: medseg --debug train --task dtc --resume"),
        ("predict -i x --overwrite -o y", "continue with: medseg predict -i x -o y"),
        ("consensus --studies s --overwrite", "continue with: medseg consensus --studies s"),
        (  # there --overwrite also means the labels of the studies
            "consensus --studies s --write-back --overwrite",
            "continue with: medseg consensus --studies s --write-back --overwrite",
        ),
        ("evaluate -p x -r y", "begin again with: medseg evaluate -p x -r y"),
        ("serve --studies s", ""),
    ],
)
def test_continue_command(arguments, words, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["medseg"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "medseg"])
    assert continue_command(shlex.split(arguments)) == words


def test_the_command_to_continue_is_as_it_was_called(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python3", "-W", "error", "-m", "medseg", "list"])
    assert continue_command(["train"]) == "continue with: python3 -W error -m medseg train --resume"
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert continue_command(["train"]) == "continue with: torchrun --nproc_per_node=4 -m medseg train --resume"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert "the same torchrun command on every machine" in continue_command(["train"])


# ---- training


def train_arguments(manifest: Path, folder: Path, *more: str) -> list[str]:
    changes = [*FAST, "stages.0.schedule.workers=0", "stages.0.schedule.validate_every=3"]
    sets = [word for change in changes for word in ("--set", change)]
    return ["train", "--task", "dtc", "--method", OWN, "--data", str(manifest), "-o", str(folder), *sets, *more]


def same(first: Path, second: Path) -> bool:
    one, other = (torch.load(folder / "last.pt", weights_only=True)["method"] for folder in (first, second))
    return all(torch.equal(one[key], other[key]) for key in other)


@pytest.mark.parametrize(
    ("where", "code"), [("2 SIGINT 1", 130), ("3 SIGTERM 1", 143), ("6 SIGINT 1", 130)], ids=["step", "due", "last"]
)
def test_a_stopped_training_goes_on_as_if_nothing_had_happened(tmp_path, capfd, monkeypatch, where, code):
    """Also where the step was one to validate after, in the middle or at the end."""
    manifest, folder = write_dataset(tmp_path / "data"), tmp_path / "run"
    monkeypatch.setenv("STOP", where)
    found, out, err = ended(capfd, *train_arguments(manifest, folder))
    iteration = where.split()[0]
    assert found == code
    assert out == ""
    further = err.splitlines()[-1].partition("; continue with: ")
    assert further[0] == f"stopped at {iteration} of 6 iterations, saved"
    assert "stopping after this iteration" in err.splitlines()[-2]
    assert torch.load(folder / "last.pt", weights_only=True)["iteration"] == int(iteration)
    monkeypatch.delenv("STOP")
    words = shlex.split(further[2])
    assert words[-1] == "--resume"
    found, out, err = ended(capfd, *words[words.index("train") :])
    assert (found, out) == (0, f"{folder / 'bundle'}\n")
    assert ended(capfd, *train_arguments(manifest, tmp_path / "whole"))[0] == 0
    assert same(tmp_path / "whole", folder)
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "run")]
    assert logs[0] == logs[1]


def test_a_second_signal_stops_at_once_with_the_last_checkpoint(tmp_path, capfd, monkeypatch):
    manifest, folder = write_dataset(tmp_path / "data"), tmp_path / "run"
    monkeypatch.setenv("STOP", "4 SIGINT 2")
    code, _, err = ended(capfd, *train_arguments(manifest, folder))
    assert code == 130
    assert "stopped at 4 of 6 iterations, the last checkpoint is of iteration 3; continue with: " in err
    assert (
        torch.load(folder / "last.pt", weights_only=True)["iteration"] == 3
    )  # with the best weights of the validation


def test_stopped_again_and_again_before_the_first_step(tmp_path, capfd, monkeypatch):
    manifest, folder = write_dataset(tmp_path / "data"), tmp_path / "run"
    arguments = train_arguments(manifest, folder)
    for place, words in (
        (
            "medseg.data.cache._store",
            "stopped while preprocessing labeled cases, finished ones are saved; continue with: ",
        ),
        ("medseg.workflows.train.run.plan_pipeline", "stopped before training began; continue with: "),
        ("medseg.workflows.train.run.plan_pipeline", "stopped before training began; continue with: "),
    ):
        with monkeypatch.context() as patch:
            signal_at(patch, place, 1)
            code, _, err = ended(capfd, *arguments)
        assert code == 130
        assert words in err.splitlines()[-1]
    assert ended(capfd, *arguments)[0] == 0


def test_rounds_name_the_round_and_what_they_were_at(tmp_path, capfd, monkeypatch):
    manifest, folder = write_dataset(tmp_path / "data"), tmp_path / "run"
    sets = [word for change in FAST for word in ("--set", change)]
    sets += ["--set", "stages.0.rounds.count=1"]
    arguments = ["train", "--task", "dmpct", "--data", manifest, "-o", folder, *sets]
    with monkeypatch.context() as patch:
        signal_at(patch, "medseg.workflows.train.self_training.labelling.pseudo_labels.count_case", 2)
        code, _, err = ended(capfd, *arguments)
    assert code == 130
    line = err.splitlines()[-1]
    words = "stopped in round 1 of 1, while labelling, 1 of 2 cases done, what is finished is saved; continue with: "
    assert line.startswith(words)
    with monkeypatch.context() as patch:
        signal_at(patch, "medseg.workflows.train.self_training.run.score_round", 1)
        code, _, err = ended(capfd, *arguments, "--resume")
    assert code == 130
    assert "stopped in round 1 of 1, while scoring, what is finished is saved" in err.splitlines()[-1]
    code, out, err = ended(capfd, *arguments, "--resume")
    assert (code, out) == (0, f"{folder / 'bundle'}\n")
    assert "of all views together after round 1" in err


# ---- the other commands


def one_line(err: str) -> str:
    lines = [line for line in err.splitlines() if line.startswith("stopped")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_predict_goes_on_with_the_command_that_it_names(tmp_path, capfd, monkeypatch, number, code):
    model = make_bundle(tmp_path / "bundle")
    for n in range(3):
        make_image(tmp_path / "images" / f"ct{n}.nii.gz", seed=n)
    out = tmp_path / "out"
    arguments = ["predict", "-m", model, "-i", tmp_path / "images", "-o", out]
    with monkeypatch.context() as patch:
        signal_at(patch, "medseg.workflows.predict.case.write_result", 2, number)
        found, stdout, err = ended(capfd, *arguments, "--overwrite")
    assert (found, stdout) == (code, "")
    told, _, further = one_line(err).partition("; continue with: ")
    assert told == "stopped while predicting, 1 of 3 cases done, finished results are kept"
    assert json.loads((out / "predict_report.json").read_text())["interrupted"]
    words = shlex.split(further)
    found, stdout, err = ended(capfd, *words[words.index("predict") :])
    assert (found, stdout) == (0, f"{out}\n")
    assert f"2 predicted, 1 already there, 0 failed: {out}" in err


def test_evaluate_and_data_check_begin_again(tmp_path, capfd, monkeypatch):
    manifest = write_dataset(tmp_path / "data", labeled=0, unlabeled=0, validation=0, test=3)
    results = tmp_path / "results"
    results.mkdir()
    for n in range(3):
        (results / f"case{n}.nii.gz").write_bytes((tmp_path / "data" / f"case{n}_label.nii.gz").read_bytes())
    with monkeypatch.context() as patch:
        signal_at(patch, "medseg.workflows.evaluate.run.compare", 3)
        code, out, err = ended(capfd, "evaluate", "-p", results, "-r", manifest)
    assert (code, out) == (130, "")
    assert one_line(err).startswith(
        "stopped while comparing, 2 of 3 cases done, nothing is written; begin again with: "
    )
    assert not (results / "evaluation").exists()
    with monkeypatch.context() as patch:
        signal_at(patch, "medseg.workflows.data.check.check_case", 2, signal.SIGTERM)
        code, out, err = ended(capfd, "data", "check", manifest)
    assert (code, out) == (143, "")
    assert one_line(err).startswith("stopped while checking, 1 of 3 cases done; begin again with: ")


def test_consensus_of_many(tmp_path, capfd, monkeypatch):
    manifest, out = write_manifest(tmp_path), tmp_path / "out"
    arguments = ["consensus", "--data", manifest, "-o", out, "--jobs", 1, *VOTE]
    with monkeypatch.context() as patch:
        signal_at(patch, "medseg.workflows.consensus.case.fuse_item", 3)
        code, stdout, err = ended(capfd, *arguments)
    assert (code, stdout) == (130, "")
    assert one_line(err).startswith(
        "stopped while fusing, 2 of 3 studies done, finished studies are kept; continue with"
    )
    code, stdout, err = ended(capfd, *arguments)
    assert (code, stdout) == (0, f"{out}\n")
    assert "1 fused, 2 already there, 0 failed" in err


# ---- Ctrl-C in a terminal reaches every process of the command


def started(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "medseg", *map(str, arguments)], env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def workers(group: int) -> int:
    """How many processes of a group were started by multiprocessing to work."""
    found = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
            found += b"spawn_main" in words and os.getpgid(int(folder.name)) == group
        except OSError:  # it is gone
            continue
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="processes are looked for in /proc")
@pytest.mark.parametrize("command", ["train", "consensus"])
@pytest.mark.parametrize("times", [1, 2])
def test_workers_that_still_start_say_nothing_and_nobody_waits_for_them(tmp_path, command, times):
    if command == "train":
        if usable_cores() < 2:
            pytest.skip("one core")
        manifest = write_dataset(tmp_path / "data", labeled=30, unlabeled=0)  # so many are done by several processes
        arguments = ["train", "--task", "supervised", "--data", manifest, "-o", tmp_path / "run"]
    else:
        manifest = write_manifest(tmp_path, cases=8)
        arguments = ["consensus", "--data", manifest, "-o", tmp_path / "out", "--jobs", 2, *VOTE]
    process = started(*arguments)
    deadline = time.monotonic() + 120
    while not workers(process.pid) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    for _ in range(times):
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT), err  # the second may find it gone from Python already
    assert one_line(err).startswith("stopped while ")
    while workers(process.pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not workers(process.pid)


def test_processes_that_are_out_of_reach_are_so_from_the_first(tmp_path):
    script = tmp_path / "first.py"
    script.write_text(
        "import multiprocessing, os, signal, sys, time\n"
        "from medseg.stopping import shield_from_interrupts\n"
        "def work(path):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    open(path, 'w').close()\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "    process = multiprocessing.get_context('spawn').Process(target=work, args=(sys.argv[1],))\n"
        "    with shield_from_interrupts():\n"
        "        process.start()\n"
        "    process.join()\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        time.sleep(5)\n"
        "    except KeyboardInterrupt:\n"
        "        sys.exit(3)\n"
    )
    done = subprocess.run([sys.executable, script, tmp_path / "there"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 3, done.stderr
    assert (tmp_path / "there").exists(), done.stderr
