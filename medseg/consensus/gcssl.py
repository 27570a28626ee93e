"""GC-SSL: experts weighed by their self-consistency, gaps filled by a forest, labels by one graph cut.

D. Mahapatra, "Consensus Based Medical Image Segmentation Using Semi-Supervised Learning And Graph Cuts",
arXiv:1612.02166; Pattern Recognition 2017, doi 10.1016/j.patcog.2016.09.030. The abstract states the parts: a
self-consistency score from low-level image features, semi-supervised prediction of missing annotations, and a
second-order random field whose penalty is the score, solved by graph cut. What it does not state is ours: the features,
one shared forest in place of one per expert, log-odds weights and their guard, and all constants.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medseg.consensus.energy import find_pairs, neighbourhood
from medseg.consensus.expansion import solve
from medseg.consensus.features import Canvas, Features
from medseg.consensus.forest import Partition, draw
from medseg.consensus.missing import Ballot, Posterior, ballot, fill, posterior_of
from medseg.consensus.region import Region, find_region, relative_spacing
from medseg.consensus.self_consistency import Histograms, informativeness, kappa, score_weights, weigh
from medseg.consensus.study import MISSING, Fused, Study
from medseg.errors import ConfigError, DataError

SIGMA_PAIRS = 0.7
"""Smoothing of the intensities that neighbours are compared by, in units of the smallest spacing."""


@dataclass(frozen=True, eq=False)
class Options:
    """Settings of one run; see `gcssl`."""

    weights: str | Sequence[float] = "logodds"
    ssl: bool = True
    neighbours: int | None = None
    smoothness: float = 2.0
    local_sc: bool = False
    seed: int = 0

    def check(self, study: Study) -> None:
        """Raise what is wrong before anything is computed."""
        if study.image is None:
            raise DataError("gcssl judges experts by the image, and there is none; give it, or take a voting method")
        if not np.isfinite(self.smoothness) or self.smoothness < 0:
            raise ConfigError(f"smoothness {self.smoothness}; a number >= 0 is wanted")
        neighbourhood(relative_spacing(study.shape, study.spacing_mm), self.neighbours)
        weigh(np.ones(len(study.experts)), max(len(study.classes), 2), self.weights, 0.0)


@dataclass(eq=False)
class _Stages:
    """Seconds of each stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 4)


@dataclass(frozen=True, eq=False)
class _Judgement:
    """What the image says about the experts; `posterior` None where there was nothing to learn from."""

    scores: np.ndarray
    kappa: np.ndarray
    rho: float
    weights: np.ndarray
    posterior: Posterior | None


def gcssl(
    study: Study,
    *,
    weights: str | Sequence[float] = "logodds",
    ssl: bool = True,
    neighbours: int | None = None,
    smoothness: float = 2.0,
    local_sc: bool = False,
    seed: int = 0,
) -> Fused:
    """Fuse the experts of a study that has an image.

    Args:
        study: experts, hard or soft, complete or not, and their image.
        weights: "logodds", "sc" (the score itself), "uniform", or one number >= 0 per expert.
        ssl: experts vote also where they annotated nothing, as they would label what looks alike; False: they abstain.
        neighbours: 4 or 8 (default) in a picture; 6 (default), 18 or 26 in a volume.
        smoothness: total cost of a voxel that differs from all its neighbours where the image has no edge; 0 gives
            the weighted vote. Thin structures want 1 or less.
        local_sc: experimental: each voxel has its own weights, by how the expert's posterior there agrees with him.
        seed: of the sample and the trees.

    Raises:
        DataError: if the study has no image.
        ConfigError: if an option is out of range.
    """
    options = Options(weights, ssl, neighbours, smoothness, local_sc, seed)
    options.check(study)
    stages = _Stages()
    with stages("region"):
        region = find_region([expert.labels for expert in study.experts], study.spacing_mm)
    if region is None:
        return _settled(study, options, stages, "nobody labelled anything: the consensus is empty")
    if len(study.experts) > 1 and not region.disputed.any():
        return _settled(study, options, stages, None, region)
    judgement, canvas = _judge(study, region, options, stages)
    warnings = ["one expert: there is nothing to agree on, no consensus possible"] if len(study.experts) == 1 else []
    if canvas.constant:
        warnings.append("the image is constant: all experts count alike and nothing is learned from it")
    with stages("votes"):
        counted, said = _count(study, region, judgement, options)
    with stages("missing"):
        voxels, strength = np.flatnonzero(region.disputed), judgement.weights * judgement.kappa * judgement.rho
        filled = 0
        if ssl and judgement.posterior is not None:
            filled = fill(counted, said, voxels, strength, judgement.posterior)
    labels, confidence, facts = _decide(study, region, counted, canvas, options, stages)
    facts |= {"rho": judgement.rho, "soft_votes": filled, "warnings": warnings, **_size(region)}
    return Fused(labels, confidence, _experts(judgement), _facts(options, stages, facts))


def _judge(study: Study, region: Region, options: Options, stages: _Stages) -> tuple[_Judgement, Canvas]:
    """Scores, weights and posteriors of all experts from one forest."""
    assert study.image is not None
    classes, experts = len(study.classes), len(study.experts)
    with stages("sample"):
        sample = draw(region, classes, options.seed)
    with stages("features"):
        canvas = Canvas(study.image, region.box, region.units)
        features = Features(canvas)
        train, judged = features.at(sample.train), features.at(sample.judged)
    scores, posterior = np.full(experts, 1 / classes), None
    if sample.train.size and not canvas.constant:
        with stages("forest"):
            partition = Partition(train, sample.target, options.seed)
        with stages("leaves"):
            leaves = partition.leaves(judged)
        with stages("self_consistency"):
            told = region.labels.reshape(experts, -1)[:, sample.judged]
            histograms = Histograms(leaves, told, classes)
            scores = histograms.scores(sample.folds)
            posterior = posterior_of(features, partition, histograms)
    corrected = kappa(scores, classes)
    rho = informativeness(corrected)
    return _Judgement(scores, corrected, rho, weigh(scores, classes, options.weights, rho), posterior), canvas


