"""The validation scores of the weights that a run's bundle holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from medseg.bundle.training_facts import ValidationFacts
from medseg.config.pipeline import DataSpec
from medseg.manifest.manifest import Manifest
from medseg.records import read_record
from medseg.workflows.train.self_training.validation_scores import FUSED


def validation_of(folder: Path, manifest: Manifest, data: DataSpec) -> ValidationFacts | None:
    """What the log of a finished run says; None where no validation case has a label.

    Args:
        folder: of the run.
        manifest: its data set.
        data: what the plan decided about the data.
    """
    cases = [case for case in manifest.validation if case.is_labelled]
    found = _scores(_last_stage(folder)) if cases else None
    if found is None:
        return None
    mean, structures = found
    metric: Literal["Dice", "recall"] = "recall" if data.target == "images" else "Dice"
    return ValidationFacts(cases=len(cases), metric=metric, mean=round(mean, 5), structures=structures)


def _last_stage(folder: Path) -> Path:
    """The folder of the stage that was trained last; of a run of one stage the run's own."""
    stages = [path for path in folder.glob("stage*") if path.name.removeprefix("stage").isdigit()]
    trained = [path for path in stages if (path / "metrics.jsonl").exists() or (path / "round0").exists()]
    return max(trained, key=lambda path: int(path.name.removeprefix("stage")), default=folder)


def _scores(stage: Path) -> tuple[float, dict[str, float | None]] | None:
    """The mean and the score of each structure: of the last round, or of the best validation."""
    rounds = [path for path in stage.glob("round*/scores.json") if path.parent.name.removeprefix("round").isdigit()]
    if rounds:
        last = max(rounds, key=lambda path: int(path.parent.name.removeprefix("round")))
        notes = read_record(last).get("notes", {})
        mean = notes.get("dice", {}).get(FUSED)
        return None if mean is None else (mean, notes["classes"])
    best: tuple[float, dict[str, float | None]] | None = None
    for record in _validations(stage / "metrics.jsonl"):
        mean = record.get("dice", record.get("balanced_accuracy"))
        if mean is not None and (best is None or mean > best[0]):  # the first of equal ones, as the weights
            best = mean, record["classes"]
    return best


def _validations(log: Path) -> list[dict[str, Any]]:
    if not log.exists():
        return []
    records = [json.loads(line) for line in log.read_text("utf-8").splitlines() if line]
    return [record for record in records if record["kind"] == "validation"]
