"""What is compared, and what is refused before anything is trained."""

from __future__ import annotations

import json
import re
import shutil
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from tiny import FAST, write_dataset

import medseg
from medseg.errors import ConfigError, MedsegError, OutputError
from medseg.workflows.compare.arms import check_arms
from medseg.workflows.compare.arms.check_arms import ready_arms
from medseg.workflows.compare.arms.data_sets import list_keys
from medseg.workflows.compare.arms.read_arms import Arm, Comparison, read_comparison, read_file
from medseg.workflows.compare.folder import Folder, data_name
from medseg.workflows.compare.options import CompareOptions
from medseg.workflows.compare.run import check_jobs
from medseg.workflows.compare.runs import plans
from medseg.workflows.compare.scores.rows import RunKey
from medseg.workflows.train import settings

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "comparisons").glob("*.yaml"))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), labeled=3, unlabeled=2, validation=0, test=2)


def change(data: Path, folder: Path, **lists: object) -> Path:
    """A manifest of the same files with other lists."""
    content = json.loads(data.read_text()) | lists
    for section in ("training", "validation", "test", "unlabeled"):
        for case in content[section]:
            for key in ("image", "label"):
                if key in case:
                    case[key] = str(data.parent / case[key])
    path = folder / "changed.json"
    path.write_text(json.dumps(content))
    return path


def write(folder: Path, content: object) -> Path:
    path = folder / "arms.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def test_runs_of_one_seed_come_together():
    arms = read_comparison(CompareOptions(tasks="supervised,dtc", data=Path("m.json"))).arms
    keys = list_keys(Comparison("c", "", arms, seeds=(0, 1), labels=(2, 4)))
    found = [(key.seed, key.labels, key.arm) for key in keys]
    assert found[:4] == [(0, 2, "supervised"), (0, 2, "dtc"), (0, 4, "supervised"), (0, 4, "dtc")]
    assert found[4][0] == 1


def test_a_file_says_what_the_command_line_does_not(tmp_path, data, monkeypatch):
    monkeypatch.setenv("MEDSEG_DATA", str(data.parent))
    arms = [
        {"name": "a", "task": "supervised", "set": {"stages.0.network.width": 8, "data.patch": [16, 16, 16]}},
        {"name": "b", "task": "dtc", "set": ["seed=3"], "data": "m.json"},
    ]
    path = write(
        tmp_path, {"arms": arms, "set": {"data.overlap": 0.25}, "data": "m.json", "budget": "15m", "seeds": [1]}
    )
    found = read_comparison(CompareOptions(path, iterations=20, overrides=["seed=4"], labels="1,2"))
    assert found.name == "arms"
    assert found.arms[0].overrides == (
        "data.overlap=0.25",
        "stages.0.network.width=8",
        "data.patch=[16, 16, 16]",
        "seed=4",
    )
    assert found.arms[1].overrides == ("data.overlap=0.25", "seed=3", "seed=4")
    assert found.arms[0].data == data, "in the folder that MEDSEG_DATA names"
    assert (found.budget, found.iterations, found.seeds, found.labels) == (None, 20, (1,), (1, 2))
    other = read_comparison(CompareOptions(path, data=Path("x.json")))
    assert (other.arms[0].data, other.arms[1].data) == (Path("x.json"), data)
    shutil.copy(data, tmp_path)
    assert read_comparison(CompareOptions(path)).arms[0].data == tmp_path / "m.json", "beside the file"


def test_some_arms_of_a_file_in_the_order_of_the_file(tmp_path, data):
    arms = [{"name": name, "task": "supervised"} for name in ("a", "b", "c")]
    path = write(tmp_path, {"arms": arms, "data": str(data)})
    found = read_comparison(CompareOptions(path, arms="c,a", overrides=["seed=4"]))
    assert [(arm.name, arm.overrides) for arm in found.arms] == [("a", ("seed=4",)), ("c", ("seed=4",))]
    with pytest.raises(ConfigError, match="--arms 'd': there is no such arm; accepted are a, b, c"):
        read_comparison(CompareOptions(path, arms=["a", "d"]))
    of_tasks = read_comparison(CompareOptions(tasks="supervised,dtc", arms="dtc", data=data))
    assert [arm.name for arm in of_tasks.arms] == ["dtc"]


