"""The sheets of maps and pseudo-labels that the stages of a run drew, for its report."""

from __future__ import annotations

from pathlib import Path

from medseg.workflows.reports.pages import ShownPicture, data_uri
from medseg.workflows.train.self_training.report.label_sheet import SHEET
from medseg.workflows.train.self_training.report.map_sheet import MAP_SHEET

LABELS = "each image, its pseudo-labels over it with grey where nothing is learnt, and what they were made of"
MAPS = "each image, and over it the method's map of each class that the tags do not rule out"


def read_sheets(run: Path) -> list[ShownPicture]:
    """The sheets of all stages, in the order of their folders; none of a run that drew none.

    Args:
        run: its folder.
    """
    found = [(path, LABELS) for path in run.rglob(f"labels/{SHEET}")]
    found += [(path, MAPS) for path in run.rglob(MAP_SHEET)]
    shown = []
    for path, what in sorted(found):
        place = path.relative_to(run).as_posix()
        shown.append(ShownPicture(data_uri(path.read_bytes()), f"{place}: {what}"))
    return shown
