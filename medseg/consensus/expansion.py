"""Alpha expansion: more than two labels, as a sequence of exact cuts.

Y. Boykov, O. Veksler and R. Zabih, "Fast Approximate Energy Minimization via Graph Cuts", TPAMI 2001. In one move every
node may keep its label or take alpha. The answer costs at most twice the minimum, and usually the minimum itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from medseg.consensus.energy import Energy
from medseg.consensus.graph_cut import Arcs, Cut, backend, cut, minimum_cut

_DROP = 1e-9
"""A smaller drop of the energy is rounding, not progress."""


def solve(energy: Energy) -> tuple[np.ndarray, dict[str, Any]]:
    """Labels of least energy: exact for two labels, by alpha expansion for more.

    Args:
        energy: costs >= 0 of the pairs; the labels' own costs may have any sign.

    Returns:
        labels: `(n,)` uint8.
        facts: energies before (each node by itself) and after, numbers of nodes, edges and cuts, and the library.
    """
    start = energy.cheapest()
    if len(energy.unary) == 2:
        labels, cuts = cut(energy)[0], 1
    else:
        labels, cuts = expand(energy, start)
    facts: dict[str, Any] = {"energy": energy.of(labels), "energy_of_votes": energy.of(start)}
    facts |= {"nodes": int(start.size), "edges": int(energy.first.size), "cuts": cuts, "solver": backend()}
    if facts["solver"] == "scipy":
        facts["note"] = "PyMaxflow is not installed: cut by SciPy, costs rounded to a millionth"
    return labels, facts


def expand(energy: Energy, start: np.ndarray | None = None, cycles: int = 10) -> tuple[np.ndarray, int]:
    """Expansion moves until none lowers the energy, and how many cuts that took.

    Args:
        energy: to be lowered.
        start: `(n,)` labels to start from; None: the cheapest at each node.
        cycles: at most so many rounds over all labels.
    """
    labels = (energy.cheapest() if start is None else np.array(start)).astype(np.uint8)
    count, value = len(energy.unary), energy.of(labels)
    failed = cuts = 0
    while failed < count and cuts < cycles * count:
        alpha = cuts % count
        moved = labels.copy()
        moved[expansion_move(energy, labels, alpha)[0]] = alpha
        cuts += 1
        lower = energy.of(moved)
        if lower < value - _DROP:
            labels, value, failed = moved, lower, 0
        else:
            failed += 1  # since the last success nothing has changed: each label needs one failure only
    return labels, cuts


def expansion_move(energy: Energy, labels: np.ndarray, alpha: int) -> tuple[np.ndarray, float]:
    """The nodes that take `alpha` in the best move, and the energy after it.

    A pair of weight w costs `A = w [l_i != l_j]` if both stay, w if one of them takes alpha, 0 if both do. That is
    A, plus `w - A` if i takes, minus w if j takes, plus `2w - A >= 0` if j alone takes. Nodes that have alpha already
    are left out: they only charge w to a neighbour that stays.
    """
    free = np.flatnonzero(labels != alpha)
    number = np.full(labels.size, -1, np.int32)
    number[free] = np.arange(free.size, dtype=np.int32)
    stay = energy.unary[labels[free], free].astype(np.float64)
    take = energy.unary[alpha, free].astype(np.float64)
    i, j = number[energy.first], number[energy.second]
    for mine, other in ((i, j), (j, i)):
        charged = (mine >= 0) & (other < 0)
        stay += np.bincount(mine[charged], energy.weight[charged], free.size)
    both = (i >= 0) & (j >= 0)
    i, j, w = i[both], j[both], energy.weight[both].astype(np.float64)
    kept = np.where(labels[free[i]] != labels[free[j]], w, 0.0)
    take += np.bincount(i, w - kept, free.size) - np.bincount(j, w, free.size)
    found: Cut = minimum_cut(stay, take, Arcs(i, j, 2 * w - kept, np.zeros_like(w)))
    settled = energy.unary[alpha, labels == alpha].sum(dtype=np.float64)
    return free[found.taken], float(found.flow + kept.sum() + settled)
