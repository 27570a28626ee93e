"""Every method through its whole life: trained after or before another stage, stopped, resumed, exported, opened."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lives import ITERATIONS, Life, every_life, write_everything
from stock import elsewhere

from medseg.bundle.bundle import open_bundle
from medseg.stopping import Stopped

pytestmark = pytest.mark.slow  # seconds for each method, a minute for all
of_every_life = pytest.mark.parametrize("life", every_life(), ids=str)

OPEN = """
import json, sys
import torch
from monai.bundle import ConfigParser
said = {}
for name, folder in json.load(open("bundles.json")).items():
    for module in [module for module in sys.modules if module.partition(".")[0] == "scripts"]:
        del sys.modules[module]  # those of the bundle before
    sys.path[0] = folder
    parser = ConfigParser()
    parser.read_config(folder + "/configs/inference.json")
    parser["bundle_root"] = folder
    network = parser.get_parsed_content("network").eval()
    network.load_state_dict(torch.load(folder + "/models/model.pt", weights_only=True))
    with torch.no_grad():
        said[name] = network(torch.load("image.pt", weights_only=True))
assert "medseg" not in sys.modules
torch.save(said, "said.pt")
"""
"""A process without medseg asks the networks of several bundles about one image."""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    return write_everything(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(manifest, tmp_path_factory) -> Callable[[Life], Path]:
    """The run folder of a life, lived once."""
    folder = tmp_path_factory.mktemp("runs")
    runs: dict[str, Path] = {}

    def run_of(life: Life) -> Path:
        name = str(life)
        if name not in runs:
            runs[name] = life.train(manifest, folder / name)
        return runs[name]

    return run_of


def selected(request: pytest.FixtureRequest, fixture: str) -> list[Life]:
    """The lives of the tests that were asked for and need a fixture."""
    return [
        item.callspec.params["life"]
        for item in request.session.items
        if fixture in item.fixturenames and item.path == request.path
    ]


@pytest.fixture(scope="module")
def answers(request, trained, tmp_path_factory) -> dict[str, torch.Tensor]:
    """What the bundles of the selected lives answer where medseg is not installed."""
    folder = tmp_path_factory.mktemp("elsewhere") / "here"
    folder.mkdir()
    torch.save(make_image(), folder / "image.pt")
    bundles = {str(life): str(trained(life) / "bundle") for life in selected(request, "answers")}
    (folder / "bundles.json").write_text(json.dumps(bundles))
    elsewhere(folder, "-c", OPEN)
    return torch.load(folder / "said.pt", weights_only=True)


def make_image() -> torch.Tensor:
    return torch.randn(1, 1, 32, 16, 16, generator=torch.Generator().manual_seed(0))


def assert_same(one: Any, other: Any, place: str = "") -> None:
    """Nested values, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), place
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key, value in one.items():
            assert_same(value, other[key], f"{place}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), place
        for number, value in enumerate(one):
            assert_same(value, other[number], f"{place}.{number}")
    else:
        assert one == other, place


@of_every_life
def test_the_bundle_says_the_same_where_medseg_is_not_installed(life, trained, answers):
    with torch.no_grad():
        expected = open_bundle(trained(life) / "bundle").network.eval()(make_image())
    torch.testing.assert_close(answers[str(life)], expected)


@of_every_life
def test_stopped_and_resumed_is_bit_for_bit(life, trained, manifest, tmp_path, monkeypatch):
    original = life.subject.kind.after_step

    def interrupted(self, clock):
        original(self, clock)
        if clock.total == ITERATIONS and clock.iteration == 1:
            os.kill(os.getpid(), signal.SIGINT)

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(life.subject.kind, "after_step", interrupted)
        with pytest.raises(Stopped, match="at 2 of 4 iterations, saved"):
            life.train(manifest, folder)
    life.train(manifest, folder, resume=True)
    states = []
    for run in (trained(life), folder):
        state = torch.load(run / life.stage_folder / "last.pt", weights_only=True)
        assert state["iteration"] == ITERATIONS
        states.append({key: state[key] for key in ("method", "optimizer", "scheduler", "random")})
    assert_same(*states)
    weights = [torch.load(run / "bundle" / "models" / "model.pt", weights_only=True) for run in (trained(life), folder)]
    assert_same(*weights)


@pytest.fixture(scope="module")
def ranks(request, manifest, tmp_path_factory) -> Callable[[Life], list[dict]]:
    """What two processes that trained the selected lives together say of each."""
    folder = tmp_path_factory.mktemp("ranks")
    names = [str(life) for life in selected(request, "ranks")]
    job = {
        "folder": str(folder),
        "manifest": str(manifest),
        "ports": dict(zip(names, free_ports(len(names)), strict=True)),
    }
    (folder / "job.json").write_text(json.dumps(job))
    script = Path(__file__).parents[1] / "support" / "two_ranks.py"
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    processes = []
    for rank in ("0", "1"):
        environment = os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank}
        with (folder / f"said{rank}.txt").open("w") as said:
            command = [sys.executable, str(script), str(folder / "job.json")]
            processes.append(subprocess.Popen(command, env=environment, stdout=said, stderr=said))
    try:
        for process in processes:
            process.wait(120 + 60 * len(names))
    finally:
        for process in processes:
            process.kill()

    def found(life: Life) -> list[dict]:
        files = [folder / f"{life}-rank{rank}.json" for rank in (0, 1)]
        if not all(file.exists() for file in files):
            pytest.fail("\n".join((folder / f"said{rank}.txt").read_text()[-3000:] for rank in (0, 1)))
        return [json.loads(file.read_text()) for file in files]

    return found


def free_ports(count: int) -> list[int]:
    """As many ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


@of_every_life
def test_two_processes_that_start_from_a_network_before_are_one_method(life, ranks):
    """Parameters are equal throughout; buffers when a step begins, for each step starts from those of rank 0."""
    first, second = ranks(life)
    assert "error" not in first, first["error"]
    assert "error" not in second, second["error"]
    assert_same(first, second)
