"""What a method watches beside its loss, over a training: confidences of classes, shares of them, counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medseg.workflows.reports.overlay import class_colors, encode_png
from medseg.workflows.train.report.curves import MOST_STRUCTURES, MOST_TRAININGS, Training

MOST_NAMES = 6
"""Things that are drawn of a training; the log has all."""


def draw_watched(trainings: Sequence[Training]) -> bytes | None:
    """PNG with a row for each training and a column for each thing watched; None where nothing is.

    Args:
        trainings: of a run; those that come last are shown.
    """
    shown = [training for training in trainings if training.watched][-MOST_TRAININGS:]
    if not shown:
        return None
    names = _names(shown)
    figure = Figure(figsize=(4 * max(2, len(names)), 3.3 * len(shown)), dpi=100, layout="constrained")
    grid = figure.subplots(len(shown), len(names), squeeze=False)
    for axes, training in zip(grid, shown, strict=True):
        where = f"{training.name}: " if training.name else ""
        for ax, name in zip(axes, names, strict=True):
            _draw(ax, [record for record in training.watched if name in record], name)
            ax.set_title(f"{where}{name}", fontsize=10)
    return encode_png(figure)


def _names(trainings: Sequence[Training]) -> list[str]:
    """Of what is watched, in the order of the log."""
    names: dict[str, None] = {}
    for training in trainings:
        for name in training.watched[-1]:
            if name not in ("iteration", "kind"):
                names[name] = None
    return list(names)[:MOST_NAMES]


def _draw(ax: Axes, records: Sequence[Mapping[str, Any]], name: str) -> None:
    """A number over the iterations, or one for each class."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        value = record[name]
        for key, number in (value if isinstance(value, dict) else {"": value}).items():
            lines.setdefault(key, []).append((record["iteration"], number))
    for (key, points), color in zip(lines.items(), class_colors(len(lines)), strict=True):
        ax.plot(*zip(*points, strict=True), label=key, color=color, linewidth=1.2)
    ax.set_xlabel("iteration")
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    if 1 < len(lines) <= MOST_STRUCTURES:
        ax.legend(frameon=False, fontsize=7, ncols=2 if len(lines) > 8 else 1)
