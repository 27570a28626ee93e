"""Dice of each two raters."""

from __future__ import annotations

import numpy as np

from medseg.consensus.fusers.vote_patterns import VotePatterns


def dice_of_pairs(patterns: VotePatterns) -> np.ndarray:
    """`(K - 1, R, R)` Dice of each two raters over the voxels that both annotated; NaN where neither has the class.

    NaN too where one never drew it and did not annotate most of what the other did.
    """
    raters, classes = patterns.table.shape[1], patterns.classes
    dice = np.full((classes - 1, raters, raters), np.nan)
    for i in range(raters):
        for j in range(i, raters):
            voxels = np.zeros((classes + 1, classes + 1))
            np.add.at(voxels, (patterns.table[:, i], patterns.table[:, j]), patterns.counts)
            # the last row and column: not annotated by the one or by the other
            unknown = _mostly_missing(voxels) | _mostly_missing(voxels.T)
            voxels = voxels[:classes, :classes]
            sums = voxels.sum(0) + voxels.sum(1)
            of_pair = 2 * np.diag(voxels) / np.maximum(sums, 1)
            dice[:, i, j] = dice[:, j, i] = np.where((sums > 0) & ~unknown, of_pair, np.nan)[1:]
    return dice


def _mostly_missing(voxels: np.ndarray) -> np.ndarray:
    """`(K,)` bool: classes that the first never drew, and did not annotate where most of the second's is.

    Args:
        voxels: `(K + 1, K + 1)` by the class of the first and of the second; the last is not annotated.
    """
    never = voxels[:-1].sum(axis=1) == 0
    is_missing: np.ndarray = 2 * voxels[-1, :-1] > voxels[:, :-1].sum(axis=0)
    return never & is_missing


def mean_dice_of_pairs(dice: np.ndarray) -> np.ndarray:
    """`(R, R)` mean over the classes that have a value, of `(K - 1, R, R)`; NaN where none has."""
    compared = np.isfinite(dice).sum(0)
    return np.where(compared > 0, np.nansum(dice, axis=0) / np.maximum(compared, 1), np.nan)
