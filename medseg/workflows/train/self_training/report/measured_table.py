"""The table of pseudo-labels against the labels of their cases, for the pages of rounds and of runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medseg.workflows.reports.formatting import format_number
from medseg.workflows.reports.pages import Table
from medseg.workflows.train.self_training.labelling.measured import MEASURES


def measured_table(measured: Mapping[str, Mapping[str, Any]]) -> Table | None:
    """One column for each round or stage; None where nothing was measured.

    Args:
        measured: heading of the column -> what `labelling.measured.summarize_measured` gave.
    """
    if not measured:
        return None
    columns = list(measured.values())
    rows = []
    for measure, words in MEASURES.items():
        for name in columns[0][measure]:
            values = [format_number(column[measure].get(name), 3) for column in columns]
            rows.append([f"{name}, {words}", *values])
    means = [format_number(column["mean_dice"], 3) for column in columns]
    rows.append(["all structures, Dice", *means])
    return Table(["mean over the cases", *measured], rows, total=True)
