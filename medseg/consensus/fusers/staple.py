"""STAPLE: one structure's truth and each rater's sensitivity p and specificity q, by expectation maximisation.

Warfield, Zou, Wells, "Simultaneous truth and performance level estimation (STAPLE)", IEEE Transactions on
Medical Imaging 23(7), 2004. With D the decisions, gamma = mean of all decisions, W_x = mean decision at x:

    p_r = sum over D_r = 1 of W / sum W            q_r = sum over D_r = 0 of (1 - W) / sum (1 - W)
    a = gamma prod_r p_r^D (1 - p_r)^(1 - D)       b = (1 - gamma) prod_r q_r^(1 - D) (1 - q_r)^D
    W = a / (a + b)

until no p or q moves by more than 1e-7: start, formulas and stopping rule of ITK's filter. Here a rater's
sums and products run over the voxels that he annotated; with complete annotations the numbers are ITK's. Where
a truth has no mass, ITK divides 0 by 0; here the rate stays undefined and is reported as None.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from medseg.consensus.fusers.expectation_maximization import Ballots
from medseg.consensus.fusers.fusion_log import Account, disputed, present, shares
from medseg.consensus.fusers.vote_patterns import Patterns, compress
from medseg.consensus.study import Fused, Rater, Study

STEP = 1e-14
"""Square of the largest step that counts as none."""
Row = dict[str, Any]


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


def staple(study: Study, options: StapleOptions) -> Fused:
    """STAPLE of each class against all others; the likeliest class above 1/2 wins, else background.

    Args:
        study: raters with the same or partial coverage.
        options: see there.

    Returns:
        Confidence: W of the winning class; where background wins, 1 - the largest W of the others.
    """
    account = Account("staple", options)
    with account.stage("patterns"):
        patterns = compress(study, crop=options.crop)
    account.describe(study, patterns)
    counts = np.where(disputed(patterns), patterns.counts, 0) if options.disputed_only else patterns.counts
    with account.stage("em"):
        found = {
            c: estimate(_binary(patterns, c), counts, options.max_iterations)
            for c in range(1, patterns.classes)
            if (patterns.table == c).any()
        }
    with account.stage("write"):
        labels, confidence = decide(patterns, {c: e.truth for c, e in found.items()})
        painted = patterns.paint(labels), patterns.paint(confidence)
    names = {c: study.classes[c] for c in found}
    account.facts["iterations"] = {names[c]: e.iterations for c, e in found.items()}
    raters = [_row(study.raters[r], r, {names[c]: e for c, e in found.items()}) for r in range(len(study.raters))]
    _warn(account, raters, {names[c]: e for c, e in found.items()})
    for row, weight in zip(raters, shares(trust(raters) * present(patterns)), strict=True):
        row["weight"] = weight
    return Fused(*painted, raters, account.facts)


def estimate(table: np.ndarray, counts: np.ndarray, max_iterations: int = 10_000) -> Estimate:
    """STAPLE on patterns.

    Args:
        table: `(P, R)` decisions: 1 for the structure, 0 against it, 2 not annotated.
        counts: `(P,)` voxels of each pattern.
        max_iterations: at most.
    """
    # patterns of many classes are few in the eyes of one: 2^R, 3^R where raters abstain
    table, which = np.unique(table, axis=0, return_inverse=True)
    counts = np.bincount(which.reshape(-1), counts, len(table))
    for_it, cast = (table == 1).sum(1), (table < 2).sum(1)
    gamma = float(counts @ for_it / max(counts @ cast, 1))
    inside = np.where(cast > 0, for_it / np.maximum(cast, 1), gamma)
    W, prior = np.stack([1 - inside, inside], 1), np.array([1 - gamma, gamma])
    ballots, theta = Ballots(table, counts, 2), np.ones((table.shape[1], 3, 2))
    iteration, converged = 0, False
    while iteration < max_iterations and not converged:
        before, theta = theta, ballots.rates(W, theta)
        W = ballots.posterior(theta, prior)
        converged = iteration > 0 and bool(((theta - before) ** 2 <= STEP).all())
        iteration += not converged
    known = ballots.sums(counts[:, None] * W)[:, :2].sum(1) > 0
    p, q = np.where(known[:, 1], theta[:, 1, 1], np.nan), np.where(known[:, 0], theta[:, 0, 0], np.nan)
    return Estimate(W[which.reshape(-1), 1], p, q, iteration, converged)


def decide(patterns: Patterns, truths: dict[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """From the probability of each class by itself to one label: `(P,)` uint8, and its probability float32."""
    scores = np.zeros((len(patterns.table), patterns.classes))
    for c, truth in truths.items():
        scores[:, c] = truth
    labels = np.where(scores.max(1) > 0.5, scores.argmax(1), 0)
    best = scores.max(1)
    confidence = np.where(labels > 0, best, 1 - best)
    nobody = (patterns.table >= patterns.classes).all(1)
    labels[nobody], confidence[nobody] = 0, 0
    return labels.astype(np.uint8), confidence.astype(np.float32)


def _binary(patterns: Patterns, c: int) -> np.ndarray:
    return np.where(patterns.table < patterns.classes, patterns.table == c, 2)


def _row(rater: Rater, r: int, found: dict[str, Estimate]) -> Row:
    return {
        "name": rater.name,
        "sensitivity": {name: _number(e.sensitivity[r]) for name, e in found.items()},
        "specificity": {name: _number(e.specificity[r]) for name, e in found.items()},
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def trust(raters: list[Row]) -> np.ndarray:
    """Mean of p + q - 1 over the classes, not below 0: for people to read, the fusion does not use it."""
    gains = []
    for row in raters:
        pairs = zip(row["sensitivity"].values(), row["specificity"].values(), strict=True)
        known = [p + q - 1 for p, q in pairs if p is not None and q is not None]
        gains.append(max(sum(known) / len(known), 0.0) if known else 0.0)
    return np.array(gains) if any(gains) else np.ones(len(gains))


def _warn(account: Account, raters: list[Row], found: dict[str, Estimate]) -> None:
    for name, e in found.items():
        if not e.converged:
            account.warn(f"{name}: STAPLE did not settle in {e.iterations} iterations")
        for row, p, q in zip(raters, e.sensitivity, e.specificity, strict=True):
            if p + q < 1:
                account.warn(f"{name}: {row['name']} is estimated worse than chance, his votes count reversed")
