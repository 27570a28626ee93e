"""How far a rater agrees with himself: does he call alike-looking voxels by one name?

`SC_r = mean over classes c of the mean over held-out voxels with L_r = c of q_r(c | x)`, where q is the class-balanced
posterior of his own labels in the voxel's leaves. No comparison with colleagues enters, so a careful rater survives a
majority of careless ones; a bias that is always the same is hardly noticed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from medseg.consensus.fusers.gcssl.forest import one_hot
from medseg.consensus.study import MISSING
from medseg.errors import ConfigError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

MODES = ("logodds", "sc", "uniform")


class Histograms:
    """What each rater calls the voxels of each leaf.

    Args:
        leaves: `(n, nodes)` sparse membership of the judged voxels.
        labels: `(R, n)` uint8, the raters' labels there, `MISSING` where not annotated.
        classes: K.
        pseudo: weight of the rater's own label frequencies in each leaf.
    """

    def __init__(self, leaves: csr_matrix, labels: np.ndarray, classes: int, pseudo: float = 1.0) -> None:
        self.leaves, self.labels, self.classes, self.pseudo = leaves, labels, classes, pseudo
        self.trees = round(leaves.nnz / max(leaves.shape[0], 1)) or 1
        self.votes = one_hot(labels, classes)

    def rates(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Class-balanced rates per leaf from the voxels `rows` (bool), and each rater's label frequencies there.

        Returns:
            rates: `(nodes, R, K)`: `P_r(c | leaf) / pi_r(c)`, 0 for a label that the rater never gave.
            frequencies: `(R, K)`.
        """
        shape = (-1, len(self.labels), self.classes)
        votes = self.votes[rows]
        counts = (self.leaves[rows].T @ votes).reshape(shape) * np.float32(self.trees)
        total = votes.sum(axis=0, dtype=np.float64).reshape(shape[1:])
        frequencies = (total / np.maximum(total.sum(axis=1, keepdims=True), 1)).astype(np.float32)
        every = counts.sum(axis=2, keepdims=True) + np.float32(self.pseudo)
        counts += np.float32(self.pseudo) * frequencies
        counts /= np.where(every > 0, every, 1)
        counts *= np.where(frequencies > 0, 1 / np.where(frequencies > 0, frequencies, 1), 0)
        return counts, frequencies

    def posterior(self, leaves: csr_matrix, rates: np.ndarray) -> np.ndarray:
        """`(n, R, K)` float32 that sum to 1: how each rater would call voxels of these leaves."""
        q = (leaves @ rates.reshape(len(rates), -1)).reshape(-1, *rates.shape[1:])
        total = q.sum(axis=2, keepdims=True)
        return np.where(total > 0, q / np.where(total > 0, total, 1), np.float32(1 / self.classes))

    def scores(self, folds: np.ndarray) -> np.ndarray:
        """`(R,)` self-consistency of each rater; 1 / K without evidence, which is fewer than two labels.

        Args:
            folds: `(n,)` fold of each voxel; it is judged by the histograms of all others.
        """
        sums, counts = np.zeros((len(self.labels), self.classes)), np.zeros((len(self.labels), self.classes))
        for fold in np.unique(folds):
            mine = folds == fold
            rates, known = self.rates(~mine)
            q = self.posterior(self.leaves[mine], rates)
            for r, called in enumerate(self.labels[:, mine]):
                # a label that he gave in this fold only says nothing
                told = np.flatnonzero(called != MISSING)
                told = told[known[r][called[told]] > 0]
                name = called[told]
                sums[r] += np.bincount(name, q[told, r, name], self.classes)
                counts[r] += np.bincount(name, minlength=self.classes)
        means = [s[n > 0] / n[n > 0] for s, n in zip(sums, counts, strict=True)]
        return np.array([mean.mean() if mean.size > 1 else 1 / self.classes for mean in means])


def kappa(scores: np.ndarray, classes: int) -> np.ndarray:
    """Self-consistency beyond chance, in [0, 1]."""
    return np.clip((classes * scores - 1) / (classes - 1), 0, 1)


def informativeness(corrected: np.ndarray) -> float:
    """Rho in [0, 1]: 0 if the image says nothing about the labels, so that weights from it would be noise."""
    return float(np.clip((np.median(corrected) - 0.1) / 0.4, 0, 1))


def score_weights(scores: np.ndarray, classes: int, mode: str) -> np.ndarray:
    """Weights of the scores, not normalised: `logodds` are the best for independent errors, `sc` the scores."""
    if mode == "sc":
        return scores
    if mode == "uniform":
        return np.ones_like(scores)
    s = np.clip(scores, 1 / classes + 0.001, 0.99)
    return np.log(s * (classes - 1) / (1 - s))


def weigh(scores: np.ndarray, classes: int, mode: str | Sequence[float], rho: float) -> np.ndarray:
    """`(R,)` weights that sum to 1.

    Args:
        scores: self-consistency of each rater.
        classes: K.
        mode: "logodds", "sc", "uniform", or the weights themselves, which rho leaves alone.
        rho: informativeness; so much of the weights comes from the scores, the rest is equal for all.

    Raises:
        ConfigError: if the mode is unknown or given weights are unusable.
    """
    if not isinstance(mode, str):
        given = np.asarray(mode, np.float64)
        if given.shape != scores.shape or not (given >= 0).all() or not 0 < given.sum() < np.inf:
            raise ConfigError(f"weights {list(mode)}: {scores.size} numbers >= 0 are wanted, one per rater, not all 0")
        return given / given.sum()
    if mode not in MODES:
        raise ConfigError(f"weights {mode!r}; {', '.join(MODES)} or numbers are offered")
    raw = score_weights(scores, classes, mode)
    return rho * raw / raw.sum() + (1 - rho) / scores.size
