"""What stages are called where some are repeated."""

from __future__ import annotations

from medseg.config.pipeline import Pipeline


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
        stages = "1 stage" if repeat.stages == 1 else f"{repeat.stages} stages"
        text = f"{repeat.passes} passes of {stages}"
        if repeat.stop_dice is not None:
            text += f" at most; ends where pseudo-labels agree by a Dice above {repeat.stop_dice:g}"
        rows[f"stages {repeat.first} to {repeat.end - 1}"] = text
    return rows
