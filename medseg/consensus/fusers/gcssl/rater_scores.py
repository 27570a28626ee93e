"""What the image says about the raters: one forest, their scores and weights, and what they would say elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medseg.consensus.fusers.fusion_log import FusionLog
from medseg.consensus.fusers.gcssl.forest import Partition, draw
from medseg.consensus.fusers.gcssl.image_features import Canvas, Features
from medseg.consensus.fusers.gcssl.missing_votes import Posterior, posterior_of
from medseg.consensus.fusers.gcssl.region import Region
from medseg.consensus.fusers.gcssl.self_consistency import Histograms, informativeness, kappa, score_weights, weigh
from medseg.consensus.study import MISSING


@dataclass(frozen=True, eq=False)
class Judgement:
    """Scores of the raters.

    Args:
        scores: `(R,)` self-consistency. `kappa`: the same beyond chance.
        rho: informativeness of the image, in [0, 1].
        weights: `(R,)`, sum 1.
        posterior: how each rater would label a voxel; None where there was nothing to learn from.
    """

    scores: np.ndarray
    kappa: np.ndarray
    rho: float
    weights: np.ndarray
    posterior: Posterior | None

    def soft_strength(self) -> np.ndarray:
        """`(R,)`: how much a guessed vote counts."""
        return self.weights * self.kappa * self.rho

    def local_weights(self, said: np.ndarray, voxels: np.ndarray, mode: str) -> np.ndarray:
        """`(R, n)` weights from each rater's own posterior of what he said at each voxel.

        Args:
            said: `(R, n)` uint8, his labels.
            voxels: `(n,)` flat indices in the region's box.
            mode: see `score_weights`.
        """
        assert self.posterior is not None
        q = self.posterior(voxels, np.arange(len(said))).astype(np.float64)
        called = np.where(said == MISSING, 0, said).T[:, :, None].astype(np.intp)
        scores = np.take_along_axis(q, called, axis=2)[:, :, 0].T
        raw = np.where(said == MISSING, 0, score_weights(scores, q.shape[2], mode))
        total = np.maximum(raw.sum(axis=0), 1e-12)
        return self.rho * raw / total + (1 - self.rho) * self.weights[:, None]


def judge(
    region: Region, canvas: Canvas, classes: int, weights: str | Sequence[float], seed: int, log: FusionLog
) -> Judgement:
    """Draw voxels from the band, grow the forest, and score every rater.

    Args:
        region: of the raters.
        canvas: the image round the region's box.
        classes: K.
        weights: see `weigh`.
        seed: of the sample and the trees.
        log: gets the seconds.
    """
    raters = len(region.labels)
    scores, posterior = np.full(raters, 1 / classes), None
    with log.stage("sample"):
        sample = draw(region, classes, seed)
    if sample.train.size and not canvas.constant:
        with log.stage("features"):
            features = Features(canvas)
            train, judged = features.at(sample.train), features.at(sample.judged)
        with log.stage("import"):
            import sklearn.ensemble  # noqa: F401 - a second that is not the forest's
        with log.stage("forest"):
            partition = Partition(train, sample.target, seed)
        with log.stage("leaves"):
            leaves = partition.leaves(judged)
        with log.stage("self_consistency"):
            told = region.labels.reshape(raters, -1)[:, sample.judged]
            histograms = Histograms(leaves, told, classes)
            scores = histograms.scores(sample.folds)
            posterior = posterior_of(features, partition, histograms)
    corrected = kappa(scores, classes)
    rho = informativeness(corrected)
    return Judgement(scores, corrected, rho, weigh(scores, classes, weights, rho), posterior)
