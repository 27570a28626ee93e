"""One forest for all raters: it parts the voxels into leaves of alike looks.

P. Geurts, D. Ernst and L. Wehenkel, "Extremely randomized trees", Machine Learning 2006. The trees learn the majority
of the raters; what a single rater calls the voxels of a leaf is counted afterwards. So everybody's voxels shape
the partition, also where one rater annotated nothing: that is the semi-supervised part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medseg.consensus.fusers.gcssl.region import Region
from medseg.consensus.study import MISSING

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

TREES = 30
TRAIN_VOXELS = 6000
JUDGED_PER_TRAINED = 8
BLOCK = 8.0
"""Side of the blocks that alternate between the two folds, in units of the smallest spacing."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Voxels drawn from the band, as flat indices of the region's box.

    Args:
        train: what the trees learn. `target`: majority label of each.
        judged: what the raters are judged on. `folds`: the fold of each, 0 or 1.
    """

    train: np.ndarray
    target: np.ndarray
    judged: np.ndarray
    folds: np.ndarray


def draw(region: Region, classes: int, seed: int) -> Sample:
    """As many voxels of each majority class as there are, up to 6000 / K to learn and eight times as many to judge."""
    random, share = np.random.default_rng(seed), TRAIN_VOXELS // classes
    majority = _majority(region, classes)
    band = np.flatnonzero(region.band)
    called = majority.reshape(-1)[band]
    train, judged = [], []
    for c in range(classes):
        found = np.flatnonzero(called == c)
        wanted = min(found.size, (1 + JUDGED_PER_TRAINED) * share)
        picked = band[random.choice(found, wanted, replace=False)]
        # apart as far as the class is large enough: trees know the labels that they have learned
        train.append(picked[-share:])
        judged.append(picked[: JUDGED_PER_TRAINED * share])
    target = np.repeat(np.arange(classes, dtype=np.uint8), [part.size for part in train])
    voxels = np.concatenate(judged)
    return Sample(np.concatenate(train), target, voxels, _folds(voxels, region))


def _majority(region: Region, classes: int) -> np.ndarray:
    """The most frequent label of each voxel's raters, the lowest of equally frequent ones."""
    majority = region.agreed[region.within].copy()
    votes = region.labels[:, region.disputed]
    best, most = np.full(votes.shape[1], MISSING, np.uint8), np.zeros(votes.shape[1], np.int32)
    for c in range(classes):
        count = np.count_nonzero(votes == c, axis=0)
        more = count > most
        best[more], most[more] = c, count[more]
    majority[region.disputed] = best
    return majority


def _folds(voxels: np.ndarray, region: Region) -> np.ndarray:
    """A checkerboard of blocks: neighbours in both folds would confirm each other."""
    at = np.unravel_index(voxels, region.disputed.shape)
    blocks = [a // max(1, round(BLOCK / unit)) for a, unit in zip(at, region.units, strict=True) if math.isfinite(unit)]
    return np.asarray(sum(blocks) % 2, np.uint8) if blocks else np.zeros(voxels.size, np.uint8)


class Partition:
    """The leaves of a forest.

    Args:
        features: `(n, F)` float32 of the voxels to learn from.
        target: `(n,)` their labels.
        seed: of the random splits.
    """

    def __init__(self, features: np.ndarray, target: np.ndarray, seed: int) -> None:
        from sklearn.ensemble import ExtraTreesClassifier

        smallest = max(5, target.size // 400)
        forest = ExtraTreesClassifier(
            TREES, min_samples_leaf=smallest, max_features="sqrt", n_jobs=1, random_state=seed
        )
        self.trees = [tree.tree_ for tree in forest.fit(features, target).estimators_]
        self.starts = np.cumsum([0, *(tree.node_count for tree in self.trees)])

    def leaves(self, features: np.ndarray) -> csr_matrix:
        """`(n, nodes)` sparse float32: 1 / trees at each tree's leaf of each voxel, so that products are averages."""
        nodes = np.empty((len(features), len(self.trees)), np.int32)
        for t, tree in enumerate(self.trees):
            nodes[:, t] = tree.apply(features) + self.starts[t]
        return membership(nodes, int(self.starts[-1]))


def membership(nodes: np.ndarray, count: int) -> csr_matrix:
    """`(n, count)` sparse matrix of the nodes `(n, T)` that each voxel falls into, 1 / T each."""
    from scipy.sparse import csr_matrix

    n, trees = nodes.shape
    rows = np.arange(0, n * trees + 1, trees)
    weights = np.full(n * trees, 1 / trees, np.float32)
    return csr_matrix((weights, nodes.reshape(-1), rows), shape=(n, count))


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    """`(n, R K)` float32 votes of the raters' labels `(R, n)`; all 0 where a rater annotated nothing."""
    columns: Sequence[np.ndarray] = [rater == c for rater in labels for c in range(classes)]
    return np.stack(columns, axis=1).astype(np.float32)
