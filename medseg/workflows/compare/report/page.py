"""The report of a comparison: `report.html`, which needs no network and no file beside it, and `table.md`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.atomic import make_folder, write_whole
from medseg.metrics import METRICS
from medseg.workflows.compare.report.description import Description, Picture
from medseg.workflows.compare.report.findings import Findings, collect, describe_key
from medseg.workflows.compare.report.sentences import which_to_take
from medseg.workflows.compare.report.table import (
    as_markdown,
    counts_of,
    describe_arms,
    describe_labels,
    describe_versions,
    difference_table,
    reading_of,
    result_table,
    sentences_of,
    structure_tables,
)
from medseg.workflows.compare.scores.rows import CaseRow, RunRow
from medseg.workflows.reports.formatting import count_of
from medseg.workflows.reports.pages import ShownPicture, Table, data_uri, render_page

PAGE, TABLE = "report.html", "table.md"
"""Names of the files."""


@dataclass(frozen=True)
class Section:
    """What the page shows of one number of labels.

    Args:
        heading: empty where the comparison does not vary it.
        results: arms x metrics.
        sentences: on each arm.
        counts: what of each arm is counted and not averaged; a phrase each.
        differences: arms x metrics, where there are any.
        structures: structures x arms, one table for each metric; none where there is one structure.
    """

    heading: str
    results: Table
    sentences: Sequence[str]
    counts: Sequence[str]
    differences: Table | None
    structures: Sequence[Table]


def write_report(folder: Path, description: Description, runs: Sequence[RunRow], cases: Sequence[CaseRow]) -> Path:
    """Write `report.html` and `table.md`.

    Args:
        folder: made if need be.
        description: of the comparison.
        runs: finished and failed ones; those that are planned and not here are named as not finished.
        cases: of all runs; those of runs that are not finished are left out.

    Returns:
        The page.

    Raises:
        OutputError: a file cannot be written.
    """
    findings = collect(description, runs, cases)
    make_folder(folder)
    write_whole(folder / TABLE, as_markdown(findings))
    return write_whole(folder / PAGE, render_report(findings))


def render_report(findings: Findings) -> str:
    """The page as HTML."""
    description = findings.description
    pictures = [_show(picture) for picture in description.pictures if picture.file.is_file()]
    gone = len(description.pictures) - len(pictures)
    notes = [*description.notes]
    if gone:
        notes.append(f"{count_of(gone, 'picture')} of cases cannot be shown: the files are gone.")
    return render_page(
        "comparison.html",
        title=f"medseg: {description.title}",
        description=description,
        opening=which_to_take(findings),
        sections=[_section(findings, labels) for labels in findings.labels],
        curves=_curves(findings),
        missing=findings.missing,
        pictures=pictures,
        arms=describe_arms(findings),
        reading=reading_of(findings),
        notes=notes,
        versions=describe_versions(findings),
    )


def _section(findings: Findings, labels: int | None) -> Section:
    return Section(
        describe_labels(labels),
        result_table(findings, labels),
        sentences_of(findings, labels),
        counts_of(findings, labels),
        difference_table(findings, labels),
        structure_tables(findings, labels),
    )


def _curves(findings: Findings) -> list[str]:
    """Addresses of the learning curves; none with fewer than two numbers of labels."""
    if len([labels for labels in findings.labels if labels is not None]) < 2:
        return []
    from medseg.workflows.compare.report.learning_curve import (
        draw_learning_curves,  # matplotlib takes seconds to import
    )

    return [data_uri(png) for png in draw_learning_curves(findings)]


def _show(picture: Picture) -> ShownPicture:
    dice = METRICS["dice"].text(picture.dice)
    return ShownPicture(
        data_uri(picture.file.read_bytes()), f"{picture.case}: {describe_key(picture.key)}, mean Dice {dice}"
    )
