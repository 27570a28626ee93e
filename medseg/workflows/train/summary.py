"""What `train` says when it is done: how good the model is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg.workflows.train import settings
from medseg.workflows.train.self_training.validation_scores import FUSED

SHOWN = 4
"""Structures that are named; of more of them only the worst are."""


def validation_words(run: Path) -> str:
    """The validation Dice of the model that a run folder holds.

    Args:
        run: folder of a finished run.
    """
    pipeline = settings.check(*settings.read_task(str(run)))  # only read: its methods need not be here
    last = len(pipeline.stages) - 1
    stage = pipeline.stages[last]
    folder = run if last == 0 else run / f"stage{last}"
    log = folder / "metrics.jsonl"
    if not log.is_file():
        return f"no validation Dice: {log} is gone"
    records = [record for record in _records(log) if record["kind"] == "validation"]
    if not records:
        return "no validation Dice: no validation case has a label"
    if "round" in records[-1]:
        found = records[-1]
        together = "of all views together " if len(found["dice"]) > 2 else ""  # each view's, and the fused
        dice, where = found["dice"][FUSED], f"{together}after round {found['round']}"
    else:
        found = max(records, key=lambda record: record["dice"])  # of equal ones the first, as the bundle has
        dice, where = found["dice"], f"at iteration {found['iteration']} of {stage.schedule.iterations}"
    return f"validation Dice {dice:.3f} {where} ({_structures(found['classes'])})"


def _records(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def _structures(classes: Mapping[str, float | None]) -> str:
    known = {name: dice for name, dice in classes.items() if dice is not None}
    if len(known) <= SHOWN:
        return ", ".join(f"{name} {dice:.3f}" for name, dice in known.items()) or "no structure in any case"
    worst = sorted(known.items(), key=lambda pair: pair[1])[:SHOWN]
    return f"{len(known)} structures; lowest: " + ", ".join(f"{name} {dice:.3f}" for name, dice in worst)
