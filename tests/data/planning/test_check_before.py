"""What can be told of a training before it begins is told before it begins."""

from __future__ import annotations

import json
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny import FAST, write_dataset

from medseg.atomic import check_writable
from medseg.config.pipeline import DataSpec, Pipeline
from medseg.data.cache import VolumeCache
from medseg.errors import ConfigError, DataError, OutputError
from medseg.manifest.manifest import Manifest
from medseg.workflows.train.checks import files as check_before
from medseg.workflows.train.plan import write_plan
from medseg.workflows.train.run import train

pytestmark = pytest.mark.usefixtures("undrawn")

NOTHING = Path("/proc")  # nobody makes files there


def untouched(folder: Path) -> bool:
    return not folder.exists() or not any(folder.iterdir())


@pytest.mark.parametrize("section", ["training", "validation", "unlabeled"])
def test_every_missing_file_is_told_before_the_first_is_read(tmp_path, section):
    manifest = write_dataset(tmp_path / "data", labeled=3)
    last = Manifest.load(manifest).images(getattr(Manifest.load(manifest), section)[-1])[0]
    last.unlink()
    with pytest.raises(DataError) as caught:
        train("dtc", manifest, tmp_path / "run", overrides=FAST)
    assert f"{last}: {section} case {last.name.partition('.')[0]}: " in str(caught.value)
    assert f"medseg data check {manifest} lists all" in str(caught.value)
    assert untouched(tmp_path / "run")


def test_several_are_counted_and_files_that_are_not_used_do_not_matter(tmp_path):
    manifest = write_dataset(tmp_path / "data", labeled=3, unlabeled=2)
    found = Manifest.load(manifest)
    for case in found.validation + found.training[1:]:
        found.label(case).unlink()
    with pytest.raises(DataError, match=r"case1_label.nii.gz: .* \(and 2 more like this\)"):
        train("supervised", manifest, tmp_path / "run", overrides=FAST)
    whole = write_dataset(tmp_path / "whole")
    pipeline = Pipeline(name="x", stages=({"method": {"name": "supervised"}},))
    found = Manifest.load(whole)
    found.images(found.test[0])[0].unlink()
    found.images(found.unlabeled[0])[0].unlink()  # supervised learning does not open it
    sections = [each.section for each in check_before.check_files(pipeline, found)]
    assert sections == ["training", "training", "validation"]


def write_tags_with_saliency(folder: Path, shape: tuple[int, int, int]) -> Path:
    """Three images of 24 x 20 x 18 with tags, the saliency of the last of which has a shape."""
    import nibabel as nib

    path = write_dataset(folder, labeled=3, unlabeled=0, validation=0)
    content = json.loads(path.read_text())
    for number, case in enumerate(content["training"]):
        grid = (24, 20, 18) if number < 2 else shape
        nib.save(
            nib.Nifti1Image(np.zeros(grid, np.uint8), nib.load(folder / case["image"]).affine),
            folder / f"s{number}.nii.gz",
        )
        case.pop("label")
        case.update(tags=[["ball"], ["box"], []][number], maps={"saliency": f"s{number}.nii.gz"})
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("task", ["auxsegnet", "group_wsss"])
def test_files_of_cases_with_tags_are_looked_at_before_a_stage_is_trained(tmp_path, task):
    manifest = write_tags_with_saliency(tmp_path / "data", (5, 6, 7))
    with pytest.raises(DataError, match=r"s2.nii.gz: tagged case case2: map 'saliency': its shape is 5 x 6 x 7"):
        train(task, manifest, tmp_path / "run", device="cpu")
    Path(tmp_path / "data" / "case1.nii.gz").unlink()
    with pytest.raises(DataError, match=r"case1.nii.gz: tagged case case1: .* \(and 1 more like this\)"):
        train(task, manifest, tmp_path / "run", device="cpu")
    assert untouched(tmp_path / "run")
    supervised = Pipeline(name="x", stages=({"method": {"name": "supervised"}},))
    assert not check_before.check_files(supervised, Manifest.load(manifest)), "which learns from none of them"


def test_a_label_of_another_shape_is_told_from_its_header(tmp_path):
    import nibabel as nib

    manifest = write_dataset(tmp_path / "data")
    nib.save(nib.Nifti1Image(np.zeros((5, 6, 7), np.uint8), np.eye(4)), tmp_path / "data" / "case4_label.nii.gz")
    with pytest.raises(DataError, match="validation case case4: its shape is 5 x 6 x 7, the image's is 24 x 20 x 18"):
        train("dtc", manifest, tmp_path / "run", overrides=FAST)


