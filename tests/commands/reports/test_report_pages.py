"""Report pages are templates: what users name is escaped, what is missing is an error."""

from __future__ import annotations

import base64
import json
import re
from importlib import resources
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from pages import NASTY, Page, shown

from medseg.workflows.demo import report as demo
from medseg.workflows.demo.result import Result
from medseg.workflows.reports import pages
from medseg.workflows.reports.formatting import format_duration, format_number, format_percent
from medseg.workflows.train.self_training.report import page as self_training
from medseg.workflows.train.self_training.report.better_round import advise

ROOT = Path(__file__).resolve().parents[3]
PAGES = (
    "self_training.html",
    "demo.html",
    "consensus.html",
    "comparison.html",
    "training.html",
    "evaluation.html",
    "prediction.html",
)


@pytest.fixture
def rendered(monkeypatch) -> dict[str, dict]:
    """Template -> what it was filled with."""
    found = {}

    def render(template, **data):
        found[template] = data
        return pages.render_page(template, **data)

    for module in (self_training, demo):
        monkeypatch.setattr(module, "render_page", render)
    return found


def check_that_every_value_is_needed(template: str, data: dict) -> None:
    """The page cannot be made without any one of the values that it was made of."""
    for name in data:
        with pytest.raises(UndefinedError):
            pages.render_page(template, **{key: value for key, value in data.items() if key != name})


def statistics(structures: tuple[str, ...], **changes) -> dict:
    shares = {"agreement": 0.5, "diversity": 0.25, "all_differ": 0.125, "ignored": 0.0}
    found = {"cases": 2, "volume_ml": dict.fromkeys(structures, 3.0), **shares, "changed": None, "dice_to_last": None}
    return {**found, "empty": [], "silent": [], **changes}


def rounds_of(structures: tuple[str, ...], views: tuple[str, ...]) -> list[self_training.Round]:
    dice, classes = dict.fromkeys((*views, "fused"), 0.5), dict.fromkeys(structures, 0.5)
    first = self_training.Round(0, dice=dice, classes=classes, seconds={"training": 60.0})
    second = self_training.Round(
        1, statistics(structures), dict(dice, fused=0.75), classes, seconds={"training": 600.0}
    )
    return [first, second]


def test_self_training_page_escapes_names_and_needs_every_value(rendered, monkeypatch):
    structures, views = (f"{NASTY}one", f"{NASTY}two"), ("axial", "coronal")
    run = self_training.RunDescription(
        title=f"{NASTY}title",
        views=views,
        structures=structures,
        planned=2,
        counts={"labeled": 2, "unlabeled": 3, "validation": 1},
        ct=True,
        notes=(f"{NASTY}note",),
        labelled_ml={structures[0]: 12.34},
    )
    monkeypatch.setattr(self_training, "_draw_slices", lambda labelled, run: b"png")
    page = Page(self_training.render_summary(rounds_of(structures, views), run, b"png"))
    for text in (*structures, f"{NASTY}title: 2 views, 1 of 2 rounds", f"{NASTY}note"):
        assert shown(page, text)
    assert "script" not in page.tags
    assert page.attributes == {"lang", "charset", "name", "content", "class", "alt", "src"}
    assert page.links == ["data:image/png;base64,cG5n"] * 2
    check_that_every_value_is_needed("self_training.html", rendered["self_training.html"])


def test_self_training_page_without_scores_and_pseudo_labels():
    run = self_training.RunDescription(
        "p", ("axial",), ("a",), 0, {"labeled": 1, "unlabeled": 0, "validation": 0}, False
    )
    page = Page(self_training.render_summary([self_training.Round(0, seconds={"training": 1.0})], run, b"png"))
    assert shown(page, "No validation case has a label")
    assert not shown(page, "Pseudo-labels")
    assert not shown(page, "Notes")
    assert not shown(page, "Later rounds got worse")


def test_rounds_that_get_worse_are_told_first():
    assert advise({0: 0.5, 1: 0.52}, "Dice", "run") is None
    assert advise({0: 0.5, 1: 0.499}, "Dice", "run") is None, "a difference that is not worth a word"
    assert advise({0: None, 1: None}, "Dice", "run") is None
    told = advise({0: 0.52, 1: 0.541, 2: 0.47}, "Dice", "run")
    assert told == (
        "use round 1: on the validation cases its fused Dice is 0.541, that of round 2, which is the run's bundle, "
        "0.470; predict with --model run/round1"
    )
    run = self_training.RunDescription(
        "p", ("axial",), ("a",), 2, {"labeled": 1, "unlabeled": 0, "validation": 1}, False, advice=told
    )
    rounds = [self_training.Round(0, dice={"axial": 0.5, "fused": 0.5}, classes={"a": 0.5}, seconds={"training": 1.0})]
    assert shown(Page(self_training.render_summary(rounds, run, b"png")), "use round 1")


