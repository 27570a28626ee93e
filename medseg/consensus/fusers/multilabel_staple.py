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
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medseg.consensus.fusers.expectation_maximization import Ballots
from medseg.consensus.fusers.fusion_log import Account, disputed, present, shares
from medseg.consensus.fusers.majority import elect
from medseg.consensus.fusers.staple import StapleOptions
from medseg.consensus.fusers.vote_patterns import Patterns, compress
from medseg.consensus.study import Fused, Study

UPDATE = 1e-5
"""A step below counts as none."""


@dataclass(frozen=True, eq=False)
class Confusion:
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
        options: see there.

    Returns:
        Confidence: the winner's probability. Equally likely classes: the lowest index wins.
    """
    account = Account("ml-staple", options)
    with account.stage("patterns"):
        patterns = compress(study, crop=options.crop)
    account.describe(study, patterns)
    counts = np.where(disputed(patterns), patterns.counts, 0) if options.disputed_only else patterns.counts
    with account.stage("em"):
        prior = prior_of(patterns, counts)
        found = iterate(patterns.table, counts, start(patterns, counts), prior, options.max_iterations)
    with account.stage("write"):
        labels, confidence = _decide(patterns, found.truth)
        painted = patterns.paint(labels), patterns.paint(confidence)
    account.facts["iterations"] = found.iterations
    if not found.converged:
        account.warn(f"multi-label STAPLE did not settle in {found.iterations} iterations")
    known = [c for c in range(patterns.classes) if counts @ found.truth[:, c] > 0]
    right = found.theta[:, known, known].mean(1) if known else np.zeros(len(study.raters))
    weights = shares(right * present(patterns))
    matrices = np.moveaxis(found.theta[:, :-1], 1, 2)
    raters = [
        {
            "name": study.raters[r].name,
            "weight": weights[r],
            "confusion": {study.classes[c]: [float(v) for v in matrices[r, c]] for c in known},
        }
        for r in range(len(study.raters))
    ]
    return Fused(*painted, raters, account.facts)


def prior_of(patterns: Patterns, counts: np.ndarray) -> np.ndarray:
    """`(K,)` share of each class among all votes; equal shares where there are none."""
    votes = (counts @ patterns.votes()).astype(float)
    return votes / votes.sum() if votes.sum() else np.full(patterns.classes, 1 / patterns.classes)


def start(patterns: Patterns, counts: np.ndarray) -> np.ndarray:
    """`(R, K + 1, K)`: for each rater and vote, what the majority says, in shares."""
    votes = patterns.votes()
    leading = (votes == votes.max(1, keepdims=True)) & (votes.sum(1, keepdims=True) > 0)
    mass = counts[:, None] * leading / np.maximum(leading.sum(1, keepdims=True), 1)
    theta = Ballots(patterns.table, counts, patterns.classes).sums(mass)
    theta /= np.maximum(theta.sum(2, keepdims=True), np.finfo(float).tiny)
    theta[:, -1] = 1
    return theta


def iterate(
    table: np.ndarray, counts: np.ndarray, theta: np.ndarray, prior: np.ndarray, max_iterations: int = 10_000
) -> Confusion:
    """Expectation maximisation on patterns.

    Args:
        table: `(P, R)` votes, K = not annotated.
        counts: `(P,)` voxels of each pattern.
        theta: `(R, K + 1, K)` to start from.
        prior: `(K,)`.
        max_iterations: at most.
    """
    ballots = Ballots(table, counts, len(prior))
    iteration, converged = 0, False
    while iteration < max_iterations and not converged:
        W = ballots.posterior(theta, prior)
        before, theta = theta, ballots.rates(W, theta)
        converged = float(np.abs(theta - before).max()) < UPDATE
        iteration += 1
    return Confusion(ballots.posterior(theta, prior), theta, iteration, converged)


def _decide(patterns: Patterns, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels, confidence = truth.argmax(1).astype(np.uint8), truth.max(1).astype(np.float32)
    voted, share, _ = elect(patterns)
    # what the model never saw it may hold for impossible, and what nobody annotated it only knows the prior of
    unknown = (confidence == 0) | (patterns.table == patterns.classes).all(1)
    return np.where(unknown, voted, labels), np.where(unknown, share, confidence)
