"""Dice of each two raters, and from it how far a rater agrees with the others."""

from __future__ import annotations

import numpy as np

from medseg.consensus.fusers.vote_patterns import VotePatterns

LEAST_AGREEMENT = 0.05
"""Of a rater who agrees with nobody: what only this rater annotated keeps a vote."""


def dice_of_pairs(patterns: VotePatterns) -> np.ndarray:
    """`(K - 1, R, R)` Dice of each two raters over the voxels that both annotated; NaN where neither has the class."""
    raters, classes = patterns.table.shape[1], patterns.classes
    dice = np.full((classes - 1, raters, raters), np.nan)
    for i in range(raters):
        for j in range(i, raters):
            voxels = np.zeros((classes + 1, classes + 1))
            np.add.at(voxels, (patterns.table[:, i], patterns.table[:, j]), patterns.counts)
            voxels = voxels[:classes, :classes]
            sums = voxels.sum(0) + voxels.sum(1)
            of_pair = 2 * np.diag(voxels) / np.maximum(sums, 1)
            dice[:, i, j] = dice[:, j, i] = np.where(sums > 0, of_pair, np.nan)[1:]
    return dice


def mean_dice_of_pairs(dice: np.ndarray) -> np.ndarray:
    """`(R, R)` mean over the classes that have a value, of `(K - 1, R, R)`; NaN where none has."""
    compared = np.isfinite(dice).sum(0)
    return np.where(compared > 0, np.nansum(dice, axis=0) / np.maximum(compared, 1), np.nan)


def agreement_of_raters(patterns: VotePatterns) -> np.ndarray:
    """`(R,)` in (0, 1]: a rater's median Dice with the others over the median of all pairs, at most 1.

    1 for all where no two raters can be compared, or none of them overlap.
    """
    dice = mean_dice_of_pairs(dice_of_pairs(patterns))
    raters = len(dice)
    pairs = dice[np.triu_indices(raters, 1)]
    pairs = pairs[np.isfinite(pairs)]
    if not pairs.size or not np.median(pairs):
        return np.ones(raters)
    found = np.ones(raters)
    for r in range(raters):
        others = np.delete(dice[r], r)
        others = others[np.isfinite(others)]
        if others.size:
            found[r] = np.median(others) / np.median(pairs)
    return np.clip(found, LEAST_AGREEMENT, 1)
