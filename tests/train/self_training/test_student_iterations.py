"""Students that are trained for longer, or for less long, than their teachers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tiny import write_dataset

from medseg.config.pipeline import Stage
from medseg.errors import ConfigError
from medseg.manifest.manifest import Manifest
from medseg.workflows.compare.arms.check_arms import with_iterations
from medseg.workflows.compare.runs.plans import count_steps, describe_plan
from medseg.workflows.train import plan_in_words, settings
from medseg.workflows.train.budget.choose import Workload
from medseg.workflows.train.plan import plan_pipeline
from medseg.workflows.train.run import train
from medseg.workflows.train.stages.build import count_trainings

pytestmark = pytest.mark.usefixtures("undrawn")

CPU = torch.device("cpu")
LONGER = [
    "stages.0.views=[axial]", "stages.0.rounds.count=1", "stages.0.rounds.iterations=11", "stages.0.network.width=4",
    "stages.0.schedule.iterations=8", "stages.0.schedule.batch.labeled=4", "stages.0.schedule.workers=0",
    "data.patch=[32,32,32]", "data.spacing_mm=[1,1,1]", "data.slices=1",
]  # fmt: skip


def stage_of(teachers: int, **rounds: object) -> Stage:
    whole = {"count": 2, "rule": {"name": "dmpct"}, **rounds}
    content = {"method": {"name": "supervised"}, "views": ["axial", "coronal", "sagittal"], "rounds": whole}
    return Stage(**content, schedule={"iterations": teachers})


@pytest.mark.parametrize(
    ("rounds", "iterations", "trainings"),
    [
        ({}, 100, 9.0),  # three teachers and twice three students
        ({"student": "warm"}, 50, 6.0),
        ({"iterations": 200}, 200, 15.0),
        ({"student": "warm", "iterations": 25}, 25, 4.5),
    ],
)
def test_how_long_students_are_trained_and_what_that_costs(rounds, iterations, trainings):
    stage = stage_of(100, **rounds)
    assert stage.student_iterations == iterations
    assert count_trainings(stage, to_label=4) == pytest.approx(trainings)
    assert count_trainings(stage, to_label=0) == 3


def test_a_shorter_stage_has_shorter_students_and_the_rest_as_it_was():
    shorter = stage_of(100, iterations=150).with_iterations(10)
    assert (shorter.schedule.iterations, shorter.student_iterations) == (10, 15)
    assert stage_of(100, iterations=1).with_iterations(10).student_iterations == 1
    plain = stage_of(100).with_iterations(10)
    assert plain.rounds.iterations is None
    assert "iterations" not in plain.model_dump(mode="json")["rounds"]


def test_equal_iterations_and_a_budget_count_the_students(tmp_path):
    manifest = Manifest.load(write_dataset(tmp_path, labeled=2, unlabeled=2))
    planned = plan_pipeline(settings.load("dmpct", LONGER), manifest, CPU, None)
    assert count_steps(planned, manifest) == 8 + 11
    assert Workload.of_stage(planned.stages[0], manifest).trainings == pytest.approx(1 + 11 / 8)
    assert count_steps(with_iterations(planned, 16), manifest) == 16 + 22
    assert "8 iterations, students of 11 iterations" in describe_plan(planned)
    rows = plan_in_words.describe_plan(planned, manifest)
    assert rows["stage 0, views"] == "axial; rounds of pseudo-labels: 1, students of 11 iterations"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "bundle" / "models" / "model.pt", weights_only=True)


def test_a_run_trains_the_given_steps_and_resumes_alike(tmp_path):
    data = write_dataset(tmp_path / "data", labeled=2, unlabeled=2)
    run = train("dmpct", data, tmp_path / "run", overrides=LONGER)
    files = [run / f"round{number}" / "axial" / "last.pt" for number in (0, 1)]
    assert [torch.load(file, weights_only=True)["total"] for file in files] == [8, 11]
    assert "iterations: 11" in (run / "pipeline.yaml").read_text()
    first, kept = weights(run), files[0].stat().st_mtime_ns
    shutil.rmtree(run / "round1" / "axial")
    train("dmpct", data, run, overrides=LONGER, resume=True)
    again = weights(run)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert files[0].stat().st_mtime_ns == kept, "teachers do not depend on it"


@pytest.mark.parametrize("given", ["0", "-1", "many", "1.5"])
def test_other_iterations_are_refused_with_their_place(given):
    with pytest.raises(ConfigError, match=r"stages\.0\.rounds\.iterations: .* integer|than 0"):
        settings.load("dmpct", [f"stages.0.rounds.iterations={given}"])
