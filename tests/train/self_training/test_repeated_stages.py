"""Stages that a pipeline repeats, rounds of several stages, and cases with tags in rounds."""

from __future__ import annotations

import copy
import json
import os
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import small_methods as small
import torch
import yaml
from forking import python
from tagged import write_tagged
from tiny import write_dataset

from medseg.config.repeated_stages import write_out
from medseg.errors import ConfigError
from medseg.manifest.labelling import is_pseudo
from medseg.manifest.manifest import Manifest, streams_of
from medseg.method import LabelAndMaps
from medseg.methods.auxsegnet import SaliencyFusion
from medseg.workflows.train import settings
from medseg.workflows.train.run import train
from medseg.workflows.train.self_training.labelling.predict_maps import MapPredictor
from medseg.workflows.train.stages.stage import StageRun

pytestmark = pytest.mark.usefixtures("undrawn")

SCHEDULE = {"iterations": 2, "lr": 0.01, "workers": 0}
NETWORK = {"name": "unet", "width": 4}
OWN = [small.Tagger, small.SalientMaps]
SMALL = Path(small.__file__)


@pytest.fixture(scope="module")
def tagged(tmp_path_factory) -> Path:
    return write_tagged(tmp_path_factory.mktemp("data"))


def stage(method: str, **more) -> dict:
    # copies: YAML would write the same object as an alias, which a setting changes everywhere
    return {"method": {"name": method}, "network": dict(NETWORK), "schedule": dict(SCHEDULE), **copy.deepcopy(more)}


def write_task(path: Path, *stages: dict) -> str:
    path.write_text(yaml.safe_dump({"name": path.stem, "stages": list(stages), "data": {"patch": [16, 16, 16]}}))
    return str(path)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "bundle" / "models" / "model.pt", weights_only=True)


def equal(first: Path, second: Path) -> bool:
    one, other = weights(first), weights(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_group_is_written_out():
    a, b, c, d = ({"method": {"name": name}, "then": {"rule": {"name": "x"}}} for name in "abcd")
    content, places = write_out({"name": "n", "stages": [a, {"repeat": 2, "stages": [b, c]}, d]})
    assert [stage["method"]["name"] for stage in content["stages"]] == ["a", "b", "c", "b", "c", "d"]
    assert content["repeats"] == [{"first": 1, "stages": 2, "passes": 2, "stop_dice": None}]
    assert places == ["stages.0", "stages.1.stages.0", "stages.1.stages.1", "stages.1.stages.0", "stages.1.stages.1",
                      "stages.2"]  # fmt: skip
    assert all("then" in stage for stage in content["stages"])
    last, _ = write_out({"stages": [{"repeat": 3, "stages": [b]}]})
    assert ["then" in stage for stage in last["stages"]] == [True, True, False], "nothing follows the last pass"
    assert write_out({"stages": [a]}) == ({"stages": [a]}, ["stages.0"])


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ({"repeat": 0, "stages": [stage("supervised")]}, r"stages\.1\.repeat: accepted is a number of passes from 1"),
        ({"repeat": 2, "stages": []}, r"stages\.1\.stages: accepted is a list of the stages to repeat"),
        ({"repeat": 2, "times": 1, "stages": []}, r"stages\.1\.times: a group of repeated stages has repeat"),
        ({"repeat": 2, "stages": [{"repeat": 2, "stages": []}]}, r"stages\.1\.stages\.0: a group inside a group"),
        ({"repeat": 2, "stop_dice": 2, "stages": [stage("supervised")]}, r"stages\.1\.stop_dice: accepted is a number"),
        ({"repeat": 2, "stop_dice": 0.9, "stages": [stage("supervised")]}, r"compares pseudo-labels, and no stage"),
        ({"repeat": 2, "stages": [stage("supervised", schedule={"lr": "x"})]}, r"stages\.1\.stages\.0\.schedule\.lr"),
        ({"repeat": 2, "stages": [stage("nobody")]}, r"stages\.1\.stages\.0\.method\.name: method 'nobody'"),
    ],
)  # fmt: skip
def test_a_group_that_cannot_be_is_named_where_it_stands(tmp_path, group, words):
    task = write_task(tmp_path / "group.yaml", stage("supervised"), group)
    with pytest.raises(ConfigError, match=words):
        settings.load(task)


