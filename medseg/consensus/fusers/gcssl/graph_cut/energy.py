"""The energy whose minimum is the consensus: costs of labels at nodes, and Potts costs between neighbours.

    E(L) = sum over x of D_x(L_x) + sum over neighbours x, y of w_xy [L_x != L_y]

over the disputed voxels alone. Voxels on which all raters agree are constants: what they cost their neighbours is part
of D, so that the answer is that of the whole grid and the graph is as small as the dispute.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from medseg.consensus.study import MISSING
from medseg.errors import ConfigError

_FIXED, _OUTSIDE = -1, -2
_AXES_OF_A_STEP = {4: 1, 8: 2, 6: 1, 18: 2, 26: 3}  # along how many axes a neighbour may be one voxel away
_OFFERED = {1: (4, 8), 2: (4, 8), 3: (6, 18, 26)}

ROUNDING = 1e-9
"""Energies that differ by less are equal but for rounding."""


@dataclass(frozen=True, eq=False)
class Energy:
    """Costs of labels and of differing neighbours; usable without images.

    Args:
        unary: `(K, n)`, cost of each label at each node.
        first: `(m,)` int32, one node of each pair.
        second: `(m,)` int32, the other; a pair is listed once.
        weight: `(m,)` >= 0, what the pair costs if its labels differ.
    """

    unary: np.ndarray
    first: np.ndarray
    second: np.ndarray
    weight: np.ndarray

    def of(self, labels: np.ndarray) -> float:
        """Energy of a labelling `(n,)`, summed in float64."""
        labels = np.asarray(labels)
        costs = self.unary[labels, np.arange(labels.size)].sum(dtype=np.float64)
        differ = labels[self.first] != labels[self.second]
        return float(costs + self.weight[differ].sum(dtype=np.float64))

    def cheapest_labels(self) -> np.ndarray:
        """`(n,)` uint8: the label of the least cost at each node by itself, the first of equal ones."""
        lowest, labels = self.unary[0].copy(), np.zeros(self.unary.shape[1], np.uint8)
        for c, costs in enumerate(self.unary[1:], start=1):
            np.putmask(labels, costs < lowest, c)
            np.minimum(lowest, costs, out=lowest)
        return labels

    def total_weights(self) -> np.ndarray:
        """`(n,)` float64: the sum of the weights of each node's pairs, the most that its neighbours can cost it."""
        count = self.unary.shape[1]
        return np.bincount(self.first, self.weight, count) + np.bincount(self.second, self.weight, count)

    def sure_nodes(self, change: np.ndarray | float = 0.0) -> np.ndarray:
        """`(n,)` bool: nodes that have their cheapest label in every labelling of least energy.

        Any other label costs such a node more by itself than all of its neighbours together can win back.

        Args:
            change: `(n,)`, by how much the difference of two labels' own costs at a node may yet change.
        """
        lowest = np.full(self.unary.shape[1], np.inf)
        second_lowest = lowest.copy()
        for costs in self.unary:
            np.minimum(second_lowest, np.maximum(lowest, costs), out=second_lowest)
            np.minimum(lowest, costs, out=lowest)
        return second_lowest - lowest > self.total_weights() + change + ROUNDING

    def of_rest(self, rest: np.ndarray, labels: np.ndarray) -> Energy:
        """The energy as a function of some nodes' labels while the others keep theirs, up to a constant.

        Args:
            rest: `(n,)` bool, the nodes to keep; they are numbered afresh in their order.
            labels: `(n,)` of all nodes, of which those of the others count.
        """
        number = np.cumsum(rest, dtype=np.int32) - 1
        unary = self.unary[:, rest].astype(np.float64, order="C")
        first_stays, second_stays = rest[self.first], rest[self.second]
        for own, other, at in (
            (self.first, self.second, first_stays & ~second_stays),
            (self.second, self.first, second_stays & ~first_stays),
        ):
            border = np.flatnonzero(at)
            cost = self.weight[border].astype(np.float64)
            _charge_for_fixed(unary, number[own[border]], labels[other[border]], cost)
        inside = np.flatnonzero(first_stays & second_stays)
        first, second = number[self.first[inside]], number[self.second[inside]]
        return Energy(unary, first, second, self.weight[inside].astype(np.float64))


