"""Pseudo-labels measured by labels of unlabelled cases: the numbers by hand, and that training does not see them."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from tiny import write_dataset

from medseg.data.streams import PatchStreams
from medseg.errors import ConfigError, DataError, ManifestError
from medseg.manifest.manifest import Manifest
from medseg.workflows.train import settings
from medseg.workflows.train.checks.files import check_files
from medseg.workflows.train.plan import write_plan
from medseg.workflows.train.run import train
from medseg.workflows.train.self_training.labelling.measured import (
    add_to_log,
    count_measured,
    describe_measured,
    summarize_measured,
)

pytestmark = pytest.mark.usefixtures("undrawn")

FAST = ("stages.0.network.width=4", "stages.0.schedule.iterations=6", "stages.0.schedule.lr=0.01", "data.slices=1",
        "stages.0.schedule.batch.labeled=4", "stages.0.schedule.workers=0", "data.patch=[16,16,16]",
        "stages.0.rounds.count=1", "stages.0.rounds.rule.options.background_confidence=0.4")  # fmt: skip
MEASURED = "measure_pseudo_labels=true"


def write_known(folder: Path) -> Path:
    """Two labelled cases, and two unlabelled ones that have a label; `without.json` says nothing of these."""
    path = write_dataset(folder, labeled=4, unlabeled=0)
    content = json.loads(path.read_text())
    content["unlabeled"] = content["training"][2:]
    content["training"] = content["training"][:2]
    path.write_text(json.dumps(content))
    for case in content["unlabeled"]:
        del case["label"]
    path.with_name("without.json").write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    return write_known(tmp_path_factory.mktemp("data"))


class Trained:
    """A run, the batches that it was trained on, and what it said."""

    def __init__(self, manifest: Path, folder: Path, *changes: str) -> None:
        self.batches: list[str] = []
        original = PatchStreams.__getitem__

        def noted(streams, iteration):
            batch = original(streams, iteration)
            digest = hashlib.sha256()
            for stream in sorted(batch):
                for key in sorted(batch[stream]):
                    digest.update(f"{stream} {key}".encode() + batch[stream][key].numpy().tobytes())
            self.batches.append(digest.hexdigest())
            return batch

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(PatchStreams, "__getitem__", noted)
            self.folder = train("self_training", manifest, folder, overrides=[*FAST, *changes], device="cpu")

    def weights(self, place: str) -> dict[str, torch.Tensor]:
        return torch.load(self.folder / place / "bundle" / "models" / "model.pt", weights_only=True)

    def record(self) -> dict:
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        return next(record for record in map(json.loads, lines) if record["kind"] == "pseudo")


@pytest.fixture(scope="module")
def measured(manifest, tmp_path_factory) -> Trained:
    return Trained(manifest, tmp_path_factory.mktemp("runs") / "measured", MEASURED)


def slow_counts(predicted, reference, classes):
    """Voxel by voxel."""
    counts = {name: [0] * classes for name in ("both", "predicted", "true", "left_out")}
    for one, other in zip(predicted.flat, reference.flat, strict=True):
        if other == 255:
            continue
        counts["true"][other] += 1
        if one == 255:
            counts["left_out"][other] += 1
        else:
            counts["predicted"][one] += 1
            counts["both"][one] += int(one == other)
    return counts


@pytest.mark.parametrize("shape", [(6, 5, 1), (4, 3, 5)], ids=["2d", "3d"])
@pytest.mark.parametrize("has_background", [True, False])
def test_counts_are_those_of_a_slow_twin(shape, has_background):
    rng = np.random.default_rng(0)
    predicted, reference = (rng.choice([0, 1, 2, 255], shape).astype(np.uint8) for _ in range(2))
    found = count_measured(predicted, reference, 3, has_background=has_background)
    first = int(has_background)
    assert found == {name: values[first:] for name, values in slow_counts(predicted, reference, 3).items()}


def test_measures_by_hand():
    label = np.array([1, 1, 1, 1, 2, 0, 0, 255], np.uint8).reshape(2, 2, 2)
    pseudo = np.array([1, 1, 0, 255, 0, 1, 255, 1], np.uint8).reshape(2, 2, 2)
    empty = np.zeros_like(label)
    cases = [count_measured(pseudo, label, 4), count_measured(empty, empty, 4)]
    assert cases[0] == {"both": [2, 0, 0], "predicted": [3, 0, 0], "true": [4, 1, 0], "left_out": [1, 0, 0]}
    found = summarize_measured(cases, ["liver", "spleen", "kidney"])
    assert found["cases"] == 2
    assert found["dice"] == {"liver": pytest.approx(4 / 7, abs=1e-4), "spleen": 0, "kidney": None}
    assert found["precision"] == {"liver": pytest.approx(2 / 3, abs=1e-4), "spleen": None, "kidney": None}
    assert found["recall"] == {"liver": 0.5, "spleen": 0, "kidney": None}
    assert found["dice_where_learnt"] == {"liver": pytest.approx(4 / 6, abs=1e-4), "spleen": 0, "kidney": None}
    assert found["mean_dice"] == pytest.approx(2 / 7, abs=1e-4)
    first, liver, *_ = describe_measured(found, "round 1 of 2")
    assert first.startswith("round 1 of 2: pseudo-labels of 2 cases against their own labels")
    assert first.endswith("mean Dice 0.286")
    assert "liver: Dice 0.571, precision 0.667, recall 0.500" in liver


def test_a_structure_that_the_label_does_not_cover_is_left_out():
    label = np.array([1, 0, 0, 0], np.uint8).reshape(2, 2, 1)
    pseudo = np.array([1, 2, 2, 0], np.uint8).reshape(2, 2, 1)
    case = count_measured(pseudo, label, 3, covered=(True, True, False))
    assert case["both"] == [1, None]
    assert summarize_measured([case], ["liver", "tumour"])["dice"] == {"liver": 1, "tumour": None}


def test_a_round_tells_the_dice_of_its_pseudo_labels(measured, manifest):
    data, found = Manifest.load(manifest), measured.record()["measured"]
    for index, name in enumerate(("ball", "box")):
        dice = []
        for case in data.unlabeled:
            file = measured.folder / "round1" / "pseudo" / f"{case.name}.nii.gz"
            arrays = [np.asarray(nib.load(path).dataobj) for path in (file, data.label(case))]
            counts = slow_counts(*arrays, 3)
            both, one, other = (counts[key][index + 1] for key in ("both", "predicted", "true"))
            dice.append(2 * both / (one + other))
        assert found["dice"][name] == pytest.approx(np.mean(dice), abs=1e-4)
    assert found["cases"] == 2
    page = (measured.folder / "summary.html").read_text()
    table = page.split("by the labels of their cases")[1].split("</table>")[0]
    assert f">{found['dice']['ball']:.3f}<" in table
    assert f">{found['recall']['ball']:.3f}<" in table


def test_training_is_bit_for_bit_the_same(measured, manifest, tmp_path):
    plain = Trained(manifest.with_name("without.json"), tmp_path / "plain")
    assert plain.batches == measured.batches
    assert len(plain.batches) == 12
    for place in ("", "round0/axial", "round1/axial"):
        one, other = plain.weights(place), measured.weights(place)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    for file in (plain.folder / "round1" / "pseudo").glob("*.nii.gz"):
        assert file.read_bytes() == (measured.folder / "round1" / "pseudo" / file.name).read_bytes()
    record = measured.record()
    record.pop("measured")
    assert record == plain.record()
    assert "by the labels of their cases" not in (plain.folder / "summary.html").read_text()


def test_it_is_said_before_the_students_are_trained_and_again_by_a_resumed_run(manifest, measured, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(measured.folder, folder)
    shutil.rmtree(folder / "bundle")
    shutil.rmtree(folder / "round1" / "axial")
    before = {file.name: file.read_bytes() for file in (folder / "round1" / "measured").iterdir()}
    train("self_training", manifest, folder, overrides=[*FAST, MEASURED], device="cpu", resume=True)
    said = capsys.readouterr().err
    assert said.index("round 1 of 1: pseudo-labels of 2 cases") < said.index("round 1 of 1: training the axial network")
    assert {file.name: file.read_bytes() for file in (folder / "round1" / "measured").iterdir()} == before
    assert (folder / "metrics.jsonl").read_text() == (measured.folder / "metrics.jsonl").read_text()


def test_labels_for_the_next_stage_are_measured_too(manifest, tmp_path):
    schedule = {"iterations": 2, "lr": 0.01, "workers": 0, "batch": {"labeled": 2}}
    stage = {"method": {"name": "supervised"}, "network": {"name": "unet", "width": 4}, "schedule": schedule}
    labelling = {"then": {"rule": {"name": "dmpct"}}}
    stages = [{**stage, **labelling}, {**stage, **labelling}, stage]
    task = tmp_path / "three.yaml"
    content = {"name": "three", "stages": stages, "data": {"patch": [16, 16, 16]}, "measure_pseudo_labels": True}
    task.write_text(yaml.safe_dump(content))
    run = train(str(task), manifest, tmp_path / "run", device="cpu")
    page = (run / "report.html").read_text()
    table = page.split("Pseudo-labels against the labels of their cases")[1].split("</table>")[0]
    assert "<th>stage0</th><th>stage1</th>" in table
    for name in ("stage0", "stage1"):  # the labels of the second pass take the place of the first's
        records = [json.loads(line) for line in (run / name / "metrics.jsonl").read_text().splitlines()]
        last = records[-1]
        assert (last["kind"], last["iteration"]) == ("pseudo", 2)
        assert last["measured"] == json.loads((run / name / "labels" / "measured.json").read_text())
        assert last["measured"]["cases"] == 2
    log = run / "stage0" / "metrics.jsonl"
    before = log.read_text()
    add_to_log(log, 2, {"measured": json.loads((run / "stage0" / "labels" / "measured.json").read_text())})
    assert log.read_text() == before


def test_what_cannot_be_measured_is_refused_before_training(manifest, tmp_path):
    content = json.loads(manifest.read_text())
    content["unlabeled"][1]["label"] = "sentinel.nii.gz"
    manifest.with_name("sentinel.nii.gz").write_text("no image")
    broken = manifest.with_name("broken.json")
    broken.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"sentinel\.nii\.gz: measured case case3"):
        train("self_training", broken, tmp_path / "run", overrides=[*FAST, MEASURED], device="cpu")
    with pytest.raises(ManifestError, match="no case under 'unlabeled' has a label, by which measure_pseudo_labels"):
        train("dmpct", manifest.with_name("without.json"), tmp_path / "run", overrides=[MEASURED], device="cpu")
    with pytest.raises(ManifestError, match="no case under 'unlabeled' has a label, by which measure_pseudo_labels"):
        write_plan("dmpct", manifest.with_name("without.json"), tmp_path / "plan.yaml", overrides=[MEASURED])
    assert not (tmp_path / "plan.yaml").exists()
    with pytest.raises(ConfigError, match="no stage of supervised makes pseudo-labels"):
        train("supervised", manifest, tmp_path / "run", overrides=[MEASURED], device="cpu")
    words = "measure_pseudo_labels is true, and auxsegnet labels pseudo and weak cases alone"
    with pytest.raises(ConfigError, match=words):
        check_files(settings.load("auxsegnet", [MEASURED]), Manifest.load(manifest))
    assert not (tmp_path / "run" / "last.pt").exists()
