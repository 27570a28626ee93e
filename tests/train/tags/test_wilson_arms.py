"""The shipped comparison of WILSON on a tiny data set: every arm is accepted, and trains."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from models import data_spec, make_bundle
from tiny import write_dataset

from medseg.bundle.bundle import open_bundle
from medseg.workflows.compare.arms.check_arms import ready_arms
from medseg.workflows.compare.arms.read_arms import Comparison, read_comparison
from medseg.workflows.compare.options import CompareOptions
from medseg.workflows.train.run import train

pytestmark = pytest.mark.usefixtures("undrawn")

FILE = Path(__file__).resolve().parents[3] / "comparisons" / "voc_wilson.yaml"
LABELS = {"0": "background", "1": "ball", "2": "box"}


@pytest.fixture(scope="module")
def comparison(tmp_path_factory) -> Comparison:
    """The file beside a base that knows the ball, tags of the box, and labels that were made of them."""
    root = tmp_path_factory.mktemp("arms")
    known = data_spec(labels={0: "background", 1: "ball"}, modality=("MR",), patch=(16, 16, 1), view="axial")
    make_bundle(root / "runs" / "voc_base" / "bundle", known, independent=True)
    data = root / "data" / "voc_animals"
    content = json.loads(write_dataset(data, labeled=3, unlabeled=0, validation=0).read_text()) | {"labels": LABELS}
    for case, tags in zip(content["training"], (["box"], [], ["box"]), strict=True):
        case["tags"] = tags
    maps = root / "runs" / "voc_maps" / "stage0" / "labels" / "manifest.json"
    maps.parent.mkdir(parents=True)
    for file in data.glob("*.nii.gz"):
        shutil.copy(file, maps.parent)
    maps.write_text(json.dumps(content))
    for case in content["training"]:
        del case["label"]
    (data / "compare_step1.json").write_text(json.dumps(content))
    (root / "comparisons").mkdir()
    copied = shutil.copy(FILE, root / "comparisons")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDSEG_DATA", str(root / "data"))
        return read_comparison(CompareOptions(Path(copied), iterations=2))


def test_every_arm_is_accepted(comparison):
    ready, _ = ready_arms(comparison, "cpu")
    teachers = {each.arm.name: each.pipeline.stages[0].method.options.get("teacher") for each in ready}
    assert {name: teacher for name, teacher in teachers.items() if teacher} == {
        "offline_maps": "labels",
        "fine_tuning": "fine_tuning",
    }
    assert {each.pipeline.stages[0].schedule.iterations for each in ready} == {2}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["no_prior", "wilson", "hard", "no_self_training", "no_distillation", "offline_maps", "fine_tuning"]
)
def test_every_arm_trains(name, comparison, tmp_path):
    (arm,) = [each for each in comparison.arms if each.name == name]
    small = [*arm.overrides, "stages.0.schedule.iterations=2", "stages.0.schedule.workers=0", "postprocessing=none"]
    run = train(arm.task, arm.data, tmp_path / "run", overrides=small, init_from=arm.init_from, device="cpu")
    opened = open_bundle(run)
    assert opened.data.patch == (16, 16, 1)
    assert list(opened.data.labels.values()) == ["background", "ball", "box"]
    assert opened.independent
