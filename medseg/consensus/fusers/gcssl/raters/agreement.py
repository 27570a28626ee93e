"""How far each rater agrees with what the panel as a whole drew.

Every rater has one vote for this, and what somebody overlooked counts as it does in the answer (`gross_errors`); no
self-consistency and no smoothing enter. Voxels where labels tie are undecided and compared with nobody, so that of two
raters, who can only tie, neither is the better one.
"""

from __future__ import annotations

import numpy as np

from medseg.consensus.fusers.gcssl.raters.gross_errors import Omissions
from medseg.consensus.fusers.vote_patterns import VotePatterns
from medseg.consensus.study import MISSING

LEAST = 0.05
"""Agreement of a rater who agrees with nobody: what only this rater annotated keeps a vote."""
TIE = 1e-5


def agreement_of_raters(patterns: VotePatterns, omissions: Omissions | None) -> np.ndarray:
    """`(R,)` in (0, 1]: by how much less than the best rater's is each rater's Dice with the panel's labels.

    Where d is a rater's mean Dice over the structures and m the highest one, the agreement is
    (1 - (1 - d / m)^2)^2: 0.98 at nine tenths of the best Dice, 0.56 at half of it, 0.04 at a tenth. So who draws a
    little wider or narrower than the others loses next to nothing, and who drew another thing nearly everything.

    Args:
        patterns: of the raters in the whole region.
        omissions: of the same raters; None: votes decide everywhere.
    """
    dice = dice_with_panel(patterns, omissions)
    best = np.nanmax(dice, initial=0.0)
    if not best:
        return np.ones(dice.size)
    shortfall = 1 - np.where(np.isnan(dice), best, dice) / best
    return np.clip((1 - shortfall**2) ** 2, LEAST, 1)


def dice_with_panel(patterns: VotePatterns, omissions: Omissions | None) -> np.ndarray:
    """`(R,)` mean Dice of each rater over the structures of rater or panel; NaN without any.

    Args:
        patterns: of the raters in the whole region.
        omissions: of the same raters, or None.
    """
    votes = patterns.count_votes()
    shares = votes / np.maximum(votes.sum(axis=1, keepdims=True), 1)
    table, panel, counts = patterns.table, _panel_labels(shares), patterns.counts
    if omissions is not None:
        overlooked = np.bincount(omissions.rows, minlength=len(table))
        by_omissions = _panel_labels(omissions.mix(shares, np.arange(len(table))))
        # each pattern twice: where votes decide, and where somebody overlooked something
        table = np.concatenate([table, table])
        panel = np.concatenate([panel, by_omissions])
        counts = np.concatenate([counts - overlooked, overlooked])
    dice = np.full(table.shape[1], np.nan)
    for r, own in enumerate(table.T):
        compared = (own < patterns.classes) & (panel != MISSING)
        dice[r] = _mean_dice(own[compared], panel[compared], counts[compared], patterns.classes)
    return dice


def _mean_dice(own: np.ndarray, panel: np.ndarray, counts: np.ndarray, classes: int) -> float:
    """Mean Dice over the structures that either has; NaN without any.

    Args:
        own: `(n,)` labels of a rater.
        panel: `(n,)` labels of the panel.
        counts: `(n,)` in how many voxels each of these pairs of labels meets.
        classes: K.
    """
    same = own == panel
    both = np.bincount(own[same], counts[same], classes)
    total = np.bincount(own, counts, classes) + np.bincount(panel, counts, classes)
    there = total[1:] > 0
    if not there.any():
        return float("nan")
    return float(np.mean(2 * both[1:][there] / total[1:][there]))


def _panel_labels(shares: np.ndarray) -> np.ndarray:
    """`(n,)` uint8: the label of the highest of the shares `(n, K)`; `MISSING` where two tie, or nobody votes."""
    found = shares.argmax(axis=1).astype(np.uint8)
    rivals = np.count_nonzero(shares > shares.max(axis=1, keepdims=True) - TIE, axis=1)
    found[rivals > 1] = MISSING
    return found
