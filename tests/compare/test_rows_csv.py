"""Rows of a comparison as CSV: read back as they were, no formula in a spreadsheet, damage told in one line."""

from __future__ import annotations

import csv

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import DataError
from medseg.workflows.compare.scores.rows import CaseRow, RunKey, RunRow
from medseg.workflows.compare.scores.rows_csv import read_cases, read_runs, write_cases, write_runs

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
FORMULAS = st.sampled_from("=+-@'\t\r\n\"|,").flatmap(lambda first: TEXTS.map(lambda text: first + text))
WORDS = TEXTS | FORMULAS
COUNTS = st.integers(0, 2**62)
KEYS = st.builds(RunKey, WORDS, st.integers(-5, 2**40), st.none() | COUNTS, st.none() | COUNTS)
NUMBERS = st.floats(allow_nan=False)
METRICS = st.dictionaries(WORDS.filter(bool).map("metric ".__add__) | st.just("dice"), st.none() | NUMBERS, max_size=3)
CASES = st.builds(CaseRow, KEYS, WORDS, WORDS, WORDS, METRICS, COUNTS, COUNTS, COUNTS)
RUNS = st.builds(
    RunRow, KEYS, WORDS, st.none() | COUNTS, st.none() | NUMBERS, st.none() | NUMBERS, st.none() | COUNTS
)  # fmt: skip


@settings(max_examples=40)
@given(rows=st.lists(CASES, max_size=4))
def test_cases_are_read_as_they_were(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("rows") / "cases.csv"
    write_cases(path, rows)
    assert read_cases(path) == rows


@settings(max_examples=40)
@given(rows=st.lists(RUNS, max_size=4))
def test_runs_are_read_as_they_were(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("rows") / "runs.csv"
    write_runs(path, rows)
    assert read_runs(path) == rows


def test_the_file_as_other_programs_see_it(tmp_path):
    key = RunKey("=1+2", 0, labels=4)
    rows = [
        CaseRow(key, "-case", "@p", "background", {}, 5, 6, 7),
        CaseRow(key, "'quoted", "p", "liver", {"hd95_mm": None, "dice": 1 / 3}, 1, 2, 3),
    ]
    write_cases(tmp_path / "cases.csv", rows)
    with (tmp_path / "cases.csv").open(newline="") as stream:
        heads, background, liver = csv.reader(stream)
    assert heads == ["arm", "seed", "labels", "fold", "case", "subject", "structure", "shared", "predicted",
                     "reference", "dice", "hd95_mm"]  # fmt: skip
    assert background == ["'=1+2", "0", "4", "", "'-case", "'@p", "background", "5", "6", "7", "", ""]
    assert liver[4:] == ["''quoted", "p", "liver", "1", "2", "3", "0.3333333333333333", "nan"]
    assert read_cases(tmp_path / "cases.csv") == rows


HEADS = b"arm,seed,labels,fold,message,iterations,cpu_seconds,wall_seconds,peak_bytes\n"
DAMAGED = [
    (b"", "line 1 is ''; expected are the columns arm,seed"),
    (b"arm,case\n", "line 1 is 'arm,case'; expected"),
    (HEADS + b"a,0,,,,,,\n", "line 2 has 8 cells, and there are 9 columns"),
    (HEADS + b"a,zero,,,,,,,\n", "line 2: seed is 'zero'; accepted is a whole number"),
    (HEADS + b"a,0,,,,,,,\nb,1,,,,,long,,\n", "line 3: cpu_seconds is 'long'; accepted is a number"),
    (HEADS + b'a,0,,,"cut off', "line 2: unexpected end of data"),
    (HEADS + b"\xff", "is no text: byte 76 is not UTF-8"),
]


@pytest.mark.parametrize(("content", "said"), DAMAGED)
def test_a_damaged_file_is_one_line(tmp_path, content, said):
    path = tmp_path / "runs.csv"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_runs(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: {said}")
    assert "\n" not in line


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"cases\.csv: cannot be read"):
        read_cases(tmp_path / "cases.csv")


def test_a_column_twice(tmp_path):
    path = tmp_path / "cases.csv"
    write_cases(path, [CaseRow(RunKey("a", 0), "c", "s", "liver", {"dice": 1.0})])
    heads, row = path.read_text().splitlines()
    path.write_text(f"{heads},dice\n{row},1\n")
    with pytest.raises(DataError, match="names a column twice"):
        read_cases(path)
