"""STAPLE: one structure's truth and each rater's sensitivity p and specificity q, by expectation maximisation.

Warfield, Zou, Wells, "Simultaneous truth and performance level estimation (STAPLE)", IEEE Transactions on
Medical Imaging 23(7), 2004. With D the decisions, gamma = mean of all decisions, W_x = mean decision at x:

    p_r = sum over D_r = 1 of W / sum W            q_r = sum over D_r = 0 of (1 - W) / sum (1 - W)
    a = gamma prod_r p_r^D (1 - p_r)^(1 - D)       b = (1 - gamma) prod_r q_r^(1 - D) (1 - q_r)^D
    W = a / (a + b)

until no p or q moves by more than 1e-7: start, formulas and stopping rule of ITK's filter. Here a rater's
sums and products run over the voxels that the rater annotated; with complete annotations the numbers are ITK's. Where
a truth has no mass, ITK divides 0 by 0; here the rate stays undefined and is reported as None.

Options: `crop` (True), `disputed_only` (False), `max_iterations` (10 000).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medseg.consensus.fusers.expectation_maximization import ExpectationMaximization
from medseg.consensus.fusers.fusion_log import FusionLog, Row, normalise_weights
from medseg.consensus.fusers.vote_patterns import VotePatterns, find_patterns
from medseg.consensus.study import Fused, Rater, Study

STEP = 1e-14
"""Square of the largest step that counts as none."""


@dataclass(frozen=True)
class StapleOptions:
    """Options of STAPLE and of multi-label STAPLE.

    Args:
        crop: look only at the box of what anybody labelled, with its margin: the more background is counted,
            the less a specificity says.
        disputed_only: learn from voxels only on which the raters differ.
        max_iterations: at most, per class.
    """

    crop: bool = True
    disputed_only: bool = False
    max_iterations: int = 10_000


@dataclass(frozen=True, eq=False)
class Estimate:
    """STAPLE's answer for one structure.

    Args:
        truth: `(P,)` probability W of each pattern.
        sensitivity: `(R,)` p; NaN where there was nothing to learn it from.
        specificity: `(R,)` q, likewise.
        iterations: done, counted as ITK does.
        converged: whether the stopping rule was met.
    """

    truth: np.ndarray
    sensitivity: np.ndarray
    specificity: np.ndarray
    iterations: int
    converged: bool


def staple(study: Study, options: StapleOptions) -> Fused:
    """STAPLE of each class against all others; the likeliest class above 1/2 wins, else background.

    Args:
        study: raters with the same or partial coverage.
        options: what is learned from, and for how long.

    Returns:
        Confidence: W of the winning class; where background wins, 1 - the largest W of the others.

    Examples:
        Two raters agree on a structure of 100 of 400 pixels, the third misses half of it.

        >>> import numpy as np
        >>> from medseg.consensus.study import Rater, Study
        >>> careful = np.zeros((20, 20, 1), np.uint8)
        >>> careful[5:15, 5:15] = 1
        >>> careless = careful.copy()
        >>> careless[5:10] = 0
        >>> raters = (Rater("a", careful), Rater("b", careful), Rater("c", careless))
        >>> fused = staple(Study(raters, ("background", "liver"), (1.0, 1.0, 1.0)), StapleOptions())
        >>> int(fused.labels.sum())
        100
        >>> [round(rater["sensitivity"]["liver"], 2) for rater in fused.raters]
        [1.0, 1.0, 0.5]
    """
    log = FusionLog("staple", options)
    with log.stage("patterns"):
        patterns = find_patterns(study, crop=options.crop)
    log.describe(study, patterns)
    estimates: dict[int, Estimate] = {}
    with log.stage("em"):
        counts = counts_to_learn_from(patterns, options)
        for c in range(1, patterns.classes):
            if (patterns.table == c).any():
                decisions = np.where(patterns.voted(), patterns.table == c, 2)
                estimates[c] = estimate(decisions, counts, options.max_iterations)
    with log.stage("write"):
        labels, confidence = choose_classes(patterns, {c: found.truth for c, found in estimates.items()})
        label_map, confidence_map = patterns.to_volume(labels), patterns.to_volume(confidence)
    named = {study.classes[c]: found for c, found in estimates.items()}
    log.facts["iterations"] = {name: found.iterations for name, found in named.items()}
    raters = [_row(rater, r, named) for r, rater in enumerate(study.raters)]
    _warn(log, raters, named)
    weights = normalise_weights(_mean_youden_index(raters) * patterns.active_raters())
    for row, weight in zip(raters, weights, strict=True):
        row["weight"] = weight
    return Fused(label_map, confidence_map, raters, log.facts)


def counts_to_learn_from(patterns: VotePatterns, options: StapleOptions) -> np.ndarray:
    """`(P,)` voxels of each pattern that take part in the estimation."""
    if options.disputed_only:
        return np.where(patterns.disputed(), patterns.counts, 0)
    return patterns.counts


def estimate(table: np.ndarray, counts: np.ndarray, max_iterations: int = 10_000) -> Estimate:
    """STAPLE on patterns.

    Args:
        table: `(P, R)` decisions: 1 for the structure, 0 against it, 2 not annotated.
        counts: `(P,)` voxels of each pattern.
        max_iterations: at most.
    """
    # patterns of many classes are few to one class: 2^R, or 3^R where raters left something out
    table, which = np.unique(table, axis=0, return_inverse=True)
    which = which.reshape(-1)
    counts = np.bincount(which, counts, len(table))
    W, prior = _start(table, counts)
    em = ExpectationMaximization(table, counts, 2)
    theta = np.ones((table.shape[1], 3, 2))
    iteration, converged = 0, False
    while iteration < max_iterations and not converged:
        before = theta
        theta = em.rates(W, before)
        W = em.posterior(theta, prior)
        squared_steps = (theta - before) ** 2
        converged = iteration > 0 and bool((squared_steps <= STEP).all())
        if not converged:
            iteration += 1
    has_mass = em.mass_per_vote(counts[:, None] * W)[:, :2].sum(1) > 0
    sensitivity = np.where(has_mass[:, 1], theta[:, 1, 1], np.nan)
    specificity = np.where(has_mass[:, 0], theta[:, 0, 0], np.nan)
    return Estimate(W[which, 1], sensitivity, specificity, iteration, converged)


def _start(table: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`(P, 2)` the mean decision against and for the structure in each pattern, and `(2,)` in all voxels."""
    votes_for, votes = (table == 1).sum(1), (table < 2).sum(1)
    gamma = float(counts @ votes_for / max(counts @ votes, 1))
    mean = np.where(votes > 0, votes_for / np.maximum(votes, 1), gamma)
    return np.stack([1 - mean, mean], 1), np.array([1 - gamma, gamma])


