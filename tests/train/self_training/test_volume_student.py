"""`dmpct_volume`: planes that label volumes for one network of volumes, from the plan to a bundle."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from tiny import write_dataset

from medseg.bundle.bundle import open_bundle
from medseg.config.pipeline import DataSpec, NetworkSpec
from medseg.data.streams import PatchStreams
from medseg.errors import ConfigError
from medseg.manifest.manifest import Manifest
from medseg.methods.dmpct import VoteOfViews
from medseg.workflows.compare.runs.plans import describe_plan as in_one_line
from medseg.workflows.train import settings
from medseg.workflows.train.budget import choose, fit
from medseg.workflows.train.budget.costs import measure
from medseg.workflows.train.budget.reductions import Reduction, reduce_plan
from medseg.workflows.train.plan import plan_pipeline, write_plan
from medseg.workflows.train.plan_in_words import describe_plan
from medseg.workflows.train.run import train
from medseg.workflows.train.self_training.labelling.measured import count_labels_of
from medseg.workflows.train.self_training.labelling.predict_views import Voter

pytestmark = pytest.mark.usefixtures("undrawn")

CPU = torch.device("cpu")
FAST = ("stages.0.network.width=4", "stages.0.schedule.iterations=2", "stages.0.schedule.batch.labeled=2",
        "stages.1.network.width=4", "stages.1.schedule.iterations=3", "data.patch=[32,32,32]",
        "stages.0.schedule.workers=0", "stages.1.schedule.workers=0", "data.volume_patch=[16,16,16]",
        "data.spacing_mm=[1,1,1]", "stages.0.then.rule.options.background_confidence=0.2")  # fmt: skip
PLAN = {"labels": {0: "b", 1: "c"}, "modality": ("MR",), "spacing_mm": (1, 1, 1), "patch": (64, 48, 32)}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), spacing=(1, 1, 1), validation=0)


@pytest.fixture(scope="module")
def batches() -> list[tuple[tuple[int, ...], list[bool]]]:
    """Of each batch that was made, its shape, and which of its labels a rule made."""
    return []


@pytest.fixture(scope="module")
def run(manifest, batches, tmp_path_factory) -> Path:
    original = PatchStreams.__getitem__

    def noted(streams, iteration):
        batch = original(streams, iteration)
        volumes = {volume.name: volume.pseudo for volume in streams.volumes["labeled"]}
        pseudo = [volumes[name] for name in streams.cases_of(iteration)["labeled"]]
        batches.append((tuple(batch["labeled"]["image"].shape), pseudo))
        return batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PatchStreams, "__getitem__", noted)
        return train("dmpct_volume", manifest, tmp_path_factory.mktemp("runs") / "run", overrides=FAST, device="cpu")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "bundle" / "models" / "model.pt", weights_only=True)


def test_half_of_each_batch_of_volumes_is_truly_labelled(run, batches):
    planes, volumes = batches[:6], batches[6:]
    for shape, pseudo in planes:
        assert shape[:2] == (2, 3)  # adjacent slices as channels
        assert len(shape) == 4
        assert pseudo == [False, False]
    for shape, pseudo in volumes:
        assert shape == (4, 1, 16, 16, 16)
        assert sorted(pseudo) == [False, False, True, True]
    assert len(volumes) == 3


def test_the_volumes_learn_from_what_the_planes_agree_on(run, manifest):
    data = Manifest.load(manifest)
    rule = VoteOfViews(3, ignore_disagreement=True, background_confidence=0.2)
    with Voter(run / "stage0" / "bundle", CPU) as voter:
        for case in data.unlabeled:
            expected = rule.label(voter(data.images(case)), {}, 1).numpy()
            written = np.asarray(nib.load(run / "stage0" / "labels" / "pseudo" / f"{case.name}.nii.gz").dataobj)
            assert np.array_equal(written, expected)
    made = Manifest.load(run / "stage0" / "labels" / "manifest.json")
    assert [made.label(case) for case in made.training[:2]] == [data.label(case) for case in data.training]


def test_the_product_is_one_network_of_volumes(run):
    bundle = open_bundle(run / "bundle")
    assert (bundle.data.view, bundle.data.patch, bundle.data.volume_patch) == ("volume", (16, 16, 16), None)
    with torch.no_grad():
        assert bundle.network.eval()(torch.zeros(1, 1, 16, 16, 16)).shape == (1, 3, 16, 16, 16)
    assert (run / "stage0" / "round0" / "coronal" / "bundle").is_dir()


def test_a_run_that_lost_its_last_stage_goes_on_to_the_same(run, manifest, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    shutil.rmtree(folder / "bundle")
    shutil.rmtree(folder / "stage1")
    kept = (folder / "stage0" / "round0" / "axial" / "last.pt").stat().st_mtime_ns
    train("dmpct_volume", manifest, folder, overrides=FAST, device="cpu", resume=True)
    first, again = weights(run), weights(folder)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert (folder / "stage0" / "round0" / "axial" / "last.pt").stat().st_mtime_ns == kept


def test_volumes_have_a_patch_of_their_own_beside_planes():
    data = DataSpec(**PLAN, volume_patch=(40, 40, 24))
    assert data.of_view("volume").patch == (40, 40, 24)
    assert data.of_view("coronal").patch == (64, 1, 32)
    assert data.of_view("coronal") == DataSpec(**PLAN).of_view("coronal")
    assert DataSpec(**PLAN).of_view("volume").patch == (64, 48, 32)
    assert "volume_patch" not in DataSpec(**PLAN).model_dump()
    reduced = reduce_plan(data, NetworkSpec(name="unet"), Reduction(2.0, 1, 1.0), set()).data
    assert (reduced.patch, reduced.volume_patch) == ((32, 24, 16), (20, 20, 16))
    kept = reduce_plan(data, NetworkSpec(name="unet"), Reduction(2.0, 1, 1.0), {"volume_patch"}).data
    assert kept.volume_patch == (40, 40, 24)


def test_it_is_planned_and_told(tmp_path):
    manifest = Manifest.load(write_dataset(tmp_path / "data", shape=(144, 136, 128), spacing=(1, 1, 1)))
    planned = plan_pipeline(settings.load("dmpct_volume"), manifest, CPU, None)
    data = DataSpec(**planned.data)
    assert data.patch == (144, 144, 128)
    assert np.prod(data.volume_patch) <= 112 * 112 * 80
    assert [stage.schedule.batch for stage in planned.stages] == [{"labeled": 16}, {"labeled": 4}]
    rows = describe_plan(planned, manifest)
    assert rows["patch of volumes, voxels"] == " x ".join(map(str, data.volume_patch))
    volumes = "x".join(map(str, data.volume_patch))
    assert in_one_line(planned).startswith(f"1x1x1 mm, patch 144x144x128, of volumes {volumes}; ")
    alone = plan_pipeline(settings.load("dmpct"), manifest, CPU, None)
    assert "of volumes" not in in_one_line(alone)
    assert "volume_patch" not in alone.data


@pytest.mark.parametrize(("seconds", "spacing"), [(0.001, 1.0), (0.0001, 1.0), (0.02, 2.0)])
def test_a_budget_is_made_for_planes_and_volumes(tmp_path, monkeypatch, seconds, spacing):
    """Steps of planes are cheap here; those of volumes cost so many seconds for each 1000 voxels."""
    manifest = Manifest.load(write_dataset(tmp_path / "data", shape=(64, 64, 64), spacing=(1, 1, 1), validation=0))
    given = settings.load("dmpct_volume")
    planned = plan_pipeline(given, manifest, CPU, None)

    def timed(candidate, stage, device):
        voxels = np.prod(candidate.data.patch) if stage.views == ("volume",) else 0
        return replace(candidate, step_seconds=1e-6 + float(voxels) / 1000 * seconds)

    monkeypatch.setattr(choose, "_time_steps", timed)
    chosen = choose.choose_plan(planned, manifest, CPU, seconds=1800, given=given)
    data = DataSpec(**chosen.data)
    assert data.spacing_mm == (spacing,) * 3
    assert data.volume_patch == tuple(round(64 / spacing) for _ in range(3))
    assert all(stage.schedule.iterations >= 10 for stage in chosen.stages)


def test_a_budget_takes_the_network_that_was_timed(tmp_path, monkeypatch):
    """By hand: volumes of 32 x 32 x 32 take 1.6 s by a width of 16, too long for 1000 steps, and 0.16 s by 8."""
    manifest = Manifest.load(write_dataset(tmp_path / "data", shape=(64, 64, 64), spacing=(1, 1, 1), validation=0))
    given = settings.load("dmpct_volume")
    planned = plan_pipeline(given, manifest, CPU, None)

    def timed(candidate, stage, device):
        voxels = np.prod(candidate.data.patch) if stage.views == ("volume",) else 0
        slower = 10 if candidate.network.width > 8 else 1
        return replace(candidate, step_seconds=1e-6 + float(voxels) * slower * 5e-6)

    monkeypatch.setattr(choose, "_time_steps", timed)
    chosen = choose.choose_plan(planned, manifest, CPU, seconds=1800, given=given)
    data = DataSpec(**chosen.data)
    assert (data.spacing_mm, data.volume_patch) == ((2.0, 2.0, 2.0), (32, 32, 32))
    assert [stage.network.width for stage in chosen.stages] == [8, 8]


def test_a_plan_with_a_budget_tries_both_stages_and_what_lies_between(tmp_path, monkeypatch):
    path = write_dataset(tmp_path / "data", labeled=4, unlabeled=0)
    content = json.loads(path.read_text())
    content["unlabeled"] = [content["training"].pop(), content["training"].pop()]  # with their labels
    path.write_text(json.dumps(content))
    seen, counted = [], []

    def measured(place, seconds):
        costs, use = measure.measure_costs(place, 1)
        seen.extend(costs)
        return costs, use

    def count(manifest, case, pseudo):
        counted.append(case.name)
        return count_labels_of(manifest, case, pseudo)

    monkeypatch.setattr(fit, "measure_costs", measured)
    monkeypatch.setattr(measure, "count_labels_of", count)
    small = [change for change in FAST if "iterations" not in change]
    changes = [*small, "measure_pseudo_labels=true"]
    plan = write_plan("dmpct_volume", path, tmp_path / "plan.yaml", budget="12s", overrides=changes, device="cpu")
    assert [cost.networks for cost in seen] == [3, 1]
    assert all(cost.step > 0 for cost in seen)
    assert all(10 <= stage.schedule.iterations < 6000 for stage in plan.stages)
    assert counted in (["case2"], ["case3"])  # one of a typical size


@pytest.mark.parametrize("task", ["supervised", "dmpct"])
def test_a_patch_of_volumes_that_nothing_would_take_is_refused(manifest, tmp_path, task):
    with pytest.raises(ConfigError, match=r"data\.volume_patch is given, and no stage has the view volume"):
        write_plan(task, manifest, tmp_path / "plan.yaml", overrides=["data.volume_patch=[16,16,16]"], device="cpu")


def test_volumes_after_a_single_plane_are_refused(manifest, tmp_path):
    content = yaml.safe_load(settings.shipped()["dmpct_volume"].read_text())
    content["stages"][0]["views"] = ["axial"]
    task = tmp_path / "one.yaml"
    task.write_text(yaml.safe_dump(content))
    words = "stages.1 learns volumes, and stages.0 slices of the axial plane alone; accepted are several planes"
    with pytest.raises(ConfigError, match=words):
        train(str(task), manifest, tmp_path / "run", device="cpu")


def test_volumes_after_slices_that_the_data_section_asks_for_are_refused(manifest, tmp_path):
    content = yaml.safe_load(settings.shipped()["dmpct_volume"].read_text())
    content["stages"][0] = {**content["stages"][1], "views": [], "then": {"rule": {"name": "dmpct"}}}
    content["data"] = {"view": "axial"}
    task = tmp_path / "planar.yaml"
    task.write_text(yaml.safe_dump(content))
    words = "stages.1 learns volumes, and stages.0 slices of the axial plane alone; accepted are several planes"
    with pytest.raises(ConfigError, match=words):
        train(str(task), manifest, tmp_path / "run", device="cpu")
    content["data"] = {"view": "volume"}
    task.write_text(yaml.safe_dump(content))
    plan = write_plan(str(task), manifest, tmp_path / "plan.yaml", device="cpu")
    assert min(plan.stages[1].specs(DataSpec(**plan.data))[0].patch) > 1
