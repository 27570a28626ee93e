"""Every method through its whole life: trained after or before another stage, stopped, resumed, exported, opened."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lives import ITERATIONS, Life, assert_same, of_every_life, selected, write_everything
from stock import elsewhere

from medseg.bundle.bundle import open_bundle
from medseg.stopping import Stopped

pytestmark = pytest.mark.slow  # seconds for each method, a minute for all

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
            # figures show the terms of each method: in 3D the same ones
            runs[name] = life.train(manifest, folder / name, drawn=life.dims == 2)
        return runs[name]

    return run_of


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