def _count(study: Study, region: Region, judgement: _Judgement, options: Options) -> tuple[Ballot, np.ndarray]:
    """Votes on the disputed voxels, and the labels `(R, n)` that were given there."""
    said = region.labels[:, region.disputed]
    soft = [
        None if e.probabilities is None else e.probabilities[(slice(None), *region.box)][:, region.disputed]
        for e in study.experts
    ]
    weights = judgement.weights
    if options.local_sc and judgement.posterior is not None:
        weights = _local_weights(said, region, judgement, options)
    return ballot(said, soft, weights, len(study.classes)), said


def _local_weights(said: np.ndarray, region: Region, judgement: _Judgement, options: Options) -> np.ndarray:
    """`(R, n)` weights from each expert's own posterior of what he said at the voxel."""
    assert judgement.posterior is not None
    q = judgement.posterior(np.flatnonzero(region.disputed)).astype(np.float64)
    called = np.where(said == MISSING, 0, said).T[:, :, None]
    scores = np.take_along_axis(q, called.astype(np.intp), axis=2)[:, :, 0].T
    mode = options.weights if isinstance(options.weights, str) else "logodds"
    raw = np.where(said == MISSING, 0, score_weights(scores, q.shape[2], mode))
    total = np.maximum(raw.sum(axis=0), 1e-12)
    return judgement.rho * raw / total + (1 - judgement.rho) * judgement.weights[:, None]


def _decide(
    study: Study, region: Region, counted: Ballot, canvas: Canvas, options: Options, stages: _Stages
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Labels and confidence of the whole grid, and the facts of the cut."""
    heard = counted.cast > 0
    with stages("graph"):
        nodes, fixed = region.disputed.copy(), region.agreed[region.within].copy()
        nodes[region.disputed] = heard
        fixed[region.disputed & ~nodes] = MISSING  # what nobody can tell pulls at nobody
        pairs = find_pairs(nodes, fixed, canvas.smoothed(SIGMA_PAIRS), region.units, options.neighbours)
        shares = counted.shares()[:, heard]
        strength = options.smoothness / pairs.lattice if pairs.lattice else 0.0
        energy = pairs.energy(counted.costs()[:, heard], strength)
    with stages("cut"):
        decided, facts = solve(energy)
    own = shares[decided, np.arange(decided.size)]
    facts |= {"lambda": strength, "beta": pairs.beta, "uncovered_voxels": int((~heard).sum())}
    facts["overruled_voxels"] = int(np.count_nonzero(own < shares.max(axis=0, initial=0)))
    labels, confidence = _frame(study, region)
    labels[region.box][nodes] = decided
    labels[region.box][region.disputed & ~nodes] = 0
    confidence[region.box][nodes] = own
    confidence[region.box][region.disputed & ~nodes] = 0
    return labels, confidence, facts


def _frame(study: Study, region: Region | None) -> tuple[np.ndarray, np.ndarray]:
    """Labels and confidence where nothing is disputed; nobody is sure of a voxel that nobody annotated."""
    labels, confidence = np.zeros(study.shape, np.uint8), np.ones(study.shape, np.float32)
    if all((expert.labels == MISSING).any() for expert in study.experts):
        confidence[np.logical_and.reduce([expert.labels == MISSING for expert in study.experts])] = 0
    if region is not None:
        labels[region.outer] = np.where(region.agreed == MISSING, 0, region.agreed)
    return labels, confidence


def _settled(
    study: Study, options: Options, stages: _Stages, warning: str | None, region: Region | None = None
) -> Fused:
    """The answer where there is nothing to decide, hence nothing to judge anyone by."""
    labels, confidence = _frame(study, region)
    given = weigh(np.ones(len(study.experts)), max(len(study.classes), 2), options.weights, 0.0)
    experts: list[dict[str, Any]] = [{"weight": float(w), "self_consistency": None, "kappa": None} for w in given]
    facts: dict[str, Any] = {"energy": 0.0, "energy_of_votes": 0.0, "nodes": 0, "edges": 0, "cuts": 0}
    facts |= {"lambda": None, "beta": None, "rho": None, "soft_votes": 0, "uncovered_voxels": 0, "overruled_voxels": 0}
    facts |= {"warnings": [warning] if warning else [], **_size(region)}
    return Fused(labels, confidence, experts, _facts(options, stages, facts))


def _experts(judgement: _Judgement) -> list[dict[str, Any]]:
    rows = zip(judgement.weights, judgement.scores, judgement.kappa, strict=True)
    return [{"weight": float(w), "self_consistency": float(s), "kappa": float(k)} for w, s, k in rows]


def _size(region: Region | None) -> dict[str, Any]:
    if region is None:
        return {"disputed_voxels": 0, "box": None}
    return {
        "disputed_voxels": int(np.count_nonzero(region.disputed)),
        "box": [[span.start, span.stop] for span in region.outer],
    }


def _facts(options: Options, stages: _Stages, facts: dict[str, Any]) -> dict[str, Any]:
    mode = options.weights if isinstance(options.weights, str) else "given"
    settings = {"weights": mode, "ssl": options.ssl, "neighbours": options.neighbours, "local_sc": options.local_sc}
    settings |= {"smoothness": float(options.smoothness), "seed": int(options.seed)}
    return {**facts, "options": settings, "seconds": dict(stages.seconds)}