STAGES = [
    {"method": {"name": "supervised"}, "network": {"name": "unet", "width": 4}, "schedule": {"iterations": 2}},
    {
        "method": {"name": "dtc"},
        "network": {"name": "unet", "width": 4},
        "schedule": {"iterations": 2},
        "init": "previous",
    },
]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("stages.1.method.options.betta=1", "method dtc has no option 'betta'; it has beta"),
        ("stages.1.method.options.beta=much", "beta"),
        ("stages.1.network.name=segresnet", "the network has nothing in common with the one it should start from"),
        ("stages.1.views=[axial]", "the network to start from sees volumes, this one planes"),
        ("stages.0.views=[axial, coronal]", "the stage before has networks for axial, coronal, none for None"),
    ],
)
def test_what_a_later_stage_cannot_be_is_told_before_the_first_is_trained(tmp_path, change, words):
    manifest, task = write_dataset(tmp_path / "data"), tmp_path / "two.yaml"
    task.write_text(yaml.safe_dump({"name": "two", "stages": STAGES, "data": {"patch": [16, 16, 16]}}))
    for begin in (
        lambda: train(str(task), manifest, tmp_path / "run", overrides=[change]),
        lambda: write_plan(str(task), manifest, tmp_path / "plan.yaml", overrides=[change]),
    ):
        with pytest.raises(ConfigError) as caught:
            begin()
        assert words in str(caught.value)
    assert untouched(tmp_path / "run")
    assert not (tmp_path / "plan.yaml").exists()


def test_the_estimate_of_the_disk_is_what_the_cache_takes(tmp_path):
    manifest = Manifest.load(write_dataset(tmp_path / "data", spacing=(1.0, 0.8, 2.5), shape=(24, 30, 11)))
    pipeline = Pipeline(name="x", stages=({"method": {"name": "dmpct"}, "rounds": 2},))
    spec = DataSpec(
        labels={0: "background", 1: "ball", 2: "box"}, modality=("MR",), spacing_mm=(1.3, 1.3, 3), patch=(8, 8, 8)
    )
    planned = pipeline.model_copy(update={"data": spec.model_dump(mode="json")})
    findings = check_before.check_files(planned, manifest)
    made = VolumeCache(tmp_path / "cache").prepare(
        manifest, [*manifest.training, *manifest.validation, *manifest.unlabeled], spec
    )
    drawn = sum(volume.image.nbytes + volume.label.nbytes for volume in made[:3])
    images = sum(volume.image.nbytes for volume in made[3:])
    with_pseudo_labels = sum(volume.image.nbytes * 3 // 2 for volume in made[3:])
    assert check_before.cache_bytes(planned, findings) == drawn + images + 2 * with_pseudo_labels


def test_a_disk_that_is_too_full_is_told_before_hours_of_preprocessing(tmp_path, monkeypatch):
    manifest = write_dataset(tmp_path / "data")
    usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(check_before.shutil, "disk_usage", lambda path: usage(10**9, 10**9, 50_000))
    with pytest.raises(OutputError, match=r"run: the preprocessed volumes need about 0.0 GiB, the disk has 0.0 free"):
        train("supervised", manifest, tmp_path / "run", overrides=FAST)
    assert untouched(tmp_path / "run")
    monkeypatch.setattr(check_before.shutil, "disk_usage", lambda path: usage(10**9, 10**9, 90_000))
    train(
        "supervised", manifest, tmp_path / "run", overrides=FAST
    )  # 3 cases of 24 x 20 x 18 voxels, 3 bytes each: 77760


@pytest.mark.parametrize("budget", ["25", 25, ""])
def test_a_budget_without_a_unit_is_told_before_anything_is_made(tmp_path, budget):
    manifest = write_dataset(tmp_path / "data")
    with pytest.raises(ConfigError, match="--budget"):
        train("dtc", manifest, tmp_path / "run", budget=budget)
    with pytest.raises(ConfigError, match="--budget"):
        write_plan("dtc", manifest, tmp_path / "plan.yaml", budget=budget)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not NOTHING.is_dir(), reason="/proc is where nothing can be written")
def test_places_that_cannot_be_written_are_told_before_the_work(tmp_path, monkeypatch):
    manifest = write_dataset(tmp_path / "data")
    monkeypatch.setattr(check_before, "check_case", None)
    with pytest.raises(OutputError, match="/proc/run: cannot be made"):
        train("dtc", manifest, NOTHING / "run")
    with pytest.raises(OutputError, match="/proc: cannot be written"):
        write_plan("dtc", manifest, NOTHING / "plan.yaml")
    with pytest.raises(OutputError, match="is a folder; a plan is a file"):
        write_plan("dtc", manifest, tmp_path)


def test_looking_whether_a_folder_can_be_written_leaves_nothing(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert untouched(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x.json").write_text(json.dumps(1))
    check_writable(tmp_path / "mine")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "x.json"]
    with pytest.raises(OutputError, match=r"x\.json: cannot be made"):
        check_writable(tmp_path / "mine" / "x.json")
