"""`--track mlflow`: the numbers in MLflow are those of the run's own records, and a resumed run goes on there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from forking import python
from tiny import FAST, write_dataset

from medseg.engine import distributed
from medseg.engine.logs import RunLog
from medseg.engine.tracking import sqlite_address, tracked
from medseg.errors import ConfigError
from medseg.stopping import Stopped
from medseg.workflows.train import options as options_module
from medseg.workflows.train.options import PretrainOptions, TrainOptions

mlflow = pytest.importorskip("mlflow", reason="tracking needs the extra `mlflow`: pip install '.[mlflow]'")

TOTAL = 40


def command(name: str, task: str, manifest: Path, folder: Path, *further: str) -> list[str]:
    settings = [*FAST[:1], *FAST[2:3], f"stages.0.schedule.iterations={TOTAL}", "stages.0.schedule.workers=0"]
    words = [python(), "-m", "medseg", name, "--task", task, "--data", str(manifest), "-o", str(folder)]
    return [*words, *(word for each in settings for word in ("--set", each)), "--track", "mlflow", *further]


def run(words: list[str], **variables: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, env=os.environ | variables)
    assert done.returncode == 0, done.stderr
    return done.stderr


def sqlite(path: Path) -> str:
    return f"sqlite:///{path}"


def runs_of(client: Any) -> dict[str, Any]:
    """Name -> run of MLflow."""
    found = client.search_runs([client.get_experiment_by_name("medseg").experiment_id])
    named = {each.info.run_name: each for each in found}
    assert len(named) == len(found), "no run is there twice"
    return named


def numbers_of(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers_of(f"{name}/{key}", inner)
    elif isinstance(value, float):
        yield name, value


def recorded(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What `metrics.jsonl` says: name -> steps and values."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        step, kind = record.pop("iteration"), record.pop("kind")
        for name, value in numbers_of(kind, record):
            found.setdefault(name, []).append((step, value))
    return found


def logged(client: Any, run: Any) -> dict[str, list[tuple[int, float]]]:
    """The same of MLflow."""
    found = {}
    for name in run.data.metrics:
        history = client.get_metric_history(run.info.run_id, name)
        found[name] = sorted((each.step, each.value) for each in history)
    return found


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def stopped_and_resumed(manifest, tmp_path_factory) -> tuple[Path, Any, Any]:
    """A run folder, whose training was stopped and resumed, with its run of MLflow after either."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    words = command("train", "supervised", manifest, folder)
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 200
    while not (folder / "last.pt").exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=200)[1]
    assert process.returncode == 143, said
    assert "INFO" not in said, "MLflow and Alembic keep to themselves that they make a store"
    client = mlflow.MlflowClient(tracking_uri=sqlite(folder / "mlflow.db"))
    before = runs_of(client)["first"]
    run([*words, "--resume"])
    return folder, before, runs_of(client)["first"]


@pytest.mark.slow
def test_a_resumed_run_goes_on_in_mlflow_and_has_the_numbers_of_its_records(stopped_and_resumed):
    folder, before, after = stopped_and_resumed
    assert before.info.run_id == after.info.run_id
    assert (before.info.status, after.info.status) == ("KILLED", "FINISHED")
    own = recorded(folder)
    assert {"train/loss", "train/lr", "validation/dice", "validation/classes/ball"} <= set(own)
    assert [step for step, _ in own["train/loss"]] == [10, 20, 30, 40]
    assert logged(mlflow.MlflowClient(tracking_uri=sqlite(folder / "mlflow.db")), after) == own
    assert list((folder / "tensorboard").iterdir()), "TensorBoard stays"


@pytest.mark.slow
def test_the_settings_of_the_plan_are_parameters(stopped_and_resumed):
    folder, _, after = stopped_and_resumed
    plan = yaml.safe_load((folder / "pipeline.yaml").read_text())
    told = after.data.params
    assert told["stages.0.schedule.iterations"] == str(TOTAL)
    assert json.loads(told["data.patch"]) == plan["data"]["patch"]
    assert told["stages.0.network.name"] == plan["stages"][0]["network"]["name"]
    assert told["name"] == "supervised"


@pytest.mark.slow
def test_pretraining_goes_to_the_store_that_the_environment_names(stopped_and_resumed, manifest, tmp_path):
    uri = sqlite(stopped_and_resumed[0] / "mlflow.db")  # a store takes seconds to make
    folder = tmp_path / "restored"
    run(command("pretrain", "inpainting", manifest, folder), MLFLOW_TRACKING_URI=uri)
    assert not (folder / "mlflow.db").exists()
    client = mlflow.MlflowClient(tracking_uri=uri)
    own = recorded(folder)
    assert [step for step, _ in own["train/loss"]] == [10, 20, 30, 40]
    assert logged(client, runs_of(client)["restored"]) == own