def _charge_for_fixed(unary: np.ndarray, node: np.ndarray, label: np.ndarray, cost: np.ndarray) -> None:
    """Add to the nodes' own costs what neighbours of fixed label charge them for any other label.

    Args:
        unary: `(K, n)` in the order of C, changed in place.
        node: of each pair of a node and a fixed neighbour.
        label: of the neighbour.
        cost: float64, what the pair costs if its labels differ.
    """
    count = unary.shape[1]
    unary += np.bincount(node, cost, count).astype(unary.dtype)
    flat = unary.reshape(-1)
    np.subtract.at(flat, label.astype(np.intp) * count + node, cost.astype(unary.dtype))


@dataclass(frozen=True, eq=False)
class NeighbourPairs:
    """Neighbouring voxels of which at least one is a node, `v_xy` each, and what scales them.

    Args:
        first: one node of each pair of nodes.
        second: the other.
        value: their `v_xy`.
        border_node: the node of each pair of a node and a fixed voxel.
        border_label: label of the fixed one.
        border_value: their `v_xy`.
        beta: of the intensity term.
        lattice: sum over all neighbours of one voxel of 1 / distance.
    """

    first: np.ndarray
    second: np.ndarray
    value: np.ndarray
    border_node: np.ndarray
    border_label: np.ndarray
    border_value: np.ndarray
    beta: float
    lattice: float

    def scaled(self, factor: np.ndarray) -> NeighbourPairs:
        """The same with each value times the smaller `factor` `(n,)` of its nodes."""
        smaller = np.minimum(factor[self.first], factor[self.second])
        border_value = self.border_value * factor[self.border_node]
        return replace(self, value=self.value * smaller, border_value=border_value)

    def energy(self, costs: np.ndarray, strength: float) -> Energy:
        """Energy with these neighbours; `costs` `(K, n)` are the nodes' own, and taken over; `strength` is lambda."""
        unary = np.ascontiguousarray(costs)
        border_cost = (strength * self.border_value).astype(np.float64)
        _charge_for_fixed(unary, self.border_node, self.border_label, border_cost)
        np.maximum(unary, 0, out=unary)  # a rounding error below zero is no capacity
        return Energy(unary, self.first, self.second, strength * self.value)


def neighbour_offsets(units: tuple[float, ...], neighbours: int | None = None) -> list[tuple[tuple[int, ...], float]]:
    """Half of the offsets to a voxel's neighbours, with their distances; the other half are their negatives.

    Args:
        units: spacing over the smallest spacing, infinite for an axis of one voxel.
        neighbours: 4 or 8 in a 2D image (default 8), 6, 18 or 26 in a volume (default 6).

    Raises:
        ConfigError: if there is no such neighbourhood.
    """
    real = [axis for axis, unit in enumerate(units) if np.isfinite(unit)]
    if neighbours is None:
        neighbours = 6 if len(real) == 3 else 8
    offered = _OFFERED[max(len(real), 1)]
    if neighbours not in offered:
        kind = "volume" if len(real) == 3 else "2D image"
        raise ConfigError(f"{neighbours} neighbours in a {kind}; {', '.join(map(str, offered))} are offered")
    found = []
    for offset in itertools.product((-1, 0, 1), repeat=len(units)):
        moved = [axis for axis, step in enumerate(offset) if step]
        in_plane = set(moved) <= set(real)
        if in_plane and offset > (0,) * len(units) and len(moved) <= _AXES_OF_A_STEP[neighbours]:
            distance = sum(units[axis] ** 2 for axis in moved) ** 0.5
            found.append((offset, distance))
    return found


