"""What a server's training takes over of a run whose pipeline says more than stages: no background, measured labels."""

from __future__ import annotations

import shutil

import torch
from models import data_spec, make_bundle
from tiny import write_dataset

from medseg.bundle.bundle import open_bundle
from medseg.manifest.manifest import Manifest
from medseg.serve.models import Model
from medseg.serve.training import learn
from medseg.serve.training.manifest import Studies, gather
from medseg.workflows.train import settings
from medseg.workflows.train.data_set import taken_by
from medseg.workflows.train.plan import plan_pipeline

TASK = """name: measured
measure_pseudo_labels: true
data: {spacing_mm: [1, 1, 1], sampling: half}
stages:
  - repeat: 2
    stages:
      - method: {name: supervised}
        then: {rule: {name: dmpct}}
  - method: {name: supervised}
    init: previous
"""


def test_studies_of_a_model_without_a_background_have_none_either(tmp_path):
    write_dataset(tmp_path / "data")
    labels = {0: "background", 1: "ball", 2: "box"}
    files = {name: (tmp_path / f"data/{name}.nii.gz", tmp_path / f"data/{name}_label.nii.gz") for name in "ab"}
    for number, (image, label) in enumerate(files.values()):
        shutil.copy(tmp_path / f"data/case{number}.nii.gz", image)
        shutil.copy(tmp_path / f"data/case{number}_label.nii.gz", label)
    for has_background in (True, False):
        spec = data_spec(labels=labels, has_background=has_background)
        bundle = open_bundle(make_bundle(tmp_path / f"bundle{has_background}", spec))
        found = gather(Studies(files, {}), bundle, tmp_path, tmp_path / "t", tmp_path / "held.json").manifest
        assert found.has_background is has_background
        assert list(found.structures) == [0, 1, 2][has_background:]


def test_a_run_that_measured_its_pseudo_labels_can_be_continued_without_them(tmp_path, monkeypatch):
    manifest = Manifest.load(write_dataset(tmp_path / "data"))
    (tmp_path / "task.yaml").write_text(TASK)
    given = settings.load(str(tmp_path / "task.yaml"))
    run, folder = tmp_path / "run", tmp_path / "t"
    run.mkdir()
    folder.mkdir()
    settings.dump(plan_pipeline(given, manifest, torch.device("cpu"), None), run / "pipeline.yaml")
    monkeypatch.setattr(learn, "run_training", lambda *given: None)
    learn._train(Model("m", run, make_bundle(tmp_path / "given"), tmp_path / "work"), folder, 5, "cpu", print)
    written = settings.load(str(folder / "task.yaml"))
    assert not written.measure_pseudo_labels
    assert not written.repeats
    assert [stage.schedule.iterations for stage in written.stages] == [5]
    assert written.data["sampling"] == "union", "there is no pseudo-labelled half"
    assert taken_by(written, manifest) is manifest
