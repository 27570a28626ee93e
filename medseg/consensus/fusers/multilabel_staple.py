"""Multi-label STAPLE: all classes at once, each rater with a confusion matrix.

Rohlfing, Russakoff, Maurer, "Performance-based classifier combination in atlas-based image segmentation using
expectation-maximization parameter estimation", IEEE Transactions on Medical Imaging 23(8), 2004. With L_r the
votes and pi the shares of the classes among all votes:

    W_x(c) ~ pi(c) prod_r theta_r(L_r | c)         theta_r(j | c) = sum over L_r = j of W(c) / sum W(c)

until no theta moves by 1e-5 or more. Sums and products run over the voxels that a rater annotated.

Start, as in ITK's filter: for each vote j of a rater, how often the majority says c there; its row is made to
sum to 1. A tied voxel counts in equal parts for each tied class. (ITK up to 5.4 writes it into another vote's
row, and leaves the first class with more than its due; later versions leave it out, with which two raters who
differ could never be reconciled.) A theta of 0 stays 0: a class that no majority or tie ever backs is lost.

Options: `crop` (True), `disputed_only` (False), `max_iterations` (10 000), as of `staple`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medseg.consensus.fusers.expectation_maximization import ExpectationMaximization
from medseg.consensus.fusers.fusion_log import FusionLog, Row, normalise_weights
from medseg.consensus.fusers.majority import vote
from medseg.consensus.fusers.staple import StapleOptions, counts_to_learn_from
from medseg.consensus.fusers.vote_patterns import VotePatterns, find_patterns
from medseg.consensus.study import Fused, Study

UPDATE = 1e-5
"""A step below counts as none."""


@dataclass(frozen=True, eq=False)
class ConfusionEstimate:
    """What the iterations end with.

    Args:
        truth: `(P, K)` probability of each class, all 0 where the model holds a pattern for impossible.
        theta: `(R, K + 1, K)` probability of each vote given the truth; the last row stands for no vote.
        iterations: M-steps done.
        converged: whether the stopping rule was met.
    """

    truth: np.ndarray
    theta: np.ndarray
    iterations: int
    converged: bool


def multilabel_staple(study: Study, options: StapleOptions) -> Fused:
    """The likeliest class of each voxel under every rater's estimated confusion matrix.

    Args:
        study: raters with the same or partial coverage.
        options: what is learned from, and for how long.

    Returns:
        Confidence: the winner's probability. Equally likely classes: the lowest index wins.
    """
    log = FusionLog("ml-staple", options)
    with log.stage("patterns"):
        patterns = find_patterns(study, crop=options.crop)
    log.describe(study, patterns)
    with log.stage("em"):
        counts = counts_to_learn_from(patterns, options)
        theta, prior = start(patterns, counts), class_prior(patterns, counts)
        found = iterate(patterns.table, counts, theta, prior, options.max_iterations)
    with log.stage("write"):
        labels, confidence = _choose_labels(patterns, found.truth)
        label_map, confidence_map = patterns.to_volume(labels), patterns.to_volume(confidence)
    log.facts["iterations"] = found.iterations
    if not found.converged:
        log.warn(f"multi-label STAPLE did not settle in {found.iterations} iterations")
    learned = [c for c in range(patterns.classes) if counts @ found.truth[:, c] > 0]
    return Fused(label_map, confidence_map, _rows(study, patterns, found, learned), log.facts)


def class_prior(patterns: VotePatterns, counts: np.ndarray) -> np.ndarray:
    """`(K,)` share of each class among all votes; equal shares where there are none."""
    votes = (counts @ patterns.count_votes()).astype(float)
    if not votes.sum():
        return np.full(patterns.classes, 1 / patterns.classes)
    return votes / votes.sum()


def start(patterns: VotePatterns, counts: np.ndarray) -> np.ndarray:
    """`(R, K + 1, K)`: for each rater and vote, what the majority says, in shares."""
    votes = patterns.count_votes()
    leading = (votes == votes.max(1, keepdims=True)) & (votes.sum(1, keepdims=True) > 0)
    mass = counts[:, None] * leading / np.maximum(leading.sum(1, keepdims=True), 1)
    theta = ExpectationMaximization(patterns.table, counts, patterns.classes).mass_per_vote(mass)
    theta /= np.maximum(theta.sum(2, keepdims=True), np.finfo(float).tiny)
    theta[:, -1] = 1
    return theta


def iterate(
    table: np.ndarray, counts: np.ndarray, theta: np.ndarray, prior: np.ndarray, max_iterations: int = 10_000
) -> ConfusionEstimate:
    """Expectation maximisation on patterns.

    Args:
        table: `(P, R)` votes, K = not annotated.
        counts: `(P,)` voxels of each pattern.
        theta: `(R, K + 1, K)` to start from.
        prior: `(K,)`.
        max_iterations: at most.
    """
    em = ExpectationMaximization(table, counts, len(prior))
    iteration, converged = 0, False
    while iteration < max_iterations and not converged:
        W = em.posterior(theta, prior)
        before, theta = theta, em.rates(W, theta)
        converged = float(np.abs(theta - before).max()) < UPDATE
        iteration += 1
    return ConfusionEstimate(em.posterior(theta, prior), theta, iteration, converged)


def _choose_labels(patterns: VotePatterns, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`(P,)` the likeliest class, and its probability; the majority's where the model has none."""
    labels, confidence = truth.argmax(1).astype(np.uint8), truth.max(1).astype(np.float32)
    voted, share, _ = vote(patterns)
    # what the model never saw it may hold for impossible, and what nobody annotated it only has the prior of
    undecided = (confidence == 0) | ~patterns.voted().any(1)
    return np.where(undecided, voted, labels), np.where(undecided, share, confidence)


def _rows(study: Study, patterns: VotePatterns, found: ConfusionEstimate, learned: list[int]) -> list[Row]:
    """Weight and confusion matrix of each rater, for the classes that there was something to learn of."""
    correct = found.theta[:, learned, learned].mean(1) if learned else np.zeros(len(study.raters))
    weights = normalise_weights(correct * patterns.active_raters())
    matrices = np.moveaxis(found.theta[:, :-1], 1, 2)
    rows = []
    for rater, weight, matrix in zip(study.raters, weights, matrices, strict=True):
        confusion = {study.classes[c]: matrix[c].tolist() for c in learned}
        rows.append({"name": rater.name, "weight": weight, "confusion": confusion})
    return rows
