"""One random forest for all raters: it groups voxels that look alike into leaves.

P. Geurts, D. Ernst and L. Wehenkel, "Extremely randomized trees", Machine Learning 2006. The trees learn the majority
of the raters; how a single rater labels the voxels of a leaf is counted afterwards. So every rater's voxels shape
the leaves, also where another annotated nothing: that is the semi-supervised part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medseg.consensus.fusers.gcssl.region import Region

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

TREES = 30
TRAIN_VOXELS = 6000
SCORED_PER_TRAINED = 8
BLOCK = 8.0
"""Side of the blocks that alternate between the two folds, in units of the smallest spacing."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Voxels drawn from the band, as flat indices of the region's box.

    Args:
        train: what the trees learn.
        target: majority label of each.
        scored: what the raters are scored on.
        folds: the fold of each, 0 or 1.
    """

    train: np.ndarray
    target: np.ndarray
    scored: np.ndarray
    folds: np.ndarray


def draw_sample(region: Region, majority: np.ndarray, classes: int, seed: int) -> Sample:
    """As many voxels of each majority class as there are, up to 6000 / K to learn and eight times as many to score.

    Args:
        region: of the raters.
        majority: `(n,)` uint8, the most frequent label of each disputed voxel; `MISSING` where nobody annotated.
        classes: K.
        seed: of the draw.
    """
    random = np.random.default_rng(seed)
    share = TRAIN_VOXELS // classes
    band = np.flatnonzero(region.band)
    label = region.agreed[region.inner_box].copy()
    label[region.disputed] = majority
    label_in_band = label.reshape(-1)[band]
    train, scored = [], []
    for c in range(classes):
        found = np.flatnonzero(label_in_band == c)
        wanted = min(found.size, (1 + SCORED_PER_TRAINED) * share)
        drawn = band[random.choice(found, wanted, replace=False)]
        # the two lie apart as far as the class is large enough: trees know the labels that they have learned
        train.append(drawn[-share:])
        scored.append(drawn[: SCORED_PER_TRAINED * share])
    target = np.repeat(np.arange(classes, dtype=np.uint8), [part.size for part in train])
    scored_voxels = np.concatenate(scored)
    return Sample(np.concatenate(train), target, scored_voxels, _folds(scored_voxels, region))


def _folds(voxels: np.ndarray, region: Region) -> np.ndarray:
    """A checkerboard of blocks: neighbours in both folds would confirm each other."""
    positions = np.unravel_index(voxels, region.disputed.shape)
    folds = np.zeros(voxels.size, np.intp)
    for position, unit in zip(positions, region.units, strict=True):
        if math.isfinite(unit):
            folds += position // max(1, round(BLOCK / unit))
    return (folds % 2).astype(np.uint8)


class Forest:
    """A forest of extremely randomised trees, of which only the leaves are used.

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
        forest.fit(features, target)
        self.trees = [estimator.tree_ for estimator in forest.estimators_]
        self.starts = np.cumsum([0, *(tree.node_count for tree in self.trees)])

    def find_leaves(self, features: np.ndarray) -> csr_matrix:
        """`(n, nodes)` sparse float32: 1 / trees at each tree's leaf of each voxel, so that products are averages."""
        nodes = np.empty((len(features), len(self.trees)), np.int32)
        for t, tree in enumerate(self.trees):
            nodes[:, t] = tree.apply(features) + self.starts[t]
        return leaf_membership(nodes, int(self.starts[-1]))


def leaf_membership(nodes: np.ndarray, count: int) -> csr_matrix:
    """`(n, count)` sparse matrix of the nodes `(n, T)` that each voxel falls into, 1 / T each."""
    from scipy.sparse import csr_matrix

    n, trees = nodes.shape
    rows = np.arange(0, n * trees + 1, trees)
    weights = np.full(n * trees, 1 / trees, np.float32)
    return csr_matrix((weights, nodes.reshape(-1), rows), shape=(n, count))
