"""GC-SSL: raters weighed by their self-consistency, gaps filled by a forest, labels by one graph cut.

D. Mahapatra, "Consensus Based Medical Image Segmentation Using Semi-Supervised Learning And Graph Cuts",
arXiv:1612.02166; Pattern Recognition 2017, doi 10.1016/j.patcog.2016.09.030. With w_r the weight of rater r, from the
self-consistency, and v_xy large between alike neighbours, the labels L of the disputed voxels minimise

    E(L) = sum over x of the weighted share of raters that L_x overrules + lambda sum over x, y of v_xy [L_x != L_y]

The abstract states the parts: a self-consistency score from low-level image features, semi-supervised prediction of
missing annotations, and a second-order random field whose penalty is the score, solved by graph cut. What it does not
state is ours: the features, one shared forest in place of one per rater, log-odds weights and their guard (which
weakens the smoothing likewise), agreement as a part of the weights, omissions counted as STAPLE counts them
(`gross_errors`), outlines averaged where one vote decides (`near_outlines`), the care for thin structures, and all
constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from medseg.consensus.boxes import relative_spacing
from medseg.consensus.fusers.fusion_log import FusionLog, Row
from medseg.consensus.fusers.gcssl.graph_cut.decision import PairOptions, decide
from medseg.consensus.fusers.gcssl.graph_cut.energy import neighbour_offsets
from medseg.consensus.fusers.gcssl.image_features import NormalisedImage
from medseg.consensus.fusers.gcssl.raters.agreement import agreement_of_raters
from medseg.consensus.fusers.gcssl.raters.gross_errors import FEWEST, find_omissions
from medseg.consensus.fusers.gcssl.raters.missing_votes import Ballots, Guesses, WeightedVotes, count_votes
from medseg.consensus.fusers.gcssl.raters.near_outlines import SoftVotes, count_near_outlines, soften
from medseg.consensus.fusers.gcssl.raters.outlines import Drawn, find_drawn
from medseg.consensus.fusers.gcssl.raters.scores import (
    WEIGHT_MODES,
    RaterScores,
    check_given_weights,
    compute_weights,
    score_raters,
)
from medseg.consensus.fusers.gcssl.region import Region, find_region
from medseg.consensus.fusers.vote_patterns import VotePatterns, find_patterns
from medseg.consensus.study import MISSING, Fused, Rater, Study
from medseg.errors import ConfigError, DataError

LARGEST_SEED = 2**32 - 1
"""That the trees take."""


@dataclass(frozen=True)
class GcsslOptions:
    """Options of GC-SSL.

    Args:
        weights: "logodds" (the agreement with the panel times the root of the log odds of the self-consistency, of
            which nobody has more than the median rater), "consistency" (the log odds alone), "sc" (the score itself),
            "uniform", or one number >= 0 per rater.
        omissions: where somebody overlooked a structure, count omissions as STAPLE does, as far as the votes show that
            they are independent (`gross_errors`); False: votes decide everywhere.
        outlines: where one vote decides, votes tell how near the outlines are, so that the boundary is their mean and
            not their median (`near_outlines`), not together with `local_sc`; False: votes stay as they are; None: true
            without `local_sc`.
        ssl: raters vote also where they annotated nothing, as they would label what looks alike, if that could change a
            label; False: they do not.
        neighbours: 4 or 8 (default) in a 2D image; 6 (default), 18 or 26 in a volume.
        smoothness: total cost of a voxel that differs from all its neighbours where the image has no edge; 0 gives
            the weighted vote. It is multiplied by the informativeness of the image.
        thin: distance to the boundary, in units of the smallest spacing, that a structure must reach near a voxel to be
            smoothed there in full; what is thinner is smoothed less (`thickness_factor`). 0: all alike.
        local_sc: experimental: each voxel has its own weights, by how a rater's posterior there agrees with the label.
        seed: of the sample and the trees.

    Raises:
        ConfigError: an option out of range.
    """

    weights: str | Sequence[float] = "logodds"
    omissions: bool = True
    outlines: bool | None = None
    ssl: bool = True
    neighbours: int | None = None
    smoothness: float = 2.0
    thin: float = 6.0
    local_sc: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("smoothness", "thin"):
            value = getattr(self, name)
            if not np.isfinite(value) or value < 0:
                raise ConfigError(f"{name} {value}; a number >= 0 is wanted")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise ConfigError(f"seed {self.seed}; a whole number from 0 to {LARGEST_SEED} is wanted")
        if self.outlines and self.local_sc:
            raise ConfigError("outlines and local_sc are both true; accepted is one of them")
        if self.outlines is None:
            object.__setattr__(self, "outlines", not self.local_sc)
        if isinstance(self.weights, str) and self.weights not in WEIGHT_MODES:
            raise ConfigError(f"weights {self.weights!r}; {', '.join(WEIGHT_MODES)} or numbers are offered")

    def check_study(self, study: Study) -> None:
        """Refuse a study that these options do not fit, before anything is computed.

        Raises:
            DataError: the study has no image.
            ConfigError: other weights than raters, or no such neighbours in an image of so many axes.
        """
        if study.image is None:
            raise DataError("gcssl scores raters by the image, and there is none; give it, or take a voting method")
        neighbour_offsets(relative_spacing(study.shape, study.spacing_mm), self.neighbours)
        if not isinstance(self.weights, str):
            check_given_weights(self.weights, len(study.raters))

    def for_raters(self, chosen: np.ndarray) -> GcsslOptions:
        """The same options for some of the raters, `(R,)` bool."""
        if isinstance(self.weights, str):
            return self
        pairs = zip(self.weights, chosen, strict=True)
        return replace(self, weights=[float(weight) for weight, is_chosen in pairs if is_chosen])


def gcssl(study: Study, options: GcsslOptions) -> Fused:
    """Fuse the raters of a study that has an image.

    Args:
        study: raters, hard or soft, complete or not, and their image.
        options: how raters are weighed and how much is smoothed.

    Returns:
        Confidence: the weighted share of the votes that the label won, guesses among them where they were asked for.

    Raises:
        DataError: if the study has no image.
        ConfigError: other weights than raters, or no such neighbours in an image of so many axes.
    """
    options.check_study(study)
    log = FusionLog("gcssl", options)
    with log.stage("region"):
        annotating = np.array([not (rater.labels == MISSING).all() for rater in study.raters])
        # who annotated nothing has no say; without anyone left there is nothing to decide
        kept = annotating if annotating.any() else np.ones_like(annotating)
        reduced = replace(study, raters=tuple(study.raters[r] for r in np.flatnonzero(kept)))
        region = find_region([rater.labels for rater in reduced.raters], study.spacing_mm)
    _describe_study(study, annotating, region, log)
    options = options.for_raters(kept)
    if region is None or (len(reduced.raters) > 1 and not region.disputed.any()):
        labels, confidence = _undisputed_maps(reduced, region)
        no_scores = np.ones(len(reduced.raters))
        weights = compute_weights(no_scores, max(len(study.classes), 2), options.weights, 0.0)
        return Fused(labels, confidence, _rater_rows(study, kept, weights, None), log.facts)
    assert reduced.image is not None  # as `check_study` has seen
    with log.stage("features"):
        image = NormalisedImage(reduced.image, region.box, region.units)
    with log.stage("patterns"):
        patterns = _find_patterns(reduced, region)
        rows = patterns.rows_at(region.disputed_positions())
    drawn: list[Drawn] = []
    if (options.omissions or options.outlines) and len(reduced.raters) >= FEWEST:
        with log.stage("outlines"):
            drawn = find_drawn(region, patterns, rows)
    omissions = None
    if options.omissions:
        with log.stage("omissions"):
            omissions = find_omissions(drawn, patterns, rows)
            log.facts |= omissions.facts
    near: list[SoftVotes] = []
    if options.outlines:
        with log.stage("outlines"):
            near = soften(drawn, region)
    del drawn
    with log.stage("agreement"):
        agreement = agreement_of_raters(patterns, omissions)
    majority = _most_frequent_labels(patterns)[rows]
    scores = score_raters(region, image, majority, len(study.classes), options.weights, agreement, options.seed, log)
    log.facts["rho"] = scores.rho
    if image.constant:
        log.warn("the image is constant: nothing about the raters is learned from it")
    with log.stage("votes"):
        counted = _count_votes(reduced, region, patterns, rows, scores, options)
        if near:
            count_near_outlines(counted, near, reduced, region, scores.weights, options.thin)
    guesses = None
    if options.ssl and scores.posterior is not None:
        voxels = np.flatnonzero(region.disputed)
        given = region.labels[:, region.disputed]
        guesses = Guesses(given, voxels, scores.predicted_vote_strength(), scores.posterior)
    if not image.constant:
        # the edges of an image that says nothing are noise, and boundaries along them worse than the plain vote
        options = replace(options, smoothness=options.smoothness * scores.rho)
    pairs = PairOptions(options.smoothness, options.thin, options.neighbours)
    decided = decide(region, Ballots(counted, guesses, omissions), image, pairs, log)
    labels, confidence = _undisputed_maps(reduced, region)
    labels[region.box][region.disputed] = decided.labels
    confidence[region.box][region.disputed] = decided.confidence
    return Fused(labels, confidence, _rater_rows(study, kept, scores.weights, scores), log.facts)


def _find_patterns(study: Study, region: Region) -> VotePatterns:
    """Distinct votes in the box of all labels and its margin."""
    cropped = tuple(Rater(rater.name, rater.labels[region.outer_box]) for rater in study.raters)
    return find_patterns(Study(cropped, study.classes, study.spacing_mm), crop=False)


def _most_frequent_labels(patterns: VotePatterns) -> np.ndarray:
    """`(P,)` uint8: the label of most raters in each pattern, the lowest of equally many; `MISSING` if nobody votes."""
    votes = patterns.count_votes()
    return np.where(votes.any(axis=1), votes.argmax(axis=1), MISSING).astype(np.uint8)


def _count_votes(
    study: Study, region: Region, patterns: VotePatterns, rows: np.ndarray, scores: RaterScores, options: GcsslOptions
) -> WeightedVotes:
    """Votes on the disputed voxels, whose patterns are `rows` `(n,)`."""
    classes, weights = len(study.classes), scores.weights
    is_local = options.local_sc and scores.posterior is not None
    if not is_local and all(rater.probabilities is None for rater in study.raters):
        labels = np.where(patterns.voted(), patterns.table, MISSING).T
        of_patterns = count_votes(labels, [None] * len(labels), weights, classes)
        return WeightedVotes(np.take(of_patterns.votes, rows, axis=1), of_patterns.total[rows])
    labels = region.labels[:, region.disputed]
    probabilities: list[np.ndarray | None] = []
    for rater in study.raters:
        if rater.probabilities is None:
            probabilities.append(None)
        else:
            cropped = rater.probabilities[(slice(None), *region.box)]
            probabilities.append(cropped[:, region.disputed])
    if is_local:
        mode = options.weights if isinstance(options.weights, str) else "logodds"
        weights = scores.local_weights(labels, np.flatnonzero(region.disputed), mode)
    return count_votes(labels, probabilities, weights, classes)


def _undisputed_maps(study: Study, region: Region | None) -> tuple[np.ndarray, np.ndarray]:
    """Labels and confidence where nothing is disputed; what nobody annotated has no confidence."""
    labels = np.zeros(study.shape, np.uint8)
    confidence = np.ones(study.shape, np.float32)
    confidence[_find_unannotated(study)] = 0
    if region is not None:
        labels[region.outer_box] = np.where(region.agreed == MISSING, 0, region.agreed)
    return labels, confidence


def _find_unannotated(study: Study) -> np.ndarray:
    """`(X, Y, Z)` bool; a broadcast False where one rater is complete."""
    nobody = np.broadcast_to(np.True_, study.shape)
    for rater in study.raters:
        if not nobody.any() or rater.labels.max() != MISSING:
            return np.broadcast_to(np.False_, study.shape)
        nobody = nobody & (rater.labels == MISSING)
    return nobody


def _describe_study(study: Study, annotating: np.ndarray, region: Region | None, log: FusionLog) -> None:
    """Enter the facts that hold before anything is decided, and what they are for a study without dispute."""
    dropped = [study.raters[r].name for r in np.flatnonzero(~annotating)]
    for name in dropped:
        log.warn(f"{name} annotated no voxel and is left out")
    if annotating.sum() < 2:
        log.warn("no consensus possible: fewer than two raters annotated anything")
    if region is None:
        some = annotating.any()
        log.warn("no rater labelled anything: the consensus is empty" if some else "nothing is annotated")
    unannotated = _find_unannotated(study)
    all_unannotated = int(np.count_nonzero(unannotated))
    box: list[list[int]] | None = None
    in_box = disputed = 0
    if region is not None:
        box = [[side.start, side.stop] for side in region.outer_box]
        in_box = int(np.count_nonzero(unannotated[region.outer_box]))
        disputed = int(np.count_nonzero(region.disputed))
    log.facts |= {
        **{"energy": 0.0, "energy_of_votes": 0.0, "nodes": 0, "edges": 0, "cuts": 0, "soft_votes": 0},
        **{"lambda": None, "beta": None, "rho": None, "overruled_voxels": 0},
        # outside of the box there are no votes to count, the answer is background
        "uncovered_voxels": all_unannotated - in_box,
        "unannotated_voxels": all_unannotated,
        "dropped": dropped,
        "box": box,
        "disputed_voxels": disputed,
    }


def _rater_rows(study: Study, kept: np.ndarray, weights: np.ndarray, scores: RaterScores | None) -> list[Row]:
    """One row per rater of the study; who was left out has weight 0, and no scores if the image told nothing."""
    rows = []
    place = np.cumsum(kept) - 1
    for rater, is_kept, k in zip(study.raters, kept, place, strict=True):
        row: Row = {"name": rater.name, "weight": 0.0, "self_consistency": None, "kappa": None}
        if is_kept:
            row["weight"] = float(weights[k])
        if is_kept and scores is not None and scores.posterior is not None:
            row["self_consistency"] = float(scores.self_consistency[k])
            row["kappa"] = float(scores.kappa[k])
        rows.append(row)
    return rows
