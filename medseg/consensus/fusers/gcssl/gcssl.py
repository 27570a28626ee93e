"""GC-SSL: raters weighed by their self-consistency, gaps filled by a forest, labels by one graph cut.

D. Mahapatra, "Consensus Based Medical Image Segmentation Using Semi-Supervised Learning And Graph Cuts",
arXiv:1612.02166; Pattern Recognition 2017, doi 10.1016/j.patcog.2016.09.030. The abstract states the parts: a
self-consistency score from low-level image features, semi-supervised prediction of missing annotations, and a
second-order random field whose penalty is the score, solved by graph cut. What it does not state is ours: the features,
one shared forest in place of one per rater, log-odds weights and their guard (which weakens the smoothing likewise),
the care for thin structures, and all constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medseg.consensus.boxes import relative_spacing
from medseg.consensus.fusers.fusion_log import FusionLog
from medseg.consensus.fusers.gcssl.alpha_expansion import solve
from medseg.consensus.fusers.gcssl.energy import find_pairs, neighbourhood, slenderness
from medseg.consensus.fusers.gcssl.image_features import Canvas
from medseg.consensus.fusers.gcssl.missing_votes import Ballot, ballot, fill
from medseg.consensus.fusers.gcssl.rater_scores import Judgement, judge
from medseg.consensus.fusers.gcssl.region import Region, find_region
from medseg.consensus.fusers.gcssl.self_consistency import MODES, weigh
from medseg.consensus.study import MISSING, Fused, Study
from medseg.errors import ConfigError, DataError

SIGMA_PAIRS = 0.7
"""Smoothing of the intensities that neighbours are compared by, in units of the smallest spacing."""
_COLUMNS = ("self_consistency", "kappa")


@dataclass(frozen=True)
class GcsslOptions:
    """Options of GC-SSL.

    Args:
        weights: "logodds", "sc" (the score itself), "uniform", or one number >= 0 per rater.
        ssl: raters vote also where they annotated nothing, as they would label what looks alike; False: they abstain.
        neighbours: 4 or 8 (default) in a picture; 6 (default), 18 or 26 in a volume.
        smoothness: total cost of a voxel that differs from all its neighbours where the image has no edge; 0 gives
            the weighted vote. It is multiplied by the informativeness of the image.
        thin: distance to the boundary, in units of the smallest spacing, that a structure must reach near a voxel to be
            smoothed there in full; what is thinner is smoothed less (`energy.slenderness`). 0: all alike.
        local_sc: experimental: each voxel has its own weights, by how the rater's posterior there agrees with him.
        seed: of the sample and the trees.

    Raises:
        ConfigError: an option out of range.
    """

    weights: str | Sequence[float] = "logodds"
    ssl: bool = True
    neighbours: int | None = None
    smoothness: float = 2.0
    thin: float = 6.0
    local_sc: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("smoothness", "thin"):
            if not np.isfinite(getattr(self, name)) or getattr(self, name) < 0:
                raise ConfigError(f"{name} {getattr(self, name)}; a number >= 0 is wanted")
        if isinstance(self.weights, str) and self.weights not in MODES:
            raise ConfigError(f"weights {self.weights!r}; {', '.join(MODES)} or numbers are offered")

    def check(self, study: Study) -> None:
        """Refuse a study that these options do not fit, before anything is computed."""
        if study.image is None:
            raise DataError("gcssl judges raters by the image, and there is none; give it, or take a voting method")
        neighbourhood(relative_spacing(study.shape, study.spacing_mm), self.neighbours)
        weigh(np.ones(len(study.raters)), max(len(study.classes), 2), self.weights, 0.0)

    def among(self, heard: Sequence[bool]) -> GcsslOptions:
        """The same for the raters who are left."""
        if isinstance(self.weights, str) or not any(heard):
            return self
        return replace(self, weights=[float(w) for w, h in zip(self.weights, heard, strict=True) if h])


def gcssl(study: Study, options: GcsslOptions) -> Fused:
    """Fuse the raters of a study that has an image.

    Args:
        study: raters, hard or soft, complete or not, and their image.
        options: see there.

    Raises:
        DataError: if the study has no image.
        ConfigError: if there are other weights than raters, or no such neighbours in an image of so many axes.
    """
    options.check(study)
    log = FusionLog("gcssl", options)
    with log.stage("region"):
        heard = [not (rater.labels == MISSING).all() for rater in study.raters]
        # who annotated nothing has no say; without anyone left there is nothing to decide
        kept = replace(study, raters=tuple(e for e, h in zip(study.raters, heard, strict=True) if h) or study.raters)
        region = find_region([rater.labels for rater in kept.raters], study.spacing_mm)
    _describe(study, heard, region, log)
    options = options.among(heard)
    if region is None or (len(kept.raters) > 1 and not region.disputed.any()):
        labels, confidence = _frame(kept, region)
        given = weigh(np.ones(len(kept.raters)), max(len(study.classes), 2), options.weights, 0.0)
        return Fused(labels, confidence, _rows(study, heard, given), log.facts)
    judgement, labels, confidence = _fuse(kept, region, options, log)
    columns = {"self_consistency": judgement.scores, "kappa": judgement.kappa}
    return Fused(labels, confidence, _rows(study, heard, judgement.weights, **columns), log.facts)


def _fuse(
    study: Study, region: Region, options: GcsslOptions, log: FusionLog
) -> tuple[Judgement, np.ndarray, np.ndarray]:
    """Judge the raters, count their votes, and cut."""
    assert study.image is not None
    with log.stage("features"):
        canvas = Canvas(study.image, region.box, region.units)
    judgement = judge(region, canvas, len(study.classes), options.weights, options.seed, log)
    log.facts["rho"] = judgement.rho
    if canvas.constant:
        log.warn("the image is constant: nothing is learned from it, and all raters count alike")
    with log.stage("votes"):
        counted, said = _count(study, region, judgement, options)
    if options.ssl and judgement.posterior is not None:
        with log.stage("missing"):
            voxels = np.flatnonzero(region.disputed)
            strength = judgement.soft_strength()
            log.facts["soft_votes"] = fill(counted, said, voxels, strength, judgement.posterior)
    if not canvas.constant:
        # the edges of an image that says nothing are noise, and boundaries drawn along them worse than the plain vote
        options = replace(options, smoothness=options.smoothness * judgement.rho)
    labels, confidence = _decide(study, region, counted, canvas, options, log)
    return judgement, labels, confidence


def _count(study: Study, region: Region, judgement: Judgement, options: GcsslOptions) -> tuple[Ballot, np.ndarray]:
    """Votes on the disputed voxels, and the labels `(R, n)` that were given there."""
    said = region.labels[:, region.disputed]
    soft = [
        None if e.probabilities is None else e.probabilities[(slice(None), *region.box)][:, region.disputed]
        for e in study.raters
    ]
    weights = judgement.weights
    if options.local_sc and judgement.posterior is not None:
        mode = options.weights if isinstance(options.weights, str) else "logodds"
        weights = judgement.local_weights(said, np.flatnonzero(region.disputed), mode)
    return ballot(said, soft, weights, len(study.classes)), said


def _decide(
    study: Study, region: Region, counted: Ballot, canvas: Canvas, options: GcsslOptions, log: FusionLog
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and confidence of the whole grid."""
    heard = counted.cast > 0
    with log.stage("graph"):
        nodes, fixed = region.disputed.copy(), region.agreed[region.within].copy()
        nodes[region.disputed] = heard
        silent = region.disputed & ~nodes
        fixed[silent] = MISSING  # what nobody can tell pulls at nobody
        pairs = find_pairs(nodes, fixed, canvas.smoothed(SIGMA_PAIRS), region.units, options.neighbours)
        shares = counted.shares()[:, heard]
        voted = np.where(fixed == MISSING, 0, fixed).astype(np.uint8)
        voted[nodes] = shares.argmax(axis=0)
        pairs = pairs.weakened(slenderness(voted, nodes, region.units, options.thin))
        strength = options.smoothness / pairs.lattice if pairs.lattice else 0.0
        energy = pairs.energy(counted.costs()[:, heard], strength)
    with log.stage("cut"):
        decided, facts = solve(energy)
    own = shares[decided, np.arange(decided.size)]
    log.facts |= facts | {"lambda": strength, "beta": pairs.beta}
    log.facts["uncovered_voxels"] += int(np.count_nonzero(silent))
    log.facts["overruled_voxels"] = int(np.count_nonzero(own < shares.max(axis=0, initial=0)))
    if "note" in facts:
        log.warn(facts["note"])
    labels, confidence = _frame(study, region)
    for volume, values in ((labels, decided), (confidence, own)):
        volume[region.box][nodes] = values
        volume[region.box][silent] = 0
    return labels, confidence


