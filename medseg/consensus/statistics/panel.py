"""What each two raters of a panel drew together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from medseg.consensus.fusers.pair_dice import mean_dice_of_pairs
from medseg.consensus.fusers.vote_patterns import VotePatterns, find_patterns
from medseg.consensus.study import Study


@dataclass(frozen=True, eq=False)
class Panel:
    """What the raters drew in the box of all labels.

    Args:
        names: of the raters.
        classes: names of the K classes, background first.
        overlap: `(R, R, K, K)` voxels that the first rater gave the first class and the second rater the second, where
            both annotated.
        identical: `(R, R)` bool: alike in every voxel.
        slices: `(R, K, S)` bool: whether a rater gave a class to any voxel of each slice across the widest spacing, or
            across the last axis where all are alike; no slices where that axis has one voxel.
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]
    overlap: np.ndarray
    identical: np.ndarray
    slices: np.ndarray

    @classmethod
    def of(cls, study: Study) -> Panel:
        """The panel of a study."""
        patterns = find_patterns(study)
        raters, classes = len(study.raters), len(study.classes)
        overlap = np.zeros((raters, raters, classes, classes), np.int64)
        identical = np.ones((raters, raters), bool)
        for r, s in product(range(raters), repeat=2):
            votes, others = patterns.table[:, r], patterns.table[:, s]
            table = np.zeros((classes + 1, classes + 1), np.int64)
            np.add.at(table, (votes, others), patterns.counts)
            overlap[r, s] = table[:classes, :classes]
            identical[r, s] = np.array_equal(votes, others)
        names = tuple(rater.name for rater in study.raters)
        return cls(names, study.classes, overlap, identical, _find_slices(study, patterns))

    def dice(self, r: int, s: int) -> np.ndarray:
        """`(K, K)` Dice of each class of rater r with each class of rater s; 0 where both are empty."""
        table = self.overlap[r, s]
        total = table.sum(axis=1)[:, None] + table.sum(axis=0)[None]
        return 2 * table / np.maximum(total, 1)

    def mean_dice(self) -> np.ndarray:
        """`(R, R)` mean Dice over the classes that both raters drew, 0 where there is none; NaN if one drew nothing."""
        raters, classes = len(self.names), len(self.classes)
        dice = np.full((classes - 1, raters, raters), np.nan)
        for r, s in product(range(raters), repeat=2):
            table = self.overlap[r, s]
            own, others = table.sum(axis=1)[1:], table.sum(axis=0)[1:]
            both = (own > 0) & (others > 0)
            of_classes = np.diagonal(self.dice(r, s))[1:]
            dice[both, r, s] = of_classes[both]
        mean = mean_dice_of_pairs(dice)
        drew = np.asarray(self.drew().any(axis=1))
        both_drew = drew[:, None] & drew
        return np.where(np.isnan(mean) & both_drew, 0.0, mean)

    def sizes(self) -> np.ndarray:
        """`(R, K)` voxels of each class of each rater."""
        return np.stack([np.diagonal(self.overlap[r, r]) for r in range(len(self.names))])

    def drew(self) -> np.ndarray:
        """`(R, K - 1)` bool: which rater has which class but the background."""
        return self.sizes()[:, 1:] > 0


def _find_slices(study: Study, patterns: VotePatterns) -> np.ndarray:
    """`(R, K, S)` bool: which classes each rater has in each slice of the box of all labels."""
    spacing = [round(mm, 2) for mm in study.spacing_mm]
    axis = max(range(3), key=lambda a: (spacing[a], a))
    raters, classes = len(study.raters), len(study.classes)
    if study.shape[axis] == 1:
        return np.zeros((raters, classes, 0), bool)
    numbers = np.moveaxis(patterns.indices(), axis, 0)
    found = np.zeros((raters, classes + 1, len(numbers)), bool)
    for z, plane in enumerate(numbers):
        seen = np.zeros(len(patterns.table), bool)
        seen[plane] = True
        votes = patterns.table[seen]
        for r in range(raters):
            found[r, votes[:, r], z] = True
    return found[:, :classes]


def join_names(names: Sequence[str]) -> str:
    """Names in a row, the last after "and"."""
    listed = [str(name) for name in names]
    return listed[0] if len(listed) == 1 else f"{', '.join(listed[:-1])} and {listed[-1]}"
