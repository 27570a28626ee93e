"""Votes on the disputed voxels: what raters said, and what they would have said where they annotated nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medseg.consensus.study import MISSING

if TYPE_CHECKING:
    from medseg.consensus.fusers.gcssl.forest import Partition
    from medseg.consensus.fusers.gcssl.image_features import Features
    from medseg.consensus.fusers.gcssl.self_consistency import Histograms

_CHUNK = 1 << 16

Posterior = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""`(n,)` flat voxels and `(E,)` numbers of raters to `(n, E, K)`: how each of these would label them."""


def posterior_of(features: Features, partition: Partition, histograms: Histograms) -> Posterior:
    """The raters' posteriors at any voxel of the region, from the histograms of all judged voxels."""
    rates, _ = histograms.rates(np.ones(histograms.labels.shape[1], bool))

    def posterior(voxels: np.ndarray, raters: np.ndarray) -> np.ndarray:
        return histograms.posterior(partition.leaves(features.at(voxels)), rates[:, raters])

    return posterior


@dataclass(frozen=True, eq=False)
class Ballot:
    """Weighted votes on voxels.

    Args:
        votes: `(K, n)` float32, for each label.
        cast: `(n,)` float32, the sum of the vote strengths; 0 where nobody could say anything.
    """

    votes: np.ndarray
    cast: np.ndarray

    def costs(self) -> np.ndarray:
        """`(K, n)` in [0, 1]: the weighted share of raters that a label overrules."""
        return np.clip(1 - self.shares(), 0, 1)

    def shares(self) -> np.ndarray:
        """`(K, n)` in [0, 1]: the weighted share of raters that give a label; 0 where nobody does."""
        return self.votes / np.where(self.cast > 0, self.cast, 1)


def ballot(
    labels: np.ndarray,
    probabilities: Sequence[np.ndarray | None],
    weights: np.ndarray,
    classes: int,
) -> Ballot:
    """Count what the raters said.

    Args:
        labels: `(R, n)` uint8.
        probabilities: `(K, n)` float32 of each rater who gave some; they replace his label.
        weights: `(R,)`, or `(R, n)` if they differ from voxel to voxel.
        classes: K.
    """
    n = labels.shape[1]
    votes, cast = np.zeros((classes, n), np.float32), np.zeros(n, np.float32)
    for called, soft, weight in zip(labels, probabilities, weights, strict=True):
        strength = np.where(called != MISSING, np.float32(weight), np.float32(0))
        cast += strength
        if soft is not None:
            votes += strength * soft
        else:
            told = np.flatnonzero(strength)
            votes[called[told], told] += strength[told]
    return Ballot(votes, cast)


def fill(counted: Ballot, labels: np.ndarray, voxels: np.ndarray, strength: np.ndarray, posterior: Posterior) -> int:
    """Add the soft votes of raters where they annotated nothing.

    Args:
        counted: changed in place.
        labels: `(R, n)` uint8 on the disputed voxels.
        voxels: `(n,)` flat indices of these.
        strength: `(R,)`: weight times kappa times rho; a rater of strength 0 abstains.
        posterior: see `posterior_of`.

    Returns:
        How many soft votes were added.
    """
    absent = (labels == MISSING) & (strength[:, None] > 0)
    wanted, raters = np.flatnonzero(absent.any(axis=0)), np.flatnonzero(absent.any(axis=1))
    for start in range(0, wanted.size, _CHUNK):
        at = wanted[start : start + _CHUNK]
        q = posterior(voxels[at], raters)
        for e, r in enumerate(raters):
            here = absent[r, at]
            counted.votes[:, at[here]] += np.float32(strength[r]) * q[here, e].T
            counted.cast[at[here]] += np.float32(strength[r])
    return int(np.count_nonzero(absent))