@pytest.fixture
def store(stopped_and_resumed, monkeypatch) -> Any:
    """The client of a store, which the environment names."""
    uri = sqlite(stopped_and_resumed[0] / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return mlflow.MlflowClient(tracking_uri=uri)


def log_of(folder: Path, tracker: Any, **options: int) -> closing[RunLog]:
    return closing(RunLog(folder, tracker=tracker, **options))


@pytest.mark.slow
def test_what_a_crash_made_the_run_do_again_is_there_once(store, tmp_path):
    folder = tmp_path / "crashed"
    inner = folder / "stage1" / "axial"
    inner.mkdir(parents=True)
    with suppress(Stopped), tracked("mlflow", folder, {"seed": 3}) as tracker, log_of(inner, tracker) as log:
        for step in (10, 20, 30):
            log.add(step, "train", {"loss": 1 / step, "odd": float("nan"), "count": 7})
        raise Stopped
    assert runs_of(store)["crashed"].info.status == "KILLED"
    (inner / "last.pt").touch()
    with tracked("mlflow", folder, {"seed": 3}) as tracker, log_of(inner, tracker, resume_at=20) as log:
        for step in (30, 40):
            log.add(step, "train", {"loss": 1 / step})
        log.add(40, "validation", {"classes": {"left (kidney)": 0.5}})
    run = runs_of(store)["crashed"]
    assert run.data.params == {"seed": "3"}
    assert logged(store, run) == {
        "stage1/axial/train/loss": [(10, 0.1), (20, 0.05), (30, 1 / 30), (40, 0.025)],
        "stage1/axial/validation/classes/left _kidney_": [(40, 0.5)],
    }


@pytest.mark.slow
def test_a_run_that_begins_anew_is_another_run(store, tmp_path):
    folder = tmp_path / "anew"
    folder.mkdir()
    for lr in (0.1, 0.2):  # no checkpoint was left, so that the plan may be another one
        with tracked("mlflow", folder, {"stages": [{"lr": lr}]}):
            pass
    found = store.search_runs([store.get_experiment_by_name("medseg").experiment_id])
    assert sorted(each.data.params["stages.0.lr"] for each in found if each.info.run_name == "anew") == ["0.1", "0.2"]


@pytest.mark.slow
def test_a_store_that_is_lost_ends_no_training(store, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "lost"
    folder.mkdir()

    def fail(*args: Any, **keywords: Any) -> None:
        raise mlflow.exceptions.MlflowException("the disk is full\nand more of it")

    with tracked("mlflow", folder, {}) as tracker, log_of(folder, tracker) as log:
        monkeypatch.setattr(tracker.client, "log_batch", fail)
        for step in (10, 20):
            log.add(step, "train", {"loss": 0.5})
    assert capsys.readouterr().err.count("warning: MLflow: the disk is full; the rest of this run is not tracked") == 1
    assert recorded(folder) == {"train/loss": [(10, 0.5), (20, 0.5)]}


def test_other_processes_than_the_first_and_runs_that_are_not_tracked_make_nothing(tmp_path, monkeypatch):
    with tracked(None, tmp_path, {}) as tracker:
        assert tracker is None
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    with tracked("mlflow", tmp_path, {}) as tracker:
        assert tracker is None
    assert not list(tmp_path.iterdir())


def test_a_store_that_cannot_be_used_is_told_in_one_line_without_its_password(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "unknown://me:secret@host/store")
    told = r"^--track mlflow: .*the store is unknown://host/store"
    with pytest.raises(ConfigError, match=told) as error, tracked("mlflow", tmp_path, {}):
        pass
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path / "folder"))
    hint = "MLFLOW_TRACKING_URI names a server or a database"
    with pytest.raises(ConfigError, match=hint), tracked("mlflow", tmp_path, {}):
        pass


def test_any_folder_can_hold_a_store(tmp_path):
    from sqlalchemy.engine import make_url

    file = tmp_path / "50% of what? #1 ü" / "mlflow.db"
    assert make_url(sqlite_address(file)).database == str(file)


@pytest.mark.parametrize("kind", [TrainOptions, PretrainOptions])
def test_words_that_are_no_tracker_and_missing_packages_are_told(kind, monkeypatch):
    with pytest.raises(ConfigError, match=r"^--track wandb: accepted is mlflow$"):
        kind("dtc", Path("m.json"), track="wandb")
    found = options_module.find_spec
    monkeypatch.setattr(options_module, "find_spec", lambda name: None if name == "alembic" else found(name))
    with pytest.raises(ConfigError, match=r"--track mlflow needs alembic; pip install medseg\[mlflow\]"):
        kind("dtc", Path("m.json"), track="mlflow")
    assert kind("dtc", Path("m.json")).track is None
