"""What `evaluate` writes: metrics.csv, metrics.json and metrics.md."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.atomic import write_whole
from medseg.metrics import METRICS
from medseg.workflows.reports.cells import csv_cell, markdown_cell
from medseg.workflows.reports.paths import without_folders

UNITS = {
    "mm": "Distances in mm by the spacing in each reference's header; volumes in ml.",
    "px": "The references have no spacing: what is called `mm` are pixels, a thousand pixels are what is called `ml`.",
}
"""What numbers of distances and volumes mean, by the unit of the report."""


def write_tables(folder: Path, report: dict[str, Any]) -> None:
    """Write all three files.

    Raises:
        OutputError: one of them cannot be written.
    """
    write_whole(folder / "metrics.csv", as_csv(report))
    write_whole(folder / "metrics.json", json.dumps(report, indent=1, allow_nan=False) + "\n")
    write_whole(folder / "metrics.md", as_markdown(report))


def as_csv(report: dict[str, Any]) -> str:
    """One row per case and class; what does not exist is an empty cell."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["case", "class", "status", *METRICS, "message"])
    for case in report["cases"]:
        of_classes = case["classes"] or {name: {} for name in report["classes"]}
        for name, metrics in of_classes.items():
            values = [_short(metrics.get(column)) for column in METRICS]
            texts = [csv_cell(text) for text in (case["case"], name, case["status"])]
            writer.writerow([*texts, *values, csv_cell(case["message"])])
    return stream.getvalue()


def _short(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value


def as_markdown(report: dict[str, Any]) -> str:
    """A page for people: a table per class, what is missing, the worst cases, what each metric means."""
    names = tuple(name for name, entry in METRICS.items() if entry.heading)
    unit = report.get("unit", "mm")
    prediction, reference = (without_folders(report[key]) for key in ("prediction", "reference"))
    lines = [
        "# Evaluation",
        "",
        f"Predictions `{prediction}` against `{reference}`"
        + (f", section `{report['section']}`." if report["section"] else "."),
        "",
        "Each cell: mean ± standard deviation (median) over n cases that have the class in the prediction or",
        "the reference; distances exist only where both have it (their n in brackets where it differs).",
        "",
        *_table(class_heads(report), [class_row(name, c, names) for name, c in report["classes"].items()]),
        _line(("**mean of classes**", "", *(number(name, report["mean"][name]["mean"]) for name in names))),
        "",
        "## Of the whole set",
        "",
        "Intersection over union of all voxels of all compared cases at once, as in papers on photographs.",
        "",
        *_set_iou(report["set_iou"]),
        "",
        "## Counted, not averaged",
        "",
        *_counts(report),
        "",
        *_cases(report),
        "## Definitions",
        "",
        *(f"- `{name}`: {meaning}" for name, meaning in report["definitions"].items()),
        "- HD95 above is `hd95_mm`; the other definition, `hd95_pooled_mm`, is in `metrics.csv` and",
        "  `metrics.json`.",
        f"- {UNITS[unit]}",
        "",
    ]
    return "\n".join(lines)


def class_heads(report: Mapping[str, Any]) -> tuple[str, ...]:
    """Heads of the table of classes."""
    shown = [entry for entry in METRICS.values() if entry.heading]
    unit = report.get("unit", "mm")
    return ("class", "n", *(entry.head(report["tolerance_mm"], unit) for entry in shown))


def class_row(name: str, found: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    """A class in that table.

    Args:
        name: of the class.
        found: its statistics.
        names: of the metrics that have a column.
    """
    n = found["dice"]["n"]
    return (name, str(n), *(_cell(column, found[column], n) for column in names))


def _cell(column: str, found: dict[str, Any], n: int) -> str:
    if found["mean"] is None:
        return "-"
    spread = f" ± {number(column, found['sd'])}" if found["sd"] is not None else ""
    fewer = f" [n {found['n']}]" if found["n"] != n else ""
    return f"{number(column, found['mean'])}{spread} ({number(column, found['median'])}){fewer}"


def number(column: str, value: float | None) -> str:
    """A metric's value with as many digits as it deserves."""
    return METRICS[column].text(value)


def _set_iou(found: dict[str, Any]) -> list[str]:
    rows: list[tuple[str, ...]] = [(name, number("jaccard", value)) for name, value in found["classes"].items()]
    return [*_table(("class", "IoU"), rows), _line(("**mean (mIoU)**", number("jaccard", found["mean"])))]


def _counts(report: dict[str, Any]) -> list[str]:
    heads = (
        "class",
        "in both",
        "missed",
        "invented",
        "in neither",
        "no usable prediction",
        "Dice with those as 0",
    )
    keys = ("both", "missing", "spurious", "both_empty", "failed")
    rows = []
    for name, found in report["classes"].items():
        counts = [str(found["counts"][key]) for key in keys]
        rows.append((name, *counts, number("dice", found["dice_with_failures"]["mean"])))
    return _table(heads, rows)


def _cases(report: dict[str, Any]) -> list[str]:
    with_dice = [case for case in report["cases"] if case["mean_dice"] is not None]
    worst_first = sorted(with_dice, key=lambda case: case["mean_dice"])
    lines = ["## Cases, worst first", ""]
    lines += _table(("case", "mean Dice"), [(case["case"], number("dice", case["mean_dice"])) for case in worst_first])
    bad = [case for case in report["cases"] if case["status"] != "compared"]
    if bad:
        lines += ["", f"## Not compared: {len(bad)} of {len(report['cases'])} cases", ""]
        lines += [f"- {markdown_cell(case['case'])}: {markdown_cell(without_folders(case['message']))}" for case in bad]
    warnings = [text for case in report["cases"] for text in case["warnings"]]
    if warnings:
        lines += ["", "## Warnings", ""]
        lines += [f"- {markdown_cell(without_folders(text))}" for text in warnings]
    if report["unmatched"]:
        lines += ["", f"Files that belong to no case: {', '.join(report['unmatched'])}."]
    return [*lines, ""]


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return [_line(heads), _line(("---",) * len(heads)), *map(_line, rows)]


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(map(markdown_cell, cells)) + " |"
