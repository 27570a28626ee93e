"""How much each rater counts: self-consistency on the image, and the weight that follows from it.

A rater is self-consistent who gives voxels that look alike one label:

    SC_r = mean over classes c of the mean over held-out voxels with L_r = c of q_r(c | x)

where q is the class-balanced posterior of the rater's own labels in the voxel's leaves. No comparison with other raters
enters, so that a careful rater survives a majority of careless ones; a bias that is always the same is hardly noticed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medseg.consensus.fusers.fusion_log import FusionLog
from medseg.consensus.fusers.gcssl.image_features import ImageFeatures, NormalisedImage
from medseg.consensus.fusers.gcssl.raters.forest import Forest, draw_sample
from medseg.consensus.fusers.gcssl.region import Region
from medseg.consensus.study import MISSING
from medseg.errors import ConfigError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

WEIGHT_MODES = ("logodds", "consistency", "sc", "uniform")


@dataclass(frozen=True, eq=False)
class RaterScores:
    """Scores and weights of the raters.

    Args:
        self_consistency: `(R,)`, 1 / K without evidence.
        kappa: `(R,)`, the same beyond chance.
        rho: informativeness of the image, in [0, 1].
        weights: `(R,)`, sum 1.
        posterior: how each rater would label a voxel; None where there was nothing to learn from.
    """

    self_consistency: np.ndarray
    kappa: np.ndarray
    rho: float
    weights: np.ndarray
    posterior: RaterPosterior | None

    def predicted_vote_strength(self) -> np.ndarray:
        """`(R,)`: how much a predicted vote counts."""
        return self.weights * self.kappa * self.rho

    def local_weights(self, labels: np.ndarray, voxels: np.ndarray, mode: str) -> np.ndarray:
        """`(R, n)` weights from each rater's own posterior of the label given at each voxel.

        Args:
            labels: `(R, n)` uint8, what the raters gave.
            voxels: `(n,)` flat indices in the region's box.
            mode: see `score_weights`.
        """
        assert self.posterior is not None
        q = self.posterior.at(voxels, np.arange(len(labels))).astype(np.float64)
        given = np.where(labels == MISSING, 0, labels).T[:, :, None].astype(np.intp)
        scores = np.take_along_axis(q, given, axis=2)[:, :, 0].T
        raw = np.where(labels == MISSING, 0, score_weights(scores, q.shape[2], mode))
        total = np.maximum(raw.sum(axis=0), 1e-12)
        return self.rho * raw / total + (1 - self.rho) * self.weights[:, None]


def score_raters(
    region: Region,
    image: NormalisedImage,
    majority: np.ndarray,
    classes: int,
    weights: str | Sequence[float],
    agreement: np.ndarray,
    seed: int,
    log: FusionLog,
) -> RaterScores:
    """Draw voxels from the band, train the forest, and score every rater.

    Args:
        region: of the raters.
        image: around the region's box.
        majority: `(n,)` uint8, the most frequent label of each disputed voxel; `MISSING` where nobody annotated.
        classes: K.
        weights: one of `WEIGHT_MODES`, or the weights themselves.
        agreement: `(R,)` in (0, 1], of each rater with the panel.
        seed: of the sample and the trees.
        log: gets the seconds.
    """
    raters = len(region.labels)
    scores, posterior = np.full(raters, 1 / classes), None
    with log.stage("sample"):
        sample = draw_sample(region, majority, classes, seed)
    # trees of one class have no branches; votes that tie everywhere are all background
    if np.unique(sample.target).size > 1 and not image.constant:
        with log.stage("features"):
            features = ImageFeatures(image)
            train, scored = features.at(sample.train), features.at(sample.scored)
        with log.stage("import"):
            import sklearn.ensemble  # noqa: F401 - a second that is not the forest's
        with log.stage("forest"):
            forest = Forest(train, sample.target, seed)
        with log.stage("leaves"):
            leaves = forest.find_leaves(scored)
        with log.stage("self_consistency"):
            labels = region.labels.reshape(raters, -1)[:, sample.scored]
            histograms = LeafHistograms(leaves, labels, classes)
            scores = histograms.scores(sample.folds)
            everything = np.ones(labels.shape[1], bool)
            posterior = RaterPosterior(features, forest, histograms, histograms.rates(everything)[0])
    corrected = kappa(scores, classes)
    rho = informativeness(corrected)
    return RaterScores(scores, corrected, rho, compute_weights(scores, classes, weights, rho, agreement), posterior)


class LeafHistograms:
    """How each rater labels the voxels of each leaf.

    Args:
        leaves: `(n, nodes)` sparse membership of the scored voxels.
        labels: `(R, n)` uint8, the raters' labels there, `MISSING` where not annotated.
        classes: K.
        pseudo: weight of the rater's own label frequencies in each leaf.
    """

    def __init__(self, leaves: csr_matrix, labels: np.ndarray, classes: int, pseudo: float = 1.0) -> None:
        self.leaves, self.labels, self.classes, self.pseudo = leaves, labels, classes, pseudo
        self.trees = round(leaves.nnz / max(leaves.shape[0], 1)) or 1
        self.votes = _one_hot(labels, classes)

    def scores(self, folds: np.ndarray) -> np.ndarray:
        """`(R,)` self-consistency of each rater; 1 / K without evidence, which is fewer than two labels.

        Args:
            folds: `(n,)` fold of each voxel; it is scored by the histograms of all others.
        """
        shape = (len(self.labels), self.classes)
        sums, counts = np.zeros(shape), np.zeros(shape)
        for fold in np.unique(folds):
            held_out = folds == fold
            rates, frequencies = self.rates(~held_out)
            q = self.posterior(self.leaves[held_out], rates)
            for r, labels in enumerate(self.labels[:, held_out]):
                voxels = np.flatnonzero(labels != MISSING)
                # a label that the rater gave in this fold only says nothing
                voxels = voxels[frequencies[r][labels[voxels]] > 0]
                given = labels[voxels]
                sums[r] += np.bincount(given, q[voxels, r, given], self.classes)
                counts[r] += np.bincount(given, minlength=self.classes)
        scores = np.full(len(self.labels), 1 / self.classes)
        for r in range(len(self.labels)):
            used = counts[r] > 0
            if np.count_nonzero(used) > 1:
                scores[r] = (sums[r][used] / counts[r][used]).mean()
        return scores

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
        votes_per_leaf = counts.sum(axis=2, keepdims=True) + np.float32(self.pseudo)
        counts += np.float32(self.pseudo) * frequencies
        counts /= np.where(votes_per_leaf > 0, votes_per_leaf, 1)
        counts *= np.where(frequencies > 0, 1 / np.where(frequencies > 0, frequencies, 1), 0)
        return counts, frequencies

    def posterior(self, leaves: csr_matrix, rates: np.ndarray) -> np.ndarray:
        """`(n, R, K)` float32 that sum to 1: how each rater would label voxels of these leaves."""
        averages = leaves @ rates.reshape(len(rates), -1)
        q = averages.reshape(-1, *rates.shape[1:])
        total = q.sum(axis=2, keepdims=True)
        some = total > 0
        return np.where(some, q / np.where(some, total, 1), np.float32(1 / self.classes))


@dataclass(frozen=True, eq=False)
class RaterPosterior:
    """How each rater would label any voxel of the region.

    Args:
        features: of the image.
        forest: the leaves.
        histograms: how the raters label the scored voxels of each leaf.
        rates: `(nodes, R, K)`, the histograms' rates from all of these voxels.
    """

    features: ImageFeatures
    forest: Forest
    histograms: LeafHistograms
    rates: np.ndarray

    def at(self, voxels: np.ndarray, raters: np.ndarray) -> np.ndarray:
        """`(n, E, K)` posteriors of the raters `(E,)`, by their numbers, at the flat voxels `(n,)`."""
        leaves = self.forest.find_leaves(self.features.at(voxels))
        return self.histograms.posterior(leaves, self.rates[:, raters])


def kappa(scores: np.ndarray, classes: int) -> np.ndarray:
    """Self-consistency beyond chance, in [0, 1]."""
    return np.clip((classes * scores - 1) / (classes - 1), 0, 1)


def informativeness(corrected: np.ndarray) -> float:
    """Rho in [0, 1]: 0 if the image says nothing about the labels, so that weights from it would be noise."""
    return float(np.clip((np.median(corrected) - 0.1) / 0.4, 0, 1))


def compute_weights(
    scores: np.ndarray, classes: int, mode: str | Sequence[float], rho: float, agreement: np.ndarray | None = None
) -> np.ndarray:
    """`(R,)` weights that sum to 1.

    Args:
        scores: self-consistency of each rater.
        classes: K.
        mode: one of `WEIGHT_MODES`, or the weights themselves, which rho leaves alone.
        rho: informativeness; so much of the weights comes from the scores, the rest is equal for all.
        agreement: `(R,)` in (0, 1], by which the weights of mode "logodds" are multiplied. Their log odds count by the
            root of them, and only below the median: who rounds corners or draws little is the most self-consistent, and
            should gain nothing by it. None: the log odds alone.

    Raises:
        ConfigError: given weights are unusable.
    """
    if not isinstance(mode, str):
        return check_given_weights(mode, scores.size)
    raw = score_weights(scores, classes, mode)
    with_agreement = mode == "logodds" and agreement is not None
    if with_agreement:
        raw = np.sqrt(np.minimum(raw, np.median(raw)))
    weights = rho * raw / raw.sum() + (1 - rho) / scores.size
    if with_agreement:
        weights = weights * agreement
    return weights / weights.sum()


def check_given_weights(weights: Sequence[float], raters: int) -> np.ndarray:
    """`(R,)` weights that somebody chose, made to sum to 1.

    Raises:
        ConfigError: there are more or fewer than raters, one is negative, or all are 0.
    """
    given = np.asarray(weights, np.float64)
    if given.shape != (raters,) or not (given >= 0).all() or not 0 < given.sum() < np.inf:
        raise ConfigError(f"weights {list(weights)}: {raters} numbers >= 0 are wanted, one per rater, not all 0")
    return given / given.sum()


def score_weights(scores: np.ndarray, classes: int, mode: str) -> np.ndarray:
    """Weights of the scores, not normalised: `logodds` and `consistency` are the best for independent errors."""
    if mode not in WEIGHT_MODES:
        raise ValueError(f"{mode!r} is none of {', '.join(WEIGHT_MODES)}")
    if mode == "sc":
        return scores
    if mode == "uniform":
        return np.ones_like(scores)
    s = np.clip(scores, 1 / classes + 0.001, 0.99)
    return np.log(s * (classes - 1) / (1 - s))


def _one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    """`(n, R K)` float32 votes of the raters' labels `(R, n)`; all 0 where a rater annotated nothing."""
    columns = []
    for rater in labels:
        for c in range(classes):
            columns.append(rater == c)
    return np.stack(columns, axis=1).astype(np.float32)
