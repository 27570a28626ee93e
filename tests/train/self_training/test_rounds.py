"""Rounds of pseudo-labels from end to end on tiny volumes: what learns from what, and what is done again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from forking import python
from limits import full_disk
from tiny import write_dataset

from medseg.config.between_runs import RuleSpec
from medseg.errors import ConfigError, OutputError
from medseg.manifest.manifest import Manifest
from medseg.methods.dmpct import VoteOfViews
from medseg.workflows.train.run import train
from medseg.workflows.train.self_training.labelling.predict_maps import Predictors
from medseg.workflows.train.self_training.labelling.predict_views import Voter
from medseg.workflows.train.self_training.labelling.pseudo_labels import PseudoLabeller
from medseg.workflows.train.self_training.time_left import TimeLeft

pytestmark = pytest.mark.usefixtures("undrawn")

VIEWS = ("sagittal", "coronal", "axial")
CPU = torch.device("cpu")
FAST = (
    "stages.0.network.width=4", "stages.0.schedule.iterations=8", "stages.0.schedule.lr=0.01",
    "stages.0.schedule.batch.labeled=4", "stages.0.schedule.workers=0", "data.patch=[32,32,32]",
    "data.spacing_mm=[1,1,1]", "data.slices=1", "stages.0.rounds.rule.options.background_confidence=null",
)  # fmt: skip


@pytest.fixture(scope="session")
def manifest(tmp_path_factory) -> Path:
    """Two labelled and two unlabelled cases; the labels of these are no images, so that whoever opens them fails."""
    path = write_dataset(tmp_path_factory.mktemp("data"), shape=(28, 26, 20), spacing=(1, 1, 1.25))
    content = json.loads(path.read_text())
    for case in content["unlabeled"]:
        sentinel = path.with_name("sentinel_" + case["image"])
        sentinel.write_text("never to be opened")
        case["label"] = sentinel.name
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="session")
def run(manifest, tmp_path_factory) -> Path:
    return train("dmpct", manifest, tmp_path_factory.mktemp("runs") / "whole", overrides=FAST)


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "bundle" / "models" / "model.pt", weights_only=True)


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def same_run(first: Path, second: Path) -> None:
    for name in ("round1", "round2"):
        for file in (first / name / "pseudo").glob("*.nii.gz"):
            assert file.read_bytes() == (second / name / "pseudo" / file.name).read_bytes()
    for name in ("", *(f"round{n}/{view}" for n in range(3) for view in VIEWS)):
        assert equal(weights(first / name), weights(second / name)), name
    assert (first / "metrics.jsonl").read_text() == (second / "metrics.jsonl").read_text()


def test_pseudo_labels_are_the_vote_of_the_round_before(run, manifest):
    data = Manifest.load(manifest)
    for number in (1, 2):
        voter = Voter(run / f"round{number - 1}" / "bundle", CPU)
        for case in data.unlabeled:
            votes, fused = voter.both(data.images(case))
            assert len(votes.labels) == 3
            written = nib.load(run / f"round{number}" / "pseudo" / f"{case.name}.nii.gz")
            assert written.get_data_dtype() == np.uint8
            image = nib.load(data.images(case)[0])
            assert np.array_equal(written.affine, image.affine)
            assert (written.header["qform_code"], written.header["sform_code"]) == (0, 2)  # as nibabel made the images
            assert np.array_equal(written.header["qoffset_x"], image.header["qoffset_x"])
            assert written.header.get_intent()[0] == "label"
            assert np.array_equal(np.asarray(written.dataobj), fused.numpy())
            again = VoteOfViews(3).label(votes, {}, number)
            assert np.array_equal(again.numpy(), fused.numpy())


def test_each_round_has_its_manifest(run, manifest):
    data = Manifest.load(manifest)
    for number in (1, 2):
        made = Manifest.load(run / f"round{number}" / "manifest.json")
        pseudo = [case for case in made.training if (case.model_extra or {}).get("pseudo")]
        assert [case.name for case in pseudo] == [case.name for case in data.unlabeled]
        assert {made.label(case).parent for case in pseudo} == {(run / f"round{number}" / "pseudo").absolute()}
        drawn = made.training[: len(data.training)]
        assert [made.label(case) for case in drawn] == [data.label(case) for case in data.training]
        assert [c.name for c in made.test + made.validation] == [c.name for c in data.test + data.validation]
        assert not made.unlabeled


def test_the_product_is_the_last_round(run):
    assert equal(weights(run), weights(run / "round2"))
    for view in VIEWS:
        prefix = f"networks.{view}."
        own = weights(run / "round2" / view)
        assert equal({k.removeprefix(prefix): v for k, v in weights(run).items() if k.startswith(prefix)}, own)


def test_what_the_run_tells(run, manifest):
    data = Manifest.load(manifest)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(r["round"], r["kind"]) for r in records] == [
        (0, "validation"), (1, "pseudo"), (1, "validation"), (2, "pseudo"), (2, "validation")
    ]  # fmt: skip
    assert set(records[0]["dice"]) == {*VIEWS, "fused"}
    first, second = records[1], records[3]
    assert first["changed"] is None
    before, after = ([voxels(f) for f in sorted((run / f"round{n}/pseudo").glob("*.nii.gz"))] for n in (1, 2))
    changed = np.mean([a != b for a, b in zip(before, after, strict=True)])
    assert second["changed"] == pytest.approx(changed)
    ball = np.mean([np.sum(a == 1) * 1.25e-3 for a in after])
    assert second["volume_ml"]["ball"] == pytest.approx(ball, abs=1e-3)
    page = (run / "summary.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    drawn = [1.25e-3 * np.sum(voxels(data.label(case)) == 1) for case in data.training]
    assert f">{np.mean(drawn):.1f}<" in page.split("Mean volume")[1]
    assert "http" not in page
    assert (run / "summary.png").read_bytes()[:4] == b"\x89PNG"
    assert list((run / "tensorboard" / "rounds").glob("events*"))


def test_without_rounds_it_is_the_supervised_baseline(run, manifest, tmp_path):
    plain = train("dmpct", manifest, tmp_path / "plain", overrides=[*FAST, "stages.0.rounds=null"])
    assert equal(weights(plain), weights(run / "round0"))
    assert not (plain / "round1").exists()


def test_without_unlabelled_cases_it_is_said(run, manifest, tmp_path, capsys):
    content = json.loads(manifest.read_text()) | {"unlabeled": []}
    few = manifest.with_name("few.json")
    few.write_text(json.dumps(content))
    alone = train("dmpct", few, tmp_path / "alone", overrides=FAST)
    assert "no unlabelled case" in capsys.readouterr().err
    assert equal(weights(alone), weights(run / "round0"))


def test_a_forged_piece_is_made_again_and_nothing_else(run, manifest, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(run, folder)
    shutil.rmtree(folder / "bundle")
    label = next((folder / "round2" / "pseudo").glob("*.nii.gz"))
    good, trained = label.read_bytes(), (folder / "round2" / "axial" / "last.pt").stat().st_mtime_ns
    label.write_bytes(good[:-9])
    model = folder / "round1" / "coronal" / "bundle" / "models" / "model.pt"
    state = torch.load(model, weights_only=True)
    torch.save({key: value + 1 for key, value in state.items()}, model)
    train("dmpct", manifest, folder, overrides=FAST, resume=True)
    same_run(run, folder)
    assert (folder / "round2" / "axial" / "last.pt").stat().st_mtime_ns == trained


def test_rounds_of_another_run_are_taken_where_they_are_the_same(run, manifest, tmp_path):
    folder = tmp_path / "alone"
    shutil.copytree(run / "round0" / "axial", folder / "round0" / "axial")
    kept = (folder / "round0" / "axial" / "last.pt").stat().st_mtime_ns
    changes = [
        "stages.0.views=[axial]",
        "stages.0.rounds.count=1",
        "data.view=axial",  # the rest as it was resolved
        "stages.0.rounds.rule.options.background_confidence=0.4",
    ]  # teachers do not depend on it
    train(str(run), manifest, folder, overrides=changes)
    assert (folder / "round0" / "axial" / "last.pt").stat().st_mtime_ns == kept
    voter, data = Voter(run / "round0" / "axial" / "bundle", CPU), Manifest.load(manifest)
    for case in data.unlabeled:
        votes = voter(data.images(case))
        own, sure = votes.labels[0].numpy(), votes.confidences[0].numpy() >= 0.4
        assert not sure[own == 0].all()
        expected = np.where((own == 0) & ~sure, 255, own)
        assert np.array_equal(voxels(folder / "round1" / "pseudo" / f"{case.name}.nii.gz"), expected)


def test_options_and_views_of_volumes(manifest, tmp_path, capsys):
    rule = "{name: dmpct, options: {fusion: mean, ignore_disagreement: true}}"
    rounds = f"{{count: 2, rule: {rule}, student: warm, stop_dice: 1.0e-6}}"
    changes = ["stages.0.views=[volume, axial, sagittal]", f"stages.0.rounds={rounds}", "stages.0.fusion=mean",
               "stages.0.method.options={dice: 0.0}", "stages.0.schedule.batch.labeled=2",
               "data.patch=[16,16,16]"]  # fmt: skip
    folder = train("dmpct", manifest, tmp_path / "run", overrides=[*FAST, *changes])
    assert "ended before round 2" in capsys.readouterr().err
    assert equal(weights(folder), weights(folder / "round1"))
    student = torch.load(folder / "round1" / "axial" / "last.pt", weights_only=True)
    assert student["total"] == 4
    assert student["optimizer"]["param_groups"][0]["initial_lr"] == pytest.approx(0.001)
    left_out = [voxels(file) == 255 for file in (folder / "round1" / "pseudo").glob("*.nii.gz")]
    record = json.loads((folder / "metrics.jsonl").read_text().splitlines()[1])
    assert record["ignored"] == pytest.approx(np.mean(left_out)) == record["all_differ"]
    bundle = json.loads((folder / "bundle" / "configs" / "inference.json").read_text())
    assert bundle["inferer"]["fusion"] == "mean"


STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""Of batch norm, which every step moves, whatever the learning rate."""