def find_pairs(
    nodes: np.ndarray,
    fixed: np.ndarray,
    image: np.ndarray,
    units: tuple[float, ...],
    neighbours: int | None = None,
) -> NeighbourPairs:
    """All neighbours of the nodes, `v_xy = exp(-beta |I_x - I_y|^2) / d_xy`.

    Args:
        nodes: `(X, Y, Z)` bool; they are numbered in the order of the array.
        fixed: `(X, Y, Z)` uint8, labels of the voxels that are constants; `MISSING`: no voxel at all, no pairs.
        image: `(C, X, Y, Z)` smoothed intensities.
        units: spacing over the smallest spacing, infinite for an axis of one voxel.
        neighbours: see `neighbour_offsets`.
    """
    index = np.full([n + 2 for n in nodes.shape], _OUTSIDE, np.int32)  # the rim spares every test for the border
    inner = index[1:-1, 1:-1, 1:-1]
    inner[fixed != MISSING] = _FIXED
    inner[nodes] = np.arange(np.count_nonzero(nodes), dtype=np.int32)
    channels = [_with_rim(channel) for channel in image]
    search = _NeighbourSearch(index.reshape(-1), _with_rim(fixed), channels, np.flatnonzero(index >= 0))
    strides = [stride // index.itemsize for stride in index.strides]
    offsets = neighbour_offsets(units, neighbours)
    inside, border = [], []
    for offset, distance in offsets:
        jump = sum(step * stride for step, stride in zip(offset, strides, strict=True))
        inside.append(search.find_nodes(jump, distance))
        border.append(search.find_fixed(jump, distance))
        border.append(search.find_fixed(-jump, distance))
    first, second, change, inverse_distance = _concatenate(inside)
    border_node, border_label, border_change, border_inverse_distance = _concatenate(border)

    count = max(change.size + border_change.size, 1)
    total = change.sum(dtype=np.float64) + border_change.sum(dtype=np.float64)
    beta = float(1.0 / (2.0 * total / count + 1e-12))
    value = np.exp(-beta * change) * inverse_distance
    border_value = np.exp(-beta * border_change) * border_inverse_distance
    lattice = 2 * sum(1 / distance for _, distance in offsets)
    return NeighbourPairs(first, second, value, border_node, border_label, border_value, beta, lattice)


def _with_rim(volume: np.ndarray) -> np.ndarray:
    """The volume with a rim of zeros, flat."""
    return np.pad(volume, 1).reshape(-1)


def _concatenate(found: Sequence[tuple[np.ndarray, ...]]) -> list[np.ndarray]:
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


@dataclass(frozen=True, eq=False)
class _NeighbourSearch:
    """The neighbours of all nodes in one direction, over flat arrays with a rim.

    Args:
        index: number of each node, `_FIXED`, or `_OUTSIDE`.
        labels: of the fixed voxels.
        channels: smoothed intensities.
        nodes: where the nodes are.
    """

    index: np.ndarray
    labels: np.ndarray
    channels: list[np.ndarray]
    nodes: np.ndarray

    def find_nodes(self, jump: int, distance: float) -> tuple[np.ndarray, ...]:
        """Pairs of nodes: numbers of both, squared change of intensity, 1 / distance."""
        neighbours = self.index[self.nodes + jump]
        first = np.flatnonzero(neighbours >= 0).astype(np.int32)
        return first, neighbours[first], self._change(first, jump), self._inverse_distance(first, distance)

    def find_fixed(self, jump: int, distance: float) -> tuple[np.ndarray, ...]:
        """Pairs of a node and a fixed voxel: number, label, squared change of intensity, 1 / distance."""
        first = np.flatnonzero(self.index[self.nodes + jump] == _FIXED).astype(np.int32)
        label = self.labels[self.nodes[first] + jump]
        return first, label, self._change(first, jump), self._inverse_distance(first, distance)

    def _change(self, first: np.ndarray, jump: int) -> np.ndarray:
        positions = self.nodes[first]
        change = np.zeros(first.size, self.channels[0].dtype)
        for channel in self.channels:
            difference = channel[positions + jump] - channel[positions]
            change += difference * difference
        return change

    def _inverse_distance(self, first: np.ndarray, distance: float) -> np.ndarray:
        return np.full(first.size, 1 / distance, self.channels[0].dtype)
