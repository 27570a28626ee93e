"""Two processes under torchrun, stopped as a terminal or a scheduler stops them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from forking import python
from tiny import FAST, write_dataset

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
LONG = [*FAST, "stages.0.schedule.iterations=70", "stages.0.schedule.validate_every=35"]


def words_of(manifest: Path, folder: Path, *more: str) -> list[str]:
    changes = [part for change in LONG for part in ("--set", change)]
    words = ["-m", "medseg", "train", "--task", "dtc", "--data", manifest, "--output", folder, "--device", "cpu"]
    return [*map(str, words), *changes, *more]


def start(manifest: Path, folder: Path, said: Path, *more: str) -> subprocess.Popen[bytes]:
    """By torchrun, in a session of its own."""
    with said.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, *TORCHRUN, *words_of(manifest, folder, *more)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=file,
            stderr=file,
            start_new_session=True,
            # a shell that starts things in the background lets them ignore interrupts
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )


def finish(manifest: Path, folder: Path, *more: str) -> None:
    """By torchrun, to its end; nobody stops it, so that it may be a copy of a process."""
    command = [python(), *TORCHRUN, *words_of(manifest, folder, *more)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


def last(folder: Path) -> dict:
    return torch.load(folder / "last.pt", weights_only=True)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(manifest, tmp_path_factory) -> dict:
    """The state of a training that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    finish(manifest, folder)
    return last(folder)["method"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ranks_stop_together_and_lose_nothing(manifest, whole, tmp_path, number):
    folder, said = tmp_path / "run", tmp_path / "said.txt"
    run = start(manifest, folder, said)
    deadline = time.monotonic() + 120
    while not (folder / "last.pt").exists():  # written after the first iteration
        assert run.poll() is None, said.read_text()
        assert time.monotonic() < deadline, said.read_text()
        time.sleep(0.02)
    if number == signal.SIGINT:
        os.killpg(run.pid, number)  # Ctrl-C reaches the whole group: the launcher, both ranks, their loader workers
    else:
        run.terminate()  # a scheduler tells the launcher alone
    assert run.wait(60) != 0
    stopped = last(folder)["iteration"]
    assert 1 < stopped < 70, said.read_text()  # not the checkpoint of the first iteration: nothing was lost
    lines = [line for line in said.read_text().splitlines() if line.startswith("stopped")]
    further = "torchrun --nproc_per_node=2 -m medseg train "
    assert len(lines) == 1  # of the first rank alone
    assert lines[0].startswith(f"stopped at {stopped} of 70 iterations, saved; continue with: {further}")
    assert lines[0].endswith(" --resume")

    finish(manifest, folder, "--resume")
    resumed = last(folder)["method"]
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)


KEEP_SHARED = """
import sys
import torch
from medseg.engine import distributed

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/met", rank=rank, world_size=2)
network = torch.nn.BatchNorm1d(3)
network(torch.randn(8, 3) + 10 * rank)
before = {name: buffer.clone() for name, buffer in network.named_buffers()}
distributed.share_buffers(network)
torch.save({"before": before, "after": dict(network.named_buffers())}, f"{folder}/{rank}.pt")
torch.distributed.destroy_process_group()
"""
"""One of two processes, whose batch norm saw other numbers than the other's."""


def test_ranks_validate_with_the_statistics_of_the_first(tmp_path):
    for process in [subprocess.Popen([python(), "-c", KEEP_SHARED, rank, str(tmp_path)]) for rank in "01"]:
        assert process.wait(100) == 0
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert not torch.equal(first["before"]["running_mean"], second["before"]["running_mean"])
    for name, buffer in first["before"].items():
        assert torch.equal(buffer, first["after"][name])
        assert torch.equal(buffer, second["after"][name])


@pytest.mark.slow
def test_a_budget_gives_all_ranks_one_plan(tmp_path):
    """The first rank sizes the run alone, also of a method whose steps add up over all ranks."""
    manifest, folder = write_dataset(tmp_path / "data", labeled=4, unlabeled=4, validation=0), tmp_path / "run"
    sizes = ["data.patch=[16,16,16]", "data.spacing_mm=[1,1,1.5]", "stages.0.network.width=4"]
    sizes += ["stages.0.schedule.batch={labeled: 2, unlabeled: 2}", "stages.0.schedule.workers=0"]
    method = f"{Path(__file__).parents[2] / 'support' / 'counting_method.py'}:Counting"
    arguments = ["train", "--task", "ael", "--method", method, "--data", manifest, "-o", folder, "--device", "cpu"]
    arguments += ["--budget", "10s", *(part for change in sizes for part in ("--set", change))]
    done = subprocess.run(
        [python(), *TORCHRUN, "-m", "medseg", *map(str, arguments)], capture_output=True, text=True, timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1", "SPY_FOLDER": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    planned = yaml.safe_load((folder / "pipeline.yaml").read_text())["stages"][0]["schedule"]["iterations"]
    assert [int((tmp_path / f"rank{rank}").read_text()) for rank in (0, 1)] == [planned, planned]
    assert last(folder)["iteration"] == planned
