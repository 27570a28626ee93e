"""The report page of a self-training run: curves, tables, and slices of the pseudo-labels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from medseg.atomic import write_whole
from medseg.workflows.reports.formatting import describe_computer, format_duration, format_number
from medseg.workflows.reports.overlay import class_colors, encode_png
from medseg.workflows.reports.pages import Table, data_uri, render_page
from medseg.workflows.train.self_training.report.added_images import draw_added_images
from medseg.workflows.train.self_training.report.figures import draw_pseudo_labels
from medseg.workflows.train.self_training.report.measured_table import measured_table
from medseg.workflows.train.self_training.report.rounds import Round, RunDescription

VIEW_COLORS = {
    "axial": "#1971c2",
    "coronal": "#2f9e44",
    "sagittal": "#9c36b5",
    "volume": "#8a8f98",
    "fused": "#d9480f",
}
SHARES = {"agreement": "#1971c2", "diversity": "#e8590c", "changed": "#5d636b"}
"""Statistics of pseudo-labels that are shares of voxels, and the colours of their curves."""

STATISTICS = {
    "agreement": "agreement of the views",
    "diversity": "diversity",
    "all_differ": "no two views agree",
    "ignored": "ignored",
    "changed": "changed since the round before",
    "dice_to_last": "Dice to the round before",
}
"""Rows of the table of pseudo-labels."""


def write_summary(folder: Path, rounds: Sequence[Round], run: RunDescription) -> Path:
    """Write `metrics.jsonl`, `tensorboard/rounds`, `summary.png` and `summary.html` into the run's folder.

    Every file is written whole from the results so far, so that a resumed run leaves the same as an unbroken one.

    Raises:
        OutputError: a file cannot be written.
    """
    records = list(_records(rounds))
    lines = [json.dumps(record, allow_nan=False) + "\n" for record in records]
    write_whole(folder / "metrics.jsonl", "".join(lines))
    _write_tensorboard(folder / "tensorboard" / "rounds", records)
    curves = draw_curves(rounds, run)
    write_whole(folder / "summary.png", curves)
    return write_whole(folder / "summary.html", render_summary(rounds, run, curves))


def render_summary(rounds: Sequence[Round], run: RunDescription, curves: bytes) -> str:
    """The page as HTML.

    Args:
        rounds: results so far.
        run: the whole run.
        curves: PNG that `draw_curves` made.
    """
    scored = [each for each in rounds if each.dice]
    labelled = [each for each in rounds if each.pseudo is not None]
    added = {each.number: each.added for each in labelled if each.added}
    slices = None if added else _draw_slices(labelled, run)
    return render_page(
        "self_training.html",
        title=f"medseg: {run.title}",
        run=run,
        trained=max(each.number for each in rounds if "training" in each.seconds),
        scored=scored,
        labelled=labelled,
        curves=data_uri(curves),
        dice_of_views=_dice_of_views(scored, run),
        dice_of_structures=_dice_of_structures(scored, run),
        pseudo_labels=_pseudo_labels(labelled),
        volumes=_volumes(labelled, run),
        precision=_precision(labelled, run),
        measured=_measured(labelled),
        slices=data_uri(slices) if slices else None,
        added=data_uri(draw_added_images(added)) if added else None,
        times=_times(rounds),
        computer=describe_computer(),
    )


def draw_curves(rounds: Sequence[Round], run: RunDescription) -> bytes:
    """PNG: validation Dice, agreement and change, volumes, and precision where rules are judged, over the rounds."""
    judged = _judged([each for each in rounds if each.pseudo is not None])
    panels = 4 if judged else 3
    figure = Figure(figsize=(4 * panels, 3.6), dpi=100, layout="constrained")
    dice, shares, volume, *more = figure.subplots(1, panels)
    for name in (*run.views, "fused"):
        width, size = (2.4, 6) if name == "fused" else (1.2, 4)
        values = {each.number: each.dice.get(name) for each in rounds}
        _draw_curve(dice, values, label=name, color=VIEW_COLORS[name], linewidth=width, markersize=size)
    labelled = [each for each in rounds if each.pseudo is not None]
    for key, color in SHARES.items():
        values = {each.number: each.statistics[key] for each in labelled}
        _draw_curve(shares, values, label=key, color=color)
    for structure, color in zip(run.structures, class_colors(len(run.structures)), strict=True):
        values = {each.number: each.statistics["volume_ml"][structure] for each in labelled}
        _draw_curve(volume, values, label=structure, color=color)
    dice.set(title=f"{run.score} on the validation cases", ylim=(0, 1))
    shares.set(title="pseudo-labels: share of voxels", ylim=(0, 1))
    size_name = "volume" if run.unit == "ml" else "size"
    volume.set(title=f"pseudo-labels: mean {size_name}, {run.unit}")
    volume.set_yscale("symlog", linthresh=1)  # a liver and an adrenal gland on one axis
    for ax in more:
        for structure, color in zip(run.structures, class_colors(len(run.structures)), strict=True):
            values = {each.number: each.statistics["precision"].get(structure) for each in judged}
            _draw_curve(ax, values, label=structure, color=color)
        ax.set(title="pseudo-labels: precision, validation cases", ylim=(0, 1))
    for ax in (dice, shares, volume, *more):
        two_columns = ax not in (dice, shares) and len(run.structures) > 6
        _finish_axes(ax, run.planned, legend_columns=2 if two_columns else 1)
    return encode_png(figure)


def _draw_curve(ax: Axes, values: Mapping[int, float | None], **style: Any) -> None:
    """Values over the rounds, without those that are None."""
    points = {number: value for number, value in values.items() if value is not None}
    if points:
        ax.plot(list(points), list(points.values()), marker="o", **{"markersize": 4, **style})


def _finish_axes(ax: Axes, rounds: int, *, legend_columns: int) -> None:
    ax.set(xlabel="round", xticks=range(rounds + 1))
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    if ax.has_data():
        ax.legend(frameon=False, fontsize=7, ncols=legend_columns)
    else:
        ax.text(0.5, 0.5, "nothing to show yet", transform=ax.transAxes, ha="center", color="#5d636b")


def _draw_slices(labelled: Sequence[Round], run: RunDescription) -> bytes | None:
    """PNG of the kept slices; None where no round has any."""
    shown = [each for each in labelled if each.slices]
    if not shown:
        return None
    files = {each.number: list(each.slices.values()) for each in shown}
    return draw_pseudo_labels(files, list(shown[0].slices), run.structures, ct=run.ct)


def _dice_of_views(scored: Sequence[Round], run: RunDescription) -> Table:
    rows = []
    for name in (*run.views, "fused"):
        dice = [each.dice.get(name) for each in scored]
        rows.append(_number_row(name, dice, 3))
    return Table([run.score, *_round_names(scored)], rows, total=True)


def _dice_of_structures(scored: Sequence[Round], run: RunDescription) -> Table:
    rows = []
    for name in run.structures:
        dice = [each.classes.get(name) for each in scored]
        rows.append(_number_row(name, dice, 3))
    return Table([run.score, *_round_names(scored)], rows)


def _pseudo_labels(labelled: Sequence[Round]) -> Table:
    rows = []
    for key, words in STATISTICS.items():
        values = [each.statistics[key] for each in labelled]
        rows.append(_number_row(words, values, 4))
    empty_cases = [str(len(each.statistics["empty"])) for each in labelled]
    rows.append(["cases without any structure", *empty_cases])
    return Table(["", *_round_names(labelled)], rows)


def _judged(labelled: Sequence[Round]) -> list[Round]:
    """Rounds whose rule was judged by validation cases."""
    return [each for each in labelled if "precision" in each.statistics]


def _precision(labelled: Sequence[Round], run: RunDescription) -> Table | None:
    """How right the pseudo-labels are by validation cases, and how much is kept; None where rules are not judged."""
    judged = _judged(labelled)
    if not judged:
        return None
    rows = []
    for key, words in (("precision", "right"), ("kept_share", "kept")):
        for name in judged[0].statistics[key]:
            shares = [each.statistics[key].get(name) for each in judged]
            rows.append(_number_row(f"{name}, {words}", shares, 3))
    left_out = [each.statistics.get("left_out", ()) for each in judged]
    if any(left_out):
        rows.append(["nothing added of", *(", ".join(names) or "-" for names in left_out)])
    return Table([f"share of {run.samples}", *_round_names(judged)], rows)


def _measured(labelled: Sequence[Round]) -> Table | None:
    """The pseudo-labels against the labels of their cases; None where these stay closed."""
    found = {}
    for each in labelled:
        if "measured" in each.statistics:
            found[f"round {each.number}"] = each.statistics["measured"]
    return measured_table(found)


def _volumes(labelled: Sequence[Round], run: RunDescription) -> Table:
    rows = []
    for name in run.structures:
        volumes = [run.labelled_ml.get(name)]
        volumes += [each.statistics["volume_ml"][name] for each in labelled]
        rows.append(_number_row(name, volumes, 1))
    return Table(["", "labelled cases", *_round_names(labelled)], rows)


def _round_names(rounds: Sequence[Round]) -> list[str]:
    return [f"round {each.number}" if each.number else "teacher" for each in rounds]


def _number_row(name: str, values: Sequence[float | None], digits: int) -> list[str]:
    return [name, *(format_number(value, digits) for value in values)]


def _times(rounds: Sequence[Round]) -> Table:
    steps: list[str] = []
    for each in rounds:
        steps += [step for step in each.seconds if step not in steps]
    rows = []
    for each in rounds:
        row = [f"round {each.number}"]
        for step in steps:
            row.append(format_duration(each.seconds[step]) if step in each.seconds else "-")
        rows.append(row)
    return Table(["", *steps], rows)


def _write_tensorboard(folder: Path, records: Sequence[Mapping[str, Any]]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with SummaryWriter(str(folder)) as writer:
        for record in records:
            for name, value in _scalars(record):
                writer.add_scalar(f"rounds/{name}", value, record["round"])


def _records(rounds: Sequence[Round]) -> Iterator[dict[str, Any]]:
    """What `metrics.jsonl` holds, a line each."""
    for each in rounds:
        if each.pseudo is not None:
            yield {"round": each.number, "kind": "pseudo", **each.pseudo}
        if each.dice:
            yield {"round": each.number, "kind": "validation", "dice": each.dice, "classes": each.classes}


def _scalars(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Names and values of the numbers with a decimal point in a record."""
    yield from _numbers(record["kind"], record)


def _numbers(place: str, content: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Nested numbers with a decimal point, with the names of those around them before theirs."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _numbers(f"{place}/{key}", value)
        elif isinstance(value, float):
            yield f"{place}/{key}", value