def test_settings_are_changed_where_they_are_written(tmp_path):
    task = write_task(tmp_path / "group.yaml", stage("dtc"), {"repeat": 2, "stages": [stage("supervised")]})
    changes = ["stages.1.stages.0.schedule.iterations=7", "stages.1.repeat=3"]
    pipeline = settings.load(task, changes)
    assert [each.schedule.iterations for each in pipeline.stages] == [2, 7, 7, 7]
    settings.dump(pipeline, tmp_path / "resolved.yaml")
    assert settings.load(str(tmp_path / "resolved.yaml")) == pipeline
    assert "repeats" not in settings.load("supervised").model_dump(), "as in records of earlier runs"


def group(passes: int, **more) -> dict:
    then = {"rule": {"name": "SalientMaps"}, "cases": ["weak", "pseudo"]}
    return {"repeat": passes, **more, "stages": [stage("Tagger", then=then), stage("supervised")]}


@pytest.fixture(scope="module")
def stopped_early(tagged, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    task = write_task(folder / "group.yaml", group(3, stop_dice=0.99))
    return train(task, tagged, folder / "whole", method=OWN, device="cpu")


def test_passes_end_where_labels_no_longer_change(stopped_early, tagged, capsys):
    run = stopped_early
    assert sorted(path.name for path in run.glob("stage*")) == ["stage0", "stage1", "stage2", "stage3"]
    assert equal(run, run / "stage3")
    first, second = (Manifest.load(run / f"stage{number}" / "labels" / "manifest.json") for number in (0, 2))
    for case, again in zip(first.training, second.training, strict=True):
        before, after = (
            np.asarray(nib.load(m.resolve(c.maps["focus"])).dataobj) for m, c in ((first, case), (second, again))
        )
        assert np.array_equal(after, before / 2), "the rule is told the pass"
    counts = [json.loads(file.read_text())["notes"] for file in (run / "stage2" / "labels" / "pseudo").glob("*.json")]
    assert all(each["both"] == [size // 2 for size in each["size"]] for each in counts), "foreground is the same"
    train(str(run.parent / "group.yaml"), tagged, run, method=OWN, device="cpu", resume=True)
    assert "with those before; no pass follows" in capsys.readouterr().err
    assert equal(run, run / "stage3")


def test_all_passes_are_made_without_a_limit(tagged, tmp_path, capsys):
    task = write_task(tmp_path / "group.yaml", group(2), stage("supervised", init="previous"))
    run = train(task, tagged, tmp_path / "run", method=OWN, device="cpu")
    assert sorted(path.name for path in run.glob("stage*")) == [f"stage{number}" for number in range(5)]
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    for words in ("stage 2 (pass 2 of 2)", "stages 0 to 3 2 passes of 2 stages", "stage 4 supervised"):
        assert words in said


def test_a_pass_that_was_stopped_goes_on(stopped_early, tagged, tmp_path, monkeypatch):
    original = StageRun.train

    def until_the_second_pass(self, *arguments, **options):
        if self.inputs.index == 3:
            raise InterruptedError
        return original(self, *arguments, **options)

    task = str(stopped_early.parent / "group.yaml")
    with monkeypatch.context() as broken:
        broken.setattr(StageRun, "train", until_the_second_pass)
        with pytest.raises(InterruptedError):
            train(task, tagged, tmp_path / "run", method=OWN, device="cpu")
    assert not (tmp_path / "run" / "bundle").exists()
    kept = (tmp_path / "run" / "stage2" / "maps.pt").stat().st_mtime_ns
    run = train(task, tagged, tmp_path / "run", method=OWN, device="cpu", resume=True)
    assert equal(run, stopped_early)
    assert (run / "stage2" / "maps.pt").stat().st_mtime_ns == kept


def test_rounds_label_cases_with_tags_and_several_stages_have_rounds(tmp_path):
    """Of a data set with labels, tags alone, and nothing; the second stage labels all anew, from its own teachers."""
    manifest = write_dataset(tmp_path / "data", labeled=3, unlabeled=1)
    content = json.loads(manifest.read_text())
    content["training"][2].pop("label")
    content["training"][2]["tags"] = ["ball"]
    mixed = manifest.with_name("mixed.json")
    mixed.write_text(json.dumps(content))
    rounds = {"count": 1, "rule": {"name": "dmpct"}}
    stages = stage("supervised", rounds=rounds), stage("supervised", rounds=rounds, init="previous")
    run = train(write_task(tmp_path / "rounds.yaml", *stages), mixed, tmp_path / "run", device="cpu")
    for number in (0, 1):
        made = Manifest.load(run / f"stage{number}" / "round1" / "manifest.json")
        groups = streams_of(made)
        assert not groups["weak"] + groups["unlabeled"]
        assert [case.name for case in groups["labeled"] if is_pseudo(case)] == ["case2", "case3"]
        assert made.presence(groups["labeled"][2]) == {1: True, 2: False}
    assert equal(run, run / "stage1" / "round1")
    assert not equal(run / "stage0", run)
    only = {**rounds, "cases": ["unlabeled"]}
    alone = train(
        write_task(tmp_path / "only.yaml", stage("supervised", rounds=only)), mixed, tmp_path / "only", device="cpu"
    )
    assert [path.stem for path in (alone / "round1" / "pseudo").glob("*.json")] == ["case3"]


@pytest.mark.slow
def test_two_processes_make_the_same_passes(tagged, tmp_path):
    task = write_task(tmp_path / "group.yaml", group(3, stop_dice=0.99))
    launcher = [python(), "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "medseg"]
    arguments = ["train", "--task", task, "--method", f"{SMALL}:Tagger", "--method", f"{SMALL}:SalientMaps",
                 "--data", tagged, "-o", tmp_path / "run", "--device", "cpu",
                 "--set", "stages.0.stages.0.schedule.batch={weak: 1, labeled: 1}",
                 "--set", "stages.0.stages.1.schedule.batch={labeled: 1}"]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "no pass follows" in done.stderr
    assert equal(tmp_path / "run", tmp_path / "run" / "stage3")
    assert len(list((tmp_path / "run" / "stage2" / "labels" / "pseudo").glob("case?.nii.gz"))) == 3


def test_label_updates_of_auxsegnet_see_the_saliency_of_the_files_and_leave_weights_as_they_are(
    tagged, tmp_path, monkeypatch
):
    seen: dict[str, list[torch.Tensor]] = {}
    label, predict = SaliencyFusion.label, MapPredictor.__call__

    def noted_label(self, case, decided, round_number):
        seen.setdefault(case.name, []).append(case.inputs["saliency"].clone())
        made = label(self, case, decided, round_number)
        something = (case.inputs["saliency"] > 0).to(torch.uint8)  # hardly trained maps may find nothing
        return LabelAndMaps(something, made.maps)

    def noted_predict(self, *arguments):
        before = [copy.deepcopy(module.state_dict()) for _, module in self.modules]
        found = predict(self, *arguments)
        for (_, module), state in zip(self.modules, before, strict=True):
            assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
        return found

    monkeypatch.setattr(SaliencyFusion, "label", noted_label)
    monkeypatch.setattr(MapPredictor, "__call__", noted_predict)
    then = {"rule": {"name": "auxsegnet"}, "cases": ["weak", "pseudo"]}
    stages = [stage("tag_classifier", then=then), stage("auxsegnet", init="previous", then=then)]
    stages.append(stage("auxsegnet", init="previous"))
    train(write_task(tmp_path / "updates.yaml", *stages), tagged, tmp_path / "run", device="cpu")
    assert sorted(seen) == ["case0", "case1", "case2"]
    for name, of_updates in seen.items():
        stored = np.asarray(nib.load(tagged.parent / f"{name}_saliency.nii.gz").dataobj)
        assert len(of_updates) == 2
        assert all(np.array_equal(saliency.numpy(), stored) for saliency in of_updates)
