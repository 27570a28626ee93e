"""What `medseg compare` prints: the table of results, and which arm to take."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from medseg.workflows.compare.report.findings import Findings
from medseg.workflows.compare.report.sentences import which_to_take
from medseg.workflows.compare.report.table import describe_labels, result_table

WIDTH = 160
"""Columns of a terminal that a table may take; it is no narrower where standard output is a file."""


def table(findings: Findings) -> str:
    """The table of results for a terminal, one for each number of labels, and what follows from it."""
    console = Console(width=WIDTH, color_system=None)
    with console.capture() as captured:
        for labels in findings.labels:
            found = result_table(findings, labels)
            shown = Table(title=describe_labels(labels) or None)
            for head in found.heads:
                shown.add_column(str(head))
            for row in found.rows:
                shown.add_row(*(str(cell) for cell in row))
            console.print(shown)
        for line in which_to_take(findings):
            console.print(line, soft_wrap=True, markup=False, highlight=False)
    return captured.get().rstrip("\n")
