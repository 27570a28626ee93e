"""SIMPLE: a weighted majority that drops the raters who agree least with it, class by class.

Langerak, van der Heide, Kotte, Viergever, van Vulpen, Pluim, "Label fusion in atlas-based segmentation using a
selective and iterative method for performance level estimation (SIMPLE)", IEEE Transactions on Medical Imaging
29(12), 2010. For one class, from the plain majority: phi_r = Dice of rater r and the estimate, over what r
annotated; whoever has phi_r < mean - alpha sd (population sd of those still in) is dropped; the estimate
becomes the majority weighted by phi; until nothing changes. Two raters are always kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medseg.consensus.fusers.fusion_log import Account, present, shares
from medseg.consensus.fusers.staple import decide
from medseg.consensus.fusers.vote_patterns import Patterns, compress
from medseg.consensus.study import Fused, Study
from medseg.errors import ConfigError

FEWEST = 2


@dataclass(frozen=True, eq=False)
class Selection:
    """SIMPLE's answer for one class.

    Args:
        share: `(P,)` weighted share of the votes for the class among the raters kept; 0 where none of them votes.
        phi: `(R,)` Dice with the estimate when last looked at.
        kept: `(R,)` whether a rater is still in.
        iterations: done.
    """

    share: np.ndarray
    phi: np.ndarray
    kept: np.ndarray
    iterations: int


@dataclass(frozen=True)
class SimpleOptions:
    """Options of SIMPLE.

    Args:
        alpha: standard deviations below the mean at which a rater is dropped.
        max_iterations: at most.

    Raises:
        ConfigError: a negative `alpha`.
    """

    alpha: float = 1.0
    max_iterations: int = 25

    def __post_init__(self) -> None:
        if not self.alpha >= 0:
            raise ConfigError(f"alpha must not be negative, got {self.alpha}")


def simple(study: Study, options: SimpleOptions) -> Fused:
    """SIMPLE for each class; the class with the largest share above 1/2 wins, else background.

    Args:
        study: raters with the same or partial coverage.
        options: see there.
    """
    account = Account("simple", options)
    with account.stage("patterns"):
        patterns = compress(study)
    account.describe(study, patterns)
    with account.stage("selection"):
        used = [c for c in range(1, patterns.classes) if (patterns.table == c).any()]
        found = {c: select(patterns, c, options) for c in used}
    with account.stage("write"):
        labels, confidence = decide(patterns, {c: s.share for c, s in found.items()})
        painted = patterns.paint(labels), patterns.paint(confidence)
    account.facts["iterations"] = {study.classes[c]: s.iterations for c, s in found.items()}
    voting = present(patterns)
    trust = sum((s.phi * (s.kept & voting) for s in found.values()), np.zeros(len(study.raters)))
    weights = shares(trust if trust.any() else voting)
    raters = [
        {
            "name": study.raters[r].name,
            "weight": weights[r],
            "dice_to_estimate": {study.classes[c]: float(s.phi[r]) for c, s in found.items()},
            "dropped_for": [study.classes[c] for c, s in found.items() if not s.kept[r]],
        }
        for r in range(len(study.raters))
    ]
    return Fused(*painted, raters, account.facts)


def select(patterns: Patterns, c: int, options: SimpleOptions) -> Selection:
    """The iterations of one class, on patterns."""
    votes, voting = patterns.table == c, patterns.table < patterns.classes
    active = present(patterns)
    kept, phi = active.copy(), active.astype(float)
    share = _share(votes, voting, phi * kept)
    iteration = 0
    while iteration < options.max_iterations:
        iteration += 1
        phi = _dice(votes, voting, share > 0.5, patterns.everywhere)
        still = _keep(phi, kept, options.alpha)
        following = _share(votes, voting, phi * still)
        settled = bool((still == kept).all() and ((following > 0.5) == (share > 0.5)).all())
        share, kept = following, still
        if settled:
            break
    return Selection(share, phi, kept | ~active, iteration)


def _share(votes: np.ndarray, voting: np.ndarray, weights: np.ndarray) -> np.ndarray:
    total = voting @ weights
    return (votes @ weights) / np.where(total > 0, total, 1.0)


def _dice(votes: np.ndarray, voting: np.ndarray, estimate: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Dice of each rater and the estimate where he annotated; both empty is 1."""
    theirs, both = counts @ votes, counts @ (votes & estimate[:, None])
    whole = theirs + counts @ (voting & estimate[:, None])
    return np.where(whole > 0, 2 * both / np.maximum(whole, 1), 1.0)


def _keep(phi: np.ndarray, kept: np.ndarray, alpha: float) -> np.ndarray:
    """Who stays; of too few the best do, the first of equals."""
    inside = phi[kept]
    if inside.size <= FEWEST:
        return kept
    # rounding must not part raters who are equal
    still = kept & (phi >= inside.mean() - alpha * inside.std() - 1e-12)
    if still.sum() < FEWEST:
        best = np.argsort(np.where(kept, -phi, np.inf), kind="stable")[:FEWEST]
        still = np.isin(np.arange(phi.size), best)
    return still
