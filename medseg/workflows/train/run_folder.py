"""The folder of a run: whether it may be used, and how good the model in it is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.config.former_pipelines import is_former
from medseg.engine import distributed
from medseg.errors import ConfigError, OutputError
from medseg.portable.io.write import remove_leftovers
from medseg.progress import say
from medseg.records import Record, read_record
from medseg.workflows.train import settings
from medseg.workflows.train.self_training.validation_scores import FUSED

RUN, PLAN = "run.json", "plan.json"
"""Names of a run's record, and of the rows of its plan's table: title -> text."""

SHOWN_STRUCTURES = 4
"""Structures that are named; of more of them only the worst are."""


def claim(output: Path, record: Record, *, resume: bool) -> None:
    """See that the folder is free, or holds the run to resume; a run that never took a step is started anew.

    Args:
        output: the folder.
        record: of the run that was asked for.
        resume: whether it was asked to go on with a run.

    Raises:
        OutputError: the folder cannot be used.
        ConfigError: it holds the run of another command; says in what that one differs.
    """
    if distributed.rank() == 0:
        file = record.file
        if output.exists() and not output.is_dir():
            raise OutputError("is a file; a run needs a folder", path=output)
        remove_unfinished(output)
        if not file.exists() and output.is_dir() and not all(_is_round(path) for path in output.iterdir()):
            raise OutputError("is not empty and holds no run", path=output, hint="choose another --output")
        begun = (output / "bundle").exists() or any(output.glob("**/last.pt"))
        if not file.exists() and resume:
            say(f"{output}: there is no run to continue; a new one begins")
        if file.exists() and not begun:
            # the record stays: without it a run that is stopped again would leave a folder that is taken for another's
            (output / "pipeline.yaml").unlink(missing_ok=True)
        elif file.exists() and not resume:
            raise OutputError("holds a run already", path=output, hint="--resume to continue it, or another --output")
        elif file.exists() and _recorded_key(file) != record.key:
            if _is_former(output / "pipeline.yaml"):
                raise ConfigError(
                    "this run of dmpct was begun before version 0.2 and cannot be continued; its bundles can be used",
                    path=output,
                    hint="begin again in another --output",
                )
            options = "task, manifest, --method, --set, --fold or --budget"
            raise ConfigError(
                f"this run was started with another {options}: {record.difference()}",
                path=output,
                hint="resume with the same command, or choose another --output",
            )
    distributed.barrier()


def remove_unfinished(output: Path) -> None:
    """Remove what killed commands left half written, anywhere in a run's folder."""
    for folder in {left.parent for left in output.rglob(".medseg-*.tmp")}:
        remove_leftovers(folder)


def _is_round(path: Path) -> bool:
    """Whether this is a round of some run: what its records say is finished is taken, the rest is made again."""
    return path.is_dir() and path.name.startswith("round") and path.name.removeprefix("round").isdigit()


def _is_former(plan: Path) -> bool:
    """Whether a resolved pipeline is of a version that had other stages of DMPCT."""
    if not plan.is_file():
        return False
    content, _ = settings.read_task(str(plan))
    return any(is_former(stage) for stage in content.get("stages") or [])


def _recorded_key(file: Path) -> str:
    """Key of the run that a folder holds; `fingerprint` is its name before version 0.2."""
    found = read_record(file)
    key = found.get("key", found.get("fingerprint"))
    if key is None:
        raise OutputError("is damaged", path=file, hint="start again in another folder")
    return str(key)


def describe_validation(run: Path) -> str:
    """The validation Dice of the model that a run folder holds, or its balanced accuracy, as a phrase.

    Args:
        run: folder of a finished run.
    """
    content, source = settings.read_task(str(run))
    pipeline = settings.check(content, source)  # only read: its methods need not be here
    name, words = ("balanced_accuracy", "balanced accuracy") if pipeline.classifies else ("dice", "Dice")
    last = len(pipeline.stages) - 1
    folder = run if last == 0 else run / f"stage{last}"
    log = folder / "metrics.jsonl"
    if not log.is_file():
        return f"no validation {words}: {log} is gone"
    validations = _read_validations(log)
    if not validations:
        return f"no validation {words}: no validation case has a label"
    if "round" in validations[-1]:
        best = validations[-1]
        score = best["dice"][FUSED]  # of rounds the name whatever the score is
        several_views = len(best["dice"]) > 2  # each view's, and the fused
        place = f"after round {best['round']}"
        place = f"of all views together {place}" if several_views else place
    else:
        best = max(validations, key=lambda record: record[name])  # of equal ones the first, as the bundle has
        score = best[name]
        place = f"at iteration {best['iteration']} of {pipeline.stages[last].schedule.iterations}"
        place += _describe_head(best.get("head"), validations)
    return f"validation {words} {score:.3f} {place} ({_describe_structures(best['classes'])})"


def _describe_head(chosen: str | None, validations: Sequence[Mapping[str, Any]]) -> str:
    """Which head of the segmenter was chosen, and the best score of each other one; nothing where none was."""
    if chosen is None:
        return ""
    others = []
    for head in validations[-1]["heads"]:
        if head != chosen:
            others.append(f"{head} at best {max(record['heads'][head] for record in validations):.3f}")
    return f", of its {chosen} head ({', '.join(others)})"


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
