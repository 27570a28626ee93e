"""Tables of a fused study as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

from medseg.consensus.statistics.rater_vs_consensus import csv_rows
from medseg.workflows.reports.cells import csv_cell

RATER_COLUMNS = ("weight", "self_consistency", "kappa")
"""What the method estimated of a rater."""

IN_PIXELS = {"mm": ("px", 1), "ml": ("px", 1000)}
"""Unit at the end of a column -> that of an image without spacing, and how many of them it is: a pixel is 1 mm3."""

COMPARISON_COLUMNS = (
    "method",
    "class",
    "dice_to_chosen",
    "dice_to_reference",
    "volume_ml",
    "differing_voxels",
    "seconds",
    "error",
)


def raters_csv(report: dict[str, Any]) -> str:
    """Each rater against the consensus, class by class, with what the method estimated of the rater."""
    raters = {rater["name"]: rater for rater in report["raters"]}
    heads, *rows = csv_rows(report["against_consensus"])
    table: list[list[Any]] = [[*heads, *RATER_COLUMNS]]
    for row in rows:
        rater = raters[row[0]]
        table.append([*row, *(rater.get(column) for column in RATER_COLUMNS)])
    return _to_csv(_in_pixels(table) if report["unit"] == "pixels" else table)


def pairwise_csv(report: dict[str, Any]) -> str:
    """Dice of each two raters, for each class and their mean."""
    names, dice = report["agreement"]["raters"], report["agreement"]["pairwise_dice"]
    table: list[list[Any]] = [["class", "rater", "other", "dice"]]
    for label, matrix in {**dice["classes"], "mean": dice["mean"]}.items():
        for first, second in combinations(range(len(names)), 2):
            table.append([label, names[first], names[second], matrix[first][second]])
    return _to_csv(table)


def comparison_csv(rows: Sequence[dict[str, Any]], unit: str = "mm") -> str:
    """Each method against the chosen one, and the reference if there is one, for each class and their mean."""
    table: list[list[Any]] = [list(COMPARISON_COLUMNS)]
    for row in rows:
        to_chosen = row["dice_to_chosen"] or {}
        to_reference = row.get("dice_to_reference") or {}
        for name in to_chosen or ["mean"]:
            dice = [to_chosen.get(name), to_reference.get(name)]
            of_method = [row["differing_voxels"], row["seconds"], row["error"]]
            table.append([row["method"], name, *dice, row["volumes_ml"].get(name), *of_method])
    return _to_csv(_in_pixels(table) if unit == "pixels" else table)


def _in_pixels(table: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """A table whose lengths and sizes are of an image without spacing, with heads that say so."""
    heads, factors = [], []
    for head in table[0]:
        name, _, unit = str(head).rpartition("_")
        other, factor = IN_PIXELS.get(unit, (unit, None))
        heads.append(f"{name}_{other}" if factor else head)
        factors.append(factor)
    rows = []
    for row in table[1:]:
        cells = zip(row, factors, strict=True)
        rows.append([value * factor if factor and value is not None else value for value, factor in cells])
    return [heads, *rows]


def _to_csv(rows: Iterable[Sequence[Any]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for row in rows:
        writer.writerow([_to_cell(value) for value in row])
    return stream.getvalue()


def _to_cell(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else csv_cell(value)
