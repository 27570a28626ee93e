"""Names that are formulas, tags or ends of cells stay names in every table."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from raters import ball, save, write_study

from medseg.cli.app import main
from medseg.workflows.evaluate.image_classes import write_class_tables
from medseg.workflows.evaluate.tables import as_csv, as_markdown
from medseg.workflows.reports.cells import csv_cell, markdown_cell

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "'=1"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_becomes_a_text(text):
    assert csv_cell(text) == "'" + text
    assert csv_cell("a" + text) == "a" + text


def test_numbers_stay_numbers():
    assert [csv_cell(value) for value in (-1, -0.5, 3, None)] == [-1, -0.5, 3, None]


def test_a_cell_of_markdown_is_one_cell():
    assert markdown_cell("a|b\nc") == "a\\|b c"
    assert markdown_cell("<script>x</script> < 1") == "&lt;script>x&lt;/script> < 1"


def test_raters_with_names_of_formulas(tmp_path):
    _, raters = write_study(tmp_path)
    words = [word for rater in raters for word in ("-a", str(rater))]
    names = ["--name", "=cmd|' /C calc'!A0", "--name", "-bob", "--name", "cleo"]
    with pytest.raises(SystemExit) as caught:
        main(
            [
                "consensus",
                *words,
                *names,
                "--label",
                "1=@liver",
                "--method",
                "majority",
                "--no-report",
                "-o",
                str(tmp_path / "out"),
            ]
        )
    assert not caught.value.code
    for file in ("raters.csv", "pairwise.csv"):
        text = (tmp_path / "out" / file).read_text()
        for row in csv.reader(io.StringIO(text)):
            for cell in row:
                assert not cell.startswith(("=", "+", "@")), (file, row)
        assert "'=cmd|' /C calc'!A0" in text
        assert "'-bob" in text
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["raters"][1]["name"] == "-bob", "what programs read is as it was"


def test_cases_with_names_of_formulas(tmp_path: Path):
    for folder in ("predicted", "reference"):
        save(tmp_path / folder / "=1+1.nii.gz", ball())
        save(tmp_path / folder / "a|b.nii.gz", ball())
    with pytest.raises(SystemExit):
        main(
            [
                "evaluate",
                "-p",
                str(tmp_path / "predicted"),
                "-r",
                str(tmp_path / "reference"),
                "-o",
                str(tmp_path / "e"),
            ]
        )
    report = json.loads((tmp_path / "e" / "metrics.json").read_text())
    cases = [row[0] for row in csv.reader(io.StringIO(as_csv(report)))]
    assert cases == ["case", "'=1+1", "a|b"]
    assert "| a\\|b |" in as_markdown(report)


def test_a_name_never_begins_a_row_of_its_own():
    """A carriage return alone is not quoted by `csv`, and ends a row for who reads it."""
    names = ["a\r=1+1", "\r=1+1", "a\n=1+1", "a\u2028b"]
    assert [csv_cell(name) for name in names] == ["a =1+1", "' =1+1", "a =1+1", "a b"]


def test_the_tables_of_classified_images_too(tmp_path):
    case = {"case": "=1+1", "true": "@cat|dog", "given": "@cat|dog", "share": 1.0, "status": "compared", "message": ""}
    lost = {
        **case,
        "case": "|x",
        "given": None,
        "share": None,
        "status": "no prediction",
        "message": "/home/anna/x.png",
    }
    found = {"images": 2, "predicted": 1, "recall": 0.5, "precision": 1.0}
    report = {
        "cases": [case, lost], "classes": {"@cat|dog": found}, "prediction": "p", "reference": "r", "section": "test",
        "balanced_accuracy": 0.5, "accuracy": 0.5, "definitions": {}, "failed": ["|x"],
    }  # fmt: skip
    write_class_tables(tmp_path, report)
    rows = list(csv.reader(io.StringIO((tmp_path / "metrics.csv").read_text())))
    assert [row[:3] for row in rows[1:]] == [["'=1+1", "'@cat|dog", "'@cat|dog"], ["|x", "'@cat|dog", ""]]
    text = (tmp_path / "metrics.md").read_text()
    assert "| @cat\\|dog | 2 | 1 | 0.500 | 1.000 |" in text
    assert "- \\|x: x.png" in text
    assert "anna" not in text
