"""The locally adaptive loss voxel by voxel, from the paper's equations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Twin:
    """What the loss is of; the fields are named as its options."""

    kernel: Sequence[int]
    power: float
    sigma: float
    pooling: str = "weight"
    distance: str = "chessboard"
    edges: Sequence[float] | None = None
    weights: Sequence[float] | None = None

    def __call__(self, logits: torch.Tensor, label: torch.Tensor) -> float:
        """The loss of logits `(B, classes, *spatial)` and labels `(B, 1, *spatial)`."""
        values, labels = logits.numpy(), label.numpy()[:, 0]
        terms, amounts = [], []
        for image, centre in itertools.product(range(len(values)), np.ndindex(*labels.shape[1:])):
            own = labels[(image, *centre)]
            if own == 255:
                continue
            pooled = self._pooled(values[image], labels[image], centre)
            weight = 1.0 if self.weights is None else self.weights[own]
            loss = math.log(np.exp(pooled).sum()) - pooled[own]
            terms.append((weight * loss) ** self.power)
            amounts.append(weight)
        return float((sum(terms) / sum(amounts)) ** (1 / self.power))

    def _pooled(self, values: np.ndarray, labels: np.ndarray, centre: tuple[int, ...]) -> np.ndarray:
        """The pooled logits `(classes,)` of a voxel."""
        total, amount = np.zeros(len(values)), 0.0
        edges = self.edges or (1.0,) * labels.ndim
        for place in np.ndindex(*labels.shape):
            steps = [abs(a - b) for a, b in zip(place, centre, strict=True)]
            if any(step > length // 2 for step, length in zip(steps, self.kernel, strict=True)):
                continue
            if labels[place] != labels[centre]:
                continue
            lengths = [step * edge for step, edge in zip(steps, edges, strict=True)]
            d = max(lengths) if self.distance == "chessboard" else math.hypot(*lengths)
            g = math.exp(-(d**2) / (2 * self.sigma**2))
            total += g * values[(slice(None), *place)]
            amount += 1 if self.pooling == "count" else g
        return total / amount
