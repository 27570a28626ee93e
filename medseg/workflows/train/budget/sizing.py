"""What `--budget` asks for, and what it led to."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medseg.config.pipeline import DataSpec, Pipeline
from medseg.workflows.reports.formatting import format_duration


@dataclass
class Sizing:
    """The run that a plan is made for.

    Args:
        output: the run folder, whose cache gets the preprocessed cases; None: only a plan is made.
        began: moment of `time.monotonic` from which the budget counts.
        before_preprocessing: called with the plan before anything is written.
        leaves_bundle: whether a bundle is the product, with facts of its training and a page; an encoder has neither.

    Attributes:
        rows: title -> text, for the table of the plan.
    """

    output: Path | None = None
    began: float = field(default_factory=time.monotonic)
    before_preprocessing: Callable[[Pipeline], None] | None = None
    leaves_bundle: bool = True
    rows: dict[str, str] = field(default_factory=dict)


def describe_losses(planned: Pipeline, chosen: Pipeline) -> list[str]:
    """What was given up for the budget, in words.

    Args:
        planned: for unlimited time.
        chosen: for the budget.
    """
    before, after = DataSpec(**planned.data), DataSpec(**chosen.data)
    losses = []
    if before.spacing_mm != after.spacing_mm:
        losses.append(f"voxels of {_sides(after.spacing_mm)} mm instead of {_sides(before.spacing_mm)} mm")
    seen_before, seen_after = _extent(before), _extent(after)
    if any(new < 0.95 * old for old, new in zip(seen_before, seen_after, strict=True)):
        losses.append(f"patches of {_sides(seen_after)} mm instead of {_sides(seen_before)} mm")
    for index, (old, new) in enumerate(zip(planned.stages, chosen.stages, strict=True)):
        where = f" in stage {index}" if len(planned.stages) > 1 else ""
        if new.network.width < old.network.width:
            losses.append(f"width {new.network.width} instead of {old.network.width}{where}")
        if new.schedule.iterations < old.schedule.iterations:
            losses.append(f"{new.schedule.iterations} iterations instead of {old.schedule.iterations}{where}")
        if new.schedule.validate_every != old.schedule.validate_every:
            losses.append(f"a validation only every {new.schedule.validate_every} iterations{where}")
    return losses


def _extent(data: DataSpec) -> list[float]:
    return [round(size * mm, 1) for size, mm in zip(data.patch, data.spacing_mm, strict=True)]


def _sides(sides: Sequence[float]) -> str:
    if len(set(sides)) == 1:
        return f"{sides[0]:g}"
    return " x ".join(f"{side:g}" for side in sides)


def describe_budget(seconds: float, spent: float, end: float, *, trains_now: bool) -> str:
    """The budget and when the run will end.

    Args:
        seconds: the budget.
        spent: of it until the plan was made.
        end: expected, seconds from the beginning.
        trains_now: otherwise only the plan is made, and nothing of it counts.
    """
    text = f"{format_duration(seconds)}; training will end after about {format_duration(end)}"
    if trains_now:
        text += f", of which {format_duration(spent)} went into preprocessing and timing"
    if end > 1.05 * seconds:
        text += ": more than the budget, which is too short for anything less"
    return text
