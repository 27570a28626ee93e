"""The curves of a training: terms of the loss, and scores on the validation cases."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medseg.workflows.reports.overlay import class_colors, encode_png

METRICS = "metrics.jsonl"
"""Name of the file to which a training writes one line after another."""

MOST_TRAININGS = 6
"""Trainings whose curves are shown, the last ones of a run."""

MOST_STRUCTURES = 15
"""Structures that have a curve of their own."""

NOT_TERMS = ("iteration", "kind", "loss", "lr")


@dataclass(frozen=True)
class Training:
    """The log of one network's training.

    Args:
        name: of its folder in the run; empty where the run has one network.
        train: one record each few iterations.
        validation: one record each validation.
        watched: one record each few iterations of what the method watches beside its loss.
    """

    name: str
    train: Sequence[Mapping[str, Any]]
    validation: Sequence[Mapping[str, Any]]
    watched: Sequence[Mapping[str, Any]] = ()

    @property
    def score(self) -> str:
        """What validations give: "dice", or "balanced_accuracy" of whole images."""
        return "balanced_accuracy" if any("balanced_accuracy" in record for record in self.validation) else "dice"

    @property
    def iterations(self) -> int:
        """The last iteration that was logged."""
        return max((record["iteration"] for record in self.train), default=0)


def read_trainings(run: Path) -> list[Training]:
    """The logs of all networks of a run, in the order of their folders; lines cut off by a power cut are left out."""
    found = []
    for path in sorted(run.rglob(METRICS)):
        records = [record for record in _read_lines(path) if "iteration" in record]
        train = [record for record in records if record.get("kind") == "train"]
        if not train:
            continue  # of rounds: the summary of their own page
        place = path.parent.relative_to(run).as_posix()
        validation = [record for record in records if record.get("kind") == "validation"]
        watched = [record for record in records if record.get("kind") == "watched"]
        found.append(Training("" if place == "." else place, train, validation, watched))
    return found


def _read_lines(path: Path) -> list[dict[str, Any]]:
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def draw_trainings(trainings: Sequence[Training]) -> bytes | None:
    """PNG with a row for each training, the terms of its loss and its validation Dice; None where there is none."""
    shown = trainings[-MOST_TRAININGS:]
    if not shown:
        return None
    figure = Figure(figsize=(12, 3.3 * len(shown)), dpi=100, layout="constrained")
    grid = figure.subplots(len(shown), 2, squeeze=False)
    for (loss, dice), training in zip(grid, shown, strict=True):
        where = f"{training.name}: " if training.name else ""
        _draw_loss(loss, training)
        _draw_validation(dice, training)
        loss.set_title(f"{where}training loss and its terms")
        words = "Dice" if training.score == "dice" else "recall and balanced accuracy"
        dice.set_title(f"{where}{words} on the validation cases")
    return encode_png(figure)


def _draw_loss(ax: Axes, training: Training) -> None:
    terms = [name for name, value in training.train[-1].items() if name not in NOT_TERMS and isinstance(value, float)]
    for name, color in zip(["loss", *terms], ["#111315", *class_colors(len(terms))], strict=True):
        points = [(record["iteration"], record[name]) for record in training.train if record.get(name) is not None]
        iterations, values = zip(*points, strict=True) if points else ((), ())
        ax.plot(iterations, _smooth(values), label=name, color=color, linewidth=2.0 if name == "loss" else 1.2)
    _finish(ax)


def _smooth(values: Sequence[float]) -> np.ndarray:
    """The running median of nine values, at the ends of fewer: single batches are noisy."""
    series = np.asarray(values, float)
    half = 4 if len(series) >= 40 else 0
    return np.array([np.median(series[max(0, at - half) : at + half + 1]) for at in range(len(series))])


def _draw_validation(ax: Axes, training: Training) -> None:
    records = training.validation
    if not records:
        ax.text(0.5, 0.5, "no validation case has a label", transform=ax.transAxes, ha="center", color="#5d636b")
        ax.set_axis_off()
        return
    iterations = [record["iteration"] for record in records]
    names = list(records[-1].get("classes", {}))
    if 1 < len(names) <= MOST_STRUCTURES:
        for name, color in zip(names, class_colors(len(names)), strict=True):
            values = [record["classes"].get(name) for record in records]
            points = [(at, value) for at, value in zip(iterations, values, strict=True) if value is not None]
            if points:
                ax.plot(*zip(*points, strict=True), label=name, color=color, linewidth=1.0, marker=".")
    for head, style in zip(records[-1].get("heads", {}), cycle(("--", ":")), strict=False):
        values = [record["heads"][head] for record in records]
        ax.plot(iterations, values, label=f"mean of the {head} head", color="#5d636b", linestyle=style)
    means = [record[training.score] for record in records]
    ax.plot(iterations, means, label="mean", color="#111315", linewidth=2, marker="o")
    ax.set_ylim(0, 1)
    _finish(ax)


def _finish(ax: Axes) -> None:
    ax.set_xlabel("iteration")
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    columns = 2 if len(ax.get_legend_handles_labels()[0]) > 8 else 1
    ax.legend(frameon=False, fontsize=7, ncols=columns)
