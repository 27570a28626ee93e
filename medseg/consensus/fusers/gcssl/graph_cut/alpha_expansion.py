"""Labels of least energy by graph cuts: exactly for two labels, by alpha expansion for more.

Y. Boykov, O. Veksler and R. Zabih, "Fast Approximate Energy Minimization via Graph Cuts", TPAMI 2001. In one move every
node may keep its label or take alpha. The answer costs at most twice the minimum, and usually the minimum itself.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from medseg.consensus.fusers.gcssl.graph_cut.energy import ROUNDING, Energy
from medseg.consensus.fusers.gcssl.graph_cut.minimum_cut import (
    Arcs,
    Cut,
    Range,
    extreme_cuts,
    installed_solver,
    minimum_cut,
)

_FEW = 0.1
"""Share of the nodes in question below which a cut is cheaper than to look for more that are sure."""


class SureNodes(NamedTuple):
    """What is known of a labelling of least energy before any cut.

    Args:
        labels: `(n,)` uint8, final at the sure nodes, the cheapest beside them elsewhere.
        in_question: numbers of all other nodes.
        rest: the energy of these, up to a constant.
    """

    labels: np.ndarray
    in_question: np.ndarray
    rest: Energy


def minimise(energy: Energy, known: SureNodes | None = None) -> tuple[np.ndarray, dict[str, Any]]:
    """Labels of least energy.

    Args:
        energy: costs >= 0 of the pairs; the labels' own costs may have any sign.
        known: nodes that are sure already; None: none is.

    Returns:
        labels: `(n,)` uint8.
        facts: energies before (each node by itself) and after, numbers of nodes, edges and cuts, and the library.
    """
    found = decide_sure_nodes(energy, known=known)
    labels = found.labels
    if len(energy.unary) == 2:
        labels[found.in_question], cuts = cut_two_labels(found.rest)[0], 1
    else:
        labels[found.in_question], cuts = alpha_expansion(found.rest)
    facts: dict[str, Any] = {
        "energy": energy.of(labels),
        "energy_of_votes": energy.of(energy.cheapest_labels()),
        "nodes": int(labels.size),
        "edges": int(energy.first.size),
        "cuts": cuts,
        "solver": installed_solver(),
    }
    if facts["solver"] == "scipy":
        facts["note"] = "PyMaxflow is not installed: cut by SciPy, costs rounded to a millionth"
    return labels, facts


def decide_sure_nodes(energy: Energy, change: np.ndarray | float = 0.0, known: SureNodes | None = None) -> SureNodes:
    """Decide the nodes whose label no neighbours can change, and then those that are sure beside these.

    They have the same labels in every labelling of least energy, and no expansion of the others' best labels would pay
    that moves one of them.

    Args:
        energy: to be lowered.
        change: `(n,)`, by how much the difference of two labels' own costs at a node may yet change.
        known: nodes that are sure already; None: none is.
    """
    if known is None:
        labels, rest = energy.cheapest_labels(), energy
        in_question = np.arange(labels.size)
    else:
        labels, in_question = known.labels.copy(), known.in_question
        rest = energy.of_rest(_is_among(in_question, labels.size), labels)
        labels[in_question] = rest.cheapest_labels()
    change = np.broadcast_to(change, labels.shape)
    while True:
        is_sure = rest.sure_nodes(change[in_question])
        if np.count_nonzero(is_sure) <= _FEW * in_question.size:
            return SureNodes(labels, in_question, rest)
        rest = rest.of_rest(~is_sure, labels[in_question])
        in_question = in_question[~is_sure]
        labels[in_question] = rest.cheapest_labels()


def decide_between_extremes(known: SureNodes, change: Range) -> SureNodes:
    """Decide the nodes of two labels whose label is the same however far the difference of their costs may change.

    The more label 1 is favoured everywhere, the more nodes have it in the labelling of least energy, and none of them
    loses it (V. Kolmogorov, Y. Boykov and C. Rother, "Applications of parametric maxflow in computer vision", ICCV
    2007). So what has label 1 where it is favoured least keeps it, and so does label 0 what has it where 1 is favoured
    most.

    Args:
        known: nodes that are sure already; the others are to be narrowed down.
        change: of all nodes, by how much label 1 may yet cost more and less beside label 0.

    Raises:
        ValueError: if there are not two labels.
    """
    if len(known.rest.unary) != 2:
        raise ValueError(f"extremes decide between 2 labels, got {len(known.rest.unary)}")
    labels, rest = known.labels.copy(), known.rest
    stay, take = np.asarray(rest.unary, np.float64)
    arcs = Arcs(rest.first, rest.second, rest.weight, rest.weight)
    more = np.asarray(change.more, np.float64)[known.in_question]
    less = np.asarray(change.less, np.float64)[known.in_question]
    fewest, most = extreme_cuts(stay, take, arcs, Range(more, less))
    labels[known.in_question] = fewest
    varies = most & ~fewest
    in_question = known.in_question[varies]
    rest = rest.of_rest(varies, labels[known.in_question])
    labels[in_question] = rest.cheapest_labels()
    return SureNodes(labels, in_question, rest)


def _is_among(numbers: np.ndarray, count: int) -> np.ndarray:
    chosen = np.zeros(count, bool)
    chosen[numbers] = True
    return chosen


def alpha_expansion(energy: Energy, cycles: int = 10) -> tuple[np.ndarray, int]:
    """Expansion moves from the cheapest labels until none lowers the energy, and how many cuts that took.

    Args:
        energy: to be lowered.
        cycles: at most so many rounds over all labels.
    """
    count = len(energy.unary)
    labels = energy.cheapest_labels()
    total_weights = energy.total_weights()
    failed = cuts = 0
    while failed < count and cuts < cycles * count:
        alpha = cuts % count
        move = _best_move(energy, labels, alpha, able_to_take(energy, labels, alpha, total_weights))
        cuts += 1
        if move.drop > ROUNDING:
            labels[move.taken] = alpha
            failed = 0
        else:
            failed += 1  # since the last success nothing has changed: each label needs one failure only
    return labels, cuts


def _loss(energy: Energy, labels: np.ndarray, alpha: int) -> np.ndarray:
    return energy.unary[alpha] - energy.unary[labels, np.arange(labels.size)]


def able_to_take(energy: Energy, labels: np.ndarray, alpha: int, total_weights: np.ndarray) -> np.ndarray:
    """`(n,)` bool: nodes without which no move to `alpha` can be as good; all others may be left out of the graph.

    A node of the best move costs less with it than without it. Taking alpha it loses by its own costs and wins, from
    each neighbour, at most w where that one takes alpha as well, and `w [l_i != l_j] - w [l_j != alpha]` where it does
    not. Nodes that lose more than they can win are left out, which takes from their neighbours, until nothing changes.
    """
    loss = _loss(energy, labels, alpha)
    able = (labels != alpha) & (loss < total_weights)
    edges = np.flatnonzero(able[energy.first] | able[energy.second])
    while True:
        first, second = energy.first[edges], energy.second[edges]
        weight = energy.weight[edges].astype(np.float64)
        differ = labels[first] != labels[second]
        won = np.zeros(labels.size)
        for own, other in ((first, second), (second, first)):
            alone = weight * (differ.astype(np.float64) - (labels[other] != alpha))
            won += np.bincount(own, np.where(able[other], weight, alone), labels.size)
        still = able & (loss < won + ROUNDING)
        if np.count_nonzero(still) == np.count_nonzero(able):
            return able
        able = still
        edges = edges[able[first] | able[second]]


class Move(NamedTuple):
    """Numbers of the nodes that take a label, the drop of the energy, and which nodes could move, at what cost."""

    taken: np.ndarray
    drop: float
    cost: float
    movable: np.ndarray


def expansion_move(
    energy: Energy, labels: np.ndarray, alpha: int, among: np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    """The nodes that take `alpha` in the best move, and the energy after it.

    Args:
        energy: to be lowered.
        labels: `(n,)` labels before the move.
        alpha: the label to take.
        among: `(n,)` bool, the nodes that may; None: all.
    """
    move = _best_move(energy, labels, alpha, among)
    return move.taken, move.cost + _energy_of_fixed_nodes(energy, labels, move.movable)


def _best_move(energy: Energy, labels: np.ndarray, alpha: int, among: np.ndarray | None = None) -> Move:
    """The move to `alpha` after which the energy is least.

    A pair of weight w costs `A = w [l_i != l_j]` if both stay, w if one of them takes alpha, 0 if both do. That is
    A, plus `w - A` if i takes, minus w if j takes, plus `2w - A >= 0` if j alone takes. Nodes that cannot move are no
    part of the graph: one that has alpha already charges w to a neighbour that stays, one that keeps another label
    charges w to a neighbour that takes alpha.
    """
    movable = labels != alpha
    if among is not None:
        movable &= among
    free = np.flatnonzero(movable)
    number = np.full(labels.size, -1, np.int32)
    number[free] = np.arange(free.size, dtype=np.int32)
    stay = energy.unary[labels[free], free].astype(np.float64)
    take = energy.unary[alpha, free].astype(np.float64)

    touched = np.flatnonzero(movable[energy.first] | movable[energy.second])
    first, second = energy.first[touched], energy.second[touched]
    weight = energy.weight[touched].astype(np.float64)
    kept = np.where(labels[first] != labels[second], weight, 0.0)

    for own, other in ((first, second), (second, first)):
        border = movable[own] & ~movable[other]
        nodes = number[own[border]]
        stay += np.bincount(nodes, kept[border], free.size)
        cost = np.where(labels[other[border]] == alpha, 0.0, weight[border])
        take += np.bincount(nodes, cost, free.size)

    both = movable[first] & movable[second]
    i, j = number[first[both]], number[second[both]]
    w, kept = weight[both], kept[both]
    take += np.bincount(i, w - kept, free.size) - np.bincount(j, w, free.size)
    found = minimum_cut(stay, take, Arcs(i, j, 2 * w - kept, np.zeros_like(w)))
    drop = float(stay.sum() - found.flow)  # pairs of which neither moves cost the same before and after
    return Move(free[found.taken], drop, float(found.flow + kept.sum()), movable)


def _energy_of_fixed_nodes(energy: Energy, labels: np.ndarray, movable: np.ndarray) -> float:
    """What the nodes that cannot move cost by themselves and among each other."""
    fixed = np.flatnonzero(~movable)
    costs = energy.unary[labels[fixed], fixed].sum(dtype=np.float64)
    both_fixed = ~(movable[energy.first] | movable[energy.second])
    differ = both_fixed & (labels[energy.first] != labels[energy.second])
    return float(costs + energy.weight[differ].sum(dtype=np.float64))


def cut_two_labels(energy: Energy) -> tuple[np.ndarray, Cut]:
    """The labelling of least energy for two labels, and the cut it was read from.

    Every cut of the graph costs what its labelling costs, so `flow` is the energy of the answer; of several best ones
    it is the one with fewest nodes of label 1.

    Raises:
        ValueError: if there are not two labels.
    """
    if len(energy.unary) != 2:
        raise ValueError(f"a cut decides between 2 labels, got {len(energy.unary)}")
    stay, take = np.asarray(energy.unary, np.float64)
    found = minimum_cut(stay, take, Arcs(energy.first, energy.second, energy.weight, energy.weight))
    return found.taken.astype(np.uint8), found
