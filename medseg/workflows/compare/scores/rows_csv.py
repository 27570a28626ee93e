"""`cases.csv` and `runs.csv` of a comparison: rows as text for other programs, read back as exactly what they were.

Numbers have all their digits. An empty cell is what a row does not have, such as the metrics of the background; a
metric that is not defined is `nan`. Texts that a spreadsheet would take for a formula begin with an apostrophe.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from medseg.atomic import write_whole
from medseg.errors import DataError
from medseg.metrics import METRICS
from medseg.workflows.compare.scores.rows import CaseRow, RunKey, RunRow
from medseg.workflows.reports.cells import FORMULA, QUOTE

Value = TypeVar("Value")

CASES, RUNS = "cases.csv", "runs.csv"
"""Names of the files."""

KEY_COLUMNS = ("arm", "seed", "labels", "fold")
CASE_COLUMNS = (*KEY_COLUMNS, "case", "subject", "structure", "shared", "predicted", "reference")
"""Of `cases.csv`, before its metrics."""
RUN_COLUMNS = (*KEY_COLUMNS, "message", "iterations", "cpu_seconds", "wall_seconds", "peak_bytes")


def write_cases(path: Path, rows: Sequence[CaseRow]) -> None:
    """Write rows of cases.

    Raises:
        OutputError: the file cannot be written.
    """
    found = dict.fromkeys(name for row in rows for name in row.metrics)
    metrics = [name for name in METRICS if name in found] + [name for name in found if name not in METRICS]
    lines = []
    for row in rows:
        texts = [_text(value) for value in (row.case, row.subject, row.structure)]
        counts = [str(value) for value in (row.shared, row.predicted, row.reference)]
        values = [_metric(row.metrics[name]) if name in row.metrics else "" for name in metrics]
        lines.append([*_key_cells(row.key), *texts, *counts, *values])
    _write(path, [*CASE_COLUMNS, *metrics], lines)


def read_cases(path: Path) -> list[CaseRow]:
    """Rows as they were written.

    Raises:
        DataError: no such file, or one that is damaged; with the line.
    """
    rows = []
    for cells in _read(path, CASE_COLUMNS):
        metrics: dict[str, float | None] = {}
        for name in cells.others:
            if cells.text(name):
                value = cells.of(name, float, "a number")
                metrics[name] = None if math.isnan(value) else value
        row = CaseRow(
            _read_key(cells),
            _read_text(cells.text("case")),
            _read_text(cells.text("subject")),
            _read_text(cells.text("structure")),
            metrics,
            cells.of("shared", int, "a whole number"),
            cells.of("predicted", int, "a whole number"),
            cells.of("reference", int, "a whole number"),
        )
        rows.append(row)
    return rows


def write_runs(path: Path, rows: Sequence[RunRow]) -> None:
    """Write rows of runs.

    Raises:
        OutputError: the file cannot be written.
    """
    lines = []
    for row in rows:
        numbers = [row.iterations, row.cpu_seconds, row.wall_seconds, row.peak_bytes]
        lines.append([*_key_cells(row.key), _text(row.message), *map(_number, numbers)])
    _write(path, RUN_COLUMNS, lines)


def read_runs(path: Path) -> list[RunRow]:
    """Rows as they were written.

    Raises:
        DataError: no such file, or one that is damaged; with the line.
    """
    rows = []
    for cells in _read(path, RUN_COLUMNS):
        row = RunRow(
            _read_key(cells),
            _read_text(cells.text("message")),
            cells.or_none("iterations", int, "a whole number"),
            cells.or_none("cpu_seconds", float, "a number"),
            cells.or_none("wall_seconds", float, "a number"),
            cells.or_none("peak_bytes", int, "a whole number"),
        )
        rows.append(row)
    return rows


class _Cells:
    """The cells of one line.

    Args:
        path: of the file.
        line: its number in the file.
        cells: column -> text.
        others: columns that are there besides the usual ones.
    """

    def __init__(self, path: Path, line: int, cells: Mapping[str, str], others: Sequence[str]) -> None:
        self.path, self.line, self.cells, self.others = path, line, cells, others

    def text(self, column: str) -> str:
        return self.cells[column]

    def of(self, column: str, kind: Callable[[str], Value], accepted: str) -> Value:
        try:
            return kind(self.cells[column])
        except ValueError:
            what = f"line {self.line}: {column} is {self.cells[column]!r}; accepted is {accepted}"
            raise DataError(what, path=self.path) from None

    def or_none(self, column: str, kind: Callable[[str], Value], accepted: str) -> Value | None:
        return self.of(column, kind, accepted) if self.cells[column] else None


def _write(path: Path, columns: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)  # lines end as RFC 4180 has it: else a carriage return inside a text goes unquoted
    writer.writerow([_text(column) for column in columns])
    writer.writerows(lines)
    write_whole(path, stream.getvalue())


def _read(path: Path, columns: Sequence[str]) -> list[_Cells]:
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path=path) from error
    except UnicodeDecodeError as error:
        raise DataError(f"is no text: byte {error.start} is not UTF-8", path=path) from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        heads = [_read_text(cell) for cell in next(reader, [])]
        _check_heads(path, heads, columns)
        others = heads[len(columns) :]
        found = []
        for cells in reader:
            if len(cells) != len(heads):
                what = f"line {reader.line_num} has {len(cells)} cells, and there are {len(heads)} columns"
                raise DataError(what, path=path)
            found.append(_Cells(path, reader.line_num, dict(zip(heads, cells, strict=True)), others))
    except csv.Error as error:
        raise DataError(f"line {reader.line_num}: {error}", path=path) from None
    return found


def _check_heads(path: Path, heads: Sequence[str], columns: Sequence[str]) -> None:
    if tuple(heads[: len(columns)]) != tuple(columns):
        shown = ",".join(heads)[:80]
        what = f"line 1 is {shown!r}; expected are the columns {','.join(columns)}"
        raise DataError(what, path=path)
    if len(set(heads)) < len(heads):
        raise DataError("line 1 names a column twice", path=path)


def _key_cells(key: RunKey) -> list[str]:
    return [_text(key.arm), str(key.seed), _number(key.labels), _number(key.fold)]


def _read_key(cells: _Cells) -> RunKey:
    whole = "a whole number"
    arm, seed = _read_text(cells.text("arm")), cells.of("seed", int, whole)
    return RunKey(arm, seed, cells.or_none("labels", int, whole), cells.or_none("fold", int, whole))


def _text(value: str) -> str:
    return QUOTE + value if value.startswith(FORMULA) else value


def _read_text(cell: str) -> str:
    return cell.removeprefix(QUOTE)


def _number(value: Any) -> str:
    return "" if value is None else repr(value)


def _metric(value: float | None) -> str:
    return "nan" if value is None else repr(float(value))
