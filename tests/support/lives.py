"""A short life of a method, from a manifest to a bundle, in a pipeline of two stages.

A method that makes a segmenter starts from a stage of supervised training; one that only prepares weights comes before
such a stage. The data set has all that any method asks for, and its scans are no multiple of the patch.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from every_method import Subject, batch_size, every_method, map_names
from tiny import write_dataset
from undrawn import without_figures

from medseg import methods
from medseg.atomic import write_whole
from medseg.workflows.train.run import train
from medseg.workflows.train.self_training.labelling.predict_maps import IMAGE

ITERATIONS = 4
LABELED, WEAK, UNLABELED = 3, 3, 3
PATCHES = {2: [16, 16, 1], 3: [16, 16, 16]}
VIEWS = {2: "axial", 3: "volume"}


@dataclass(frozen=True)
class Life:
    """A method in 2D or 3D."""

    subject: Subject
    dims: int

    def __str__(self) -> str:
        return f"{self.subject}-{self.dims}d"

    @cached_property
    def is_last(self) -> bool:
        """Whether it makes a segmenter, so that no stage has to come after it."""
        return self.subject.make(self.dims).segmenter() is not None

    @property
    def stage_folder(self) -> str:
        """Of the method's stage, within a run folder."""
        return "stage1" if self.is_last else "stage0"

    def write_pipeline(self, path: Path) -> Path:
        """Two stages, of which the second starts from the first."""
        batch = {stream.name: batch_size(stream) for stream in self.subject.kind.streams}
        method = {"name": self.subject.name, "options": self.subject.options}
        schedule = {"iterations": ITERATIONS, "lr": 0.01, "workers": 0, "validate_every": 2}
        own = {"method": method, "schedule": {**schedule, "batch": batch}}
        plain = {"method": {"name": "supervised"}, "schedule": {**schedule, "iterations": 1, "batch": {"labeled": 2}}}
        stages = [plain, own] if self.is_last else [own, plain]
        for stage in stages:
            # statistics of batches are what two processes would differ in
            stage["network"] = {"name": "vnet", "width": 4, "options": {"norm": "batch"}}
        stages[1]["init"] = "previous"
        data = {"patch": PATCHES[self.dims], "view": VIEWS[self.dims]}
        # whole or not at all: the other of two processes may be reading it
        write_whole(path, yaml.safe_dump({"name": str(self), "stages": stages, "data": data}))
        return path

    def train(self, manifest: Path, folder: Path, *, resume: bool = False, drawn: bool = False) -> Path:
        """The run folder, whose page has figures if asked for."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        task = self.write_pipeline(folder.with_suffix(".yaml"))
        own = self.subject.kind if self.subject.own else ()
        with nullcontext() if drawn else without_figures():
            return train(str(task), manifest, folder, method=own, device="cpu", resume=resume)


def every_life() -> list[Life]:
    """Of every method, in 2D and 3D."""
    return [Life(subject, dims) for subject in every_method() for dims in (2, 3)]


def write_everything(folder: Path) -> Path:
    """A data set with labelled, weak and unlabelled cases, tags, and every map that any method asks for."""
    path = write_dataset(folder, labeled=LABELED + WEAK, unlabeled=UNLABELED)
    content = json.loads(path.read_text())
    names = {name for subject in every_method() for stream in subject.kind.streams for name in map_names(stream)}
    names |= {name for rule in methods.RULES for name in methods.find_rule(rule).inputs if name != IMAGE}
    for case in (*content["training"], *content["unlabeled"]):
        case["maps"] = {name: _write_map(folder, case["image"], name) for name in sorted(names)}
    for number, case in enumerate(content["training"]):
        case["tags"] = {"ball": True}
        if number >= LABELED:  # each class is there and absent
            case["tags"] = (["ball", "box"], {"ball": True, "box": False}, ["box"])[number % 3]
            del case["label"]
    path.write_text(json.dumps(content))
    return path


def _write_map(folder: Path, image: str, name: str) -> str:
    scan = nib.load(folder / image)
    voxels = np.asarray(scan.dataobj, dtype=np.float32)
    share = (voxels - voxels.min()) / np.ptp(voxels)
    file = image.replace(".nii.gz", f"_{name}.nii.gz")
    nib.save(nib.Nifti1Image(share, scan.affine), folder / file)
    return file


of_every_life = pytest.mark.parametrize("life", every_life(), ids=str)


def selected(request: pytest.FixtureRequest, fixture: str) -> list[Life]:
    """The lives of the tests that were asked for and need a fixture."""
    return [
        item.callspec.params["life"]
        for item in request.session.items
        if fixture in item.fixturenames and item.path == request.path
    ]


def assert_same(one: Any, other: Any, place: str = "") -> None:
    """Nested values, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), place
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key, value in one.items():
            assert_same(value, other[key], f"{place}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), place
        for number, value in enumerate(one):
            assert_same(value, other[number], f"{place}.{number}")
    else:
        assert one == other, place
