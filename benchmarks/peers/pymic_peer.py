"""PyMIC on the data of a manifest: what its user writes, and the commands that he calls."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import grids
import SimpleITK as sitk  # noqa: N813  its own documents call it so

HERE = Path(__file__).resolve().parent
TRAIN = "pymic_agent:train"
PREDICT = "pymic_agent:predict"
PACKAGES = (
    "PYMIC==0.6.2",
    # imported without being asked for
    "torchvision",
    "timm",
    "imops",
    "ml_collections",
    "monai",
    "einops",
    "absl-py",
    "contextlib2",
    "connected-components-3d",
    "fastremap",
)
PATCH = (32, 64, 64)  # z, y, x
BATCH = 4
LEVELS = 5
MULTIPLE = 2 ** (LEVELS - 1)  # sizes that the network can halve so often
CHANGES = "RandomFlip, NormalizeWithMeanStd, GammaCorrection, GaussianNoise"

CONFIGURATION = """\
[dataset]
tensor_type = float
task_type = seg
supervise_type = fully_sup
train_dir = {data}
train_csv = {data}/train.csv
valid_csv = {data}/valid.csv
test_csv = {data}/test.csv
train_batch_size = {batch}
num_worker = 1
train_transform = [Pad, RandomCrop, {changes}, LabelToProbability]
valid_transform = [NormalizeWithMeanStd, Pad, LabelToProbability]
test_transform = [NormalizeWithMeanStd, Pad]
Pad_output_size = {multiple}
Pad_ceil_mode = True
RandomCrop_output_size = {patch}
RandomFlip_flip_depth = True
RandomFlip_flip_height = True
RandomFlip_flip_width = True
NormalizeWithMeanStd_channels = [0]
[network]
net_type = UNet
dimension = 3
class_num = {classes}
in_chns = 1
feature_chns = {channels}
[training]
gpus = [0]
random_seed = {seed}
loss_type = [DiceLoss, CrossEntropyLoss]
loss_weight = [1.0, 1.0]
optimizer = Adam
learning_rate = 1e-3
momentum = 0.9
weight_decay = 1e-5
lr_scheduler = PolynomialLR
lr_power = 0.8
ckpt_dir = {folder}/model
iter_max = 1000
iter_valid = 100
[testing]
gpus = [0]
ckpt_mode = 0
output_dir = {folder}/on_plan
save_probability = True
"""
# of its user: the configuration; a script that resamples, brings predictions back, and writes the lists of cases
SETUP_LINES = len(CONFIGURATION.splitlines()) + 10 + 10 + 11


class PyMIC:
    """PyMIC's supervised 3D U-Net, with the resolution of our plan and a narrow network.

    PyMIC has no plan: every setting is its user's. The rest is as in its own examples of supervised training in 3D
    (losses, optimiser, falling learning rate, random changes of patches), and as in its example of the left atrium
    whole volumes are predicted. Scans are resampled by `grids.py`, the test ones when they are predicted, and what is
    predicted comes back as probabilities.

    The number of iterations is fixed by timing the first ones (`pymic_agent.py`). A validation list is compulsory;
    it has one of the training cases and decides nothing: all labelled cases train, and the last weights are taken.

    Args:
        environment: of PyMIC.
        folder: of its data and results.
        spacing_mm: sides of a voxel along x, y and z.
        width: channels of the first of five levels.
        seed: of weights, patches and their changes.
    """

    def __init__(self, environment: Path, folder: Path, *, spacing_mm: Sequence[float], width: int, seed: int) -> None:
        self.environment, self.folder, self.data = environment, folder, folder / "data"
        self.spacing_mm, self.width, self.seed = spacing_mm, width, seed
        self.tests: dict[str, Path] = {}
        self.classes = 0

    def convert(self, manifest: Path) -> None:
        """Resample the training cases; write the lists of cases and the configuration."""
        content = json.loads(manifest.read_text())
        _check(content, manifest)
        root, rows, sizes = manifest.resolve().parent, [], []
        for case in content["training"]:
            name = _file_name(case)
            image = self._resample(root / case["image"], f"images/{name}")
            self._resample(root / case["label"], f"labels/{name}", is_label=True)
            rows.append((f"images/{name}", f"labels/{name}"))
            sizes.append(image.GetSize()[::-1])  # its arrays are z, y, x
        self.tests = {f"tests/{_file_name(case)}": root / case["image"] for case in content["test"]}
        self._write_list("train", ("image", "label"), rows)
        self._write_list("valid", ("image", "label"), rows[:1])
        self._write_list("test", ("image",), [(name,) for name in self.tests])
        self.classes = len(content["labels"])
        (self.folder / "configuration.cfg").write_text(self.configuration(sizes))

    def configuration(self, sizes: Sequence[Sequence[int]]) -> str:
        """Text of PyMIC's configuration.

        Args:
            sizes: of the resampled training scans, z, y, x; patches are not larger than the smallest with its margin.
        """
        smallest = [MULTIPLE * math.ceil(min(axis) / MULTIPLE) for axis in zip(*sizes, strict=True)]
        return CONFIGURATION.format(
            data=self.data,
            folder=self.folder,
            changes=CHANGES,
            batch=min(BATCH, len(sizes)),  # it leaves out batches that are not full
            multiple=[MULTIPLE] * 3,
            patch=[min(side, least) for side, least in zip(PATCH, smallest, strict=True)],
            classes=self.classes,
            channels=[self.width * 2**level for level in range(LEVELS)],
            seed=self.seed,
        )

    def train(self, seconds: float) -> None:
        """Train for so many seconds, with all labelled cases."""
        self._call(TRAIN, PEER_SECONDS=str(seconds))

    def predict(self, output: Path) -> None:
        """Predict the test cases of the converted manifest, each on its own grid."""
        for name, scan in self.tests.items():
            self._resample(scan, name)
        self._call(PREDICT)
        output.mkdir(parents=True, exist_ok=True)
        for name, scan in self.tests.items():
            stem = Path(name).name.removesuffix(".nii.gz")
            files = [self.folder / "on_plan" / f"{stem}_prob_{value}.nii.gz" for value in range(self.classes)]
            labels = grids.labels_on(sitk.ReadImage(str(scan)), (sitk.ReadImage(str(file)) for file in files))
            sitk.WriteImage(labels, str(output / f"{stem}.nii.gz"))

    def _resample(self, source: Path, name: str, *, is_label: bool = False) -> sitk.Image:
        target = self.data / name
        target.parent.mkdir(parents=True, exist_ok=True)
        scan = sitk.ReadImage(str(source), sitk.sitkUInt8 if is_label else sitk.sitkFloat32)
        coarse = grids.to_spacing(scan, self.spacing_mm, is_label=is_label)
        sitk.WriteImage(coarse, str(target))
        return coarse

    def _write_list(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        with (self.data / f"{name}.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([columns, *rows])

    def _call(self, command: str, **variables: str) -> None:
        environment = {**os.environ, **variables}
        environment.pop("PYTHONPATH", None)
        program = [str(self.environment / "bin" / "python"), str(HERE / "without_cuda.py"), command]
        subprocess.run([*program, str(self.folder / "configuration.cfg")], env=environment, check=True)


def refuse(reason: str) -> NoReturn:
    """End with one line and exit code 2."""
    print(reason, file=sys.stderr)
    raise SystemExit(2)


def _check(content: dict[str, Any], manifest: Path) -> None:
    values = sorted(int(value) for value in content["labels"])
    if len(content["modality"]) != 1:
        refuse(f"{manifest}: has {len(content['modality'])} channels, this benchmark takes one")
    if values != list(range(len(values))):
        refuse(f"{manifest}: has the labels {values}, PyMIC takes 0, 1, 2 and so on without gaps")


def _file_name(case: dict[str, str]) -> str:
    return Path(case["image"]).name.removesuffix(".gz").removesuffix(".nii") + ".nii.gz"
