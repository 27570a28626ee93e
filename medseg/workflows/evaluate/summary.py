"""What `evaluate` says: a table for a terminal, and by name what could not be measured."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.box import Box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from medseg.progress import on_one_line
from medseg.workflows.evaluate.image_classes import class_table
from medseg.workflows.evaluate.tables import number

WIDTH = 80
LINES = Box("    \n    \n -- \n    \n -- \n    \n    \n    \n", ascii=True)
"""Under the heads and above the mean."""

SHOWN = 5
"""Warnings and unmatched files that are written out; cases that failed all are."""


def table(report: Mapping[str, Any]) -> str:
    """The metrics as plain text at most 80 columns wide: a row for each structure, and their mean.

    Args:
        report: that `evaluate` returned.
    """
    if report.get("target") == "images":
        return class_table(report)
    grid = Table(box=LINES, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    grid.add_column("structure", overflow="fold")
    unit = report.get("unit", "mm")
    for head in ("cases", "Dice", f"surface\nDice at\n{report['tolerance_mm']:g} {unit}", f"HD95 {unit}", "missed"):
        grid.add_column(head, justify="right", no_wrap=True)
    for name, found in report["classes"].items():
        grid.add_row(Text(name), *_row(found))
    grid.add_section()
    mean = report["mean"]
    metrics = (number(column, mean[column]["mean"]) for column in ("dice", "surface_dice", "hd95_mm"))
    missed = sum(found["counts"]["missing"] for found in report["classes"].values())
    grid.add_row(f"mean of {mean['dice']['n']}", "", *metrics, str(missed))
    stream = io.StringIO()
    Console(file=stream, width=WIDTH, color_system=None).print(grid)
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    return "\n".join([*lines, *_legend(report)])


def _row(found: Mapping[str, Any]) -> list[str]:
    surface = number("surface_dice", found["surface_dice"]["mean"])
    cells = [_cell("dice", found["dice"]), surface, _cell("hd95_mm", found["hd95_mm"])]
    return [str(found["dice"]["n"]), *cells, str(found["counts"]["missing"])]


def _cell(column: str, found: Mapping[str, Any]) -> str:
    if found["mean"] is None:
        return "-"
    spread = "" if found["sd"] is None else f" ± {number(column, found['sd'])}"
    return f"{number(column, found['mean'])}{spread}"


def _legend(report: Mapping[str, Any]) -> list[str]:
    cases = len(report["cases"])
    compared = cases - len(report["failed"])
    section = f" of section {report['section']}" if report["section"] else ""
    of_set = report["set_iou"]
    lines = [
        "",
        f"{compared} of {cases} cases{section} compared.",
        f"mIoU of the whole set: {number('jaccard', of_set['mean'])}, mean of {of_set['n']} classes, each over all",
        "voxels of these cases at once.",
        *_of_labelled(report),
        "Mean ± standard deviation over the cases in which the prediction or the",
        "reference has the structure; HD95 where both have it. Missed: cases in which",
        "the reference alone has it.",
    ]
    if report["failed"]:
        dice = number("dice", report["mean"]["dice_with_failures"]["mean"])
        lines.append(f"Where a case without a usable prediction counts as 0, the mean Dice is {dice}.")
    return lines


def _of_labelled(report: Mapping[str, Any]) -> list[str]:
    """Of pseudo-labels: how many voxels they label, and how well these."""
    if report.get("labelled") is None:
        return []
    of_set = number("jaccard", report["set_iou_labelled"]["mean"])
    return [f"There voxels without a label are wrong. {report['labelled']:.1%} have one; of these alone: {of_set}."]


def problems(report: Mapping[str, Any]) -> list[str]:
    """What is to be said beside the table: cases that failed, warnings, files that belong to no case.

    Args:
        report: that `evaluate` returned.
    """
    missing = [case["case"] for case in report["cases"] if case["status"] == "no prediction"]
    lines = list(_few([text for case in report["cases"] for text in case.get("warnings", ())]))
    if report["unmatched"]:
        files = report["unmatched"]
        more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
        lines.append(f"note: predictions that belong to no case: {', '.join(files[:SHOWN])}{more}")
    unusable = [case for case in report["cases"] if case["status"].startswith("unusable")]
    lines += [f"failed: {case['case']}: {case['status']}: {case['message']}" for case in unusable]
    if missing:
        lines.append(f"failed: no prediction of {len(missing)} of {len(report['cases'])} cases: {', '.join(missing)}")
    return [on_one_line(line) for line in lines]


def _few(texts: Sequence[str]) -> Iterator[str]:
    """The first warnings; of what is the same in many files, such as a rounded label value, one."""
    alike: dict[str, list[str]] = {}
    for text in texts:
        _, _, what = text.rpartition(": ")
        alike.setdefault(what, []).append(text)
    warnings = []
    for same in alike.values():
        warnings.append(same[0] + (f" (and {len(same) - 1} more like this)" if len(same) > 1 else ""))
    yield from (f"warning: {text}" for text in warnings[:SHOWN])
    if len(warnings) > SHOWN:
        yield f"warning: and {len(warnings) - SHOWN} more, see metrics.md"
