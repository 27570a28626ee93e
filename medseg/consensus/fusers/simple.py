"""SIMPLE: a weighted majority that drops the raters who agree least with it, class by class.

Langerak, van der Heide, Kotte, Viergever, van Vulpen, Pluim, "Label fusion in atlas-based segmentation using a
selective and iterative method for performance level estimation (SIMPLE)", IEEE Transactions on Medical Imaging
29(12), 2010. For one class, from the plain majority, until nothing changes:

    phi_r = Dice of rater r and the estimate, over what r annotated
    rater r is dropped if phi_r < mean - alpha sd       (population sd of those still in; two are always kept)
    estimate = majority weighted by phi

Options: `alpha` (1.0), `max_iterations` (25).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medseg.consensus.fusers.fusion_log import FusionLog, Row, normalise_weights
from medseg.consensus.fusers.staple import choose_classes
from medseg.consensus.fusers.vote_patterns import VotePatterns, find_patterns
from medseg.consensus.study import Fused, Study
from medseg.errors import ConfigError

FEWEST = 2
"""Raters that are always kept."""


@dataclass(frozen=True)
class SimpleOptions:
    """Options of SIMPLE.

    Args:
        alpha: standard deviations below the mean at which a rater is dropped.
        max_iterations: at most, per class.

    Raises:
        ConfigError: a negative `alpha`.
    """

    alpha: float = 1.0
    max_iterations: int = 25

    def __post_init__(self) -> None:
        if not self.alpha >= 0:
            raise ConfigError(f"alpha must not be negative, got {self.alpha}")


@dataclass(frozen=True, eq=False)
class Selection:
    """SIMPLE's answer for one class.

    Args:
        share: `(P,)` weighted share of the votes for the class among the raters kept; 0 where none of them votes.
        phi: `(R,)` Dice with the estimate in the last iteration.
        kept: `(R,)` whether a rater is still in.
        iterations: done.
    """

    share: np.ndarray
    phi: np.ndarray
    kept: np.ndarray
    iterations: int


def simple(study: Study, options: SimpleOptions) -> Fused:
    """SIMPLE for each class; the class with the largest share above 1/2 wins, else background.

    Args:
        study: raters with the same or partial coverage.
        options: when a rater is dropped.

    Returns:
        Confidence: the weighted share of the votes for the class that won; where background wins, 1 - the largest.
    """
    log = FusionLog("simple", options)
    with log.stage("patterns"):
        patterns = find_patterns(study)
    log.describe(study, patterns)
    with log.stage("selection"):
        used = [c for c in range(1, patterns.classes) if (patterns.table == c).any()]
        selections = {c: select_raters(patterns, c, options) for c in used}
    with log.stage("write"):
        labels, confidence = choose_classes(patterns, {c: found.share for c, found in selections.items()})
        label_map, confidence_map = patterns.to_volume(labels), patterns.to_volume(confidence)
    named = {study.classes[c]: found for c, found in selections.items()}
    log.facts["iterations"] = {name: found.iterations for name, found in named.items()}
    return Fused(label_map, confidence_map, _rows(study, patterns, named), log.facts)


def select_raters(patterns: VotePatterns, c: int, options: SimpleOptions) -> Selection:
    """The iterations of class `c`, on patterns."""
    votes, voted = patterns.table == c, patterns.voted()
    active = patterns.active_raters()
    kept, phi = active.copy(), active.astype(float)
    share = _weighted_share(votes, voted, phi * kept)
    iteration, settled = 0, False
    while iteration < options.max_iterations and not settled:
        iteration += 1
        estimate = share > 0.5
        phi = _dice(votes, voted, estimate, patterns.grid_counts)
        still_kept = _keep_best(phi, kept, options.alpha)
        share = _weighted_share(votes, voted, phi * still_kept)
        settled = bool((still_kept == kept).all() and ((share > 0.5) == estimate).all())
        kept = still_kept
    return Selection(share, phi, kept | ~active, iteration)


def _weighted_share(votes: np.ndarray, voted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`(P,)` weighted share of the votes for the class."""
    total = voted @ weights
    return (votes @ weights) / np.where(total > 0, total, 1.0)


def _dice(votes: np.ndarray, voted: np.ndarray, estimate: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`(R,)` Dice of each rater and the estimate where the rater annotated; 1 where both are empty."""
    rater_sizes = counts @ votes
    estimate_sizes = counts @ (voted & estimate[:, None])
    overlaps = counts @ (votes & estimate[:, None])
    sums = rater_sizes + estimate_sizes
    return np.where(sums > 0, 2 * overlaps / np.maximum(sums, 1), 1.0)


def _keep_best(phi: np.ndarray, kept: np.ndarray, alpha: float) -> np.ndarray:
    """`(R,)` who stays; if that were too few, the best two do, the first of equal ones."""
    inside = phi[kept]
    if inside.size <= FEWEST:
        return kept
    # rounding must not part raters who are equal
    still_kept = kept & (phi >= inside.mean() - alpha * inside.std() - 1e-12)
    if still_kept.sum() < FEWEST:
        best = np.argsort(np.where(kept, -phi, np.inf), kind="stable")[:FEWEST]
        still_kept = np.isin(np.arange(phi.size), best)
    return still_kept


def _rows(study: Study, patterns: VotePatterns, selections: dict[str, Selection]) -> list[Row]:
    """Weight of each rater, Dice with the estimate of each class, and the classes for which the rater was dropped."""
    active = patterns.active_raters()
    total = np.zeros(len(study.raters))
    for found in selections.values():
        total = total + found.phi * (found.kept & active)
    weights = normalise_weights(total if total.any() else active)
    rows = []
    for r, rater in enumerate(study.raters):
        dice = {name: float(found.phi[r]) for name, found in selections.items()}
        dropped = [name for name, found in selections.items() if not found.kept[r]]
        rows.append({"name": rater.name, "weight": weights[r], "dice_to_estimate": dice, "dropped_for": dropped})
    return rows
