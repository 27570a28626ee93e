"""`--budget 25m`: time the real training step on this machine and choose what fits.

Until there are about a thousand of them, iterations are worth more than resolution, width and field of view: so the
plan is made up to twice as coarse, then narrower, then smaller, until `ENOUGH` iterations fit; what time is left goes
into more of them. It is not made worse than the last rung of the ladder, below which small organs disappear: then there
are fewer iterations. With several views and rounds the time is shared by all trainings, after what predicting the
unlabelled cases in every round takes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

import numpy as np
import torch
from ignite.engine import Events

from medseg import methods
from medseg.config import DataSpec, NetworkSpec, Pipeline, Stage
from medseg.data.preprocessing_config import instantiate, preprocessing
from medseg.engine.optimizer import make_optimizer
from medseg.engine.trainer import MethodTrainer, step_settings, use_channels_last
from medseg.manifest.manifest import Manifest, streams_of
from medseg.networks import registry as networks
from medseg.networks.sizes import fit_size
from medseg.planning.fingerprint import survey
from medseg.workflows.train.self_training.time_left import trainings

ENOUGH = 1000
LADDER = (
    (1.0, 1, 1.0),
    (1.25, 1, 1.0),
    (1.5, 1, 1.0),
    (2.0, 1, 1.0),
    (2.0, 2, 1.0),
    (2.0, 2, 1.3),
    (2.0, 2, 1.7),
)
"""How many times coarser than planned, by what the width is divided, and each side of the patch; dearest first."""

SMALLEST_WIDTH = 8
"""Channels below which a network tells few classes apart."""

SMALLEST_PATCH = 16
"""Voxels along an axis below which a coarser grid would leave nothing to see."""

VALIDATIONS = 10


@dataclass(frozen=True)
class Candidate:
    """One rung of the ladder.

    Args:
        spec: of the data.
        network: of every view.
        step_seconds: mean over the views.
    """

    spec: DataSpec
    network: NetworkSpec
    step_seconds: float = 0.0


@dataclass(frozen=True)
class Work:
    """What a stage does beside the steps of one training.

    Args:
        trainings: in all; one that is half as long counts half.
        networks: views.
        predicted: passes over a case by one network, for labels and scores of the rounds.
        validation: labelled validation cases.
        size: typical case, voxels of its own grid along RAS.
        spacing_mm: of that.
    """

    trainings: float
    networks: int
    predicted: int
    validation: int
    size: np.ndarray
    spacing_mm: np.ndarray

    @classmethod
    def of(cls, stage: Stage, manifest: Manifest) -> Work:
        """What a stage does with a data set."""
        unlabeled = len(streams_of(manifest)["unlabeled"])
        validation = sum(1 for case in manifest.validation if case.label)
        rounds, views = (stage.rounds if unlabeled else 0), max(1, len(stage.views))
        scored = validation * (rounds + 1) if stage.rounds or views > 1 else 0
        seen = survey(manifest)
        return cls(
            trainings=trainings(stage, unlabeled),
            networks=views,
            predicted=views * (rounds * unlabeled + scored),
            validation=validation,
            size=np.median(seen.shape, axis=0),
            spacing_mm=np.median(seen.spacing_mm, axis=0),
        )


def fit(pipeline: Pipeline, manifest: Manifest, device: torch.device, *, seconds: float, fixed: set[str]) -> Pipeline:
    """Choose spacing, patch, width and iterations so that training takes about `seconds` on this machine.

    Args:
        pipeline: planned for unlimited time.
        manifest: the data set.
        device: where it will train.
        seconds: the budget, divided evenly among the stages.
        fixed: fields of the data that the user gave and that therefore stay.
    """
    spec = DataSpec(**pipeline.data)
    stage = pipeline.stages[0]
    rungs = [_rung(spec, stage.network, step, fixed) for step in LADDER]
    budget = max(seconds / len(pipeline.stages) - 10 - _preparation_seconds(manifest, spec, stage.rounds), 5.0)
    chosen = _choose(rungs, stage, Work.of(stage, manifest), device, budget)
    stages = []
    for each in pipeline.stages:
        total = min(each.schedule.iterations, _iterations(chosen, each, Work.of(each, manifest), budget))
        schedule = each.schedule.model_copy(update={"iterations": total})
        stages.append(each.model_copy(update={"network": chosen.network, "schedule": schedule}))
    return pipeline.model_copy(update={"stages": tuple(stages), "data": chosen.spec.model_dump(mode="json")})


def _rung(spec: DataSpec, network: NetworkSpec, step: tuple[float, int, float], fixed: set[str]) -> Candidate:
    """The plan made cheaper; fine axes become coarser first."""
    coarser, narrower, smaller = step
    finest = min(spec.spacing_mm)
    spacing = [
        max(mm, coarser * finest) if r else mm for mm, r in zip(spec.spacing_mm, spec.resample_axes, strict=True)
    ]
    if "spacing_mm" in fixed:
        spacing = list(spec.spacing_mm)
    patch = [
        size
        if size == 1
        else max(min(size, SMALLEST_PATCH), fit_size(size * old / new / smaller + 1e-6, largest=math.inf))
        for size, old, new in zip(spec.patch, spec.spacing_mm, spacing, strict=True)
    ]
    changes: dict[str, object] = {"spacing_mm": tuple(round(mm, 4) for mm in spacing)}
    if "patch" not in fixed:
        changes["patch"] = tuple(patch)
    width = max(min(network.width, SMALLEST_WIDTH), network.width // narrower)
    return Candidate(spec.model_copy(update=changes), network.model_copy(update={"width": width}))


def _choose(rungs: Sequence[Candidate], stage: Stage, work: Work, device: torch.device, budget: float) -> Candidate:
    """Time the cheapest rung, guess the dearest that fits from it, then time down from there."""
    wanted = min(ENOUGH, stage.schedule.iterations)
    cheapest = _timed(rungs[-1], stage, device)
    guess = [cheapest.step_seconds * _work(rung) / _work(cheapest) for rung in rungs]
    start = next((i for i, cost in enumerate(guess) if cost * wanted * work.trainings <= 2 * budget), len(rungs) - 1)
    for rung in rungs[start:-1]:
        timed = _timed(rung, stage, device)
        if _iterations(timed, stage, work, budget) >= wanted:
            return timed
    return cheapest


def _work(candidate: Candidate) -> float:
    """Relative cost of a step: voxels, and channels at the measured growth between linear and quadratic."""
    return float(prod(candidate.spec.patch) * candidate.network.width**1.5)


def _iterations(candidate: Candidate, stage: Stage, work: Work, budget: float) -> int:
    """How many steps of each training fit beside validations and predictions."""
    passes = work.trainings * VALIDATIONS * work.validation + work.predicted
    left = budget - passes * _case_seconds(candidate, stage, work)
    return max(10, int(max(left, 0.3 * budget) / (work.trainings * candidate.step_seconds)))


def _timed(candidate: Candidate, stage: Stage, device: torch.device, steps: int = 4) -> Candidate:
    """The candidate with the time of real steps on random data, after one to warm up.

    The shortest of a few: what a neighbour on the machine does at the moment says little about the next half hour.
    """
    specs, schedule = stage.specs(candidate.spec), stage.schedule
    spec = max(specs, key=lambda each: prod(each.patch))
    patch = spec.network_patch
    kind = methods.find(stage.method.name)
    definition = networks.network_def(
        candidate.network,
        patch=patch,
        in_channels=spec.channels,
        out_channels=kind.output_channels(spec.classes),
    )
    state = torch.get_rng_state()
    method = methods.build(
        stage.method.name, networks.build(definition), classes=spec.classes, **stage.method.options
    ).to(device)
    if schedule.channels_last:
        use_channels_last(method, len(patch))
    batch = _random_batch(spec, schedule.batch or {}, patch, method.targets())
    ticks: list[float] = []

    def tick() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        ticks.append(time.perf_counter())

    trainer = MethodTrainer(
        method,
        make_optimizer(method, schedule),
        [batch] * (steps + 1),
        total=steps + 1,
        settings=step_settings(schedule, device),
    )
    trainer.add_event_handler(Events.ITERATION_COMPLETED, tick)
    trainer.run()
    torch.set_rng_state(state)
    mean = sum(prod(each.patch) for each in specs) / prod(spec.patch) / len(specs)
    return Candidate(candidate.spec, candidate.network, float(np.min(np.diff(ticks))) * mean)


def _random_batch(spec: DataSpec, rows: dict[str, int], patch: Sequence[int], targets: object) -> dict:
    """A batch of the right shapes; blobs for labels."""
    rng = np.random.default_rng(0)
    batch: dict[str, dict[str, torch.Tensor]] = {}
    for stream, count in rows.items():
        image = rng.standard_normal((count, spec.channels, *patch), dtype=np.float32)
        batch[stream] = {"image": torch.from_numpy(image)}
    label = np.zeros((rows["labeled"], 1, *patch), np.uint8)
    label[(slice(None), slice(None), *[slice(n // 4, n // 2) for n in patch])] = 1
    batch["labeled"]["label"] = torch.from_numpy(label)
    if callable(targets):
        made = [targets(row[0]) for row in label]
        for key in made[0]:
            batch["labeled"][key] = torch.from_numpy(np.stack([m[key] for m in made]))
    return batch


def _preparation_seconds(manifest: Manifest, spec: DataSpec, rounds: int) -> float:
    """Reading and preprocessing of all cases, from one of them; each round does the unlabelled ones again."""
    cases = [*manifest.training, *manifest.validation, *manifest.unlabeled * (rounds + 1)]
    began = time.perf_counter()
    item = {"image": [str(path) for path in manifest.images(cases[0])]}
    instantiate(preprocessing(spec, keys=("image",)))(item)
    return 2 * (time.perf_counter() - began) * len(cases)  # labels and the cache files take as long again


def _case_seconds(candidate: Candidate, stage: Stage, work: Work) -> float:
    """One pass of one network over a case, mean of the views: a window costs about a third of a training row."""
    total = 0.0
    specs = stage.specs(candidate.spec)
    for spec in specs:
        size = work.size * np.where(spec.resample_axes, work.spacing_mm / np.array(spec.spacing_mm), 1)
        windows = prod(
            ceil(max(1.0, (n / p - spec.overlap) / (1 - spec.overlap))) if p > 1 else ceil(n)
            for n, p in zip(size, spec.patch, strict=True)
        )
        total += windows * candidate.step_seconds / (3 * (4 if spec.spatial_dims == 3 else 16))
    return total / len(specs)
