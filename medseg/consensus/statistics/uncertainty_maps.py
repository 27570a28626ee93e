"""Maps of uncertainty: which share of the pairs of raters disagree at a voxel, and each class's share of the votes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medseg.consensus.boxes import Box, full_box, labelled_box
from medseg.consensus.study import MISSING, Rater, Study

STEPS = 255
"""Of a share stored in a byte."""


def as_bytes(shares: np.ndarray) -> np.ndarray:
    """Shares in [0, 1] in steps of 1/255."""
    return np.round(shares * STEPS).astype(np.uint8)


def disagreement(study: Study) -> np.ndarray:
    """Which share of the pairs of raters contradict one another: what kappa and alpha are made of, per voxel.

    Args:
        study: the raters; probabilities count as their likeliest class.

    Returns:
        `(X, Y, Z)` float32 in [0, 1]; 0 where fewer than two annotated.
    """
    found = np.zeros(study.shape, np.float32)
    box = labelled_box([rater.labels for rater in study.raters])
    if box is None:
        return found
    votes_of_raters = [rater.labels[box] for rater in study.raters]
    voters = np.zeros(votes_of_raters[0].shape, np.float32)
    agreeing_pairs = np.zeros_like(voters)
    for c in range(len(study.classes)):
        count = np.zeros_like(voters)
        for votes in votes_of_raters:
            count += votes == c
        voters += count
        agreeing_pairs += count * (count - 1)
    pairs = voters * (voters - 1)
    found[box] = np.where(pairs > 0, 1 - agreeing_pairs / np.maximum(pairs, 1), 0)
    return found


def soft_labels(study: Study, weights: Sequence[float], kind: str) -> np.ndarray:
    """Each class's weighted share of the raters who annotated a voxel; nobody's voxel is background.

    Args:
        study: the raters.
        weights: of each.
        kind: "uint8" or "float16".

    Returns:
        `(K, X, Y, Z)` in that type; the bytes are in steps of 1/255.
    """
    found = np.zeros((len(study.classes), *study.shape), np.dtype(kind))
    found[0] = STEPS if kind == "uint8" else 1
    if any(rater.probabilities is not None for rater in study.raters):
        box: Box | None = full_box(study.shape)
    else:
        box = labelled_box([rater.labels for rater in study.raters])
    if box is None:
        return found
    raters = list(zip(study.raters, np.asarray(weights, np.float32), strict=True))
    total = sum(weight * (rater.labels[box] != MISSING) for rater, weight in raters)
    nobody = total <= 0
    total = np.where(nobody, 1, total)
    for c in range(len(study.classes)):
        share = np.zeros(total.shape, np.float32)
        for rater, weight in raters:
            share += weight * _vote_for(rater, c, box)
        share /= total
        share[nobody] = c == 0
        found[c][box] = as_bytes(share) if kind == "uint8" else share
    return found


def _vote_for(rater: Rater, c: int, box: Box) -> np.ndarray:
    """A rater's vote for class c: a probability, or True and False."""
    if rater.probabilities is None:
        return rater.labels[box] == c
    return rater.probabilities[c][box]
