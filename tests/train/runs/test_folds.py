"""`medseg train --folds`: each fold is a run of its own, the held-out subjects are its validation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import FAST, write_dataset

from medseg.bundle.components import components_of
from medseg.cli import app as commands
from medseg.errors import ConfigError, ManifestError, OutputError
from medseg.manifest.manifest import Manifest
from medseg.workflows.train.folds import list_runs
from medseg.workflows.train.options import TrainOptions
from medseg.workflows.train.run import train

pytestmark = pytest.mark.usefixtures("undrawn")

SHORT = [*FAST, "stages.0.schedule.iterations=2"]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), labeled=3, unlabeled=1, validation=1)


def weights(run: Path) -> dict:
    return torch.load(run / "last.pt", weights_only=True)["method"]


def equal(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def names(path: Path, section: str) -> list[str]:
    return [case.name for case in getattr(Manifest.load(path / "manifest.json"), section)]


def test_all_folds_are_as_each_alone_and_go_on_where_they_stopped(manifest, tmp_path, capsys):
    folder = train("supervised", manifest, tmp_path / "all", overrides=SHORT, folds=2, fold="all")
    held_out = []
    for fold in (0, 1):
        run = folder / f"fold{fold}"
        assert (run / "bundle" / "models" / "model.pt").is_file()
        assert not set(names(run, "validation")) & set(names(run, "training"))
        held_out += names(run, "validation")
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert records[-1]["kind"] == "validation"
    assert sorted(held_out) == ["case0", "case1", "case2", "case4"]

    alone = train("supervised", manifest, tmp_path / "alone", overrides=SHORT, folds=2, fold=1)
    assert equal(weights(alone), weights(folder / "fold1"))

    with pytest.raises(OutputError, match="fold0: holds a run already"):
        train("supervised", manifest, folder, overrides=SHORT, folds=2, fold="all")
    before = (folder / "fold0" / "last.pt").stat().st_mtime_ns
    (folder / "fold1" / "bundle" / "configs" / "metadata.json").unlink()
    capsys.readouterr()
    commands.train(TrainOptions("supervised", manifest, folder, SHORT, folds=2, fold="all", resume=True))
    said = capsys.readouterr()
    assert said.out == f"{folder}\n"
    assert [line[:23] for line in said.err.splitlines() if line.startswith("fold ") and "Dice" in line] == [
        "fold 0: validation Dice",
        "fold 1: validation Dice",
    ]
    told, together = said.err.split("\npost-processing", 1)  # all folds choose together, after the last one
    assert told.splitlines()[-1].startswith("fold 1: 2 cases")
    assert "cases held out" not in together
    assert (folder / "postprocessing.json").is_file()
    assert not (folder / "fold0" / "postprocessing.json").exists()
    assert components_of(folder / "fold0" / "bundle") == components_of(folder / "fold1" / "bundle")
    assert said.err.splitlines()[-1].startswith(f"next: medseg predict --model {folder} --input")
    assert (folder / "fold0" / "last.pt").stat().st_mtime_ns == before
    assert (folder / "fold1" / "bundle" / "configs" / "metadata.json").is_file()

    with pytest.raises(ConfigError, match=r"was started with another .*--fold"):
        train("supervised", manifest, alone, overrides=SHORT, folds=2, fold=0, resume=True)
    with pytest.raises(ConfigError, match=r"split.seed was 0 and is 1|manifest\.training"):
        train("supervised", manifest, alone, overrides=SHORT, folds=2, fold=1, split_seed=1, resume=True)


def test_run_folders(manifest):
    one = TrainOptions("supervised", manifest, folds=3, fold=1)
    assert [run.folder for run in list_runs(one, Manifest.load(manifest))] == [Path("runs/supervised-m/fold1")]
    every = TrainOptions("supervised", manifest, folds=3, fold="all")
    assert [run.folder.name for run in list_runs(every, Manifest.load(manifest))] == ["fold0", "fold1", "fold2"]
    assert TrainOptions("supervised", manifest, Path("x"), folds=3, fold="2").folder == Path("x")


def test_the_folder_of_all_folds_is_no_run(manifest, tmp_path):
    (tmp_path / "run.json").write_text("{}")
    options = TrainOptions("supervised", manifest, tmp_path, folds=2, fold="all", resume=True)
    with pytest.raises(OutputError, match="holds a run itself, and no folds"):
        list_runs(options, Manifest.load(manifest))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"folds": 5}, "--folds 5: --fold is missing; accepted are 0 to 4, or all"),
        ({"folds": 5, "fold": 5}, "--folds 5: --fold 5; accepted are 0 to 4, or all"),
        ({"folds": 5, "fold": "first"}, "--fold first; accepted"),
        ({"folds": 1, "fold": 0}, "--folds 1: accepted are 2 and more"),
        ({"fold": 0}, "say --folds as well"),
        ({"split_seed": 3}, "say --folds as well"),
    ],
)
def test_options_that_are_no_cross_validation(given, said):
    with pytest.raises(ConfigError) as caught:
        TrainOptions("supervised", Path("m.json"), **given)
    assert said in str(caught.value)


def test_fewer_subjects_than_folds_are_told_before_anything_is_made(manifest, tmp_path):
    with pytest.raises(ManifestError, match="4 labelled subjects are too few for 5 folds"):
        train("supervised", manifest, tmp_path / "run", overrides=SHORT, folds=5, fold=0)
    assert not (tmp_path / "run").exists()