def test_stages_with_views_start_from_the_one_before(manifest, tmp_path):
    schedule = {"iterations": 1, "batch": {"labeled": 2}, "lr": 1e-12, "workers": 0}
    network = {"name": "unet", "width": 4}
    stages = [
        {"method": {"name": "supervised"}, "network": network, "views": ["axial"],
         "schedule": {**schedule, "lr": 0.01}},
        {"method": {"name": "supervised"}, "network": network, "views": ["coronal", "axial"], "init": "previous",
         "rounds": {"count": 1, "rule": {"name": "dmpct"}}, "schedule": schedule},
    ]  # fmt: skip
    task = tmp_path / "two.yaml"
    task.write_text(yaml.safe_dump({"name": "two", "stages": stages, "data": {"patch": [16, 16, 16]}}))
    folder = train(str(task), manifest, tmp_path / "run")
    first = torch.load(folder / "stage0" / "bundle" / "models" / "model.pt", weights_only=True)
    for place in ("round0/coronal", "round1/axial"):
        later = weights(folder / "stage1" / place)
        learnt = [key for key in later if not key.endswith(STATISTICS)]
        assert all(torch.allclose(later[key], first[key], atol=1e-6) for key in learnt)


def test_a_full_disk_leaves_no_half_label_and_is_resumed(run, manifest, tmp_path):
    data = Manifest.load(manifest)
    labeller = PseudoLabeller(1, tmp_path / "round1", None, data, data.unlabeled, (), RuleSpec(name="dmpct"))
    networks = Predictors(run / "round0" / "bundle")

    def label() -> None:
        labeller.run(networks, CPU, TimeLeft({"labelling": 2}))

    with full_disk(1500), pytest.raises(OutputError, match=r"nii\.gz: cannot be written .*; free some space; --resume"):
        label()
    assert sorted(path.suffix for path in (tmp_path / "round1" / "pseudo").iterdir()) == [".json"]
    label()
    for case in data.unlabeled:
        whole = run / "round1" / "pseudo" / f"{case.name}.nii.gz"
        assert labeller.file(case).read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("stages.0.rounds=2", r"rounds is 2; accepted is {count: 2, rule: {name: dmpct}}"),
        ("stages.0.rounds={count: 2}", r"stages\.0\.rounds\.rule: Field required"),
        ("stages.0.rounds={count: 1, rule: {name: vote}}", r"rule 'vote' is not known; one of dmpct"),
        ("stages.0.rounds={count: 1, rule: {name: dmpct, options: {sure: 1}}}", r"rule dmpct has no option 'sure'; it"),
        ("stages.0.then={rule: {name: dmpct}}", r"stages\.0\.then makes labels for the next stage, and there is none"),
    ],
)
def test_rounds_that_cannot_be_are_refused_before_anything_is_trained(manifest, tmp_path, change, words):
    with pytest.raises(ConfigError, match=words):
        train("supervised", manifest, tmp_path / "run", overrides=[change])
    assert not (tmp_path / "run" / "last.pt").exists()


