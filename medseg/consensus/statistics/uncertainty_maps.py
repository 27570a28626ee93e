"""Maps that say how sure one can be: how many raters disagree where, and each class's share of the votes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medseg.consensus.boxes import labelled_box
from medseg.consensus.study import MISSING, Study

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
    out = np.zeros(study.shape, np.float32)
    box = labelled_box([rater.labels for rater in study.raters])
    if box is None:
        return out
    said = [rater.labels[box] for rater in study.raters]
    votes = np.zeros(said[0].shape, np.float32)
    agreeing = np.zeros_like(votes)
    for label in range(len(study.classes)):
        count = np.zeros_like(votes)
        for labels in said:
            count += labels == label
        votes += count
        agreeing += count * (count - 1)
    pairs = votes * (votes - 1)
    out[box] = np.where(pairs > 0, 1 - agreeing / np.maximum(pairs, 1), 0)
    return out


def soft_labels(study: Study, weights: Sequence[float], kind: str) -> np.ndarray:
    """Each class's weighted share of the raters who annotated a voxel; nobody's voxel is background.

    Args:
        study: the raters.
        weights: of each.
        kind: "uint8" or "float16".

    Returns:
        `(K, X, Y, Z)` in that type; the bytes are in steps of 1/255.
    """
    out = np.zeros((len(study.classes), *study.shape), np.dtype(kind))
    out[0] = STEPS if kind == "uint8" else 1
    soft = [e.probabilities is not None for e in study.raters]
    box = labelled_box([rater.labels for rater in study.raters])
    if any(soft):
        x, y, z = (slice(0, n) for n in study.shape)
        box = x, y, z
    if box is None:
        return out
    raters = list(zip(study.raters, np.asarray(weights, np.float32), strict=True))
    total = sum(weight * (rater.labels[box] != MISSING) for rater, weight in raters)
    nobody = total <= 0
    total = np.where(nobody, 1, total)
    for label in range(len(study.classes)):
        share = np.zeros(total.shape, np.float32)
        for rater, weight in raters:
            given = rater.labels[box] == label if rater.probabilities is None else rater.probabilities[label][box]
            share += weight * given
        share /= total
        share[nobody] = label == 0
        out[label][box] = as_bytes(share) if kind == "uint8" else share
    return out