def test_what_judges_on_the_command_line_takes_the_place_of_the_file_s(tmp_path, data):
    arms = [{"task": "dtc"}]
    on_test = write(tmp_path, {"arms": arms, "data": str(data), "test": str(data)})
    found = read_comparison(CompareOptions(on_test, folds=3))
    assert (found.test, found.folds) == (None, 3)
    out_of_fold = write(tmp_path, {"arms": arms, "data": str(data), "folds": 3})
    found = read_comparison(CompareOptions(out_of_fold, test=data))
    assert (found.test, found.folds) == (data, None)


def test_runs_of_equal_minutes_do_not_share_a_gpu():
    with pytest.raises(ConfigError, match=r"--jobs 2: runs of equal minutes would share cuda:0; accepted is 1"):
        check_jobs(2, torch.device("cuda:0"), "15m")
    check_jobs(1, torch.device("cuda:0"), "15m")
    check_jobs(2, torch.device("cpu"), "15m")
    check_jobs(2, torch.device("cuda:0"), None)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"arms": [{"task": "dtc", "sett": {}}]}, r"arms.0.sett is not known; accepted are name, task, set, data"),
        ({"arms": [{"task": "dtc"}], "seed": 1}, r"seed is not known; accepted are name, description, arms"),
        ({"arms": []}, "arms is "),
        ({"arms": [{"name": "a"}]}, "arms.0.task is missing"),
        ({"arms": [{"name": "a/b", "task": "dtc"}]}, "arms.0.name is 'a/b'"),
        ({"arms": [{"task": "dtc"}], "seeds": [1, 1]}, "seeds: 1, 1 has a number twice"),
        ({"arms": [{"task": "dtc"}], "seeds": [-1]}, "seeds: -1 is none"),
        ({"arms": [{"task": "dtc"}], "seeds": [2**32]}, "seeds: 4294967296 is too large; .* from 0 to 4294967295"),
        ({"arms": [{"task": "dtc", "set": {"seed": date(2020, 1, 1)}}]}, r"arms.0.set .*seed is datetime.date\(2020"),
        ({"arms": [{"task": "dtc"}], "tolerance_mm": float("inf")}, "tolerance_mm is inf"),
        ({"arms": [{"task": "dtc"}], "budget": "15"}, "a unit is missing"),
        ({"arms": [{"task": "dtc"}], "budget": "15m", "iterations": 3}, "are both given"),
        ({"arms": [{"task": "dtc"}], "test": "t.json", "folds": 3}, "test and folds are both given"),
        ({"arms": [{"task": "my task.yaml"}], "data": "m.json"}, "arm 'my task'"),
        ({"arms": [{"task": "dtc", "set": {"a": "$import os"}}]}, "holds values alone"),
        ({"arms": [{"task": "dtc"}]}, "no data set for dtc"),
        ([1], "a comparison is a mapping with 'arms'"),
    ],
)
def test_a_file_that_is_none(tmp_path, content, says):
    with pytest.raises(ConfigError, match=says):
        read_comparison(CompareOptions(write(tmp_path, content)))


