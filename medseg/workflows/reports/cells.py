"""Cells of tables: names that users and files choose stay names, whatever program opens the table."""

from __future__ import annotations

import re

QUOTE = "'"
FORMULA = ("=", "+", "-", "@", "\t", "\r", QUOTE)
"""Where a text begins so, an apostrophe goes before it: spreadsheets would compute it, or drop its own apostrophe."""

_TAG = re.compile(r"<(?=[A-Za-z/!])")


def csv_cell(value: object) -> object:
    """A cell of a CSV: a text that would be a formula gets an apostrophe before it; numbers stay numbers.

    A text is on one line: of what breaks lines `csv` quotes a part only, and the rest would begin a row of its own.

    Examples:
        >>> from medseg.workflows.reports.cells import csv_cell
        >>> csv_cell("=1+1"), csv_cell("liver"), csv_cell(-0.5), csv_cell(None)
        ("'=1+1", 'liver', -0.5, None)
    """
    if not isinstance(value, str):
        return value
    on_one_line = " ".join(value.splitlines())
    return QUOTE + on_one_line if value.startswith(FORMULA) or on_one_line.startswith(FORMULA) else on_one_line


def markdown_cell(text: str) -> str:
    """A cell of a table in Markdown: on one line, without what would end the cell or begin a tag."""
    on_one_line = " ".join(text.split())
    return _TAG.sub("&lt;", on_one_line).replace("\\", "\\\\").replace("|", "\\|")
