"""Which of two heads is exported: labelled validation cases choose it, by scores that the tests set."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import two_heads
import yaml
from forking import python
from given_networks import factory
from lives import assert_same, write_everything
from stock import elsewhere
from torch import nn
from two_heads import score_cases

from medseg import methods
from medseg.bundle.bundle import open_bundle
from medseg.config.instantiate import build_network
from medseg.engine.run_progress import RunProgress
from medseg.errors import ConfigError
from medseg.networks.factory import change_arguments, definition_of
from medseg.portable.networks.adapters import Planar
from medseg.portable.networks.tag_networks import enlarge
from medseg.stopping import Stopped
from medseg.workflows.train.plan import write_plan
from medseg.workflows.train.report.curves import draw_trainings, read_trainings
from medseg.workflows.train.run import train
from medseg.workflows.train.run_folder import describe_validation
from medseg.workflows.train.stages import validation_volumes as module
from medseg.workflows.train.stages.validation_volumes import choose_head, keep_best_head, score_heads

pytestmark = pytest.mark.usefixtures("undrawn")

ITERATIONS = 4


def made(**options):
    torch.manual_seed(0)
    return methods.build("auxsegnet", factory(2), **options)


# The network.


def test_a_network_with_another_head_is_made_again_with_that_head():
    network = made(exported="validated").segmenter()
    image = torch.randn(1, 2, 32, 24)
    found = network.eval().outputs(image)
    refined, plain = (enlarge(each, (32, 24)) for each in (found.refine(found.segmentation), found.segmentation))
    torch.testing.assert_close(network(image), refined)
    before = definition_of(network)
    change_arguments(network, {"refined": False})
    torch.testing.assert_close(network(image), plain)
    again = build_network(definition_of(network)).eval()
    again.load_state_dict(network.state_dict())
    torch.testing.assert_close(again(image), plain)
    assert before["refined"], "what it was made of before is not changed"


def test_the_plain_segmentation_is_exported_where_it_is_asked_for():
    plain = made(exported="plain")
    assert not plain.segmenter().refined
    assert not plain.head_choices
    label = torch.ones(1, 1, 32, 24, dtype=torch.uint8)
    batch = {"image": torch.randn(1, 2, 32, 24), "label": label, "tags": torch.ones(1, 2), "salient": label.float()}
    terms = plain({"labeled": batch}, SimpleNamespace(iteration=0, total=9))
    assert terms["refined_segmentation"].item() > 0, "it is trained as before"


def test_a_head_that_is_not_trained_cannot_be_chosen():
    with pytest.raises(ConfigError, match="exported validated: refined_segmentation is 0, so that there is one"):
        made(exported="validated", refined_segmentation=0.0)
    with pytest.raises(ConfigError, match="exported"):
        made(exported="better")


# The choice, by scores that are set.


def scripted(monkeypatch, scores: Sequence[float]) -> list[bool]:
    """Let validations have these scores, one for each head after the other; gives which head was asked each time."""
    asked: list[bool] = []

    def score(segmenter: nn.Module, *others: object) -> dict:
        asked.append(segmenter.refined)
        value = scores[len(asked) - 1]
        return {"mean": value, "classes": {"ball": value, "box": None}}

    monkeypatch.setattr(module, "score_volumes", score)
    return asked


@pytest.mark.parametrize(("scores", "best"), [([0.3, 0.5], "plain"), ([0.5, 0.3], "refined"), ([0.4, 0.4], "refined")])
def test_the_better_head_is_found_and_of_equal_ones_the_papers(scores, best, monkeypatch):
    method = made(exported="validated")
    asked = scripted(monkeypatch, scores)
    found = score_heads(method, method.segmenter(), [], None, None)
    assert asked == [True, False]
    assert found["head"] == best
    assert found["mean"] == max(scores) == found["classes"]["ball"]
    assert found["heads"] == {"refined": scores[0], "plain": scores[1]}


def test_where_nothing_is_to_be_chosen_scores_are_as_ever(monkeypatch):
    method = made()
    asked = scripted(monkeypatch, [0.3])
    found = score_heads(method, method.segmenter(), [], None, None)
    assert found == {"mean": 0.3, "classes": {"ball": 0.3, "box": None}}
    assert asked == [True]


@pytest.mark.parametrize(("best", "exported"), [("plain", "plain"), ("refined", "refined"), (None, "refined")])
def test_what_is_exported_is_the_head_of_the_best_weights(best, exported, tmp_path):
    """Whichever was scored last; the paper's where no weights were kept."""
    method, progress = made(exported="validated"), RunProgress()
    progress.head, progress.heads = best, {"refined": 0.4, "plain": 0.5}
    choose_head(method, "refined" if exported == "plain" else "plain")
    keep_best_head(method, progress, tmp_path, "heads")
    assert definition_of(method.segmenter())["refined"] == method.segmenter().refined == (exported == "refined")
    assert definition_of(Planar(method.segmenter(), 2))["network"]["refined"] == (exported == "refined")
    assert json.loads((tmp_path / "chosen_head.json").read_text())["chosen"] == exported


def test_nothing_is_written_of_a_method_without_a_choice(tmp_path):
    keep_best_head(made(exported="plain"), RunProgress(), tmp_path, "heads")
    assert not list(tmp_path.iterdir())


# A training.