def demo_report(folder: Path, dice: dict[str, float | None]) -> demo.Report:
    """Of two test scans and one organ, with names that would break careless pages."""
    folder.joinpath("dmpct").mkdir(parents=True)
    (folder / "dmpct" / "summary.png").write_bytes(b"curves")
    cases = [
        {"image": f"{n}.nii.gz", "label": f"{n}_label.nii.gz", "case": f"{NASTY}{n}".replace("/", "|")} for n in "ab"
    ]
    content = {"labels": {"0": "background", "1": "liver"}, "modality": {"0": "CT"}, "training": [], "test": cases}
    (folder / "dataset.json").write_text(json.dumps(content))
    results = {}
    for method, value in dice.items():
        (folder / method / "evaluation").mkdir(parents=True)
        (folder / method / "evaluation" / "montage.png").write_bytes(b"montage")
        metrics = {name: {"mean": value} for name in ("dice", "hd95_mm", "surface_dice")}
        evaluation = {"mean": metrics, "classes": {f"{NASTY}liver": metrics}, "tolerance_mm": 2.5}
        evaluation["cases"] = [{"case": case["case"], "mean_dice": value} for case in cases]
        steps = {f"{NASTY}prediction": 1.0}
        results[method] = Result(folder / "bundle", folder / method, evaluation, steps, [f"{NASTY}{method}"])
    seconds = {"data": 1.0, "training": 200.0, "all": 7200.0}
    return demo.Report(folder, folder / "dataset.json", results, {1: 0.5}, f"{NASTY}train", seconds, 3, quick=False)


def test_demo_page_escapes_names_and_needs_every_value(rendered, monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "side_by_side", lambda *_: b"side by side")
    report = demo_report(tmp_path / NASTY, {"supervised": 0.5, "dmpct": 0.75})
    page = Page(demo.render_report(report))
    for text in (
        f"{NASTY}liver",
        f"{NASTY}prediction, DMPCT",
        f"{NASTY}dmpct",
        f"{NASTY}train",
        "{{ 7 * 7 }}{% endblock",
    ):
        assert shown(page, text)
    for text in (
        "helped: 0.250 more Dice, 50% of the error",
        "+0.250",
        "better on 2 of 2",
        "within 2.5 mm",
    ):
        assert shown(page, text)
    assert "script" not in page.tags
    assert page.attributes == {"lang", "charset", "name", "content", "class", "alt", "src"}
    assert [base64.b64decode(link.split(",")[1]) for link in page.links] == [b"side by side", b"curves", b"montage"]
    check_that_every_value_is_needed("demo.html", rendered["demo.html"])


def test_demo_page_says_when_nothing_was_gained_or_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "side_by_side", lambda *_: b"side by side")
    page = Page(demo.render_report(demo_report(tmp_path / "worse", {"supervised": 1.0, "dmpct": 0.75})))
    assert shown(page, "did not help: 0.250 less Dice")
    assert shown(page, "-0.250")
    row = demo.OrganRow("liver", (None, 0.5), (None, None), (None, None))
    assert (row.gain, row.trend) == (None, "soft")


def test_every_page_has_the_base():
    environment = pages.environment()
    for name in PAGES:
        assert environment.loader.get_source(environment, name)[0].startswith('{% extends "base.html" %}\n')


def test_html_is_in_templates_only():
    markup = re.compile(r"</?(?:p|h1|h2|b|i|ul|li|td|th|tr|table|div|span|figure|script|style|code|pre)\b[^>]*>")
    for path in (ROOT / "medseg/workflows").rglob("*.py"):
        assert not markup.search(path.read_text(encoding="utf-8")), path


def test_nothing_goes_round_the_escaping():
    marked = [path.name for path in (ROOT / "medseg").rglob("*.py") if "Markup(" in path.read_text(encoding="utf-8")]
    assert marked == ["viewer.py"]
    for path in (ROOT / "medseg/workflows/reports/templates").iterdir():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\|\s*safe\b|autoescape", text), path.name


DURATIONS = [(0.4, "0 s"), (99, "99 s"), (100, "1.7 min"), (5999, "100.0 min"), (6000, "1.7 h")]


@pytest.mark.parametrize(("seconds", "text"), DURATIONS)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


def test_numbers():
    assert format_number(0.12345, 3) == "0.123"
    assert format_number(None, 3) == "-"
    assert format_percent(0.256) == "26%"


def test_templates_are_package_data():
    folder = resources.files("medseg.workflows.reports") / "templates"
    names = {path.name for path in folder.iterdir()}
    assert {"base.html", "macros.html", "style.css", *PAGES} <= names
    assert names == set(pages.environment().list_templates())
