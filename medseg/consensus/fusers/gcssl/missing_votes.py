"""Weighted votes on disputed voxels: what raters gave, and what they would have given where they left voxels out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medseg.consensus.study import MISSING

if TYPE_CHECKING:
    from medseg.consensus.fusers.gcssl.rater_scores import RaterPosterior

_CHUNK = 1 << 16


@dataclass(frozen=True, eq=False)
class WeightedVotes:
    """Weighted votes on voxels.

    Args:
        votes: `(K, n)` float32, for each label.
        total: `(n,)` float32, the sum of the votes' strengths; 0 where nobody votes.
    """

    votes: np.ndarray
    total: np.ndarray

    def shares(self) -> np.ndarray:
        """`(K, n)` in [0, 1]: the weighted share of raters that give a label; 0 where nobody does."""
        return self.votes / np.where(self.total > 0, self.total, 1)

    def lead(self) -> np.ndarray:
        """`(n,)` by how much the votes for the label of most votes exceed those for the next."""
        most = np.zeros_like(self.total)
        next_most = most.copy()
        for votes in self.votes:
            np.maximum(next_most, np.minimum(most, votes), out=next_most)
            np.maximum(most, votes, out=most)
        return most - next_most

    def costs(self) -> np.ndarray:
        """`(K, n)` in [0, 1]: the weighted share of raters that a label overrules."""
        return np.clip(1 - self.shares(), 0, 1)


def count_votes(
    labels: np.ndarray,
    probabilities: Sequence[np.ndarray | None],
    weights: np.ndarray,
    classes: int,
) -> WeightedVotes:
    """Count what the raters gave.

    Args:
        labels: `(R, n)` uint8.
        probabilities: `(K, n)` float32 of each rater who gave some; they replace the label.
        weights: `(R,)`, or `(R, n)` if they differ from voxel to voxel.
        classes: K.
    """
    n = labels.shape[1]
    votes = np.zeros((classes, n), np.float32)
    total = np.zeros(n, np.float32)
    for given, soft, weight in zip(labels, probabilities, weights, strict=True):
        strength = np.where(given != MISSING, np.float32(weight), np.float32(0))
        total += strength
        if soft is not None:
            votes += strength * soft
        else:
            voted = np.flatnonzero(strength)
            votes[given[voted], voted] += strength[voted]
    return WeightedVotes(votes, total)


def add_predicted_votes(
    counted: WeightedVotes, labels: np.ndarray, voxels: np.ndarray, strength: np.ndarray, posterior: RaterPosterior
) -> int:
    """Add the soft votes of raters where they annotated nothing and it could change which label has the most votes.

    Args:
        counted: changed in place.
        labels: `(R, n)` uint8 on the disputed voxels.
        voxels: `(n,)` flat indices of these.
        strength: `(R,)`: weight times kappa times rho; a rater of strength 0 gets no vote.
        posterior: how each rater would label a voxel.

    Returns:
        How many soft votes were added.
    """
    absent = (labels == MISSING) & (strength[:, None] > 0)
    raters = np.flatnonzero(absent.any(axis=1))
    possible = np.zeros(labels.shape[1], np.float32)
    for r in raters:
        possible[absent[r]] += np.float32(strength[r])
    is_open = counted.lead() <= possible
    wanted = np.flatnonzero(is_open & (possible > 0))
    added = 0
    for start in range(0, wanted.size, _CHUNK):
        at = wanted[start : start + _CHUNK]
        q = posterior.at(voxels[at], raters)
        for e, r in enumerate(raters):
            here = absent[r, at]
            predicted = at[here]
            counted.votes[:, predicted] += np.float32(strength[r]) * q[here, e].T
            counted.total[predicted] += np.float32(strength[r])
            added += predicted.size
    return added