def test_a_file_with_a_key_twice(tmp_path):
    path = tmp_path / "arms.yaml"
    path.write_text("arms: [{task: supervised}]\ndata: m.json\narms: [{task: dtc}]\n")
    with pytest.raises(ConfigError, match=r"not a readable YAML \(the key 'arms' is there twice .*line 3, column 1"):
        read_comparison(CompareOptions(path))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "what to compare is missing"),
        ({"comparison": "c.yaml", "tasks": "dtc"}, "is given twice"),
        ({"tasks": "dtc", "seeds": "0,x"}, "--seeds: 'x' is none; accepted are whole numbers from 0"),
        ({"tasks": "dtc", "labels": "0"}, "--labels: '0' is none"),
        ({"tasks": "dtc", "shard": "0/5"}, "accepted are 1/5 to 5/5"),
        ({"tasks": "dtc", "shard": "6/5"}, "accepted are 1/5 to 5/5"),
        ({"tasks": "dtc", "jobs": 0}, "--jobs 0"),
        ({"tasks": "dtc", "folds": 1}, "--folds 1: accepted are 2 and more"),
        ({"tasks": "dtc", "budget": "15m", "iterations": 3}, "both given"),
        ({"tasks": "dtc", "test": "t.json", "folds": 3}, "--test and --folds are both given"),
        ({"tasks": "my task.yaml", "data": "m.json"}, r"arm 'my task' \(task my task.yaml\): the name of an arm has"),
        ({"tasks": "dtc"}, "--data is missing"),
    ],
)
def test_options_that_cannot_be(options, says):
    with pytest.raises(ConfigError, match=says):
        read_comparison(CompareOptions(**options))


def refused(folder: Path, **options: object) -> str:
    """What is said; nothing is written."""
    with pytest.raises(MedsegError) as error:
        medseg.compare(output=folder / "out", device="cpu", **options)
    assert not (folder / "out").exists()
    return str(error.value)


def test_all_arms_are_refused_at_once(tmp_path, data):
    without = change(data, tmp_path, unlabeled=[])
    arms = [
        {"name": "a", "task": "supervised", "set": FAST},
        {"name": "b", "task": "dtc", "data": str(without), "set": {"stages.0.schedule.iteration": 3}},
        {"name": "A", "task": "supervised", "set": {"stages.0.network.width": "wide"}},
        {"name": "d", "task": "nothing"},
        {"name": "e", "task": "supervised", "data": "gone.json"},
    ]
    said = refused(tmp_path, comparison=write(tmp_path, {"arms": arms, "data": str(data)}))
    opening, *lines = re.split(r";? \(\d\) ", said)
    assert opening == "5 things are wrong, and nothing was trained:"
    for wanted in (
        "two arms are called A",
        "arm b: .*schedule has no key 'iteration'; did you mean iterations",
        "arm A: .*stages.0.network.width",
        "arm d: task 'nothing' is not known",
        "arm e: .*gone.json",
    ):
        assert len([line for line in lines if re.match(wanted, line)]) == 1, wanted


def test_no_labelled_test_case(tmp_path, data):
    bare = change(data, tmp_path, test=[])
    said = refused(tmp_path, tasks="supervised", data=bare, overrides=FAST)
    assert "no labelled case under 'test' to judge on" in said
    assert "--folds 5" in said


def test_test_cases_that_are_learnt_from(tmp_path, data):
    content = json.loads(data.read_text())
    shutil.copy(data.parent / content["training"][0]["image"], data.parent / "copy.nii.gz")
    copied = {"image": "copy.nii.gz", "label": content["training"][0]["label"], "case": "twin"}
    leaky = change(data, tmp_path, test=[*content["test"], copied])
    said = refused(tmp_path, tasks="supervised", data=leaky, overrides=FAST)
    assert "test cases whose images are learnt from: twin is case0" in said


def test_test_cases_of_subjects_that_are_learnt_from(tmp_path, data):
    content = json.loads(data.read_text())
    content["training"][1]["subject"] = content["test"][0]["subject"] = "ann"
    leaky = change(data, tmp_path, training=content["training"], test=content["test"])
    said = refused(tmp_path, tasks="supervised", data=leaky, overrides=FAST)
    assert "test cases whose subjects are learnt from: case5 and case1 are of ann" in said


def test_another_manifest_judges_and_is_looked_at_in_the_same_way(tmp_path, data):
    content = json.loads(data.read_text())
    other = change(data, tmp_path, training=[], unlabeled=[], test=content["training"])
    said = refused(tmp_path, tasks="supervised", data=data, test=other, overrides=FAST)
    assert "case0 is case0, case1 is case1, case2 is case2" in said


