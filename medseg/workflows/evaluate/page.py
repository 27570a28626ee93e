"""The report of an evaluation: `report.html`, which needs no network and no file beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from medseg.atomic import write_whole
from medseg.metrics import METRICS
from medseg.workflows.evaluate.compare_case import Compared, Scale
from medseg.workflows.evaluate.montage import draw_case
from medseg.workflows.evaluate.tables import class_heads, class_row, number
from medseg.workflows.reports.formatting import describe_command, describe_computer
from medseg.workflows.reports.overlay import encode_png
from medseg.workflows.reports.pages import ShownPicture, Table, data_uri, render_page
from medseg.workflows.reports.paths import without_folders

PAGE = "report.html"
"""Name of the page, in the folder of the evaluation."""

MOST_PICTURES = 6
"""Cases that are drawn, the worst ones."""

MOST_ROWS = 100
"""Cases that the table of the page has, the worst ones; all are in metrics.csv."""


def write_page(folder: Path, report: Mapping[str, Any], cases: Sequence[Compared], scale: Scale) -> Path:
    """Write the page of an evaluation.

    Args:
        folder: of the evaluation.
        report: what `evaluate` returns.
        cases: all of them.
        scale: by what was measured.

    Raises:
        OutputError: it cannot be written.
    """
    ranked = _rank(cases)
    names = [name for name, entry in METRICS.items() if entry.heading]
    page = render_page(
        "evaluation.html",
        title="medseg: evaluation",
        report=report,
        prediction=without_folders(str(report["prediction"])),
        reference=without_folders(str(report["reference"])),
        compared=len(cases) - len(report["failed"]),
        cards=_cards(report),
        classes=Table(
            class_heads(report), [class_row(name, found, names) for name, found in report["classes"].items()]
        ),
        missed=_counts(report),
        spread=data_uri(_draw_spread(report)),
        pictures=[_show(case, scale) for case in ranked[:MOST_PICTURES]],
        cases=_case_table(ranked[:MOST_ROWS]),
        more=max(0, len(ranked) - MOST_ROWS),
        failed=[case for case in report["cases"] if case["status"] != "compared"],
        warnings=[without_folders(text) for case in report["cases"] for text in case["warnings"]],
        command=without_folders(describe_command("medseg.evaluate(...)")),
        computer=describe_computer(),
    )
    return write_whole(folder / PAGE, page)


def _rank(cases: Sequence[Compared]) -> list[Compared]:
    """Those that have a Dice, from the worst to the best."""
    compared = [case for case in cases if case.status == "compared" and case.mean_dice is not None]
    return sorted(compared, key=lambda case: case.mean_dice or 0.0)


def _cards(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    mean = report["mean"]
    unit = report["unit"]
    tolerance = f"{report['tolerance_mm']:g} {unit}"
    shown = {"mean Dice": "dice", f"surface Dice at {tolerance}": "surface_dice", f"HD95, {unit}": "hd95_mm"}
    return [(words, number(column, mean[column]["mean"])) for words, column in shown.items()]


def _counts(report: Mapping[str, Any]) -> Table:
    heads = ("structure", "in both", "missed", "invented", "in neither", "no usable prediction")
    keys = ("both", "missing", "spurious", "both_empty", "failed")
    rows = []
    for name, found in report["classes"].items():
        rows.append([name, *(str(found["counts"][key]) for key in keys)])
    return Table(heads, rows)


def _draw_spread(report: Mapping[str, Any]) -> bytes:
    """PNG: the Dice of every case, a row for each structure, and their median."""
    values = {name: _dice_of(report, name) for name in report["classes"]}
    figure = Figure(figsize=(10, 0.7 + 0.34 * len(values)), dpi=100, layout="constrained")
    ax = figure.subplots()
    for row, found in enumerate(values.values()):
        shift = np.linspace(-0.22, 0.22, len(found)) if len(found) > 1 else np.zeros(len(found))
        ax.scatter(found, row + shift, s=14, color="#1971c2", alpha=0.6, linewidths=0)
        if found:
            ax.plot([np.median(found)] * 2, [row - 0.35, row + 0.35], color="#d9480f", linewidth=2)
    ax.set(xlim=(-0.01, 1.01), xlabel="Dice", yticks=range(len(values)), yticklabels=list(values))
    ax.invert_yaxis()
    ax.grid(axis="x", alpha=0.25)
    ax.spines[["top", "right", "left"]].set_visible(False)
    return encode_png(figure)


def _dice_of(report: Mapping[str, Any], structure: str) -> list[float]:
    """Of the cases that have the structure, in the order of the report."""
    found = []
    for case in report["cases"]:
        metrics = case["classes"].get(structure, {}) if case["status"] == "compared" else {}
        if metrics.get("dice") is not None and metrics["situation"] != "both_empty":
            found.append(float(metrics["dice"]))
    return found


def _show(case: Compared, scale: Scale) -> ShownPicture:
    caption = f"{case.pairing.name}: mean Dice {number('dice', case.mean_dice)}"
    return ShownPicture(data_uri(draw_case(case, scale)), caption)


def _case_table(cases: Sequence[Compared]) -> Table:
    rows = [[case.pairing.name, number("dice", case.mean_dice)] for case in cases]
    return Table(["case", "mean Dice"], rows)
