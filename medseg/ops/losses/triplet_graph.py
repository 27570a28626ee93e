"""Triplet and contrastive losses of vectors with classes, as Mix-and-Match tuning has them.

X. Zhan, Z. Liu, P. Luo, X. Tang, C. C. Loy: Mix-and-Match Tuning for Self-Supervised Semantic Segmentation, AAAI 2018.
Each vector of a batch is the anchor of one triplet. Its positive and its negative follow a random graph: the vectors
are visited in random order, and each is joined to one of its class and one of another class that were visited before
it. By the edges to positives all vectors of a class are connected, directly or through others of the class; by
independent random positives they often are not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from medseg.ops.losses.segmentation import masked_mean

NONE = -1
"""In place of a negative where all vectors have the same class."""

SMALLEST_NORM = 1e-30
"""A vector that is shorter is not divided by its length."""


@dataclass(frozen=True)
class Triplets:
    """One triplet for each vector of a batch, which is its anchor.

    Attributes:
        positives: `(N,)` int64, index of another vector of the same class; of a vector that has none, its own.
        negatives: `(N,)` int64, index of a vector of another class; `NONE` where there is no other class.
    """

    positives: Tensor
    negatives: Tensor

    @property
    def singletons(self) -> int:
        """Number of anchors that are alone in their class."""
        own = torch.arange(len(self.positives), device=self.positives.device)
        return int((self.positives == own).sum())


class Pairs(NamedTuple):
    """Which pairs of vectors, anchor i and other j, are of one class; `(N, N)` bool, rows i.

    Attributes:
        positive: of the same class, and not the anchor itself.
        negative: of another class.
        itself: the diagonal.
    """

    positive: Tensor
    negative: Tensor
    itself: Tensor


def find_pairs(classes: Tensor) -> Pairs:
    """The pairs of vectors with classes `(N,)`."""
    same = classes[None, :] == classes[:, None]
    itself = torch.eye(len(classes), dtype=torch.bool, device=classes.device)
    return Pairs(same & ~itself, ~same, itself)


def draw_triplets(classes: Tensor) -> Triplets:
    """A new random graph of the vectors of a batch.

    Args:
        classes: `(N,)` int64 on the CPU.
    """
    count = len(classes)
    turn = torch.randperm(count)  # at which each vector is visited
    visited_before = turn[None, :] < turn[:, None]
    pairs = find_pairs(classes)
    # the first of a class to be visited finds none before it, and takes any of those after it
    positives = _draw_columns(pairs.positive & visited_before, otherwise=pairs.positive)
    negatives = _draw_columns(pairs.negative & visited_before, otherwise=pairs.negative)
    own = torch.arange(count)
    return Triplets(torch.where(positives == NONE, own, positives), negatives)


def _draw_columns(preferred: Tensor, otherwise: Tensor) -> Tensor:
    """For each row a random column.

    Args:
        preferred: `(N, N)` bool, the columns to draw from.
        otherwise: `(N, N)` bool, those for rows without a preferred one.

    Returns:
        `(N,)` int64; `NONE` for rows that have neither.
    """
    accepted = torch.where(preferred.any(1, keepdim=True), preferred, otherwise)
    number = torch.rand(accepted.shape)  # where the largest one lies, is equally likely for all accepted columns
    column = number.masked_fill(~accepted, -1).argmax(1)
    return torch.where(accepted.any(1), column, NONE)


def normalize(vectors: Tensor) -> Tensor:
    """Vectors `(N, D)` divided by their lengths, in float32; a zero vector stays as it is."""
    vectors = vectors.float()
    length = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return vectors / torch.where(length < SMALLEST_NORM, 1, length)


def triplet_loss(vectors: Tensor, triplets: Triplets, *, margin: float, anchors: Tensor | None = None) -> Tensor:
    """`1 / (2 N) sum_i max(0, margin + |z_i - z_p|^2 - |z_i - z_n|^2)`, N: the number of anchors.

    Where there is no other class, z_n is the zero vector, as in the authors' code.

    Args:
        vectors: `(N, D)`, of length 1.
        triplets: one for each of them.
        margin: alpha.
        anchors: `(N,)` bool, whose triplets count; None: all.
    """
    positive = vectors[triplets.positives.to(vectors.device)]
    index = triplets.negatives.to(vectors.device)
    has_negative = (index != NONE)[:, None]
    negative = torch.where(has_negative, vectors[index.clamp(min=0)], torch.zeros_like(vectors))
    to_positive = (vectors - positive).square().sum(1)
    to_negative = (vectors - negative).square().sum(1)
    hinge = (margin + to_positive - to_negative).clamp(min=0)
    return masked_mean(hinge, _all_or(anchors, hinge)) / 2


def contrastive_loss(vectors: Tensor, classes: Tensor, *, temperature: float, anchors: Tensor | None = None) -> Tensor:
    """The supervised contrastive loss, which compares all pairs instead of those of a graph.

    P. Khosla et al.: Supervised Contrastive Learning, NeurIPS 2020: the mean over anchors i that are not alone in their
    class of `-1/|P_i| sum_{p in P_i} log(exp(z_i z_p / T) / sum_{a != i} exp(z_i z_a / T))`, P_i: the positives of i.

    Args:
        vectors: `(N, D)`, of length 1.
        classes: `(N,)` int64.
        temperature: T.
        anchors: as in `triplet_loss`.
    """
    pairs = find_pairs(classes.to(vectors.device))
    with torch.autocast(vectors.device.type, enabled=False):
        similarity = vectors @ vectors.T / temperature
    of_others = similarity.masked_fill(pairs.itself, float("-inf"))
    log_share = similarity - of_others.logsumexp(1, keepdim=True)
    positives = pairs.positive.sum(1)
    cost = -log_share.masked_fill(~pairs.positive, 0).sum(1) / positives.clamp(min=1)
    return masked_mean(cost, (positives > 0) & _all_or(anchors, cost))


def _all_or(anchors: Tensor | None, values: Tensor) -> Tensor:
    """Which of the values count, `(N,)` bool on their device."""
    if anchors is None:
        return torch.ones_like(values, dtype=torch.bool)
    return anchors.to(values.device)


@torch.no_grad()
def separation(vectors: Tensor, classes: Tensor) -> tuple[float, float]:
    """How well classes are apart: distances within by distances between them, and the share of right neighbours.

    Args:
        vectors: `(N, D)`.
        classes: `(N,)` int64.

    Returns:
        The mean squared distance within classes, divided by that between classes; and the share of vectors whose
        nearest other vector has their class.
    """
    classes = classes.to(vectors.device)
    pairs = find_pairs(classes)
    distance = torch.cdist(vectors.float(), vectors.float()).square()
    within = masked_mean(distance, pairs.positive)
    between = masked_mean(distance, pairs.negative)
    nearest = distance.masked_fill(pairs.itself, float("inf")).argmin(1)
    is_right = classes[nearest] == classes
    return float(within / between.clamp(min=1e-12)), float(is_right.float().mean())
