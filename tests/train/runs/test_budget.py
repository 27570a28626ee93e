"""A budget that is kept: arithmetic by hand, what a probe leaves behind, runs that can be resumed and repeated."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from classes import write_pictures
from forking import python
from tiny import write_dataset

from medseg import cores
from medseg.bundle.bundle import open_bundle
from medseg.config.pipeline import DataSpec, Pipeline
from medseg.cores import CoreUse
from medseg.manifest.manifest import Manifest
from medseg.networks.registry import network_def
from medseg.workflows.train import settings
from medseg.workflows.train.budget import choose, fit
from medseg.workflows.train.budget.costs import measure
from medseg.workflows.train.budget.costs.step_probe import StageProbe
from medseg.workflows.train.budget.fit import describe_small_structures
from medseg.workflows.train.budget.sizing import describe_budget, describe_losses
from medseg.workflows.train.budget.time_plan import StageCosts, count_validations, fit_stage, fit_stages
from medseg.workflows.train.plan import plan_pipeline, write_plan
from medseg.workflows.train.run import train
from medseg.workflows.train.stages.build import StageInputs, StageResult

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("iterations", "every", "count"),
    [(100, None, 10), (105, None, 11), (100, 30, 4), (90, 30, 3), (7, None, 7), (12, 50, 1)],
)
def test_validations_are_counted_as_the_run_makes_them(iterations, every, count):
    assert count_validations(iterations, every) == count


def test_iterations_are_what_is_left_divided_by_the_step():
    costs = StageCosts(step=0.5, start=4, finish=2, other=10)
    # 100 s - 16 s = 84 s, 168 steps, of which whole tens where there are validations, and all of them where not
    assert fit_stage(costs, 100, most=6000, every=None).iterations == 168
    assert fit_stage(costs, 100, most=50, every=None).seconds == 16 + 25


def test_validations_take_their_time_and_are_fewer_where_they_would_take_much_of_it():
    cheap = StageCosts(step=0.5, validation=1)
    length = fit_stage(cheap, 100, most=6000, every=None)
    assert length.iterations in (178, 180)  # with 11 validations or 10: both take 100 s
    assert (length.validate_every, length.seconds) == (None, 100)
    longer = fit_stage(StageCosts(step=0.5, validation=1), 217, most=6000, every=None)
    assert (longer.iterations, longer.seconds) == (410, 215)  # 412 would make eleven
    dear = StageCosts(step=0.5, validation=8)
    length = fit_stage(dear, 100, most=6000, every=None)  # 10: 80 s; 5: 40 s; 3: 24 s of 100
    assert (length.iterations, length.validate_every) == (152, 51)
    assert length.seconds == 76 + 3 * 8
    kept = fit_stage(dear, 100, most=6000, every=20)
    assert kept.validate_every == 20
    assert kept.seconds <= 100 < dear.seconds(kept.iterations + 1, 20)


def test_rounds_cost_every_training_and_all_that_lies_between():
    # two views, a round of warm students, which have half the iterations: 3 trainings' steps, 4 networks
    costs = StageCosts(step=0.1, start=2, finish=1, trainings=3, networks=4, other=20)
    length = fit_stage(costs, 332, most=6000, every=None)
    assert length.iterations == 1000  # 332 - 4 * 3 - 20 = 300 s = 3 * 0.1 * 1000
    assert length.seconds == pytest.approx(332)


def test_what_one_stage_does_not_need_is_the_others():
    short = StageCosts(step=0.1)
    long = StageCosts(step=1.0, other=10)
    lengths = fit_stages([long, short], 110, most=[6000, 100], every=[None, None])
    assert [each.iterations for each in lengths] == [90, 100]
    assert sum(each.seconds for each in lengths) == pytest.approx(110)


def test_a_hopeless_budget_gets_the_fewest_iterations_and_says_so():
    length = fit_stage(StageCosts(step=5, other=60), 30, most=6000, every=None)
    assert length.iterations == 10
    assert "more than the budget" in describe_budget(30, 5, length.seconds, trains_now=True)
    assert "more than" not in describe_budget(900, 50, 905, trains_now=True)


def test_a_step_on_a_busy_core_counts_as_it_would_take_alone():
    shared = CoreUse(own=5, others=5, wall=10, cores=1)
    assert shared.is_contended
    assert shared.alone(2.0, 1.0, 1) == 1.0
    idle = CoreUse(own=10, others=0.2, wall=10, cores=1)
    assert not idle.is_contended
    assert idle.alone(2.0, 2.0, 1) == 2.0
    elsewhere = CoreUse(own=10, others=10, wall=10, cores=4)  # others work, but two cores are idle
    assert not elsewhere.is_contended
    assert elsewhere.alone(2.0, 2.0, 1) == 2.0


def test_cores_are_those_of_the_process_and_of_its_container(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(cores, "CONTROL_GROUP", tmp_path / "cpu.max")
    assert cores.usable_cores() == 16
    for text, count in (("max 100000", 16), ("400000 100000", 4), ("150000 100000", 2), ("50000 100000", 1)):
        cores.CONTROL_GROUP.write_text(text + "\n")
        assert cores.usable_cores() == count
    cores.CONTROL_GROUP.write_text("400000 100000")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert cores.usable_cores() == 1


def test_steps_with_batches_made_ahead_are_not_timed(tmp_path, monkeypatch):
    manifest = Manifest.load(write_dataset(tmp_path / "data"))
    device = torch.device("cpu")
    pipeline = plan_pipeline(settings.load("supervised", WIDE), manifest, device, None)
    probe = StageProbe(StageInputs(pipeline, 0, manifest, tmp_path, tmp_path / "cache", device), view=None, few=False)
    # at each of two places: the start, the first step, two with batches made ahead, three timed ones
    moments = iter([0, 9, 10, 11, 15, 19, 23, 0, 7, 8, 9, 13, 17, 21])
    monkeypatch.setattr(probe, "_run_for", lambda trainer, seconds: [next(moments) for _ in range(7)])
    costs = probe.measure(tmp_path / "bundle", previous=None, seconds=1)
    assert costs.step == 4
    assert costs.start == 7 - 4
    assert costs.preparation > 0
    assert (tmp_path / "bundle" / "configs" / "metadata.json").is_file()


def _pipeline(iterations, width, batch, **data):
    plan = {"labels": {0: "b", 1: "c"}, "modality": ["MR"], "spacing_mm": [1.5, 1.5, 1.5], "patch": [64, 64, 64]}
    stage = {
        "method": {"name": "supervised"},
        "network": {"name": "unet", "width": width},
        "schedule": {"iterations": iterations, "batch": {"labeled": batch}},
    }
    return Pipeline(name="x", stages=[stage], data={**plan, **data})


def test_what_was_given_up_is_said_in_words():
    before = _pipeline(6000, 16, 4)
    assert describe_losses(before, before) == []
    after = _pipeline(900, 8, 4, spacing_mm=[3, 3, 3], patch=[24, 32, 32])
    assert describe_losses(before, after) == [
        "voxels of 3 mm instead of 1.5 mm",
        "patches of 72 x 96 x 96 mm instead of 96 mm",
        "width 8 instead of 16",
        "900 iterations instead of 6000",
    ]


def test_structures_that_a_coarser_grid_hardly_has_are_named(tmp_path):
    # a cube of 8 voxels of 1 mm and one of 20: 512 and 8000 mm3
    label = np.zeros((40, 40, 40), np.uint8)
    label[2:10, 2:10, 2:10] = 1
    label[15:35, 15:35, 15:35] = 2
    for name, array in (("image", label.astype(np.float32)), ("label", label)):
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / f"{name}.nii.gz")
    content = {
        "modality": {"0": "MR"},
        "labels": {"0": "background", "1": "gland", "2": "liver"},
        "training": [{"image": "image.nii.gz", "label": "label.nii.gz"}],
    }
    (tmp_path / "m.json").write_text(json.dumps(content))
    manifest = Manifest.load(tmp_path / "m.json")
    labels = {0: "background", 1: "gland", 2: "liver"}
    before = _pipeline(100, 8, 2, labels=labels, spacing_mm=[1.0, 1.0, 1.0])
    assert describe_small_structures(before, before, manifest) is None
    # 512 / 2^3 = 64 voxels are enough, 512 / 3^3 = 19 are not; the liver has 296
    fine, coarse = (_pipeline(100, 8, 2, labels=labels, spacing_mm=[side] * 3) for side in (2.0, 3.0))
    assert describe_small_structures(before, fine, manifest) is None
    told = describe_small_structures(before, coarse, manifest)
    assert told == "expect little of what has only few voxels left: gland 19"
    label[:, :, 5:] = 255  # of a label that leaves a part out nobody knows how large its structures are
    nib.save(nib.Nifti1Image(label, np.eye(4)), tmp_path / "label.nii.gz")
    assert describe_small_structures(before, coarse, Manifest.load(tmp_path / "m.json")) is None


WIDE = ["stages.0.network.width=4", "data.patch=[16,16,16]", "stages.0.schedule.batch.labeled=2"]


def test_a_run_with_a_budget_is_repeated_and_resumed_to_the_last_bit(tmp_path, capfd):
    manifest = write_dataset(tmp_path / "data")
    first = train("supervised", manifest, tmp_path / "first", budget="12s", overrides=WIDE)
    plan = yaml.safe_load((first / "pipeline.yaml").read_text())
    assert plan["stages"][0]["schedule"]["iterations"] >= 10
    said = capfd.readouterr().err
    assert "training will end after about" in said
    assert "given up for it" in said
    assert not (first / "cache").exists()
    again = train(str(first), manifest, tmp_path / "again")
    weights = [torch.load(run / "last.pt", weights_only=True)["method"] for run in (first, again)]
    assert all(torch.equal(one, weights[1][name]) for name, one in weights[0].items())
    frozen = (first / "pipeline.yaml").read_bytes()
    train("supervised", manifest, first, budget="12s", overrides=WIDE, resume=True)
    assert (first / "pipeline.yaml").read_bytes() == frozen


FEW = ["stages.0.network.width=4", "stages.0.rounds.count=1"]


def test_generations_of_a_classifier_with_a_budget(tmp_path, capfd):
    data = write_pictures(tmp_path / "data", validation=1, test=1)
    run = train("crest_images", data, tmp_path / "run", budget="12s", overrides=FEW)
    (stage,) = yaml.safe_load((run / "pipeline.yaml").read_text())["stages"]
    assert 10 <= stage["schedule"]["iterations"] < 6000
    assert "training will end after about" in capfd.readouterr().err
    assert open_bundle(run / "bundle").data.target == "images"
    labels = [case.label for case in Manifest.load(run / "round1" / "manifest.json").training if case.label]
    assert labels  # the rule has added some


@pytest.mark.parametrize(("task", "options"), [("classify", FEW[:1]), ("crest", [*FEW, "data.patch=[16,16,16]"])])
def test_plans_with_a_budget_of_a_classifier_and_of_a_rule_that_counts_labels(tmp_path, monkeypatch, task, options):
    if task == "classify":
        data = write_pictures(tmp_path / "data", validation=1, test=0, unlabelled=0)
    else:
        data = write_dataset(tmp_path / "data", labeled=4, unlabeled=2)
    seen = []

    def measured(place, seconds):
        costs, use = measure.measure_costs(place, 1)
        seen.extend(costs)
        return costs, use

    monkeypatch.setattr(fit, "measure_costs", measured)
    plan = write_plan(task, data, tmp_path / "plan.yaml", budget="12s", overrides=options)
    assert plan.stages[0].schedule.iterations >= 10
    assert seen[0].step > 0
    assert seen[0].networks == (1 if task == "classify" else 2)


def test_validation_cases_by_which_a_rule_is_judged_cost_time_too(tmp_path, monkeypatch):
    """A second for each case that the rule is asked about: two unlabelled and three validation cases in each round."""
    manifest = Manifest.load(write_dataset(tmp_path / "data", labeled=4, unlabeled=2, validation=3))
    pipeline = plan_pipeline(settings.load("crest", [*FEW, "stages.0.rounds.count=2"]), manifest, CPU, None)
    place = measure.Workplace(pipeline, manifest, CPU, tmp_path / "cache", tmp_path, tmp_path / "scratch")
    monkeypatch.setattr(measure, "_time_rule", lambda *arguments: 1.0)
    monkeypatch.setattr(measure, "_score_seconds", lambda *arguments: 0.0)
    seconds = measure._round_seconds(place, 0, 0.0, StageResult(tmp_path, {}))
    assert seconds == pytest.approx(2 * (2 + 3), abs=0.5)  # and what reading the labels takes


def test_a_plan_with_a_budget_leaves_nothing_but_itself(tmp_path, monkeypatch):
    manifest = write_dataset(tmp_path / "data", labeled=6)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    seen = []
    monkeypatch.setattr(
        fit, "measure_costs", lambda place, seconds: seen.append(place) or measure.measure_costs(place, 1)
    )
    write_plan("supervised", manifest, tmp_path / "plan.yaml", budget="12s", overrides=WIDE)
    assert seen[0].output is None
    assert not seen[0].scratch.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "plan.yaml"]


@pytest.mark.parametrize(("keeps", "width"), [(False, 8), (True, 16)])
def test_a_network_that_starts_from_weights_is_not_made_another_one(keeps, width, tmp_path, monkeypatch):
    """The cheapest plan has half the width, in which no weight of the planned network has a place."""
    manifest = Manifest.load(write_dataset(tmp_path / "data", shape=(48, 48, 40)))
    device = torch.device("cpu")
    given = settings.load("supervised")
    planned = plan_pipeline(given, manifest, device, None)
    monkeypatch.setattr(choose, "_time_steps", lambda candidate, *_: replace(candidate, step_seconds=60.0))
    chosen = choose.choose_plan(planned, manifest, device, seconds=60, given=given, keeps_network=keeps)
    assert chosen.data["spacing_mm"] != planned.data["spacing_mm"]
    before, after = (each.stages[0].network for each in (planned, chosen))
    assert (before.width, after.width) == (16, width)
    sizes = [DataSpec(**each.data).network_patch for each in (planned, chosen)]
    layers = [network_def(spec, patch=patch, in_channels=1, out_channels=3)
              for spec, patch in zip((before, after), sizes, strict=True)]  # fmt: skip
    assert (layers[0] == layers[1]) == keeps


def test_a_known_step_gives_a_known_number_of_iterations(tmp_path, monkeypatch):
    manifest = write_dataset(tmp_path / "data")
    costs = [StageCosts(step=0.05, start=1, finish=1, other=1)]
    use = CoreUse(own=1, others=0, wall=1, cores=1)
    monkeypatch.setattr(fit, "measure_costs", lambda place, seconds: (costs, use))
    monkeypatch.setattr(fit, "measure_closing", lambda place: 5.0)
    plan = write_plan("supervised", manifest, tmp_path / "plan.yaml", budget="100s", overrides=WIDE)
    left = (100 - fit.STARTING_SECONDS - fit.ENDING_SECONDS - 5) * 0.99 - 3
    assert plan.stages[0].schedule.iterations == int(left / 0.05)


PINNED = """
import os, sys
from pathlib import Path
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from medseg.data import cache
from medseg.workflows.train.run import train
def refuse(*args, **kwargs):
    raise AssertionError("a pool of processes on one core")
cache.ProcessPoolExecutor = refuse
train("supervised", sys.argv[1], sys.argv[2], overrides=sys.argv[3:])
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not bind processes to cores")
def test_pinned_to_one_core_preprocessing_has_one_process(tmp_path):
    manifest = write_dataset(tmp_path / "data", labeled=25, unlabeled=0, shape=(16, 16, 16))
    short = [*WIDE, "stages.0.schedule.iterations=2"]
    command = [python(), "-c", PINNED, str(manifest), str(tmp_path / "run"), *short]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())
    assert Path(tmp_path / "run" / "bundle").is_dir()