def test_time_left_is_what_like_pieces_took():
    outlook = TimeLeft({"training": 5.0, "labelling": 10.0}, shown=False)
    assert outlook.seconds_left() is None
    outlook.done("training", 60.0)
    assert outlook.seconds_left() == 240
    outlook.done("training", 30.0, 0.5)
    outlook.done("labelling", 4.0)
    assert outlook.seconds_left() == 3.5 * 60 + 9 * 4
    assert outlook.seconds_left("training", 20.0, 40.0) == 20 + 2.5 * 60 + 9 * 4
    outlook.skip()
    assert outlook.seconds_left() == 0


@pytest.mark.slow
def test_killed_anywhere_and_resumed_is_the_same(run, manifest, tmp_path):
    folder = tmp_path / "broken"
    sets = [part for change in FAST for part in ("--set", change)]
    command = [python(), "-m", "medseg", "train", "--task", "dmpct", "--data", str(manifest), "-o", str(folder),
               "--resume", *sets]  # fmt: skip
    points = ("round0/coronal/last.pt", "round1/pseudo/case2.json", "round2/axial/last.pt")
    for point in points:
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not (folder / point).exists() and time.monotonic() < deadline:
            time.sleep(0.003)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, point
        assert not (folder / "bundle").exists()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    same_run(run, folder)
