"""Settings of pseudo-labels where there are none, or where they change nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import write_dataset

from medseg.errors import ConfigError
from medseg.manifest.manifest import Manifest
from medseg.progress import forget_told
from medseg.workflows.train import settings
from medseg.workflows.train.plan import plan_pipeline

SMALL = ["data.spacing_mm=[1,1,1]", "data.patch=[16,16,16]", "stages.0.network.width=4"]
HALF = "data.sampling=half"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


def planned(task: str, data: Path, *changes: str):
    return plan_pipeline(settings.load(task, [*SMALL, *changes]), Manifest.load(data), torch.device("cpu"), None)


@pytest.mark.parametrize(("task", "changes"), [("dtc", []), ("supervised", []), ("dmpct", ["stages.0.rounds=null"])])
def test_halves_without_pseudo_labels_are_refused(task, changes, data):
    words = "data.sampling is half, of which one half are pseudo-labelled cases, and no stage makes pseudo-labels: "
    with pytest.raises(ConfigError) as caught:
        planned(task, data, HALF, *changes)
    assert str(caught.value) == words + "accepted are cases, union and classes"


def test_halves_are_accepted_where_an_earlier_run_made_labels(data):
    assert planned("dmpct", data, HALF).data["sampling"] == "half"
    content = json.loads(data.read_text())
    content["training"][1]["pseudo"] = True
    made = data.with_name("made.json")
    made.write_text(json.dumps(content))
    assert planned("dtc", made, HALF).data["sampling"] == "half"


def test_disagreement_of_one_view_is_said_once(data, capsys):
    forget_told()
    for _ in range(2):
        planned("self_training", data, "stages.0.rounds.rule.options.ignore_disagreement=true")
    line = (
        "stages.0: rule dmpct: ignore_disagreement is true, and changes nothing with 1 view: it looks for two of three"
    )
    assert capsys.readouterr().err.count(f"warning: {line} or more") == 1
    planned("dmpct", data, "stages.0.rounds.rule.options.ignore_disagreement=true")
    assert "ignore_disagreement" not in capsys.readouterr().err
