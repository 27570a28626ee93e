"""Batch-hard triplets: of each embedding its farthest positive and its nearest negative.

A. Hermans, L. Beyer, B. Leibe: In defense of the triplet loss for person re-identification, arXiv 1703.07737.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name
from torch import Tensor

LEAST_SQUARE = 1e-12
"""Floor of squared distances: the gradient of a square root at 0 is infinite."""


class Hardest(NamedTuple):
    """Distances of each embedding, `(N,)` float32: to its farthest positive, and to its nearest negative."""

    positive: Tensor
    negative: Tensor


def distances(embeddings: Tensor) -> Tensor:
    """Euclidean distances of all pairs.

    Args:
        embeddings: `(N, D)`.

    Returns:
        `(N, N)` float32, at least 1e-6. By the product of matrices: differences would need `(N, N, D)`.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        embeddings = embeddings.float()
        squares = embeddings.square().sum(1)
        squared = squares[:, None] + squares[None] - 2 * embeddings @ embeddings.T
        return squared.clamp_min(LEAST_SQUARE).sqrt()


def hardest(embeddings: Tensor, identities: Tensor) -> Hardest:
    """The hardest positive and the hardest negative of each embedding.

    Args:
        embeddings: `(N, D)`.
        identities: `(N,)` integers; embeddings with the same are positives of one another, others negatives.

    Raises:
        ValueError: an embedding without a positive, or without a negative.
    """
    same = identities[:, None] == identities[None]
    positives = same & ~torch.eye(len(identities), dtype=torch.bool, device=same.device)
    if not bool(positives.any(1).all()):
        raise ValueError("triplets need at least two embeddings of each identity")
    if bool(same.all(1).any()):
        raise ValueError("triplets need at least two identities in a batch, got 1")
    found = distances(embeddings)
    positive = found.masked_fill(~positives, -torch.inf).amax(1)
    negative = found.masked_fill(same, torch.inf).amin(1)
    return Hardest(positive, negative)


def batch_hard(embeddings: Tensor, identities: Tensor, *, margin: float | None = None) -> Tensor:
    """The mean over all embeddings of softplus(d_pos - d_neg), or with a margin of max(0, margin + d_pos - d_neg).

    It stays at log 2 = 0.6931 when all embeddings coincide.

    Args:
        embeddings: `(N, D)`.
        identities: `(N,)` integers.
        margin: None: the soft margin.

    Raises:
        ValueError: as `hardest`.
    """
    return hardest_loss(hardest(embeddings, identities), margin)


def hardest_loss(found: Hardest, margin: float | None = None) -> Tensor:
    """The loss of `batch_hard` of distances that are known.

    Args:
        found: of each embedding.
        margin: None: the soft margin.
    """
    difference = found.positive - found.negative
    each = F.softplus(difference) if margin is None else F.relu(margin + difference)
    return each.mean()
