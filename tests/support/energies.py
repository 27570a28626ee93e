"""Energies of small grids, whose every labelling can be tried."""

from __future__ import annotations

import itertools
import math
from functools import cache

import numpy as np

from medseg.consensus.fusers.gcssl.graph_cut.energy import Energy, find_pairs
from medseg.consensus.study import MISSING

FLAT = (1.0, 1.0, math.inf)


def random_energy(seed: int, labels: int, neighbours: int = 8, shape=(3, 3)) -> Energy:
    random = np.random.default_rng(seed)
    grid = (*shape, 1)
    pairs = find_pairs(
        np.ones(grid, bool), np.full(grid, MISSING, np.uint8), random.random((1, *grid)), FLAT, neighbours
    )
    weight = random.random(pairs.first.size) * random.choice([0.1, 1.0, 3.0])
    return Energy(random.random((labels, math.prod(grid))), pairs.first, pairs.second, weight)


@cache
def labellings(count: int, n: int) -> np.ndarray:
    """`(n, count ** n)`."""
    return np.ascontiguousarray(np.array(list(itertools.product(range(count), repeat=n)), np.int8).T)


def lowest(energy: Energy) -> float:
    """By trying every labelling."""
    every = labellings(*energy.unary.shape)
    cost = sum(costs[labels] for costs, labels in zip(energy.unary.T, every, strict=True))
    for i, j, w in zip(energy.first, energy.second, energy.weight, strict=True):
        cost += w * (every[i] != every[j])
    return float(cost.min())
