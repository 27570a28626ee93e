"""The cheapest cut of a graph into two sides, by PyMaxflow or SciPy.

Y. Boykov and V. Kolmogorov, "An Experimental Comparison of Min-Cut/Max-Flow Algorithms for Energy Minimization in
Vision", TPAMI 2004: PyMaxflow, the default, which is licensed under the GPL. Where it is not installed SciPy cuts: its
flow has 32-bit integers only, so that costs are rounded to a millionth, and it is some times slower.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

_SCALE = 1e6
"""Integers of SciPy's flow per unit of cost."""


class Cut(NamedTuple):
    """`taken`: `(n,)` bool, nodes on the sink side. `flow`: value of the cut."""

    taken: np.ndarray
    flow: float


class Arcs(NamedTuple):
    """Arcs between nodes, all `(m,)`: what it costs if `first` stays and `second` is taken, and the reverse."""

    first: np.ndarray
    second: np.ndarray
    forward: np.ndarray
    backward: np.ndarray


def minimum_cut(stay: np.ndarray, take: np.ndarray, arcs: Arcs) -> Cut:
    """The subset of nodes to take at least cost.

    Args:
        stay: `(n,)` float64, cost of each node that is not taken.
        take: `(n,)` float64, cost of each node that is.
        arcs: costs between nodes, >= 0.
    """
    if not stay.size:
        return Cut(np.zeros(0, bool), 0.0)
    base = np.minimum(stay, take)  # capacities must not be negative, and a constant changes no decision
    cut = _cut_by_pymaxflow if installed_solver() == "PyMaxflow" else _cut_by_scipy
    taken, flow = cut(take - base, stay - base, arcs)
    return Cut(taken, float(flow + base.sum()))


class Range(NamedTuple):
    """By how much what is taken may yet cost more, beside what stays, and by how much less: `(n,)` float64 >= 0."""

    more: np.ndarray
    less: np.ndarray


def extreme_cuts(stay: np.ndarray, take: np.ndarray, arcs: Arcs, change: Range) -> tuple[np.ndarray, np.ndarray]:
    """The subsets to take at least cost where taking costs as much as it may, and where it costs as little.

    Args:
        stay: `(n,)` float64, cost of each node that is not taken.
        take: `(n,)` float64, cost of each node that is.
        arcs: costs between nodes, >= 0.
        change: of the difference of these costs.

    Returns:
        fewest: `(n,)` bool, what is taken where taking costs most.
        most: `(n,)` bool, what is taken where it costs least; `fewest` is a part of it.
    """
    dear = take + change.more
    if installed_solver() != "PyMaxflow" or not stay.size:
        return minimum_cut(stay, dear, arcs).taken, minimum_cut(stay + change.less, take, arcs).taken
    base = np.minimum(stay, dear)
    graph, nodes = _graph_of_pymaxflow(dear - base, stay - base, arcs)
    graph.maxflow()
    fewest = graph.get_grid_segments(nodes)
    # a flow stays one where capacities grow: the second cut begins at the first
    graph.add_grid_tedges(nodes, np.zeros_like(stay), change.more + change.less)
    graph.maxflow()
    return fewest, graph.get_grid_segments(nodes)


def installed_solver() -> str:
    """Which library cuts: "PyMaxflow", or "scipy" where it is not installed."""
    try:
        import maxflow  # noqa: F401
    except ImportError:
        return "scipy"
    return "PyMaxflow"


def _cut_by_pymaxflow(source: np.ndarray, sink: np.ndarray, arcs: Arcs) -> tuple[np.ndarray, float]:
    graph, nodes = _graph_of_pymaxflow(source, sink, arcs)
    flow = graph.maxflow()
    return graph.get_grid_segments(nodes), flow


def _graph_of_pymaxflow(source: np.ndarray, sink: np.ndarray, arcs: Arcs) -> tuple[Any, np.ndarray]:
    """The graph, and the numbers of its nodes."""
    import maxflow

    # without the numbers the graph grows by copying, at twice the memory
    graph = maxflow.GraphFloat(source.size, arcs.first.size)
    nodes = graph.add_nodes(source.size)
    graph.add_grid_tedges(nodes, source, sink)
    graph.add_edges(arcs.first, arcs.second, arcs.forward, arcs.backward)
    return graph, nodes


def _cut_by_scipy(source: np.ndarray, sink: np.ndarray, arcs: Arcs) -> tuple[np.ndarray, float]:
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    n = source.size
    source_node, sink_node = n, n + 1
    nodes = np.arange(n)
    start = np.concatenate([np.full(n, source_node), nodes, arcs.first, arcs.second])
    end = np.concatenate([nodes, np.full(n, sink_node), arcs.second, arcs.first])
    costs = np.concatenate([source, sink, arcs.forward, arcs.backward])
    capacity = np.rint(costs * _SCALE).astype(np.int32)
    used = capacity > 0
    entries = (capacity[used], (start[used], end[used]))
    graph = csr_matrix(entries, shape=(n + 2, n + 2), dtype=np.int32)
    residual = graph - maximum_flow(graph, source_node, sink_node).flow
    residual.data[residual.data < 0] = 0
    residual.eliminate_zeros()
    # whatever can still reach the sink is on its side: the same choice among equal cuts as the other library's
    reaching = breadth_first_order(residual.T.tocsr(), sink_node, return_predecessors=False)
    on_sink_side = np.zeros(n + 2, bool)
    on_sink_side[reaching] = True
    taken = on_sink_side[:n]
    return taken, _cost_of_cut(taken, source, sink, arcs)


def _cost_of_cut(taken: np.ndarray, source: np.ndarray, sink: np.ndarray, arcs: Arcs) -> float:
    """What a cut costs before any rounding."""
    first, second = taken[arcs.first], taken[arcs.second]
    value = source[taken].sum() + sink[~taken].sum()
    value += arcs.forward[~first & second].sum()
    value += arcs.backward[first & ~second].sum()
    return float(value)
