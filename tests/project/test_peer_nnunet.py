"""`benchmarks/peers/nnunet.py` without nnU-Net: its folders, its plan, what is called, and the clock of its trainer."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "peers"
sys.path.insert(0, str(FOLDER))

import nnunet  # noqa: E402

PLANS = {
    "configurations": {
        "2d": {"architecture": {"arch_kwargs": {"features_per_stage": [32, 64]}}},
        "3d_fullres": {
            "patch_size": [32, 48, 48], "batch_size": 2, "spacing": [3.0, 1.5, 1.2],
            "architecture": {"arch_kwargs": {"features_per_stage": [32, 64, 128, 256, 320], "n_stages": 5}},
        },
    }
}  # fmt: skip


def write_manifest(folder: Path, **changes) -> Path:
    cases = []
    for name in "abc":
        case = {"image": f"scans/{name}.nii.gz", "label": f"drawn/{name}_label.nii.gz"}
        for number, file in enumerate(case.values()):
            (folder / file).parent.mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(np.full((3, 4, 5), number, np.uint8), np.eye(4)), folder / file)
        cases.append(case)
    labels = {"0": "background", "4": "ball"}
    content = {"modality": {"0": "CT"}, "labels": labels, "training": cases[:2], "test": cases[2:], **changes}
    (folder / "m.json").write_text(json.dumps(content))
    return folder / "m.json"


def make_peer(folder: Path, *, planar: bool = False) -> nnunet.NnUNet:
    spacing_mm = [1.2, 1.5, 3.0]
    return nnunet.NnUNet(
        folder / "env", folder / "nnunet", spacing_mm=spacing_mm, width=8, planar=planar, memory_gib=1.5
    )


def test_cases_lie_where_nnunet_looks_for_them(tmp_path):
    peer, manifest = make_peer(tmp_path), write_manifest(tmp_path)
    for _ in range(2):  # a second time nothing changes
        peer.convert(manifest)
    here = tmp_path / "nnunet" / "raw" / "Dataset001_Peer"
    found = {}
    for file in here.rglob("*.nii.gz"):
        found[str(file.relative_to(here))] = str(file.resolve().relative_to(tmp_path.resolve()))
    assert found == {
        "imagesTr/a_0000.nii.gz": "scans/a.nii.gz",
        "imagesTr/b_0000.nii.gz": "scans/b.nii.gz",
        "labelsTr/a.nii.gz": "drawn/a_label.nii.gz",
        "labelsTr/b.nii.gz": "drawn/b_label.nii.gz",
        "imagesTs/c_0000.nii.gz": "scans/c.nii.gz",
    }
    assert json.loads((here / "dataset.json").read_text()) == {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "ball": 4},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }


@pytest.mark.parametrize("modality", ["T1", "MR", "US"])
def test_what_is_no_ct_is_normalised_as_mr(modality, tmp_path):
    make_peer(tmp_path).convert(write_manifest(tmp_path, modality={"0": modality}))
    description = tmp_path / "nnunet" / "raw" / "Dataset001_Peer" / "dataset.json"
    assert json.loads(description.read_text())["channel_names"] == {"0": "MR"}


def test_several_channels_are_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"m\.json: has 2 channels, this benchmark takes one"):
        make_peer(tmp_path).convert(write_manifest(tmp_path, modality={"0": "T1", "1": "T2"}))


class Calls(list):
    """What is called in the place of nnU-Net's programs; its planner leaves a plan."""

    def __init__(self, peer: nnunet.NnUNet, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.variables: dict[str, str] = {}
        folder = peer.preprocessed / nnunet.DATASET

        def run(command: list[str], *, env: dict[str, str], check: bool) -> None:
            assert check, "its failure is ours"
            self.append([Path(command[0]).name, *command[1:]])
            self.variables = env
            if command[0].endswith("nnUNetv2_plan_experiment"):
                folder.mkdir(parents=True)
                (folder / "nnUNetPlans.json").write_text(json.dumps(PLANS))

        monkeypatch.setattr(nnunet.subprocess, "run", run)


def test_the_plan_is_asked_for_our_spacing_and_made_narrow(tmp_path, monkeypatch):
    """A width of 8 in the place of 32: every stage has a quarter, the last one 80."""
    peer = make_peer(tmp_path)
    calls = Calls(peer, monkeypatch)
    monkeypatch.setenv("PYTHONPATH", "/ours")
    changed = peer.plan()
    assert calls == [
        ["nnUNetv2_extract_fingerprint", "-d", "1", "-np", "1"],
        ["nnUNetv2_plan_experiment", "-d", "1", "-gpu_memory_target", "1.5",
         "-overwrite_target_spacing", "3.0", "1.5", "1.2"],
        ["nnUNetv2_preprocess", "-d", "1", "-c", "3d_fullres", "-np", "1"],
    ]  # fmt: skip
    assert calls.variables["nnUNet_raw"] == str(tmp_path / "nnunet" / "raw")
    assert "PYTHONPATH" not in calls.variables
    narrow = [8, 16, 32, 64, 80]
    assert changed == {"patch": [32, 48, 48], "batch": 2, "spacing_mm": [3.0, 1.5, 1.2], "channels": narrow}
    written = json.loads((peer.preprocessed / nnunet.DATASET / "nnUNetPlans.json").read_text())
    network = written["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    assert network == {"features_per_stage": narrow, "n_stages": 5}
    assert written["configurations"]["2d"] == PLANS["configurations"]["2d"]


def test_training_and_prediction_are_those_of_its_user(tmp_path, monkeypatch):
    peer = make_peer(tmp_path, planar=True)
    calls = Calls(peer, monkeypatch)
    peer.train(900.0)
    assert calls.variables["PEER_SECONDS"] == "900.0"
    assert (Path(calls.variables["nnUNet_extTrainer"]) / "timed_trainer.py").is_file()
    assert calls[0][3:6] == ["1", "2d", "all"]
    assert calls[0][calls[0].index("-tr") + 1] == "TimedTrainer"
    peer.predict(tmp_path / "out")
    assert "--disable_tta" in calls[1]
    assert calls[1][calls[1].index("-o") + 1] == str(tmp_path / "out")


@pytest.mark.parametrize(("seconds", "epochs"), [(1000.0, 23), (65.0, 1), (5.0, 1)])
def test_its_training_ends_in_time(seconds, epochs, monkeypatch):
    """2 s a step: 22 s until the number is known, then epochs of 20 steps and a validation: 978 / 42 = 23."""
    clock = [0.0]

    class Trainer:
        def __init__(self, plans, configuration, fold, dataset_json, device) -> None:
            self.num_epochs = 1000
            self.dataloader_train = iter(range(100))
            self.said: list[str] = []

        def on_train_start(self) -> None:
            self.optimizer, self.lr_scheduler = "used", "used"

        def train_step(self, batch) -> None:
            clock[0] += 2.0

        def configure_optimizers(self) -> tuple[str, str]:
            return "new", f"over {self.num_epochs} epochs"

        def print_to_log_file(self, line: str) -> None:
            self.said.append(line)

    names = ("nnunetv2", "nnunetv2.training", "nnunetv2.training.nnUNetTrainer")
    module = "nnunetv2.training.nnUNetTrainer.nnUNetTrainer"
    for name in (*names, module):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules[module].nnUNetTrainer = Trainer
    found = importlib.util.spec_from_file_location("peer_trainer", FOLDER / "trainers" / "timed_trainer.py")
    timed = importlib.util.module_from_spec(found)
    found.loader.exec_module(timed)
    monkeypatch.setattr(timed.time, "monotonic", lambda: clock[0])
    monkeypatch.setenv("PEER_SECONDS", str(seconds))
    trainer = timed.TimedTrainer({}, "2d", "all", {}, "cpu")
    assert trainer.num_epochs == 1
    trainer.on_train_start()
    assert trainer.num_epochs == epochs
    assert (trainer.optimizer, trainer.lr_scheduler) == ("new", f"over {epochs} epochs"), "timed steps leave no trace"
    assert trainer.said == [f"2.00 s a step, {epochs} epochs of 20"]
