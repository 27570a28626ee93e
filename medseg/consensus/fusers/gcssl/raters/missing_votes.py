"""Weighted votes on disputed voxels: what raters gave, and what they would have given where they left voxels out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medseg.consensus.study import MISSING

if TYPE_CHECKING:
    from medseg.consensus.fusers.gcssl.raters.gross_errors import Omissions
    from medseg.consensus.fusers.gcssl.raters.scores import RaterPosterior

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

    def costs(self) -> np.ndarray:
        """`(K, n)` in [0, 1]: the weighted share of raters that a label overrules."""
        costs = self.shares()
        np.subtract(1, costs, out=costs)
        return np.clip(costs, 0, 1, out=costs)

    def shares_of(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`(n,)` the share of the votes for a label of each voxel, and the highest share of any label."""
        total = np.where(self.total > 0, self.total, 1)
        return self.votes[labels, np.arange(labels.size)] / total, self.votes.max(axis=0) / total

    def of(self, chosen: np.ndarray) -> WeightedVotes:
        """The votes on some voxels, `(n,)` bool; without a copy where these are all."""
        return self if chosen.all() else WeightedVotes(self.votes[:, chosen], self.total[chosen])


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


@dataclass(frozen=True, eq=False)
class Guesses:
    """The soft votes that raters would give where they annotated nothing.

    Args:
        labels: `(R, n)` uint8 on the disputed voxels.
        voxels: `(n,)` flat indices of these.
        strength: `(R,)`: weight times kappa times rho; a rater of strength 0 gets no vote.
        posterior: how each rater would label a voxel.
    """

    labels: np.ndarray
    voxels: np.ndarray
    strength: np.ndarray
    posterior: RaterPosterior

    def possible(self) -> np.ndarray:
        """`(n,)` float32, the strength of all votes that could be guessed."""
        total = np.zeros(self.voxels.size, np.float32)
        for own, strength in zip(self.labels, self.strength, strict=True):
            total[own == MISSING] += np.float32(strength)
        return total

    def add(self, counted: WeightedVotes, wanted: np.ndarray) -> int:
        """Add them to the votes at the voxels of these numbers `(m,)`, and tell how many there were."""
        added = 0
        for start in range(0, wanted.size, _CHUNK):
            at = wanted[start : start + _CHUNK]
            absent = (self.labels[:, at] == MISSING) & (self.strength[:, None] > 0)
            raters = np.flatnonzero(absent.any(axis=1))
            asked = absent.any(axis=0)
            at, absent = at[asked], absent[:, asked]
            q = self.posterior.at(self.voxels[at], raters)
            for e, r in enumerate(raters):
                here = absent[r]
                counted.votes[:, at[here]] += np.float32(self.strength[r]) * q[here, e].T
                counted.total[at[here]] += np.float32(self.strength[r])
                added += int(np.count_nonzero(here))
        return added


@dataclass(frozen=True, eq=False)
class Ballots:
    """All that is said about the disputed voxels.

    Args:
        counted: votes of what the raters gave.
        guesses: votes where they gave nothing; None: none are asked for.
        omissions: what somebody overlooked; None: votes decide everywhere.
    """

    counted: WeightedVotes
    guesses: Guesses | None
    omissions: Omissions | None

    @contextmanager
    def weighed(self) -> Iterator[WeightedVotes]:
        """What was counted so far, with omissions as they are to be weighed as long as the block lasts."""
        if self.omissions is None:
            yield self.counted
            return
        before = self.omissions.weigh(self.counted)
        yield self.counted
        self.omissions.restore(self.counted, before)


def change_by_guesses(total: np.ndarray, possible: np.ndarray) -> np.ndarray:
    """By how much guesses may change the difference of two labels' shares.

    Shares whose difference is d become ones of (d T + g) / (T + s), where T is the strength of the votes, s that of the
    guesses and |g| <= s. With |d| <= 1 that differs from d by 2 s / (T + s) at most.

    Args:
        total: T of each voxel.
        possible: s of each voxel; 0 where nothing is to be guessed.
    """
    return 2 * possible / np.where(possible > 0, total + possible, 1)


def range_by_guesses(votes: WeightedVotes, possible: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By how much guesses may raise and lower the difference of two labels' shares, each `(n,)` float32.

    With d, T and s of `change_by_guesses` they become (d T + s) / (T + s) where all guesses are for the first label,
    and (d T - s) / (T + s) where all are for the second.

    Args:
        votes: of two labels.
        possible: s of each voxel; 0 where nothing is to be guessed.
    """
    shares = votes.shares()
    difference = shares[0] - shares[1]
    part = possible / np.where(possible > 0, votes.total + possible, 1)
    return part * (1 - difference), part * (1 + difference)
