"""The folder of a run: whether it may be used, and how good the model in it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg.engine import distributed
from medseg.errors import ConfigError, OutputError
from medseg.progress import say
from medseg.workflows.train import settings
from medseg.workflows.train.self_training.validation_scores import FUSED

RECORD = "run.json"

SHOWN_STRUCTURES = 4
"""Structures that are named; of more of them only the worst are."""


def claim(output: Path, *, resume: bool, fingerprint: str) -> None:
    """See that the folder is free, or holds the run to resume; a run that never took a step is started anew."""
    if distributed.rank() == 0:
        record = output / RECORD
        if output.exists() and not output.is_dir():
            raise OutputError("is a file; a run needs a folder", path=output)
        if not record.exists() and output.is_dir() and not all(_is_round(path) for path in output.iterdir()):
            raise OutputError("is not empty and holds no run", path=output, hint="choose another --output")
        begun = (output / "bundle").exists() or any(output.glob("**/last.pt"))
        if not record.exists() and resume:
            say(f"{output}: there is no run to continue; a new one begins")
        if record.exists() and not begun:
            # the record stays: without it a run that is stopped again would leave a folder that is taken for another's
            (output / "pipeline.yaml").unlink(missing_ok=True)
        elif record.exists() and not resume:
            raise OutputError("holds a run already", path=output, hint="--resume to continue it, or another --output")
        elif record.exists() and _recorded(record) != fingerprint:
            raise ConfigError(
                "this run was started with another task, manifest, --method, --set or --budget",
                path=output,
                hint="resume with the same command, or choose another --output",
            )
    distributed.barrier()


def _is_round(path: Path) -> bool:
    """Whether this is a round of some run: what is finished in it is used where it is the same."""
    return path.is_dir() and path.name.startswith("round") and path.name.removeprefix("round").isdigit()


def _recorded(record: Path) -> str:
    try:
        return str(json.loads(record.read_text(encoding="utf-8"))["fingerprint"])
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError("is damaged", path=record, hint="start again in another folder") from error


def describe_validation(run: Path) -> str:
    """The validation Dice of the model that a run folder holds, as a phrase.

    Args:
        run: folder of a finished run.
    """
    content, source = settings.read_task(str(run))
    pipeline = settings.check(content, source)  # only read: its methods need not be here
    last = len(pipeline.stages) - 1
    folder = run if last == 0 else run / f"stage{last}"
    log = folder / "metrics.jsonl"
    if not log.is_file():
        return f"no validation Dice: {log} is gone"
    validations = _read_validations(log)
    if not validations:
        return "no validation Dice: no validation case has a label"
    if "round" in validations[-1]:
        best = validations[-1]
        dice = best["dice"][FUSED]
        several_views = len(best["dice"]) > 2  # each view's, and the fused
        place = f"after round {best['round']}"
        place = f"of all views together {place}" if several_views else place
    else:
        best = max(validations, key=lambda record: record["dice"])  # of equal ones the first, as the bundle has
        dice = best["dice"]
        place = f"at iteration {best['iteration']} of {pipeline.stages[last].schedule.iterations}"
    return f"validation Dice {dice:.3f} {place} ({_describe_structures(best['classes'])})"


def _read_validations(log: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [record for record in records if record["kind"] == "validation"]


def _describe_structures(classes: Mapping[str, float | None]) -> str:
    scored = [(name, dice) for name, dice in classes.items() if dice is not None]
    if not scored:
        return "no structure in any case"
    prefix = ""
    if len(scored) > SHOWN_STRUCTURES:
        prefix = f"{len(scored)} structures; lowest: "
        scored = sorted(scored, key=lambda pair: pair[1])[:SHOWN_STRUCTURES]
    return prefix + ", ".join(f"{name} {dice:.3f}" for name, dice in scored)
