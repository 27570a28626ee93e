"""Alpha expansion: more than two labels, as a sequence of exact cuts.

Y. Boykov, O. Veksler and R. Zabih, "Fast Approximate Energy Minimization via Graph Cuts", TPAMI 2001. In one move every
node may keep its label or take alpha. The answer costs at most twice the minimum, and usually the minimum itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from medseg.consensus.fusers.gcssl.energy import Energy
from medseg.consensus.fusers.gcssl.min_cut import Arcs, Cut, backend, cut, minimum_cut

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

    The first moves are confined to nodes that are likely to take a label, which is several times as fast; then follow
    moves of all nodes, so that the answer is one that no expansion improves.

    Args:
        energy: to be lowered.
        start: `(n,)` labels to start from; None: the cheapest at each node.
        cycles: at most so many rounds over all labels, confined and not.
    """
    labels = (energy.cheapest() if start is None else np.array(start)).astype(np.uint8)
    reach, cuts = energy.reach(), 0
    for confined in (True, False):
        labels, more = _descend(energy, labels, cycles, reach if confined else None)
        cuts += more
    return labels, cuts


def _descend(
    energy: Energy, labels: np.ndarray, cycles: int, reach: np.ndarray | None = None
) -> tuple[np.ndarray, int]:
    count, value = len(energy.unary), energy.of(labels)
    failed = cuts = 0
    while failed < count and cuts < cycles * count:
        alpha = cuts % count
        among = None if reach is None else _likely(energy, labels, alpha, reach)
        taken, _ = expansion_move(energy, labels, alpha, among)
        cuts += 1
        moved = labels.copy()
        moved[taken] = alpha
        lower = energy.of(moved) if taken.size else value
        if lower < value - _DROP:
            labels, value, failed = moved, lower, 0
        else:
            failed += 1  # since the last success nothing has changed: each label needs one failure only
    return labels, cuts


def _likely(energy: Energy, labels: np.ndarray, alpha: int, reach: np.ndarray) -> np.ndarray:
    """`(n,)` bool: nodes that take `alpha` if a quarter of their neighbours speaks for it, and those beside them."""
    loss = energy.unary[alpha] - energy.unary[labels, np.arange(labels.size)]
    likely = loss < reach / 4
    touched = likely[energy.first] | likely[energy.second]
    likely[energy.first[touched]] = True
    likely[energy.second[touched]] = True
    return likely


def expansion_move(
    energy: Energy, labels: np.ndarray, alpha: int, among: np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    """The nodes that take `alpha` in the best move, and the energy after it.

    A pair of weight w costs `A = w [l_i != l_j]` if both stay, w if one of them takes alpha, 0 if both do. That is
    A, plus `w - A` if i takes, minus w if j takes, plus `2w - A >= 0` if j alone takes. Nodes that cannot move are no
    part of the graph: one that has alpha already charges w to a neighbour that stays, one that keeps another label
    charges w to a neighbour that takes alpha.

    Args:
        energy: to be lowered.
        labels: `(n,)` labels before the move.
        alpha: the label to take.
        among: `(n,)` bool, the nodes that may; None: all.
    """
    movable = labels != alpha if among is None else (labels != alpha) & among
    free = np.flatnonzero(movable)
    number = np.full(labels.size, -1, np.int32)
    number[free] = np.arange(free.size, dtype=np.int32)
    stay = energy.unary[labels[free], free].astype(np.float64)
    take = energy.unary[alpha, free].astype(np.float64)
    touched = np.flatnonzero(movable[energy.first] | movable[energy.second])
    first, second, weight = energy.first[touched], energy.second[touched], energy.weight[touched].astype(np.float64)
    kept = np.where(labels[first] != labels[second], weight, 0.0)
    for mine, other in ((first, second), (second, first)):
        border = movable[mine] & ~movable[other]
        at, has = number[mine[border]], labels[other[border]] == alpha
        stay += np.bincount(at, kept[border], free.size)
        take += np.bincount(at, np.where(has, 0.0, weight[border]), free.size)
    both = movable[first] & movable[second]
    i, j, w, kept = number[first[both]], number[second[both]], weight[both], kept[both]
    take += np.bincount(i, w - kept, free.size) - np.bincount(j, w, free.size)
    found: Cut = minimum_cut(stay, take, Arcs(i, j, 2 * w - kept, np.zeros_like(w)))
    return free[found.taken], float(found.flow + kept.sum() + _settled(energy, labels, movable))


def _settled(energy: Energy, labels: np.ndarray, movable: np.ndarray) -> float:
    """What the nodes that cannot move cost by themselves and among each other."""
    still = np.flatnonzero(~movable)
    costs = energy.unary[labels[still], still].sum(dtype=np.float64)
    apart = ~(movable[energy.first] | movable[energy.second]) & (labels[energy.first] != labels[energy.second])
    return float(costs + energy.weight[apart].sum(dtype=np.float64))
