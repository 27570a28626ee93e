"""Maps that say how sure one can be: how many experts disagree where, and each class's share of the votes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medseg.consensus.region import labelled_box
from medseg.consensus.study import MISSING, Study

STEPS = 255
"""Of a share stored in a byte."""


def as_bytes(shares: np.ndarray) -> np.ndarray:
    """Shares in [0, 1] in steps of 1/255."""
    return np.round(shares * STEPS).astype(np.uint8)


def disagreement(study: Study) -> np.ndarray:
    """Which share of the pairs of annotators contradict one another: what kappa and alpha are made of, per voxel.

    Args:
        study: the experts; probabilities count as their likeliest class.

    Returns:
        `(X, Y, Z)` float32 in [0, 1]; 0 where fewer than two annotated.
    """
    out = np.zeros(study.shape, np.float32)
    box = labelled_box([expert.labels for expert in study.experts])
    if box is None:
        return out
    said = [expert.labels[box] for expert in study.experts]
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
    """Each class's weighted share of the experts who annotated a voxel; nobody's voxel is background.

    Args:
        study: the experts.
        weights: of each.
        kind: "uint8" or "float16".

    Returns:
        `(K, X, Y, Z)` in that type; the bytes are in steps of 1/255.
    """
    out = np.zeros((len(study.classes), *study.shape), np.dtype(kind))
    out[0] = STEPS if kind == "uint8" else 1
    soft = [e.probabilities is not None for e in study.experts]
    box = labelled_box([expert.labels for expert in study.experts])
    if any(soft):
        x, y, z = (slice(0, n) for n in study.shape)
        box = x, y, z
    if box is None:
        return out
    experts = list(zip(study.experts, np.asarray(weights, np.float32), strict=True))
    total = sum(weight * (expert.labels[box] != MISSING) for expert, weight in experts)
    nobody = total <= 0
    total = np.where(nobody, 1, total)
    for label in range(len(study.classes)):
        share = np.zeros(total.shape, np.float32)
        for expert, weight in experts:
            given = expert.labels[box] == label if expert.probabilities is None else expert.probabilities[label][box]
            share += weight * given
        share /= total
        share[nobody] = label == 0
        out[label][box] = as_bytes(share) if kind == "uint8" else share
    return out
