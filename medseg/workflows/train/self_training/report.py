"""The page of a run with rounds: curves, tables, and pictures of the pseudo-labels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from medseg.atomic import write_whole
from medseg.workflows.reports.drawing import colors
from medseg.workflows.reports.html import card, duration, machine, number, page, picture, png, table
from medseg.workflows.train.self_training import report_figures

HUES = {"axial": "#1971c2", "coronal": "#2f9e44", "sagittal": "#9c36b5", "volume": "#8a8f98", "fused": "#d9480f"}


@dataclass
class Round:
    """What came of a round.

    Args:
        number: 0 is the teacher's.
        pseudo: figures of the pseudo-labels that it was trained on (`rounds_figures.figures`); None for the teacher.
        dice: on the validation cases: view, and "fused" -> mean over the structures; empty without such cases.
        classes: structure -> Dice of the fused labels on them.
        pictures: case -> what `rounds_pictures.keep_slices` wrote.
        seconds: of training, of predicting and fusing.
    """

    number: int
    pseudo: dict[str, Any] | None = None
    dice: dict[str, float] = field(default_factory=dict)
    classes: dict[str, float | None] = field(default_factory=dict)
    pictures: dict[str, Path] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Story:
    """What the page says of the whole run.

    Args:
        title: name of the pipeline.
        views: of the networks.
        structures: names of the foreground classes.
        planned: rounds that were asked for.
        counts: section -> cases.
        ct: whether the scans are CT.
        notes: lines that were said.
        drawn_ml: structure -> mean volume in the labelled cases; empty if it is not known.
    """

    title: str
    views: tuple[str, ...]
    structures: tuple[str, ...]
    planned: int
    counts: Mapping[str, int]
    ct: bool
    notes: Sequence[str] = ()
    drawn_ml: Mapping[str, float] = field(default_factory=dict)


def curves(rounds: Sequence[Round], story: Story) -> bytes:
    """PNG: validation Dice, agreement and change, and volumes over the rounds."""
    figure = Figure(figsize=(12, 3.6), dpi=100, layout="constrained")
    dice, agreement, volume = figure.subplots(1, 3)
    for name in (*story.views, "fused"):
        points = [(each.number, each.dice[name]) for each in rounds if name in each.dice]
        style = {"lw": 2.4, "ms": 6} if name == "fused" else {"lw": 1.2, "ms": 4}
        _line(dice, points, name, HUES[name], style)
    labelled = [each for each in rounds if each.pseudo is not None]
    for key, hue in (("agreement", "#1971c2"), ("diversity", "#e8590c"), ("changed", "#5d636b")):
        points = [(r.number, r.pseudo[key]) for r in labelled if r.pseudo and r.pseudo[key] is not None]
        _line(agreement, points, key, hue, {})
    for structure, hue in zip(story.structures, colors(len(story.structures)), strict=True):
        points = [(r.number, r.pseudo["volume_ml"][structure]) for r in labelled if r.pseudo]
        _line(volume, points, structure, hue, {})
    dice.set(title="Dice on the validation cases", ylim=(0, 1))
    agreement.set(title="pseudo-labels: share of voxels", ylim=(0, 1))
    volume.set(title="pseudo-labels: mean volume, ml")
    volume.set_yscale("symlog", linthresh=1)  # a liver and an adrenal gland on one axis
    for ax in (dice, agreement, volume):
        ax.set(xlabel="round", xticks=range(story.planned + 1))
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
        if ax.has_data():
            ax.legend(frameon=False, fontsize=7, ncols=2 if ax is volume and len(story.structures) > 6 else 1)
        else:
            ax.text(0.5, 0.5, "nothing to show yet", transform=ax.transAxes, ha="center", color="#5d636b")
    return png(figure)


def _line(ax: Axes, points: Sequence[tuple[int, float]], label: str, hue: Any, style: Mapping[str, Any]) -> None:
    if points:
        x, y = zip(*points, strict=True)
        ax.plot(x, y, marker="o", color=hue, label=label, **{"ms": 4, **style})


def parts(rounds: Sequence[Round], story: Story, drawn: bytes) -> Iterator[str]:
    """The page in HTML; `drawn` is the picture of `curves`."""
    yield _head(rounds, story)
    if story.notes:
        yield "<h2>Notes</h2><ul>" + "".join(f"<li>{escape(line)}</li>" for line in story.notes) + "</ul>"
    yield "<h2>Round by round</h2>" + picture(
        drawn,
        "Agreement: of the voxels in which any view finds a structure, those in which all views give the same label. "
        "Diversity: of all voxels, those with any disagreement. Changed: of all voxels, those that differ from the "
        "pseudo-label of the round before. Volumes: mean over the unlabelled cases.",
    )
    if any(each.dice for each in rounds):
        yield _dice(rounds, story)
    labelled = [each for each in rounds if each.pseudo is not None]
    if labelled:
        yield _pseudo(labelled)
        yield _volumes(labelled, story)
    shown = {each.number: list(each.pictures.values()) for each in labelled if each.pictures}
    if shown:
        names = list(next(each for each in labelled if each.pictures).pictures)
        slices = report_figures.draw(shown, names, story.structures, ct=story.ct)
        words = "The same planes in every round, of the first, the middle and the last unlabelled case by name."
        yield "<h2>Pseudo-labels</h2>" + picture(slices, f"{words} The patient's right is on the left.")
    yield _time(rounds)


def _head(rounds: Sequence[Round], story: Story) -> str:
    counts = story.counts
    last = max(each.number for each in rounds if "training" in each.seconds)
    cards = "".join(
        card(f"fused, round {each.number}" if each.number else "fused, teacher", number(each.dice["fused"], 3))
        for each in rounds
        if each.dice
    )
    note = (
        "Mean Dice on the validation cases." if cards else "No validation case has a label: there is no Dice to show."
    )
    return f"""<h1>{escape(story.title)}: {len(story.views)} views, {last} of {story.planned} rounds</h1>
