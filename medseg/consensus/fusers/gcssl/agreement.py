"""How far each rater agrees with what the panel as a whole drew.

Every rater has one vote for this, and what somebody overlooked counts as it does in the answer (`gross_errors`); no
self-consistency and no smoothing enter. Voxels where labels tie are undecided and compared with nobody, so that of two
raters, who can only tie, neither is the better one.
"""

from __future__ import annotations

import numpy as np

from medseg.consensus.fusers.gcssl.gross_errors import Omissions
from medseg.consensus.fusers.gcssl.missing_votes import count_votes
from medseg.consensus.fusers.vote_patterns import VotePatterns
from medseg.consensus.study import MISSING

LEAST = 0.05
"""Agreement of a rater who agrees with nobody: what only this rater annotated keeps a vote."""
TIE = 1e-5


def agreement_of_raters(labels: np.ndarray, patterns: VotePatterns, omissions: Omissions | None) -> np.ndarray:
    """`(R,)` in (0, 1]: by how much less than the best rater's is each rater's Dice with the panel's labels.

    Where d is a rater's mean Dice over the structures and m the highest one, the agreement is
    (1 - (1 - d / m)^2)^2: 0.98 at nine tenths of the best Dice, 0.56 at half of it, 0.04 at a tenth. So who draws a
    little wider or narrower than the others loses next to nothing, and who drew another thing nearly everything.

    Args:
        labels: `(R, n)` uint8, what the raters gave at the disputed voxels.
        patterns: of the same raters in the whole region.
        omissions: of the same raters; None: votes decide everywhere.
    """
    dice = dice_with_panel(labels, patterns, omissions)
    best = np.nanmax(dice, initial=0.0)
    if not best:
        return np.ones(len(labels))
    shortfall = 1 - np.where(np.isnan(dice), best, dice) / best
    return np.clip((1 - shortfall**2) ** 2, LEAST, 1)


def dice_with_panel(labels: np.ndarray, patterns: VotePatterns, omissions: Omissions | None) -> np.ndarray:
    """`(R,)` mean Dice of each rater over the structures of rater or panel; NaN without any.

    Args:
        labels: `(R, n)` uint8 at the disputed voxels.
        patterns: of the same raters in the whole region.
        omissions: of the same raters, or None.
    """
    panel = _panel_labels(labels, patterns.classes, omissions)
    is_agreed = ~patterns.disputed()
    agreed, counts = patterns.table[is_agreed], patterns.counts[is_agreed]
    dice = np.full(len(labels), np.nan)
    for r, own in enumerate(labels):
        # where all agree, the panel has the rater's label
        common = np.bincount(agreed[:, r], counts, patterns.classes + 1)[: patterns.classes]
        compared = (own != MISSING) & (panel != MISSING)
        dice[r] = _mean_dice(own[compared], panel[compared], common)
    return dice


def _mean_dice(own: np.ndarray, panel: np.ndarray, common: np.ndarray) -> float:
    """Mean Dice over the structures that either has; NaN without any.

    Args:
        own: `(n,)` labels of a rater.
        panel: `(n,)` labels of the panel at the same voxels.
        common: `(K,)` further voxels of each class to which both gave it.
    """
    classes = len(common)
    both = common + np.bincount(own[own == panel], minlength=classes)
    of_rater = common + np.bincount(own, minlength=classes)
    of_panel = common + np.bincount(panel, minlength=classes)
    total = (of_rater + of_panel)[1:]
    there = total > 0
    if not there.any():
        return float("nan")
    return float(np.mean(2 * both[1:][there] / total[there]))


def _panel_labels(labels: np.ndarray, classes: int, omissions: Omissions | None) -> np.ndarray:
    """`(n,)` uint8: the label of most votes; `MISSING` where two labels tie or nobody votes."""
    equal = np.full(len(labels), 1 / len(labels))
    votes = count_votes(labels, [None] * len(labels), equal, classes)
    if omissions is not None:
        votes = omissions.weigh(votes)
    found = votes.votes.argmax(axis=0).astype(np.uint8)
    highest = votes.votes.max(axis=0)
    rivals = np.count_nonzero(votes.votes > highest - TIE, axis=0)
    found[rivals > 1] = MISSING
    return found