def choose_classes(patterns: VotePatterns, truths: dict[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """From the probability of each class by itself to one label: `(P,)` uint8, and its probability float32."""
    scores = np.zeros((len(patterns.table), patterns.classes))
    for c, truth in truths.items():
        scores[:, c] = truth
    best = scores.max(1)
    labels = np.where(best > 0.5, scores.argmax(1), 0)
    confidence = np.where(labels > 0, best, 1 - best)
    nobody = ~patterns.voted().any(1)
    labels[nobody], confidence[nobody] = 0, 0
    return labels.astype(np.uint8), confidence.astype(np.float32)


def _row(rater: Rater, r: int, estimates: dict[str, Estimate]) -> Row:
    return {
        "name": rater.name,
        "sensitivity": {name: _finite_or_none(found.sensitivity[r]) for name, found in estimates.items()},
        "specificity": {name: _finite_or_none(found.specificity[r]) for name, found in estimates.items()},
    }


def _finite_or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _warn(log: FusionLog, raters: list[Row], estimates: dict[str, Estimate]) -> None:
    for name, found in estimates.items():
        if not found.converged:
            log.warn(f"{name}: STAPLE did not settle in {found.iterations} iterations")
        for row, p, q in zip(raters, found.sensitivity, found.specificity, strict=True):
            if p + q < 1:
                log.warn(f"{name}: {row['name']} is estimated worse than chance, so that these votes count reversed")


def _mean_youden_index(raters: list[Row]) -> np.ndarray:
    """`(R,)` mean of p + q - 1 over the classes, not below 0: for people to read, the fusion does not use it."""
    found = np.zeros(len(raters))
    for r, row in enumerate(raters):
        rates = zip(row["sensitivity"].values(), row["specificity"].values(), strict=True)
        defined = [p + q - 1 for p, q in rates if p is not None and q is not None]
        if defined:
            found[r] = max(sum(defined) / len(defined), 0.0)
    return found if found.any() else np.ones(len(raters))
