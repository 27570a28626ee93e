"""Triplets along a random graph that joins all vectors of a class, and losses that pull and push along its edges.

X. Zhan, Z. Liu, P. Luo, X. Tang, C. C. Loy: Mix-and-Match Tuning for Self-Supervised Semantic Segmentation, AAAI 2018.
Vectors are visited in random order; each is joined to a random one of its class that was visited before, so that the
edges of a class are one connected piece, as those of independent random pairs often are not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medseg.ops.losses.segmentation import masked_mean

NONE = -1
"""In place of a negative: there is no other class."""

SMALLEST_NORM = 1e-30
"""A vector that is shorter is not divided by its length."""


@dataclass(frozen=True)
class Triplets:
    """One triplet for each vector; it is the anchor itself.

    Attributes:
        positives: `(N,)` int64, another vector of the same class; where there is none, the anchor.
        negatives: `(N,)` int64, a vector of another class; `NONE` where there is none.
    """

    positives: Tensor
    negatives: Tensor

    @property
    def singletons(self) -> int:
        """Anchors that are alone in their class."""
        own = torch.arange(len(self.positives), device=self.positives.device)
        return int((self.positives == own).sum())


def draw_triplets(classes: Tensor) -> Triplets:
    """A new graph of the vectors of a batch.

    Args:
        classes: `(N,)` int64 on the CPU.
    """
    count = len(classes)
    rank = torch.randperm(count)
    earlier = rank[None, :] < rank[:, None]
    same = classes[None, :] == classes[:, None]
    others = same & ~torch.eye(count, dtype=torch.bool)
    positives = _draw(same & earlier, others)
    positives = torch.where(positives == NONE, torch.arange(count), positives)
    return Triplets(positives, _draw(~same & earlier, ~same))


def _draw(wanted: Tensor, otherwise: Tensor) -> Tensor:
    """Of each row a random column that is wanted; where there is none, one that is allowed; else `NONE`."""
    allowed = torch.where(wanted.any(1, keepdim=True), wanted, otherwise)
    noise = torch.rand(allowed.shape).masked_fill(~allowed, -1)
    return torch.where(allowed.any(1), noise.argmax(1), NONE)


def normalize(vectors: Tensor) -> Tensor:
    """Vectors `(N, D)` of length 1, in float32; a zero vector stays as it is."""
    vectors = vectors.float()
    length = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return vectors / torch.where(length < SMALLEST_NORM, 1, length)


def triplet_loss(vectors: Tensor, triplets: Triplets, *, margin: float, anchors: Tensor | None = None) -> Tensor:
    """`1 / (2 N) sum_i max(0, margin + |z_i - z_p|^2 - |z_i - z_n|^2)`.

    A negative that there is none of is the zero vector, which is what the authors' code takes.

    Args:
        vectors: `(N, D)`, of length 1.
        triplets: of all of them.
        margin: alpha.
        anchors: `(N,)` bool, which vectors are anchors; None: all.
    """
    positive = vectors[triplets.positives.to(vectors.device)]
    negatives = triplets.negatives.to(vectors.device)
    known = (negatives != NONE)[:, None]
    negative = torch.where(known, vectors[negatives.clamp(min=0)], torch.zeros_like(vectors))
    near = (vectors - positive).square().sum(1)
    far = (vectors - negative).square().sum(1)
    hinge = (margin + near - far).clamp(min=0)
    weight = torch.ones_like(hinge) if anchors is None else anchors.to(hinge.device, hinge.dtype)
    return (hinge * weight).sum() / (2 * weight.sum().clamp(min=1))


def contrastive_loss(vectors: Tensor, classes: Tensor, *, temperature: float, anchors: Tensor | None = None) -> Tensor:
    """The supervised contrastive loss, which takes all pairs instead of a graph's.

    P. Khosla et al.: Supervised Contrastive Learning, NeurIPS 2020: the mean over anchors i that are not alone of
    `-1/|P_i| sum_{p in P_i} log(exp(z_i z_p / T) / sum_{a != i} exp(z_i z_a / T))`.

    Args:
        vectors: `(N, D)`, of length 1.
        classes: `(N,)` int64.
        temperature: T.
        anchors: as in `triplet_loss`.
    """
    classes = classes.to(vectors.device)
    itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    with torch.autocast(vectors.device.type, enabled=False):
        similarity = vectors @ vectors.T / temperature
    log_share = similarity - similarity.masked_fill(itself, float("-inf")).logsumexp(1, keepdim=True)
    same = (classes[None, :] == classes[:, None]) & ~itself
    count = same.sum(1)
    cost = -(log_share * same).sum(1) / count.clamp(min=1)
    weight = (count > 0).to(cost.dtype)
    if anchors is not None:
        weight = weight * anchors.to(weight.device, weight.dtype)
    return (cost * weight).sum() / weight.sum().clamp(min=1)


@torch.no_grad()
def separation(vectors: Tensor, classes: Tensor) -> tuple[float, float]:
    """How well classes are apart: mean distance within classes by that between them, and the nearest neighbour's share.

    Args:
        vectors: `(N, D)`.
        classes: `(N,)` int64.

    Returns:
        the quotient of the two mean squared distances, and the share of vectors whose nearest other has their class.
    """
    classes = classes.to(vectors.device)
    itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    distance = torch.cdist(vectors.float(), vectors.float()).square()
    same = classes[None, :] == classes[:, None]
    within = masked_mean(distance, same & ~itself)
    between = masked_mean(distance, ~same)
    nearest = distance.masked_fill(itself, float("inf")).argmin(1)
    return float(within / between.clamp(min=1e-12)), float((classes[nearest] == classes).float().mean())
