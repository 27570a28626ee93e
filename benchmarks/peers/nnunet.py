"""nnU-Net v2 on the data of a manifest: what its user writes, and the commands that he calls."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
DATASET = "Dataset001_Peer"
TRAINER = "TimedTrainer"
TRAIN = "nnunetv2.run.run_training:run_training_entry"
PREDICT = "nnunetv2.inference.predict_from_raw_data:predict_entry_point"
PACKAGES = ("nnunetv2==2.8.1",)
# of its user: conversion and dataset.json, variables of the environment, changes of the plan, a trainer
SETUP_LINES = 11 + 3 + 6 + 9


class NnUNet:
    """nnU-Net with the resolution and the narrow network that make it fit for minutes of one core.

    Its own plan is for days on a GPU (32 to 320 channels): the resolution is taken over from ours, the width cut,
    and its planner is asked for the small patches of a small memory. Everything else is its own.

    Args:
        environment: of nnU-Net.
        folder: of its data and results.
        spacing_mm: sides of a voxel along x, y and z.
        width: channels of the first stage.
        planar: train slices in the place of volumes.
    """

    def __init__(
        self, environment: Path, folder: Path, *, spacing_mm: list[float], width: int, planar: bool, memory_gib: float
    ) -> None:
        self.environment, self.folder = environment, folder
        self.spacing_mm, self.width, self.memory_gib = spacing_mm, width, memory_gib
        self.configuration = "2d" if planar else "3d_fullres"
        self.raw, self.preprocessed, self.results = (folder / name for name in ("raw", "preprocessed", "results"))

    def convert(self, manifest: Path) -> None:
        """Link the manifest's cases under the names that nnU-Net wants."""
        content = json.loads(manifest.read_text())
        if len(content["modality"]) != 1:
            raise SystemExit(f"{manifest}: has {len(content['modality'])} channels, this benchmark takes one")
        root, here = manifest.resolve().parent, self.raw / DATASET
        for name in ("imagesTr", "labelsTr", "imagesTs"):
            (here / name).mkdir(parents=True, exist_ok=True)
        for case in content["training"]:
            name = Path(case["image"]).name.removesuffix(".nii.gz")
            _link(root / case["image"], here / "imagesTr" / f"{name}_0000.nii.gz")
            _link(root / case["label"], here / "labelsTr" / f"{name}.nii.gz")
        for case in content["test"]:
            name = Path(case["image"]).name.removesuffix(".nii.gz")
            _link(root / case["image"], here / "imagesTs" / f"{name}_0000.nii.gz")
        description = {
            "channel_names": {"0": "CT" if content["modality"]["0"] == "CT" else "MR"},
            "labels": {name: int(value) for value, name in content["labels"].items()},
            "numTraining": len(content["training"]),
            "file_ending": ".nii.gz",
        }
        (here / "dataset.json").write_text(json.dumps(description, indent=1))

    def plan(self) -> dict[str, object]:
        """Plan and preprocess; returns what the plan says of patch, batch and width."""
        spacing = [str(side) for side in reversed(self.spacing_mm)]  # its arrays are z, y, x
        self._call("nnUNetv2_extract_fingerprint", "-d", "1", "-np", "1")
        memory = ("-gpu_memory_target", str(self.memory_gib))
        self._call("nnUNetv2_plan_experiment", "-d", "1", *memory, "-overwrite_target_spacing", *spacing)
        changed = self._narrow()
        self._call("nnUNetv2_preprocess", "-d", "1", "-c", self.configuration, "-np", "1")
        return changed

    def _narrow(self) -> dict[str, object]:
        file = self.preprocessed / DATASET / "nnUNetPlans.json"
        content = json.loads(file.read_text())
        plan = content["configurations"][self.configuration]
        network = plan["architecture"]["arch_kwargs"]
        first = network["features_per_stage"][0]
        network["features_per_stage"] = [n * self.width // first for n in network["features_per_stage"]]
        file.write_text(json.dumps(content, indent=1))
        return {
            "patch": plan["patch_size"], "batch": plan["batch_size"], "spacing_mm": plan["spacing"],
            "channels": network["features_per_stage"],
        }  # fmt: skip

    def train(self, seconds: float) -> None:
        """Train for so many seconds, with all labelled cases."""
        self._call(
            TRAIN, "1", self.configuration, "all", "-tr", TRAINER, "-device", "cpu",
            PEER_SECONDS=str(seconds),
        )  # fmt: skip

    def predict(self, output: Path) -> None:
        """Predict the test cases, without mirroring."""
        self._call(
            PREDICT, "-i", str(self.raw / DATASET / "imagesTs"), "-o", str(output), "-d", "1",
            "-c", self.configuration, "-f", "all", "-tr", TRAINER, "-chk", "checkpoint_final.pth", "-device", "cpu",
            "-npp", "1", "-nps", "1", "--disable_tta",
        )  # fmt: skip

    def _call(self, command: str, *arguments: str, **variables: str) -> None:
        environment = {
            **os.environ,
            "nnUNet_raw": str(self.raw),
            "nnUNet_preprocessed": str(self.preprocessed),
            "nnUNet_results": str(self.results),
            "nnUNet_extTrainer": str(HERE / "trainers"),
            "nnUNet_n_proc_DA": "1",  # 0 ends in an error
            "nnUNet_compile": "f",
            **variables,
        }
        environment.pop("PYTHONPATH", None)
        program = [str(self.environment / "bin" / command)]
        if ":" in command:
            program = [str(self.environment / "bin" / "python"), str(HERE / "without_cuda.py"), command]
        subprocess.run([*program, *arguments], env=environment, check=True)


def _link(source: Path, target: Path) -> None:
    if not target.exists():
        target.symlink_to(source)
