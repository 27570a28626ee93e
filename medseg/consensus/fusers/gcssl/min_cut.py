"""Exact minimum cuts: two labels at once, by PyMaxflow or, where that is not installed, by SciPy.

Y. Boykov and V. Kolmogorov, "An Experimental Comparison of Min-Cut/Max-Flow Algorithms for Energy Minimization in
Vision", TPAMI 2004. PyMaxflow is licensed under the GPL. SciPy's flow knows 32-bit integers only: costs are rounded to
a millionth, and it is some times slower.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from medseg.consensus.fusers.gcssl.energy import Energy

_SCALE = 1e6


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


def backend() -> str:
    """Which library cuts: "PyMaxflow", or "scipy" where it is not installed."""
    try:
        import maxflow  # noqa: F401
    except ImportError:
        return "scipy"
    return "PyMaxflow"


def cut(energy: Energy) -> tuple[np.ndarray, Cut]:
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
    run = _by_maxflow if backend() == "PyMaxflow" else _by_scipy
    taken, flow = run(take - base, stay - base, arcs)
    return Cut(taken, float(flow + base.sum()))


def _by_maxflow(source: np.ndarray, sink: np.ndarray, arcs: Arcs) -> tuple[np.ndarray, float]:
    import maxflow

    # without the numbers the graph grows by copying, at twice the memory
    graph = maxflow.GraphFloat(source.size, arcs.first.size)
    nodes = graph.add_nodes(source.size)
    graph.add_grid_tedges(nodes, source, sink)
    graph.add_edges(arcs.first, arcs.second, arcs.forward, arcs.backward)
    flow = graph.maxflow()
    return graph.get_grid_segments(nodes), flow


def _by_scipy(source: np.ndarray, sink: np.ndarray, arcs: Arcs) -> tuple[np.ndarray, float]:
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    n = source.size
    nodes = np.arange(n)
    start = np.concatenate([np.full(n, n), nodes, arcs.first, arcs.second])
    end = np.concatenate([nodes, np.full(n, n + 1), arcs.second, arcs.first])
    capacity = np.rint(np.concatenate([source, sink, arcs.forward, arcs.backward]) * _SCALE).astype(np.int32)
    some = capacity > 0
    graph = csr_matrix((capacity[some], (start[some], end[some])), shape=(n + 2, n + 2), dtype=np.int32)
    left = graph - maximum_flow(graph, n, n + 1).flow
    left.data[left.data < 0] = 0
    left.eliminate_zeros()
    # whoever can still reach the sink is on its side: the same choice among equal cuts as the other library's
    reaching = breadth_first_order(left.T.tocsr(), n + 1, return_predecessors=False)
    taken = np.zeros(n + 2, bool)
    taken[reaching] = True
    taken = taken[:n]
    a, b = taken[arcs.first], taken[arcs.second]
    value = source[taken].sum() + sink[~taken].sum() + arcs.forward[~a & b].sum() + arcs.backward[a & ~b].sum()
    return taken, float(value)
