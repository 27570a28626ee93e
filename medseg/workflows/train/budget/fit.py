"""`--budget 25m`: a plan that fits, then as many iterations as end in time, by steps timed as they really run.

The number of iterations is fixed once and written to the run's `pipeline.yaml`: schedule and batches stay functions of
the iteration alone, so that a resumed or repeated run is the same run.
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from medseg import methods
from medseg.config.pipeline import DataSpec, Pipeline
from medseg.cores import CoreUse
from medseg.manifest.manifest import Manifest
from medseg.ops.processes import alone
from medseg.progress import say
from medseg.workflows.train.budget.choose import choose_plan
from medseg.workflows.train.budget.costs.measure import Workplace, measure_costs, typical_case
from medseg.workflows.train.budget.sizing import Sizing, describe_budget, describe_losses
from medseg.workflows.train.budget.time_plan import StageCosts, StageLength, fit_stages
from medseg.workflows.train.encoder import Start
from medseg.workflows.train.facts.measure import (
    StructureSizes,
    cases_to_open,
    evenly_spread,
    measure_image,
    measure_label,
)
from medseg.workflows.train.postprocessing.run import MOST_PICTURES, draw_validation_case
from medseg.workflows.train.self_training.validation_scores import read_reference

PROBE_SECONDS = 20.0
PROBE_SHARE = 0.03
PROBE_MOST = 0.08
"""Steps are timed for so many seconds or so much of the budget, whichever is longer, but for no more than this."""

STARTING_SECONDS = 8.0
"""From the command to its first work, for a plan that is trained by another command later."""

ENDING_SECONDS = 1.5
"""From the bundle to the end of the command."""

KEPT_BACK = 0.01
"""Part of the time that is not planned for: steps differ a little."""

PAGE_SECONDS = 4.0
"""To import the library that draws, and for curves and page."""

LEAST_VOXELS = 64
"""A cube of four voxels a side: of a structure with fewer little more than its place is learned."""
OPENED = 3
"""Labels that are opened at most."""


def fit_budget(
    planned: Pipeline,
    manifest: Manifest,
    device: torch.device,
    *,
    seconds: float,
    given: Pipeline,
    sizing: Sizing,
    start: Start | None = None,
) -> Pipeline:
    """Choose what fits, and fix the number of iterations so that the command ends after about `seconds`.

    Args:
        planned: for unlimited time.
        manifest: the data set.
        device: where it will train.
        seconds: the budget of the whole command.
        given: the pipeline as the user gave it; what it says of the data stays.
        sizing: the run; gets what is to be said.
        start: model whose weights the first stage starts from.
    """
    begun = time.monotonic()
    spent = begun - sizing.began if sizing.output else STARTING_SECONDS
    chosen = planned
    if not methods.find(planned.stages[0].method.name).asks_previous:
        with alone():  # under torchrun the other processes wait for the plan
            chosen = choose_plan(
                planned,
                manifest,
                device,
                seconds=seconds - spent,
                given=given,
                keeps_network=start is not None or not sizing.leaves_bundle,
            )
    if sizing.before_preprocessing is not None:
        sizing.before_preprocessing(chosen)
    probe = min(max(PROBE_SECONDS, PROBE_SHARE * seconds), PROBE_MOST * seconds)
    with TemporaryDirectory(prefix="medseg-") as scratch:
        folder = Path(scratch)
        cache = sizing.output / "cache" if sizing.output else folder / "cache"
        place = Workplace(chosen, manifest, device, cache, sizing.output, folder, start=start.path if start else None)
        with alone():
            costs, use = measure_costs(place, probe)
            ending = ENDING_SECONDS + (measure_closing(place) if sizing.leaves_bundle else 0.0)
    if sizing.output:
        spent = time.monotonic() - sizing.began
    left = seconds - spent - ending
    fitted, lengths = _fix_iterations(planned, chosen, costs, left * (1 - KEPT_BACK))
    end = spent + sum(length.seconds for length in lengths) + ending
    losses = describe_losses(planned, fitted)
    if (small := describe_small_structures(planned, fitted, manifest)) is not None:
        losses.append(small)
    sizing.rows["budget"] = describe_budget(seconds, spent, end, trains_now=sizing.output is not None)
    sizing.rows["given up for it"] = "; ".join(losses) or "nothing"
    _say_busy(use, device, fitted)
    return fitted


def measure_closing(place: Workplace) -> float:
    """Seconds from the export of the bundle until the command ends, without the predictions of validation cases.

    They go into the facts that a bundle keeps, pictures, and the page.

    Args:
        place: the pipeline, its data and folders.

    Raises:
        DataError: a file that cannot be read.
    """
    manifest, data = place.manifest, DataSpec(**place.pipeline.data)
    labelled, images = cases_to_open(place.pipeline, manifest, data)
    seconds = PAGE_SECONDS
    for cases, opened in ((labelled, measure_label), (images, measure_image)):
        if cases:
            case, share = typical_case(manifest, cases)
            began = time.monotonic()
            opened(manifest, case)
            seconds += len(cases) * share * (time.monotonic() - began)
    validation = [case for case in manifest.validation if case.label]
    if validation and place.pipeline.postprocessing == "auto":
        case, share = typical_case(manifest, validation)
        reference = read_reference(manifest, case)
        picture = place.scratch / "picture.png"
        draw_validation_case(picture, manifest, case, reference, reference)  # the first one imports the library
        began = time.monotonic()
        draw_validation_case(picture, manifest, case, reference, reference)
        seconds += min(len(validation), MOST_PICTURES) * share * (time.monotonic() - began)
    return seconds


def describe_small_structures(planned: Pipeline, chosen: Pipeline, manifest: Manifest) -> str | None:
    """What becomes too small by the spacing that was chosen; None where nothing does.

    Args:
        planned: for unlimited time.
        chosen: for the budget.
        manifest: the data set.

    Raises:
        DataError: a label that cannot be read.
    """
    before, after = DataSpec(**planned.data), DataSpec(**chosen.data)
    if before.spacing_mm == after.spacing_mm or after.target == "images":
        return None
    labelled, _ = cases_to_open(chosen, manifest, after)
    found = StructureSizes(manifest, "ml")
    for case in evenly_spread(labelled, OPENED):
        found.add(case)
    small = []
    for value, sizes in found.sizes.items():
        there = [size for size in sizes if size > 0]
        if not there:
            continue
        volume_mm3 = 1000 * float(np.median(there))
        was = volume_mm3 / np.prod(before.spacing_mm)
        remains = volume_mm3 / np.prod(after.spacing_mm)
        if remains < LEAST_VOXELS <= was:
            small.append((remains, f"{after.labels[value]} {remains:.0f}"))
    if not small:
        return None
    words = [text for _, text in sorted(small)]
    return f"expect little of what has only few voxels left: {', '.join(words)}"


def _fix_iterations(
    planned: Pipeline, chosen: Pipeline, costs: list[StageCosts], left: float
) -> tuple[Pipeline, list[StageLength]]:
    """The chosen plan with as many iterations as end in the time that is left, no more than planned."""
    lengths = fit_stages(
        costs,
        left,
        most=[stage.schedule.iterations for stage in planned.stages],
        every=[stage.schedule.validate_every for stage in planned.stages],
    )
    stages = []
    for stage, length in zip(chosen.stages, lengths, strict=True):
        fitted = stage.with_iterations(length.iterations)
        schedule = fitted.schedule.model_copy(update={"validate_every": length.validate_every})
        stages.append(fitted.model_copy(update={"schedule": schedule}))
    return chosen.model_copy(update={"stages": tuple(stages)}), lengths


def _say_busy(use: CoreUse, device: torch.device, fitted: Pipeline) -> None:
    """One line where other programs take a part of the cores: the plan is that of an idle machine, but shorter."""
    if device.type != "cpu" or not use.is_contended:
        return
    cores = "the core" if use.cores == 1 else f"the {use.cores} cores"
    iterations = " and ".join(str(stage.schedule.iterations) for stage in fitted.stages)
    say(
        f"warning: the machine is busy: while steps were timed, other programs took {use.share_of_others:.0%} of "
        f"{cores} that training may use. Resolution, width and patch are those of an idle machine; "
        f"to end in time there are fewer iterations than it would have: {iterations}"
    )
