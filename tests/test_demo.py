from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser

import pytest

from medseg.errors import OutputError
from medseg.workflows.demo import FULL, QUICK, run_demo

pytestmark = pytest.mark.slow

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Checks that tags close in order, and keeps text and links."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.links = [], [], []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "out"
    return run_demo(folder, seed=1, quick=True)


def test_the_page_needs_nothing_else(demo):
    text = demo.read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert not page.open
    assert len(page.links) == 3
    for link in page.links:
        kind, data = link.split(",", 1)
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data)[:8] == b"\x89PNG\r\n\x1a\n"
    assert not re.search(r"https?://|<script|@import|url\(", text)


def test_the_page_says_what_was_measured(demo):
    page = Page()
    page.feed(demo.read_text(encoding="utf-8"))
    words = " ".join(page.text)
    dice = {}
    for method in ("supervised", "dtc"):
        metrics = json.loads((demo.parent / method / "predictions/evaluation/metrics.json").read_text())
        assert not metrics["failed"]
        dice[method] = metrics["mean"]["dice"]["mean"]
        assert f"{dice[method]:.3f}" in words
        for organ in metrics["classes"]:
            assert organ in words
    helped = dice["dtc"] > dice["supervised"]
    assert ("helped" in words) == helped
    assert ("did not help" in words) == (not helped)
    assert "far too short to mean anything" in words
    for command in ("medseg train --task dtc", "medseg predict", "medseg evaluate", "medseg demo"):
        assert command in words


def test_both_methods_had_the_same_of_everything_but_the_unlabelled_scans():
    for plan in (FULL, QUICK):
        first, second = (plan.overrides(method, 3) for method in ("supervised", "dtc"))
        apart = set(first) ^ set(second)
        assert {text.split("=")[0] for text in apart} == {
            "stages.0.schedule.batch",
            "stages.0.method.options.cross_entropy",
            "stages.0.method.options.clip",
        }


def test_a_demonstration_is_replaced_and_anything_else_is_left_alone(demo, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds no demonstration"):
        run_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(OutputError, match="cannot be made"):
        run_demo(tmp_path / "thesis.txt")


def test_bundles_are_left_for_use(demo):
    for method in ("supervised", "dtc"):
        assert (demo.parent / method / "bundle/configs/inference.json").is_file()
        assert (demo.parent / method / "predictions/test_000.nii.gz").is_file()
