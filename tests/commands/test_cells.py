"""Names that are formulas, tags or ends of cells stay names in every table."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from raters import ball, save, write_study

from medseg.cli.app import main
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
