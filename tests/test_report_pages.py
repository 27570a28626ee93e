"""Report pages are templates: what users name is escaped, what is missing is an error, and the wheel holds them all."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from importlib import resources
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from pages import NASTY, Page, shown

from medseg.workflows.reports import pages
from medseg.workflows.reports.formatting import format_duration, format_number
from medseg.workflows.train.self_training import report as self_training

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("self_training.html",)


@pytest.fixture
def rendered(monkeypatch) -> dict[str, dict]:
    """Template -> what it was filled with."""
    found = {}

    def render(template, **data):
        found[template] = data
        return pages.render_page(template, **data)

    monkeypatch.setattr(self_training, "render_page", render)
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


def test_every_page_has_the_base():
    environment = pages.environment()
    for name in PAGES:
        assert environment.loader.get_source(environment, name)[0].startswith('{% extends "base.html" %}\n')


def test_nothing_goes_round_the_escaping():
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


def test_templates_are_package_data():
    folder = resources.files("medseg.workflows.reports") / "templates"
    names = {path.name for path in folder.iterdir()}
    assert {"base.html", "macros.html", "style.css", *PAGES} <= names
    assert names == set(pages.environment().list_templates())


def test_templates_are_in_the_wheel(tmp_path):
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        packed = set(wheel.namelist())
    for name in pages.environment().list_templates():
        assert f"medseg/workflows/reports/templates/{name}" in packed
