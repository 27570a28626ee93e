"""Every shipped pipeline for two iterations on generated data, to a bundle, to a prediction."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import yaml
from given_networks import factory
from lives import write_everything
from tiny import write_dataset

from medseg.errors import ConfigError
from medseg.manifest.manifest import Manifest
from medseg.methods import build, build_rule, find
from medseg.workflows.predict.run import predict
from medseg.workflows.train import settings
from medseg.workflows.train.run import train
from medseg.workflows.train.settings import shipped

pytestmark = pytest.mark.usefixtures("undrawn")

SMALL_STAGE = ("schedule.iterations=2", "network.width=4", "schedule.workers=0")
SMALL_DATA = ("data.patch=[16,16,16]", "data.overlap=0.25", "data.spacing_mm=[1.5,1.5,1.5]")


def places_of(stages: list, before: str = "stages") -> list[str]:
    """Where the stages of a file stand, those of repeated groups too."""
    found = []
    for number, stage in enumerate(stages):
        place = f"{before}.{number}"
        found += places_of(stage["stages"], f"{place}.stages") if "repeat" in stage else [place]
    return found


def smaller(task: str) -> list[str]:
    """Settings that make every stage of a pipeline small, and leave one pass of repeated ones."""
    content = yaml.safe_load(shipped()[task].read_text())
    once = [f"stages.{number}.repeat=1" for number, stage in enumerate(content["stages"]) if "repeat" in stage]
    planar = ["data.patch=[16,16,1]"] if content.get("data", {}).get("view") == "axial" else []
    of_stages = [f"{place}.{setting}" for place in places_of(content["stages"]) for setting in SMALL_STAGE]
    return [*SMALL_DATA, *planar, *of_stages, *once]


FOLLOWING = ["stages.0.schedule.iterations=2", "stages.0.schedule.workers=0", "stages.0.schedule.batch={weak: 2}",
             "stages.0.method.options={tags: all, channels: 4}", "data.overlap=0.25"]  # fmt: skip
"""Of methods that take network and patch of the run that they start from."""


def methods_of(task):
    return [find(stage.method.name) for stage in settings.load(task).stages]


def tag_each(manifest):
    """The data set with one tag a case in the place of labels."""
    content = json.loads(manifest.read_text())
    for section in ("training", "test"):
        for number, case in enumerate(content[section]):
            case.pop("label", None)
            case["tags"] = [("ball", "box")[number % 2]]
    manifest.write_text(json.dumps(content))
    return manifest


def write_data(task, folder):
    """Cases with tags and maps too where the task learns from them."""
    if settings.load(task).classifies:
        return tag_each(write_dataset(folder, validation=0, labeled=4))
    streams = {stream.name for method in methods_of(task) for stream in method.streams}
    return write_everything(folder) if "weak" in streams else write_dataset(folder, validation=0, labeled=4)


@pytest.mark.parametrize("task", shipped())
def test_it_runs_to_a_prediction(task, tmp_path):
    manifest = write_data(task, tmp_path / "data")
    start, overrides = None, smaller(task)
    if methods_of(task)[0].asks_previous:
        start = train("supervised", manifest, tmp_path / "before", overrides=smaller("supervised"))
        overrides = FOLLOWING
    run = train(task, manifest, tmp_path / "run", overrides=overrides, init_from=start)
    report = predict(run, manifest, tmp_path / "out", section="test")
    assert not report["failed"]
    name = Manifest.load(manifest).test[0].name
    image = nib.load(tmp_path / "data" / f"{name}.nii.gz")
    result = nib.load(tmp_path / "out" / f"{name}.nii.gz")
    assert result.shape == image.shape
    assert np.allclose(result.affine, image.affine)
    assert set(np.unique(result.dataobj)) <= {0, 1, 2}


FORMER = {
    "method": {"name": "dmpct", "options": {"dice": 1.0, "sure_background": 0.8, "sure_rounds": 1, "fusion": "any",
                                            "student": "warm", "stop_dice": 0.9}},
    "rounds": 3,
}  # fmt: skip
"""A stage as pipelines before version 0.2 have it."""


def write_pipeline(path, stage):
    path.write_text(yaml.safe_dump({"name": "x", "stages": [stage]}))
    return str(path)


def test_a_pipeline_of_an_earlier_version_is_read(tmp_path):
    stage = settings.load(write_pipeline(tmp_path / "earlier.yaml", FORMER)).stages[0]
    assert (stage.method.name, stage.method.options) == ("supervised", {"dice": 1.0})
    assert (stage.fusion, stage.rounds.count, stage.rounds.student, stage.rounds.stop_dice) == ("any", 3, "warm", 0.9)
    options = {"background_confidence": 0.8, "background_confidence_rounds": 1, "fusion": "any"}
    assert (stage.rounds.rule.name, stage.rounds.rule.options) == ("dmpct", options)
    rule = build_rule("dmpct", 3, **options)
    assert (rule.background_confidence, rule.background_confidence_rounds) == (0.8, 1)


def test_its_options_may_be_changed_by_their_former_names(tmp_path):
    task = write_pipeline(tmp_path / "earlier.yaml", FORMER)
    changed = settings.load(task, ["stages.0.method.options.sure_background=0.5", "stages.0.rounds=0"])
    assert changed.stages[0].rounds is None
    changed = settings.load(task, ["stages.0.method.options.sure_background=0.5"])
    assert changed.stages[0].rounds.rule.options["background_confidence"] == 0.5


def test_settings_of_todays_form_change_a_former_pipeline(tmp_path):
    path = tmp_path / "former.yaml"
    stage = {"method": {"name": "dmpct", "options": {"sure_background": 0.8}}, "views": ["axial"], "rounds": 2}
    path.write_text(yaml.safe_dump({"name": "old", "stages": [stage]}))
    changes = ["stages.0.rounds.count=3", "stages.0.rounds.rule.options.ignore_disagreement=true"]
    rounds = settings.load(str(path), changes).stages[0].rounds
    assert rounds is not None
    assert rounds.count == 3
    assert rounds.rule.options == {"background_confidence": 0.8, "ignore_disagreement": True}


def test_a_former_number_of_rounds_of_another_method_is_refused(tmp_path):
    path = tmp_path / "former.yaml"
    path.write_text(yaml.safe_dump({"name": "old", "stages": [{"method": {"name": "supervised"}, "rounds": 2}]}))
    with pytest.raises(ConfigError, match=r"stages.0: rounds is 2; accepted is \{count: 2"):
        settings.load(str(path), ["stages.0.rounds.count=3"])


@pytest.mark.parametrize("word", ["off", "bf16"])
def test_words_that_look_like_truth_values_stay_words(tmp_path, word):
    """YAML 1.1 takes off for false."""
    assert settings.load("supervised", [f"stages.0.schedule.amp={word}"]).stages[0].schedule.amp == word
    path = tmp_path / "task.yaml"
    path.write_text(f"name: t\nstages: [{{method: {{name: supervised}}, schedule: {{amp: {word}}}}}]\n")
    assert settings.load(str(path)).stages[0].schedule.amp == word
    assert settings.load("supervised", ["stages.0.schedule.nesterov=on"]).stages[0].schedule.nesterov is True


def test_a_run_begun_in_the_former_form_is_refused_in_one_line(tmp_path):
    manifest = write_dataset(tmp_path / "data")
    run = tmp_path / "run"
    (run / "teachers").mkdir(parents=True)
    (run / "teachers" / "last.pt").touch()
    task = write_pipeline(run / "pipeline.yaml", FORMER)
    (run / "run.json").write_text('{"fingerprint": "0123"}')
    with pytest.raises(
        ConfigError, match=r"run: this run of dmpct was begun before version 0\.2 and cannot be continued"
    ):
        train(task, manifest, run, resume=True, device="cpu")
    (run / "pipeline.yaml").write_text(yaml.safe_dump({"name": "x", "stages": [{"method": {"name": "supervised"}}]}))
    with pytest.raises(ConfigError, match="this run was started with another task"):
        train("supervised", manifest, run, resume=True, device="cpu")


def test_the_papers_loss_is_the_default_of_the_former_method(tmp_path):
    stage = settings.load(write_pipeline(tmp_path / "earlier.yaml", {"method": {"name": "dmpct"}})).stages[0]
    assert stage.method.options == {"dice": 0.0}
    assert stage.rounds is None
    with pytest.raises(ConfigError, match="no option 'sure_foreground'; it has dice, cross_entropy"):
        build("supervised", factory(3), sure_foreground=0.5)
