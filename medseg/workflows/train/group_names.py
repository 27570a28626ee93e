"""What stages are called where some are repeated."""

from __future__ import annotations

from medseg.config import Pipeline


def name_of_stage(pipeline: Pipeline, index: int) -> str:
    """What a stage is called: "stage 2", or "stage 2 (pass 1 of 3)"."""
    found = pipeline.repeat_of(index)
    if found is None:
        return f"stage {index}"
    repeat, number = found
    return f"stage {index} (pass {number} of {repeat.passes})"


def describe_groups(pipeline: Pipeline) -> dict[str, str]:
    """For the plan: stages -> how often they are repeated."""
    rows = {}
    for repeat in pipeline.repeats:
        passes = f"{repeat.passes} passes of {repeat.stages} stages"
        stop = f", at most; ends where pseudo-labels agree by a Dice above {repeat.stop_dice:g}"
        rows[f"stages {repeat.first} to {repeat.end - 1}"] = passes + (stop if repeat.stop_dice else "")
    return rows
