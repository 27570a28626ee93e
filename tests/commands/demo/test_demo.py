from __future__ import annotations

import base64
import json
import re

import pytest
import torch
from pages import Page

from medseg.errors import OutputError
from medseg.workflows.demo.report import Report, render_report
from medseg.workflows.demo.result import Result
from medseg.workflows.demo.run import run_demo

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "out"
    return run_demo(folder, seed=1, quick=True)


@pytest.fixture(scope="module")
def full_page(demo):
    """The page that the same results would have after a full demonstration."""
    manifest = demo.parent / "data" / "dataset.json"
    results = {}
    for method, bundle in (("supervised", "dmpct/round0/bundle"), ("dmpct", "dmpct/bundle")):
        predictions = demo.parent / "predictions" / method
        evaluation = json.loads((predictions / "evaluation" / "metrics.json").read_text())
        results[method] = Result(demo.parent / bundle, predictions, evaluation, {"prediction": 1.0}, ["medseg predict"])
    seconds = {"data": 1.0, "training": 2.0, "all": 3.0}
    report = Report(demo.parent, manifest, results, {1: 0.5, 2: 0.5}, "medseg train", seconds, seed=1, quick=False)
    return render_report(report)


def test_the_page_needs_nothing_else(demo):
    text = demo.read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.links) == 2
    for link in page.links:
        kind, data = link.split(",", 1)
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data)[:8] == b"\x89PNG\r\n\x1a\n"
    assert not re.search(r"https?://|<script|@import|url\(", text)


def test_a_quick_run_greets_nobody_with_scores_that_mean_nothing(demo):
    words = Page(demo.read_text(encoding="utf-8")).words
    assert "far too short to mean anything" in words
    assert "helped" not in words
    assert "By organ" not in words
    for command in ("medseg train --task dmpct", "medseg predict", "medseg evaluate", "medseg demo"):
        assert command in words


def test_the_page_says_what_was_measured(demo, full_page):
    words = Page(full_page).words
    dice = {}
    for method in ("supervised", "dmpct"):
        metrics = json.loads((demo.parent / "predictions" / method / "evaluation/metrics.json").read_text())
        assert not metrics["failed"]
        dice[method] = metrics["mean"]["dice"]["mean"]
        assert f"{dice[method]:.3f}" in words
        for organ in metrics["classes"]:
            assert organ in words
    helped = dice["dmpct"] > dice["supervised"]
    assert ("helped" in words) == helped
    assert ("did not help" in words) == (not helped)
    assert "far too short" not in words


def test_the_pseudo_labels_are_measured_against_the_hidden_truth(demo):
    words = demo.read_text(encoding="utf-8")
    for name in ("round1", "round2"):
        metrics = json.loads((demo.parent / "predictions" / name / "evaluation" / "metrics.json").read_text())
        assert f"{metrics['mean']['dice']['mean']:.3f}" in words
    assert "hidden" not in (demo.parent / "dmpct" / "round2" / "manifest.json").read_text()


def test_the_baseline_had_the_same_of_everything_but_the_unlabelled_scans(demo):
    steps = {}
    for number in (0, 2):
        for view in ("sagittal", "coronal", "axial"):
            state = torch.load(demo.parent / f"dmpct/round{number}/{view}/last.pt", weights_only=True)
            steps[number, view] = state["total"], state["optimizer"]["param_groups"][0]["initial_lr"]
    assert len(set(steps.values())) == 1


def test_a_demonstration_is_replaced_and_anything_else_is_left_alone(demo, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds no demonstration"):
        run_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(OutputError, match="cannot be made"):
        run_demo(tmp_path / "thesis.txt")


def test_bundles_are_left_for_use(demo):
    for bundle in ("dmpct/bundle", "dmpct/round0/bundle"):
        assert (demo.parent / bundle / "configs/inference.json").is_file()
    for method in ("supervised", "dmpct"):
        assert (demo.parent / "predictions" / method / "test_000.nii.gz").is_file()
