"""`--budget 25m`: the spacing, patch and width that fit, by quick timing on random batches.

The plan is made cheaper until enough iterations fit (`reductions`); what time is left goes into more of them. With
several views and rounds the time is shared by all trainings, after what predicting the unlabelled cases in every round
takes.

What a neighbour on the machine does at the moment does not decide the plan: steps count with the time that they would
take alone (`medseg.cores`). How many iterations there are in the end is measured afterwards, see `fit.py`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, prod

import numpy as np
import torch
from ignite.engine import Events

from medseg.config.pipeline import DataSpec, NetworkSpec, Pipeline, Stage
from medseg.cores import CoreWatch
from medseg.data.preprocessing_config import instantiate, preprocessing
from medseg.engine.optimizer import make_optimizer
from medseg.engine.trainer import MethodTrainer, StepSettings, use_channels_last
from medseg.manifest.labelling import cases_to_label
from medseg.manifest.manifest import Manifest, streams_of
from medseg.networks.registry import network_def
from medseg.planning.fingerprint import read_fingerprint
from medseg.planning.plan import with_strides
from medseg.portable.inference.windows import overlaps_of
from medseg.workflows.train.budget.random_batch import random_batch
from medseg.workflows.train.budget.reductions import (
    SMALLEST_WIDTH,
    Candidate,
    iterations_wanted,
    reduce_plan,
    reductions_for,
)
from medseg.workflows.train.stages.build import build_method, count_trainings

VALIDATIONS = 10
TIMED_STEPS = 4


@dataclass(frozen=True)
class Workload:
    """Amount of work of a stage beside the steps of one training.

    Args:
        trainings: in all; one that is half as long counts half.
        predicted: passes over a case by one network, for labels and scores of the rounds.
        validation: labelled validation cases.
        size: typical case, voxels of its own grid along RAS.
        spacing_mm: of that.
    """

    trainings: float
    predicted: int
    validation: int
    size: np.ndarray
    spacing_mm: np.ndarray

    @classmethod
    def of_stage(cls, stage: Stage, manifest: Manifest) -> Workload:
        """The work of a stage on a data set."""
        part = stage.rounds or stage.then
        to_label = len(cases_to_label(streams_of(manifest), part.cases)) if part else 0
        validation = sum(1 for case in manifest.validation if case.is_labelled)
        rounds = stage.round_count if to_label else 0
        labellings = rounds + (stage.then is not None)
        views = max(1, len(stage.views))
        has_rounds_or_views = stage.round_count > 0 or views > 1
        scored = validation * (rounds + 1) if has_rounds_or_views else 0
        fingerprint = read_fingerprint(manifest)
        return cls(
            trainings=count_trainings(stage, to_label),
            predicted=views * (labellings * to_label + scored),
            validation=validation,
            size=np.median(fingerprint.shape, axis=0),
            spacing_mm=np.median(fingerprint.spacing_mm, axis=0),
        )


def choose_plan(
    planned: Pipeline,
    manifest: Manifest,
    device: torch.device,
    *,
    seconds: float,
    given: Pipeline,
    keeps_network: bool = False,
) -> Pipeline:
    """Choose spacing, patch, width, batch size and, for the time being, iterations.

    Args:
        planned: for unlimited time.
        manifest: the data set.
        device: where it will train.
        seconds: the budget, divided evenly among the stages.
        given: the pipeline as the user gave it; what it says of data and batch size stays.
        keeps_network: whether the networks stay as planned, for weights that they start from or that others will.
    """
    data = DataSpec(**planned.data)
    first = planned.stages[0]
    first_width = first.network.width
    reductions = reductions_for(planned.stages, data)
    if keeps_network:
        reductions = [replace(each, narrower=1) for each in reductions]
    candidates = [reduce_plan(data, first.network, reduction, set(given.data)) for reduction in reductions]
    preparation = _preparation_seconds(manifest, data, first.round_count)
    stage_seconds = max(seconds / len(planned.stages) - 10 - preparation, 5.0)
    candidates = [_fit_strides(candidate, first, given.stages[0]) for candidate in candidates]
    if keeps_network:
        candidates = [each for each in candidates if _layers(each, first) == _layers(candidates[0], first)]
    works = [Workload.of_stage(stage, manifest) for stage in planned.stages]
    best = _choose_candidate(candidates, first, works[0], device, stage_seconds)
    timed = [best] * len(planned.stages)  # of what is made coarser for a later stage an upper bound
    for index, stage in enumerate(planned.stages):
        if data.volume_patch is None or "volume" not in stage.views:
            continue
        left = candidates[_place_of(best, candidates) :]
        of_volumes = [_of_volumes(each, stage, first_width) for each in left]
        timed[index] = _choose_candidate(of_volumes, stage, works[index], device, stage_seconds)
        best = left[_place_of(timed[index], of_volumes)]
    stages = []
    for stage, work, candidate in zip(planned.stages, works, timed, strict=True):
        affordable = _count_iterations(candidate, stage, work, stage_seconds)
        iterations = min(stage.schedule.iterations, affordable)
        network = _narrowed(stage.network, best.network.width, first_width)
        stages.append(stage.with_iterations(iterations).model_copy(update={"network": network}))
    chosen = planned.model_copy(update={"stages": tuple(stages), "data": best.data.model_dump(mode="json")})
    return _with_strides(chosen, given)


def _place_of(candidate: Candidate, among: Sequence[Candidate]) -> int:
    """The number of the candidate with this data and this network, whatever its steps take."""
    return [(each.data, each.network) for each in among].index((candidate.data, candidate.network))


def _narrowed(network: NetworkSpec, chosen: int, planned: int) -> NetworkSpec:
    """The network narrower by as much as that of the first stage, whose width was `planned` and is `chosen`."""
    width = max(min(network.width, SMALLEST_WIDTH), network.width * chosen // planned)
    return network.model_copy(update={"width": width})


def _of_volumes(candidate: Candidate, stage: Stage, planned: int) -> Candidate:
    """What a plan of planes is to a later stage that learns volumes; `planned` as in `_narrowed`."""
    return Candidate(candidate.data.of_view("volume"), _narrowed(stage.network, candidate.network.width, planned))


def _layers(candidate: Candidate, stage: Stage) -> list[dict]:
    """What the network of each view is made of."""
    found = []
    for data in stage.specs(candidate.data):
        found.append(
            network_def(candidate.network, patch=data.network_patch, in_channels=data.channels, out_channels=1)
        )
    return found


def _with_strides(pipeline: Pipeline, given: Pipeline) -> Pipeline:
    """The pipeline with strides for its final patch and spacing."""
    data = DataSpec(**pipeline.data)
    stages = []
    for stage, as_given in zip(pipeline.stages, given.stages, strict=True):
        network = _fit_strides(Candidate(data, stage.network), stage, as_given).network
        stages.append(stage.model_copy(update={"network": network}))
    return pipeline.model_copy(update={"stages": tuple(stages)})


def _fit_strides(candidate: Candidate, stage: Stage, given: Stage) -> Candidate:
    """The candidate with strides for its spacing, unless the user gave some."""
    if stage.views or "strides" in given.network.options:
        return candidate
    return Candidate(candidate.data, with_strides(candidate.network, candidate.data), candidate.step_seconds)


def _choose_candidate(
    candidates: Sequence[Candidate], stage: Stage, work: Workload, device: torch.device, budget: float
) -> Candidate:
    """Time the cheapest plan, guess the dearest that fits from it, then time down from there."""
    enough = min(iterations_wanted(candidates[0].data), stage.schedule.iterations)
    cheapest = _time_steps(candidates[-1], stage, device)
    seconds_per_cost = cheapest.step_seconds / relative_cost(cheapest)
    for candidate in candidates[:-1]:
        guess = seconds_per_cost * relative_cost(candidate)
        if guess * enough * work.trainings > 2 * budget:
            continue
        timed = _time_steps(candidate, stage, device)
        if _count_iterations(timed, stage, work, budget) >= enough:
            return timed
    return cheapest


def relative_cost(candidate: Candidate) -> float:
    """Relative cost of a step: voxels, and channels at the measured growth between linear and quadratic."""
    return float(prod(candidate.data.patch) * candidate.network.width**1.5)


def _count_iterations(candidate: Candidate, stage: Stage, work: Workload, budget: float) -> int:
    """How many steps of each training fit beside validations and predictions."""
    passes = work.trainings * VALIDATIONS * work.validation + work.predicted
    left = budget - passes * _case_seconds(candidate, stage, work)
    return max(10, int(max(left, 0.3 * budget) / (work.trainings * candidate.step_seconds)))


def _time_steps(candidate: Candidate, stage: Stage, device: torch.device) -> Candidate:
    """The candidate with the time of real steps on random data, after one to warm up.

    The shortest of a few, as it would be alone on the machine: what a neighbour does at the moment says little about
    the next half hour.
    """
    views, schedule = stage.specs(candidate.data), stage.schedule
    largest = max(views, key=lambda view: prod(view.patch))
    patch = largest.network_patch
    state = torch.get_rng_state()
    method = build_method(stage.model_copy(update={"network": candidate.network}), largest).to(device)
    if schedule.channels_last:
        use_channels_last(method, len(patch))
    batch = random_batch(largest, schedule.batch or {}, patch, method)
    ticks: list[tuple[float, float]] = []
    watches: list[CoreWatch] = []

    def record_time() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        watches.append(CoreWatch())
        ticks.append((time.perf_counter(), time.process_time()))

    trainer = MethodTrainer(
        method,
        make_optimizer(method, schedule),
        [batch] * (TIMED_STEPS + 1),
        total=TIMED_STEPS + 1,
        settings=StepSettings.of_schedule(schedule, device),
    )
    trainer.add_event_handler(Events.ITERATION_COMPLETED, record_time)
    trainer.run()
    torch.set_rng_state(state)
    use = watches[0].use()
    walls, processors = np.diff(np.array(ticks), axis=0).T
    shortest = float(walls.min())
    if device.type == "cpu":
        shortest = use.alone(shortest, float(processors.min()), torch.get_num_threads())
    mean_voxels = sum(prod(view.patch) for view in views) / len(views)
    return Candidate(candidate.data, candidate.network, shortest * mean_voxels / prod(largest.patch))


def _preparation_seconds(manifest: Manifest, data: DataSpec, rounds: int) -> float:
    """Reading and preprocessing of all cases, from one of them; each round does the unlabelled ones again."""
    cases = [*manifest.training, *manifest.validation, *manifest.unlabeled * (rounds + 1)]
    began = time.perf_counter()
    item = {"image": [str(path) for path in manifest.images(cases[0])]}
    instantiate(preprocessing(data, keys=("image",)))(item)
    return 2 * (time.perf_counter() - began) * len(cases)  # labels and the cache files take as long again


def _case_seconds(candidate: Candidate, stage: Stage, work: Workload) -> float:
    """One pass of one network over a case, mean of the views: a window costs about a third of a training patch."""
    total = 0.0
    views = stage.specs(candidate.data)
    for data in views:
        factors = np.where(data.resample_axes, work.spacing_mm / np.array(data.spacing_mm), 1)
        size = work.size * factors
        windows = 1
        for voxels, side, overlap in zip(size, data.patch, overlaps_of(data.overlap), strict=True):
            windows *= _count_windows(voxels, side, overlap)
        patches_per_step = 4 if data.spatial_dims == 3 else 16
        total += windows * candidate.step_seconds / (3 * patches_per_step)
    return total / len(views)


def _count_windows(voxels: float, side: int, overlap: float) -> int:
    """Sliding windows along an axis."""
    if side == 1:
        return ceil(voxels)
    return ceil(max(1.0, (voxels / side - overlap) / (1 - overlap)))