def _frame(study: Study, region: Region | None) -> tuple[np.ndarray, np.ndarray]:
    """Labels and confidence where nothing is disputed; nobody is sure of a voxel that nobody annotated."""
    labels, confidence = np.zeros(study.shape, np.uint8), np.ones(study.shape, np.float32)
    confidence[_unannotated(study)] = 0
    if region is not None:
        labels[region.outer] = np.where(region.agreed == MISSING, 0, region.agreed)
    return labels, confidence


def _unannotated(study: Study) -> np.ndarray:
    """`(X, Y, Z)` bool; a broadcast False where one rater is complete."""
    nobody = np.broadcast_to(np.True_, study.shape)
    for rater in study.raters:
        if not nobody.any() or rater.labels.max() != MISSING:
            return np.broadcast_to(np.False_, study.shape)
        nobody = nobody & (rater.labels == MISSING)
    return nobody


def _describe(study: Study, heard: Sequence[bool], region: Region | None, log: FusionLog) -> None:
    """Facts that are known before anything is decided."""
    log.facts |= {"energy": 0.0, "energy_of_votes": 0.0, "nodes": 0, "edges": 0, "cuts": 0, "soft_votes": 0}
    log.facts |= {"lambda": None, "beta": None, "rho": None, "overruled_voxels": 0, "uncovered_voxels": 0}
    dropped = [e.name for e, h in zip(study.raters, heard, strict=True) if not h]
    log.facts |= {"dropped": dropped, "box": None, "disputed_voxels": 0}
    for name in dropped:
        log.warn(f"{name} annotated no voxel and is left out")
    if sum(heard) < 2:
        log.warn("no consensus possible: fewer than two raters annotated anything")
    unannotated = _unannotated(study)
    outside = int(np.count_nonzero(unannotated))
    log.facts["unannotated_voxels"] = outside
    if region is None:
        log.warn("no rater labelled anything: the consensus is empty" if any(heard) else "nothing is annotated")
    else:
        outside -= int(np.count_nonzero(unannotated[region.outer]))
        log.facts["box"] = [[span.start, span.stop] for span in region.outer]
        log.facts["disputed_voxels"] = int(np.count_nonzero(region.disputed))
    log.facts["uncovered_voxels"] = outside  # outside of the field nobody is asked, the answer is background


def _rows(study: Study, heard: Sequence[bool], weights: np.ndarray, **columns: np.ndarray) -> list[dict[str, Any]]:
    """One row per rater of the study; who was left out weighs 0."""
    rows: list[dict[str, Any]] = []
    place = np.cumsum(heard) - 1
    for number, rater in enumerate(study.raters):
        known = heard[number] or not any(heard)
        at = place[number] if any(heard) else number
        row = {"name": rater.name, "weight": float(weights[at]) if known else 0.0}
        row |= {key: float(columns[key][at]) if known and key in columns else None for key in _COLUMNS}
        rows.append(row)
    return rows
