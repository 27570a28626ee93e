"""What all stages of a pipeline cost on this machine: each is begun with a method that is thrown away."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from medseg.bundle.join import write_joint_bundle
from medseg.config.between_runs import RuleSpec
from medseg.config.pipeline import Pipeline
from medseg.cores import CoreUse, usable_cores
from medseg.engine import checkpoint, distributed
from medseg.manifest.labelling import cases_to_label
from medseg.manifest.manifest import Case, Manifest, streams_of
from medseg.method import PseudoLabels
from medseg.portable.io.read import read_header
from medseg.portable.io.write import write_nifti
from medseg.workflows.train.budget.costs.stand_in_labels import with_stand_ins
from medseg.workflows.train.budget.costs.step_probe import NetworkCosts, StageProbe
from medseg.workflows.train.budget.time_plan import StageCosts
from medseg.workflows.train.checks.streams import groups_of_stages
from medseg.workflows.train.self_training.check_data import check_rounds
from medseg.workflows.train.self_training.labelling.measured import cases_to_measure, count_labels_of
from medseg.workflows.train.self_training.labelling.predict_maps import Predictors
from medseg.workflows.train.self_training.labelling.predict_views import Voter
from medseg.workflows.train.self_training.labelling.prediction_store import PredictionStore
from medseg.workflows.train.self_training.labelling.rules import rule_for
from medseg.workflows.train.stages.build import StageInputs, StageResult, count_trainings
from medseg.workflows.train.stages.maps import SavedMaps
from medseg.workflows.train.stages.prepare_cases import FEW_CASES


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
        folder = self.scratch / f"stage{index}"
        manifest = with_stand_ins(self.pipeline, index, self.manifest, self.scratch / "labels")
        return StageInputs(self.pipeline, index, manifest, folder, self.cache, self.device)


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
    maps: list[SavedMaps] = []
    for view in views:
        probe = StageProbe(inputs, view=view, few=place.output is None)
        bundle = inputs.folder / str(view or "network")
        start = previous.network(view) if previous else None
        found.append(probe.measure(bundle, previous=start, seconds=seconds / len(views)))
        bundles[probe.spec.view] = bundle
        maps += probe.maps_of(bundle, start)
    joint = next(iter(bundles.values()))
    if len(views) > 1:
        joint = inputs.folder / "bundle"
        write_joint_bundle(bundles, joint, inputs.data, name=place.pipeline.name, fusion=inputs.stage.fusion)
    return found, StageResult(joint, bundles, tuple(maps))


def _stage_costs(place: Workplace, index: int, found: Sequence[NetworkCosts], result: StageResult) -> StageCosts:
    stage = place.pipeline.stages[index]
    processes = distributed.world()
    validation = sum(1 for case in place.manifest.validation if case.is_labelled)
    to_label = len(_cases_of_rule(place, index))
    rounds = stage.round_count if to_label else 0
    return StageCosts(
        step=_mean([each.step for each in found]),
        start=_mean([each.start for each in found]),
        validation=_mean([each.case for each in found]) * -(-validation // processes),
        save=_mean([each.save for each in found]),
        finish=_mean([each.finish for each in found]),
        trainings=count_trainings(stage, to_label),
        networks=len(found) * (1 + rounds),
        other=_other_seconds(place, index, found, result),
    )


def _cases_of_rule(place: Workplace, index: int) -> list[Case]:
    """The cases that the rule of a stage labels, of the whole data set."""
    stage = place.pipeline.stages[index]
    part = stage.rounds or stage.then
    groups = groups_of_stages(place.pipeline, place.manifest)[index]
    return cases_to_label(groups, part.cases) if part else []


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
        cases += sum(1 for case in place.manifest.validation if case.is_labelled)
        total += _preprocessing_seconds(case_seconds, cases)
    if stage.rounds or len(stage.views) > 1:
        total += _check_seconds(place, index)
        total += _round_seconds(place, index, case_seconds, result)
    total += _choosing_seconds(place, index, result)
    if stage.then is not None:
        costs = _rule_costs(place, index, stage.then.rule, result)
        each = costs.case + case_seconds
        looked_at = len(place.manifest.validation) * costs.case if costs.is_judged else 0.0
        total += costs.start + (len(_cases_of_rule(place, index)) * each + looked_at) / distributed.world()
    return total


def _choosing_seconds(place: Workplace, index: int, result: StageResult) -> float:
    """Predictions of the validation cases after the last stage, by which post-processing is chosen."""
    validation = [case for case in place.manifest.validation if case.label]
    is_last = index == len(place.pipeline.stages) - 1
    if place.pipeline.postprocessing != "auto" or not is_last or not validation:
        return 0.0
    return len(validation) * _score_seconds(place, validation, result) / distributed.world()


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


def _round_seconds(place: Workplace, index: int, case_seconds: float, result: StageResult) -> float:
    """Pseudo-labels and scores of all rounds."""
    stage = place.pipeline.stages[index]
    to_label = len(_cases_of_rule(place, index))
    validation = [case for case in place.manifest.validation if case.is_labelled]
    rounds = stage.round_count if to_label else 0
    processes = distributed.world()
    total = 0.0
    if rounds and stage.rounds:
        costs = _rule_costs(place, index, stage.rounds.rule, result)
        judged = len(validation) if costs.is_judged else 0
        total += rounds * (costs.start + (to_label + judged) * costs.case / processes)
        total += rounds * _preprocessing_seconds(case_seconds, to_label)
    if validation:
        total += (rounds + 1) * len(validation) * _score_seconds(place, validation, result) / processes
    return total


@dataclass(frozen=True)
class RuleCosts:
    """What a pseudo-label rule costs, seconds.

    Args:
        start: until it is ready for its first pass; it may read all labels.
        case: to predict a case, mean, make its label, write and measure it.
        is_judged: whether validation cases are labelled too, to judge the rule or to choose its options.
    """

    start: float
    case: float
    is_judged: bool


def _rule_costs(place: Workplace, index: int, spec: RuleSpec, result: StageResult) -> RuleCosts:
    """The costs of the rule of a stage, of a case of typical size."""
    part = place.pipeline.stages[index].rounds or place.pipeline.stages[index].then
    manifest = place.inputs(index).manifest
    began = time.monotonic()
    rule = rule_for(manifest, spec)
    start = time.monotonic() - began
    is_judged = rule.is_judged or any(name not in spec.options for name in rule.tried)
    cases = cases_to_label(streams_of(manifest), part.cases) if part else []
    if not cases:
        return RuleCosts(start, 0.0, is_judged)
    case, share = typical_case(manifest, cases)
    seconds = _time_rule(place, manifest, case, rule, result) * share
    return RuleCosts(start, seconds + _measuring_seconds(place), is_judged)


def _measuring_seconds(place: Workplace) -> float:
    """Seconds to measure the pseudo-label of a case of typical size by the label of the case, where that is asked."""
    known = list(cases_to_measure(place.manifest).values())
    if not (place.pipeline.measure_pseudo_labels and known):
        return 0.0
    case, share = typical_case(place.manifest, known)
    began = time.monotonic()
    count_labels_of(place.manifest, case, place.manifest.resolve(str(case.label)))
    return (time.monotonic() - began) * share


def typical_case(manifest: Manifest, cases: Sequence[Case]) -> tuple[Case, float]:
    """The case whose size is nearest to the mean, and how many times larger the mean is."""
    sizes = [float(np.prod(read_header(manifest.images(case)[0]).shape[:3])) for case in cases]
    mean = sum(sizes) / len(sizes)
    typical = min(range(len(sizes)), key=lambda number: abs(sizes[number] - mean))
    return cases[typical], mean / sizes[typical]


def _score_seconds(place: Workplace, cases: Sequence[Case], result: StageResult) -> float:
    """Seconds to predict a case of typical size by all views."""
    case, share = typical_case(place.manifest, cases)
    image = place.manifest.images(case)
    with Voter(result.bundle, place.device) as voter:
        began = time.monotonic()
        voter.both(image)
        return (time.monotonic() - began) * share


def _time_rule(place: Workplace, manifest: Manifest, case: Case, rule: PseudoLabels, result: StageResult) -> float:
    """Seconds to predict a case, make a label of that by a rule, and write it."""
    with PredictionStore(Predictors.of_stage(result), place.device, rule, place.scratch / "predictions") as store:
        store.open()
        began = time.monotonic()
        predicted = store.predict(manifest, case)
        decided = rule.decide({case.name: rule.summarize(predicted)}) if rule.looks_at_all else {}
        rule.label(predicted, decided, 1)
        header = read_header(manifest.images(case)[0])
        blank = np.zeros(header.shape, np.uint8, "F")
        write_nifti(place.scratch / "label.nii.gz", blank, header.affine, source=header.nifti)
        return time.monotonic() - began
