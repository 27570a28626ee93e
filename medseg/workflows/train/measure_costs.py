"""What all stages of a pipeline cost on this machine: each is begun with a method that is thrown away."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from medseg import methods
from medseg.between_runs import RuleSpec
from medseg.bundle.join import write_joint_bundle
from medseg.config import Pipeline, Stage
from medseg.cores import CoreUse, usable_cores
from medseg.engine import checkpoint, distributed
from medseg.manifest.manifest import Case, Manifest, streams_of
from medseg.portable.io.read import read_header
from medseg.portable.io.write import write_nifti
from medseg.workflows.train.build import StageInputs, StageResult, count_trainings
from medseg.workflows.train.prepare_cases import FEW_CASES
from medseg.workflows.train.self_training.check_data import check_rounds
from medseg.workflows.train.self_training.predict_views import Voter
from medseg.workflows.train.step_probe import NetworkCosts, StageProbe
from medseg.workflows.train.time_plan import StageCosts


@dataclass(frozen=True)
class Workplace:
    """Where a pipeline is tried.

    Args:
        pipeline: planned, with its provisional number of iterations.
        manifest: the data set.
        device: of the networks.
        cache: folder of preprocessed cases.
        output: the run folder; None: nothing will be trained now, and only the cases that are needed are preprocessed.
        scratch: a folder that is gone afterwards.
        start: bundle from which the first stage starts.
    """

    pipeline: Pipeline
    manifest: Manifest
    device: torch.device
    cache: Path
    output: Path | None
    scratch: Path
    start: Path | None = None

    def inputs(self, index: int) -> StageInputs:
        """What a stage is given."""
        return StageInputs(self.pipeline, index, self.manifest, self.scratch / f"stage{index}", self.cache, self.device)


def measure_costs(place: Workplace, seconds: float) -> tuple[list[StageCosts], CoreUse]:
    """The costs of each stage, and the use of the cores while steps were timed.

    Args:
        place: the pipeline, its data and folders.
        seconds: to spend on steps.
    """
    random = checkpoint.random_state()
    costs: list[StageCosts] = []
    uses: list[CoreUse] = []
    previous = StageResult(place.start, {"start": place.start}) if place.start else None
    stages = place.pipeline.stages
    for index, stage in enumerate(stages):
        if index > 0 and stage.init != "previous":
            previous = None
        found, previous = _measure_networks(place, index, previous, seconds / len(stages))
        uses += [each.use for each in found]
        costs.append(_stage_costs(place, index, found, previous))
    checkpoint.restore_random_state(random)
    use = CoreUse(
        own=sum(each.own for each in uses),
        others=sum(each.others for each in uses),
        wall=sum(each.wall for each in uses),
        cores=uses[0].cores,
    )
    return costs, use


def _measure_networks(
    place: Workplace, index: int, previous: StageResult | None, seconds: float
) -> tuple[list[NetworkCosts], StageResult]:
    """Try the networks of a stage, one for each view."""
    inputs = place.inputs(index)
    views = inputs.stage.views or (None,)
    found = []
    bundles: dict[str, Path] = {}
    for view in views:
        probe = StageProbe(inputs, view=view, few=place.output is None)
        bundle = inputs.folder / str(view or "network")
        start = previous.network(view) if previous else None
        found.append(probe.measure(bundle, previous=start, seconds=seconds / len(views)))
        bundles[probe.spec.view] = bundle
    joint = next(iter(bundles.values()))
    if len(views) > 1:
        joint = inputs.folder / "bundle"
        write_joint_bundle(bundles, joint, inputs.data, name=place.pipeline.name, fusion=inputs.stage.fusion)
    return found, StageResult(joint, bundles)


def _stage_costs(place: Workplace, index: int, found: Sequence[NetworkCosts], result: StageResult) -> StageCosts:
    stage = place.pipeline.stages[index]
    processes = distributed.world()
    validation = sum(1 for case in place.manifest.validation if case.label)
    unlabeled = len(streams_of(place.manifest)["unlabeled"])
    rounds = stage.round_count if unlabeled else 0
    return StageCosts(
        step=_mean([each.step for each in found]),
        start=_mean([each.start for each in found]),
        validation=_mean([each.case for each in found]) * -(-validation // processes),
        save=_mean([each.save for each in found]),
        finish=_mean([each.finish for each in found]),
        trainings=count_trainings(stage, unlabeled),
        networks=len(found) * (1 + rounds),
        other=_other_seconds(place, index, found, result),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _other_seconds(place: Workplace, index: int, found: Sequence[NetworkCosts], result: StageResult) -> float:
    """Preprocessing that is left, checks, predictions, pseudo-labels and scores."""
    stage = place.pipeline.stages[index]
    groups = streams_of(place.manifest)
    case_seconds = max(each.preparation for each in found)
    total = 0.0
    if place.output is None:
        used = {*(stage.schedule.batch or {})}
        cases = sum(len(group) for name, group in groups.items() if name in used)
        cases += sum(1 for case in place.manifest.validation if case.label)
        total += _preprocessing_seconds(case_seconds, cases)
    if stage.rounds or len(stage.views) > 1:
        total += _check_seconds(place, index)
        total += _round_seconds(place, stage, stage.rounds.rule if stage.rounds else None, case_seconds, result)
    if stage.then is not None:
        labelled = [case for name in stage.then.cases for case in groups[name]]
        each = _label_seconds(place, labelled, stage.then.rule, result) + case_seconds
        total += len(labelled) * each / distributed.world()
    return total


def _preprocessing_seconds(each: float, cases: int) -> float:
    processes = usable_cores() if cases >= FEW_CASES else 1
    return each * cases / processes


def _check_seconds(place: Workplace, index: int) -> float:
    """Opening every file before the rounds: done now for good where the run folder keeps that it was."""
    folder = place.scratch
    if place.output is not None:
        folder = place.output if len(place.pipeline.stages) == 1 else place.output / f"stage{index}"
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    check_rounds(place.manifest, folder / "data_check.json")
    return 0.0 if place.output is not None else time.monotonic() - began


def _round_seconds(
    place: Workplace, stage: Stage, rule: RuleSpec | None, case_seconds: float, result: StageResult
) -> float:
    """Pseudo-labels and scores of all rounds."""
    unlabeled = streams_of(place.manifest)["unlabeled"]
    validation = [case for case in place.manifest.validation if case.label]
    rounds = stage.round_count if unlabeled else 0
    processes = distributed.world()
    total = 0.0
    if rounds:
        each = _label_seconds(place, unlabeled, rule, result)
        total += rounds * len(unlabeled) * each / processes
        total += rounds * _preprocessing_seconds(case_seconds, len(unlabeled))
    if validation:
        total += (rounds + 1) * len(validation) * _label_seconds(place, validation, None, result) / processes
    return total


def _label_seconds(place: Workplace, cases: Sequence[Case], rule: RuleSpec | None, result: StageResult) -> float:
    """Seconds to predict a case of typical size, make a label of that by a rule, and write it."""
    if not cases or not (result.bundle / "configs").is_dir():  # no segmenter
        return 0.0
    sizes = [float(np.prod(read_header(place.manifest.images(case)[0]).shape[:3])) for case in cases]
    mean = sum(sizes) / len(sizes)
    typical = min(range(len(sizes)), key=lambda number: abs(sizes[number] - mean))
    case = cases[typical]
    made = None
    if rule is not None:
        made = methods.build_rule(rule.name, len(place.manifest.labels), **rule.options)
    full = made is not None and made.needs == "probabilities"
    image = place.manifest.images(case)
    with Voter(result.bundle, place.device, full=full) as voter:
        began = time.monotonic()
        predicted, fused = voter.both(image)
        label = fused
        if made is not None and not getattr(made, "inputs", ()):  # those work on more than these networks' votes
            decided = made.decide({case.name: made.summarize(predicted)}) if made.looks_at_all else {}
            made.label(predicted, decided, 1)
        write_nifti(place.scratch / "label.nii.gz", label.numpy(), read_header(image[0]).affine)
        return (time.monotonic() - began) * mean / sizes[typical]