def write_task(path: Path, exported: str) -> Path:
    schedule = {"iterations": ITERATIONS, "lr": 0.01, "workers": 0, "validate_every": 2, "batch": {"labeled": 2}}
    stage = {
        "method": {"name": "auxsegnet", "options": {"exported": exported, "width": 8}},
        "network": {"name": "vnet", "width": 4},
        "schedule": schedule,
    }
    data = {"patch": [16, 16, 16], "view": "volume"}
    path.write_text(yaml.safe_dump({"name": "heads", "stages": [stage], "data": data, "postprocessing": "none"}))
    return path


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    return write_everything(tmp_path_factory.mktemp("data"))


def trained(folder: Path, manifest: Path, **more) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return train(str(write_task(folder / "task.yaml", "validated")), manifest, folder / "run", device="cpu", **more)


COLLAPSED = [0.1, 0.4, 0.2, 0.3]
"""Of two validations: the refined head is below the plain one, which is best at the first."""


OPEN = """
import sys
import torch
from monai.bundle import ConfigParser
folder = sys.argv[1]
sys.path[0] = folder
parser = ConfigParser()
parser.read_config(folder + "/configs/inference.json")
parser["bundle_root"] = folder
network = parser.get_parsed_content("network").eval()
network.load_state_dict(torch.load(folder + "/models/model.pt", weights_only=True))
with torch.no_grad():
    said = network(torch.load("image.pt", weights_only=True))
assert "medseg" not in sys.modules
torch.save(said, "said.pt")
"""
"""A process without medseg asks a bundle's network about an image."""


def test_the_better_head_is_exported_with_its_best_weights(tmp_path, manifest, monkeypatch, capfd):
    asked = scripted(monkeypatch, COLLAPSED)
    run = trained(tmp_path, manifest)
    assert asked == [True, False, True, False]
    weights = torch.load(run / "bundle" / "models" / "model.pt", weights_only=True)
    assert_same(weights, torch.load(run / "best.pt", weights_only=True))
    last = torch.load(run / "last.pt", weights_only=True)
    assert not all(torch.equal(weights[name], last["method"][f"network.{name}"]) for name in weights)
    assert last["extra"]["head"] == "plain"

    chosen = json.loads((run / "chosen_head.json").read_text())
    assert chosen == {"chosen": "plain", "best_validation_score": {"refined": 0.2, "plain": 0.4}}
    said = "heads: the plain head is exported, by the best validation score of each: refined 0.200, plain 0.400"
    assert said in capfd.readouterr().err
    told = "validation Dice 0.400 at iteration 2 of 4, of its plain head (refined at best 0.200) (ball 0.400)"
    assert describe_validation(run) == told
    assert told[1:] in (run / "report.html").read_text()
    assert len(draw_trainings(read_trainings(run))) > 1000

    image = torch.randn(1, 1, 32, 16, 16, generator=torch.Generator().manual_seed(0))
    network = open_bundle(run / "bundle").network.eval()
    with torch.no_grad():
        plain = enlarge(network.outputs(image).segmentation, image.shape[2:])
        torch.testing.assert_close(network(image), plain)
    torch.save(image, tmp_path / "image.pt")
    elsewhere(tmp_path, "-c", OPEN, str(run / "bundle"))
    torch.testing.assert_close(torch.load(tmp_path / "said.pt", weights_only=True), plain)


def test_a_run_that_was_stopped_chooses_as_an_unbroken_one(tmp_path, manifest, monkeypatch):
    """It is stopped after the first validation, whose plain head is the best of all."""
    with monkeypatch.context() as patch:
        scripted(patch, COLLAPSED)
        whole = trained(tmp_path / "whole", manifest)
    original = methods.find("auxsegnet").after_step

    def interrupted(self, clock):
        original(self, clock)
        if clock.iteration == 2:
            os.kill(os.getpid(), signal.SIGINT)

    scripted(monkeypatch, COLLAPSED)  # its second half is that of the run that goes on
    with monkeypatch.context() as patch:
        patch.setattr(methods.find("auxsegnet"), "after_step", interrupted)
        with pytest.raises(Stopped, match="at 3 of 4 iterations, saved"):
            trained(tmp_path / "broken", manifest)
    broken = trained(tmp_path / "broken", manifest, resume=True)
    for file in ("bundle/models/model.pt", "last.pt"):
        states = [torch.load(run / file, weights_only=True) for run in (whole, broken)]
        for state in states:
            state.pop("fingerprint", None)
            state.get("extra", {}).pop("best_sha256", None)
        assert_same(*states)
    for file in ("chosen_head.json", "bundle/configs/inference.json"):
        assert (whole / file).read_text() == (broken / file).read_text()


def test_without_labelled_validation_cases_the_choice_is_refused_before_training(tmp_path, manifest):
    content = json.loads(manifest.read_text()) | {"validation": []}
    without = manifest.parent / "without.json"
    without.write_text(json.dumps(content))
    said = "method auxsegnet: labelled validation cases are to choose between its heads refined and plain, and there is"
    with pytest.raises(ConfigError, match=said):
        trained(tmp_path, without)
    assert not (tmp_path / "run" / "last.pt").exists()
    write_plan(str(write_task(tmp_path / "refined.yaml", "refined")), without, tmp_path / "plan.yaml")


# Several processes.


def test_processes_choose_the_same_head_by_the_cases_of_all(tmp_path):
    command = [python(), two_heads.__file__]
    for process in [subprocess.Popen([*command, rank, str(tmp_path)]) for rank in "01"]:
        assert process.wait(200) == 0
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second == score_cases()
    alone = [score_cases([case])["head"] for case in (0, 1)]
    assert alone == ["refined", "plain"], "each by its own case would choose another one"
