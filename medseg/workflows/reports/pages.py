"""Report pages: jinja2 templates filled with data, one HTML file each, which needs no network and no file beside it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from medseg.workflows.reports.formatting import format_number, format_percent


@dataclass(frozen=True)
class Table:
    """A table of plain text, which the template escapes.

    Args:
        heads: of the columns.
        rows: cells of each row, as many as there are columns.
        total: whether the last row sums up the others and stands out.
        words: whether the cells are words, which begin at the left, and not numbers.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    total: bool = False
    words: bool = False


@dataclass(frozen=True)
class ShownPicture:
    """A picture and the words below it.

    Args:
        address: of the picture, see `data_uri`.
        caption: its words.
    """

    address: str
    caption: str


class Missing(StrictUndefined):
    """A value that a template shows and nobody gave: an error that names it, in format strings too."""

    __format__ = StrictUndefined._fail_with_undefined_error


@cache
def environment() -> Environment:
    """The templates of `medseg/workflows/reports/templates`: every value is escaped, a missing one is an error."""
    found = Environment(
        loader=PackageLoader("medseg.workflows.reports"),
        autoescape=True,
        undefined=Missing,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters["number"] = format_number
    found.filters["percent"] = format_percent
    return found


def render_page(template: str, **data: Any) -> str:
    """A whole page as HTML.

    Args:
        template: name of the file, such as `demo.html`.
        data: what the template shows.

    Raises:
        jinja2.UndefinedError: the template shows something that is not in `data`.
    """
    return environment().get_template(template).render(**data)


def data_uri(png: bytes) -> str:
    """A PNG file as an address that holds the file itself."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
