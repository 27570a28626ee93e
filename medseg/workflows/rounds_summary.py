"""What a run with rounds tells: `metrics.jsonl`, TensorBoard and a page, made anew from the records of its pieces."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from medseg.files import write_whole
from medseg.workflows.page import page
from medseg.workflows.rounds_page import Round, Story, curves, parts


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