def test_arms_that_are_judged_on_other_cases(tmp_path, data):
    content = json.loads(data.read_text())
    fewer = change(data, tmp_path, test=content["test"][:1])
    arms = [{"name": "a", "task": "supervised"}, {"name": "b", "task": "supervised", "data": str(fewer)}]
    said = refused(tmp_path, comparison=write(tmp_path, {"arms": arms, "data": str(data), "set": FAST}))
    assert said.startswith("arm b is judged on other cases than a; name one manifest for all with --test")


def damaged(data: Path, folder: Path, file: str) -> Path:
    """The data set with an empty file in the place of one of its own."""
    for path in data.parent.iterdir():
        shutil.copy(path, folder)
    (folder / file).write_bytes(b"")
    return folder / data.name


def test_a_test_case_that_cannot_be_read_is_found_before_hours_go_into_training(tmp_path, data):
    bad = damaged(data, tmp_path, "case6_label.nii.gz")
    said = refused(tmp_path, tasks="supervised", data=bad, overrides=FAST)
    assert "arm supervised: " in said
    assert re.search("case6_label.nii.gz: test case case6: ", said)


def test_a_case_of_the_first_fold_that_cannot_be_read_is_found_too(tmp_path, data):
    bad = damaged(data, tmp_path, "case0.nii.gz")
    said = refused(tmp_path, tasks="supervised", data=bad, overrides=FAST, folds=3)
    assert "case0.nii.gz: " in said


def test_the_fewest_labels_are_checked_whatever_their_place(tmp_path, data):
    """A method that needs two labelled cases fails with one, and that is found before any run is made."""
    seen = []

    def note(pipeline, manifest, *rest):
        seen.append(len([case for case in manifest.training if case.is_labelled]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check_arms, "plan_pipeline", note)
        ready_arms(read_comparison(CompareOptions(tasks="supervised", data=data, labels="3,1", overrides=FAST)), "cpu")
    assert seen == [1]


def test_an_arm_that_starts_from_another_is_sized_as_it_is_trained(tmp_path, monkeypatch):
    given = []

    def started(arguments, cores, log):
        given.append(arguments)
        return SimpleNamespace(poll=lambda: 0, warnings=lambda: [])

    monkeypatch.setattr(plans, "Child", started)
    monkeypatch.setattr(plans.settings, "dump", lambda *_: None)
    key = RunKey("a", 0)
    arm = Arm("a", "supervised", init_from=Path("runs/before"))
    ready = SimpleNamespace(arm=arm, pipeline=None)
    plans._plan_by_timing(Folder(tmp_path), ready, SimpleNamespace(key=key), "15m", (0,), "cpu")
    (arguments,) = given
    assert arguments[arguments.index("--init-from") + 1] == "runs/before"


def test_more_folds_or_labels_than_subjects(tmp_path, data):
    with pytest.raises(ConfigError, match="3 labelled subjects are too few for 4 folds"):
        medseg.compare(tasks="supervised", data=data, folds=4, overrides=FAST, output=tmp_path / "out")
    with pytest.raises(ConfigError, match="labels of 5 subjects are asked for"):
        medseg.compare(tasks="supervised", data=data, labels="2,5", overrides=FAST, output=tmp_path / "out")


def test_a_folder_of_something_else(tmp_path, data):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not empty and holds no comparison"):
        medseg.compare(tasks="supervised", data=data, overrides=FAST, output=tmp_path / "taken")
    with pytest.raises(OutputError, match="holds no comparison to go on with"):
        medseg.compare(tasks="supervised", data=data, overrides=FAST, output=tmp_path / "new", resume=True)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_shipped_comparison_can_be_read(path, monkeypatch):
    file = read_file(path)
    assert file.description, "what its table shows"
    monkeypatch.setenv("MEDSEG_DATA", "elsewhere")
    found = read_comparison(CompareOptions(path))
    assert len({arm.name for arm in found.arms}) == len(found.arms)
    for arm in found.arms:
        settings.load(arm.task, arm.overrides)


def test_there_are_shipped_comparisons():
    assert {"la_dtc", "btcv_dmpct", "la_supervised_16"} <= {path.stem for path in FILES}


def test_names_of_data_sets_tell_all_but_the_seed():
    assert data_name(RunKey("a", 0, 4, 1)) == "a-labels4-fold1"