<p>{counts["labeled"]} labelled and {counts["unlabeled"]} unlabelled cases, {counts["validation"]} for validation. One
network for each of {", ".join(story.views)}; each round labels the unlabelled cases with the networks of the round
before and trains the networks of the next on both.</p><div class="cards">{cards}</div>
<p class="soft">{note}</p>"""


def _dice(rounds: Sequence[Round], story: Story) -> str:
    names = (*story.views, "fused")
    scored = [each for each in rounds if each.dice]
    heads = ("Dice", *(f"round {each.number}" if each.number else "teacher" for each in scored))
    rows = [(name, *(number(each.dice.get(name), 3) for each in scored)) for name in names]
    organs = [(escape(s), *(number(each.classes.get(s), 3) for each in scored)) for s in story.structures]
    return (
        "<h2>Validation: mean over the structures, per view and fused</h2>"
        + table(heads, rows, last=True)
        + "<h2>Validation: fused, per structure</h2>"
        + table(heads, organs)
    )


def _pseudo(rounds: Sequence[Round]) -> str:
    keys = {
        "agreement": "agreement of the views", "diversity": "diversity", "all_differ": "no two views agree",
        "ignored": "left out", "changed": "changed since the round before", "dice_to_last": "Dice to the round before",
    }  # fmt: skip
    rows = [(words, *(number((each.pseudo or {})[key], 4) for each in rounds)) for key, words in keys.items()]
    empty = ("cases without any structure", *(str(len((each.pseudo or {})["empty"])) for each in rounds))
    return "<h2>Pseudo-labels in figures</h2>" + table(
        ("", *(f"round {each.number}" for each in rounds)), [*rows, empty]
    )


def _volumes(rounds: Sequence[Round], story: Story) -> str:
    heads = ("", "labelled cases", *(f"round {r.number}" for r in rounds))
    found = [[(each.pseudo or {})["volume_ml"][s] for each in rounds] for s in story.structures]
    drawn = [story.drawn_ml.get(s) for s in story.structures]
    rows = [
        (escape(s), *(number(v, 1) for v in (d, *f))) for s, d, f in zip(story.structures, drawn, found, strict=True)
    ]
    return (
        "<h2>Mean volume in labels and pseudo-labels, ml</h2>"
        + table(heads, rows)
        + '<p class="soft">Where pseudo-labels have less, the networks miss more than they invent, and it is taught as '
        "background. Where they have more and it grows by the round, structures swell.</p>"
    )


def _time(rounds: Sequence[Round]) -> str:
    steps = list(dict.fromkeys(step for each in rounds for step in each.seconds))
    rows = [(f"round {r.number}", *(duration(r.seconds[s]) if s in r.seconds else "-" for s in steps)) for r in rounds]
    return f'<h2>Time</h2>{table(("", *steps), rows)}<p class="soft">{escape(machine())}.</p>'


def write_summary(folder: Path, rounds: Sequence[Round], story: Story) -> Path:
    """Write `metrics.jsonl`, `tensorboard/rounds`, `summary.png` and `summary.html` into the run's folder.

    Everything is written whole from what is known, so that a resumed run leaves the same as an unbroken one.

    Raises:
        OutputError: a file cannot be written.
    """
    records = list(_records(rounds))
    write_whole(folder / "metrics.jsonl", "".join(json.dumps(r, allow_nan=False) + "\n" for r in records))
    board = folder / "tensorboard" / "rounds"
    shutil.rmtree(board, ignore_errors=True)
    with SummaryWriter(str(board)) as writer:
        for record in records:
            for name, value in _scalars(record):
                writer.add_scalar(f"rounds/{name}", value, record["round"])
    drawn = curves(rounds, story)
    write_whole(folder / "summary.png", drawn)
    return write_whole(folder / "summary.html", page(f"medseg: {story.title}", parts(rounds, story, drawn)))


def _records(rounds: Sequence[Round]) -> Iterator[dict[str, Any]]:
    for each in rounds:
        if each.pseudo is not None:
            yield {"round": each.number, "kind": "pseudo", **each.pseudo}
        if each.dice:
            yield {"round": each.number, "kind": "validation", "dice": each.dice, "classes": each.classes}


def _scalars(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in record.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        for name, v in inner:
            if isinstance(v, float):
                yield "/".join(part for part in (record["kind"], key, name) if part), v
