"""The page of a training run: what it says is what the files of the run hold."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from pages import NASTY, Page, shown
from tiny import FAST, write_dataset

import medseg
from medseg.config.pipeline import Pipeline
from medseg.manifest.manifest import Manifest
from medseg.workflows.reports import pages
from medseg.workflows.train.report import page as report
from medseg.workflows.train.report import watched
from medseg.workflows.train.report.curves import draw_trainings, read_trainings
from medseg.workflows.train.report.sheets import read_sheets
from medseg.workflows.train.settings import load


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Of six iterations, with a name that breaks careless pages."""
    folder = tmp_path_factory.mktemp("run")
    manifest = write_dataset(folder / "data", validation=2)
    content = json.loads(manifest.read_text())
    content["name"] = f"{NASTY}tiny"
    content["labels"]["2"] = f"{NASTY}box"
    manifest.write_text(json.dumps(content))
    return medseg.train("supervised", manifest, folder / "out", overrides=FAST, device="cpu")


def page_of(run: Path) -> Page:
    return Page((run / "report.html").read_text())


def test_scores_pictures_and_names(run):
    page = page_of(run)
    chosen = json.loads((run / "postprocessing.json").read_text())["structures"]
    mean = sum(row["dice_after"] for row in chosen) / len(chosen)
    assert shown(page, f"Dice on 2 validation cases {mean:.3f}")
    for row in chosen:
        assert shown(page, f"{row['structure']} {row['cases']} {row['dice_after']:.3f}")
    assert shown(page, f"supervised on {NASTY}tiny")
    assert "script" not in page.tags
    assert len([link for link in page.links if link.startswith("data:image/png")]) == 3, "two cases and the curves"
    captions = re.findall(r"case(\d): mean Dice (\d\.\d+)", page.words)
    assert {name for name, _ in captions} == {"4", "5"}
    assert [float(dice) for _, dice in captions] == sorted(float(dice) for _, dice in captions), "worst first"
    assert str(run.parent) not in (run / "report.html").read_text()


def test_every_value_is_needed(run, monkeypatch):
    filled = {}

    def render(template, **data):
        filled.update(data)
        return pages.render_page(template, **data)

    monkeypatch.setattr(report, "render_page", render)
    report.write_training_report(run, resolved(run), Manifest.load(run / "manifest.json"), "medseg train")
    for name in filled:
        with pytest.raises(UndefinedError):
            pages.render_page("training.html", **{key: value for key, value in filled.items() if key != name})


def test_without_validation_cases(tmp_path):
    manifest = write_dataset(tmp_path / "data", validation=0)
    out = medseg.train("supervised", manifest, tmp_path / "out", overrides=FAST, device="cpu")
    page = page_of(out)
    assert shown(page, "No validation Dice: no validation case has a label")
    assert not shown(page, "Validation cases, worst first")
    assert shown(page, "Curves")


def test_sheets_of_maps_and_pseudo_labels_are_on_the_page(tmp_path, run):
    """Files of two stages of a run; the bytes need not be a picture."""
    (tmp_path / "stage0" / "labels").mkdir(parents=True)
    (tmp_path / "stage0" / "labels" / "overview.png").write_bytes(b"labels")
    (tmp_path / "stage1").mkdir()
    (tmp_path / "stage1" / "maps.png").write_bytes(b"maps")
    found = read_sheets(tmp_path)
    assert [each.caption.partition(":")[0] for each in found] == ["stage0/labels/overview.png", "stage1/maps.png"]
    assert [each.address.rpartition(",")[2] for each in found] == ["bGFiZWxz", "bWFwcw=="]
    assert shown(page_of(run), "cases to learn from 2 labelled, 2 unlabelled")


def test_logs_are_read_until_where_they_were_cut(tmp_path):
    lines = [
        {"iteration": 1, "kind": "train", "loss": 1.0, "dice": 0.5},
        {"iteration": 2, "kind": "train", "loss": 0.5},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "stage0").mkdir()
    (tmp_path / "stage0" / "metrics.jsonl").write_text(text + '{"iteration": 3, "ki')
    (tmp_path / "metrics.jsonl").write_text('{"round": 1, "kind": "validation", "dice": {}}\n')
    (training,) = read_trainings(tmp_path)
    assert (training.name, training.iterations, len(training.train)) == ("stage0", 2, 2)
    assert draw_trainings([]) is None


def test_what_a_method_watches_is_drawn_by_class(tmp_path, monkeypatch):
    records = []
    for step in (10, 20):
        confidence = {"background": 0.9, "ball": step / 40}
        records.append({"iteration": step, "kind": "train", "loss": 1.0})
        records.append({"iteration": step, "kind": "watched", "confidence": confidence, "vanished": 1.0})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    drawn = []
    monkeypatch.setattr(watched, "encode_png", lambda figure: drawn.append(figure) or b"png")
    assert watched.draw_watched(read_trainings(tmp_path)) == b"png"
    confidence, vanished = drawn[0].axes
    assert [ax.get_title() for ax in (confidence, vanished)] == ["confidence", "vanished"]
    points = {line.get_label(): line.get_xydata().tolist() for line in confidence.lines}
    assert points == {"background": [[10, 0.9], [20, 0.9]], "ball": [[10, 0.25], [20, 0.5]]}
    assert [line.get_xydata().tolist() for line in vanished.lines] == [[[10, 1], [20, 1]]]
    assert watched.draw_watched([]) is None


def test_curves_of_whole_images_show_balanced_accuracy(tmp_path):
    lines = [
        {"iteration": 1, "kind": "train", "loss": 1.0},
        {
            "iteration": 1,
            "kind": "validation",
            "balanced_accuracy": 0.5,
            "accuracy": 0.6,
            "classes": {"a": 0.5, "b": None},
        },
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (training,) = read_trainings(tmp_path)
    assert training.score == "balanced_accuracy"
    assert draw_trainings([training]).startswith(b"\x89PNG")


def resolved(run: Path) -> Pipeline:
    return load(str(run / "pipeline.yaml"))
