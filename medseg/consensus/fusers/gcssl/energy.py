"""The energy whose minimum is the consensus: costs of labels at nodes, and Potts costs between neighbours.

`E(L) = sum_x D_x(L_x) + sum_(x,y) w_xy [L_x != L_y]` over the disputed voxels alone. Voxels on which all raters agree
are constants: what they cost their neighbours is part of `D`, so the answer is that of the whole grid and the graph
is as small as the dispute.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import edt
import numpy as np
from scipy import ndimage

from medseg.consensus.study import MISSING
from medseg.errors import ConfigError

_FIXED, _OUTSIDE = -1, -2
_REACH = {4: 1, 8: 2, 6: 1, 18: 2, 26: 3}  # along how many axes a neighbour may be one voxel away
_BY_AXES = {1: (4, 8), 2: (4, 8), 3: (6, 18, 26)}


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
        return float(costs + self.weight[labels[self.first] != labels[self.second]].sum(dtype=np.float64))

    def cheapest(self) -> np.ndarray:
        """`(n,)` uint8: the label of the least cost at each node by itself, the first of equal ones."""
        return self.unary.argmin(axis=0).astype(np.uint8)

    def reach(self) -> np.ndarray:
        """`(n,)` float64: the sum of the weights of each node's pairs, the most that its neighbours can change."""
        count = self.unary.shape[1]
        return np.bincount(self.first, self.weight, count) + np.bincount(self.second, self.weight, count)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Neighbouring voxels of which at least one is a node, `v_xy` each, and what scales them.

    Args:
        first: node of each pair of nodes. `second`: the other. `value`: their `v_xy`.
        node: node of each pair of a node and a fixed voxel. `label`: of the fixed one. `held`: their `v_xy`.
        beta: of the intensity term.
        lattice: sum over all neighbours of one voxel of 1 / distance.
    """

    first: np.ndarray
    second: np.ndarray
    value: np.ndarray
    node: np.ndarray
    label: np.ndarray
    held: np.ndarray
    beta: float
    lattice: float

    def weakened(self, factor: np.ndarray) -> Pairs:
        """The same with each value times the smaller `factor` `(n,)` of its nodes."""
        both = np.minimum(factor[self.first], factor[self.second])
        return replace(self, value=self.value * both, held=self.held * factor[self.node])

    def energy(self, costs: np.ndarray, strength: float) -> Energy:
        """Energy with these neighbours; `costs` `(K, n)` are the nodes' own, `strength` is lambda."""
        unary, count = costs.copy(), costs.shape[1]
        pull = (strength * self.held).astype(np.float64)
        unary += np.bincount(self.node, pull, count).astype(unary.dtype)
        for c in np.unique(self.label):
            mine = self.label == c
            unary[c] -= np.bincount(self.node[mine], pull[mine], count).astype(unary.dtype)
        np.maximum(unary, 0, out=unary)  # a rounding error below zero is no capacity
        return Energy(unary, self.first, self.second, strength * self.value)


def neighbourhood(units: tuple[float, ...], neighbours: int | None = None) -> list[tuple[tuple[int, ...], float]]:
    """Half of the offsets to a voxel's neighbours, with their distances.

    Args:
        units: spacing over the smallest spacing, infinite for an axis of one voxel.
        neighbours: 4 or 8 in a picture (default 8), 6, 18 or 26 in a volume (default 6).

    Raises:
        ConfigError: if there is no such neighbourhood.
    """
    real = [axis for axis, unit in enumerate(units) if np.isfinite(unit)]
    offered = _BY_AXES[max(len(real), 1)]
    neighbours = neighbours if neighbours is not None else (8 if len(real) < 3 else 6)
    if neighbours not in offered:
        kind = "volume" if len(real) == 3 else "picture"
        raise ConfigError(f"{neighbours} neighbours in a {kind}; {', '.join(map(str, offered))} are offered")
    found = []
    for steps in itertools.product((-1, 0, 1), repeat=len(units)):
        flat = any(step for axis, step in enumerate(steps) if axis not in real)
        if not flat and steps > (0,) * len(units) and sum(map(abs, steps)) <= _REACH[neighbours]:
            found.append((steps, sum((s * units[a]) ** 2 for a, s in enumerate(steps) if s) ** 0.5))
    return found


def find_pairs(
    nodes: np.ndarray,
    fixed: np.ndarray,
    image: np.ndarray,
    units: tuple[float, ...],
    neighbours: int | None = None,
) -> Pairs:
    """All neighbours of the nodes, `v_xy = exp(-beta |I_x - I_y|^2) / d_xy`.

    Args:
        nodes: `(X, Y, Z)` bool; they are numbered in the order of the array.
        fixed: `(X, Y, Z)` uint8, labels of the voxels that are constants; `MISSING`: no voxel at all, no pairs.
        image: `(C, X, Y, Z)` smoothed intensities.
        units: spacing over the smallest spacing, infinite for an axis of one voxel.
        neighbours: see `neighbourhood`.
    """
    index = np.full([n + 2 for n in nodes.shape], _OUTSIDE, np.int32)  # the rim spares every test for the border
    inner = index[1:-1, 1:-1, 1:-1]
    inner[fixed != MISSING] = _FIXED
    inner[nodes] = np.arange(np.count_nonzero(nodes), dtype=np.int32)
    here = np.flatnonzero(index >= 0)
    walk = _Walk(index.reshape(-1), _rimmed(fixed), [_rimmed(channel) for channel in image], here)
    half = neighbourhood(units, neighbours)
    strides = [stride // index.itemsize for stride in index.strides]
    inside, border = [], []
    for steps, distance in half:
        jump = sum(step * stride for step, stride in zip(steps, strides, strict=True))
        inside.append(walk.between(jump, distance))
        border += [walk.to_fixed(jump, distance), walk.to_fixed(-jump, distance)]
    first, second, change, closeness = (np.concatenate(part) for part in zip(*inside, strict=True))
    node, label, change_held, held = (np.concatenate(part) for part in zip(*border, strict=True))
    count = max(change.size + change_held.size, 1)
    total = change.sum(dtype=np.float64) + change_held.sum(dtype=np.float64)
    beta = float(1.0 / (2.0 * total / count + 1e-12))
    value = np.exp(-beta * change) * closeness
    held = np.exp(-beta * change_held) * held
    return Pairs(first, second, value, node, label, held, beta, 2 * sum(1 / distance for _, distance in half))


def _rimmed(volume: np.ndarray) -> np.ndarray:
    return np.pad(volume, 1).reshape(-1)


@dataclass(frozen=True, eq=False)
class _Walk:
    """From every node one step in a direction, over flat arrays with a rim."""

    index: np.ndarray
    labels: np.ndarray
    channels: list[np.ndarray]
    here: np.ndarray

    def between(self, jump: int, distance: float) -> tuple[np.ndarray, ...]:
        there = self.index[self.here + jump]
        mine = np.flatnonzero(there >= 0).astype(np.int32)
        return mine, there[mine], self._change(mine, jump), self._closeness(mine, distance)

    def to_fixed(self, jump: int, distance: float) -> tuple[np.ndarray, ...]:
        mine = np.flatnonzero(self.index[self.here + jump] == _FIXED).astype(np.int32)
        label = self.labels[self.here[mine] + jump]
        return mine, label, self._change(mine, jump), self._closeness(mine, distance)

    def _change(self, mine: np.ndarray, jump: int) -> np.ndarray:
        at = self.here[mine]
        change = np.zeros(mine.size, self.channels[0].dtype)
        for channel in self.channels:
            step = channel[at + jump] - channel[at]
            change += step * step
        return change

    def _closeness(self, mine: np.ndarray, distance: float) -> np.ndarray:
        return np.full(mine.size, 1 / distance, self.channels[0].dtype)


def slenderness(labels: np.ndarray, at: np.ndarray, units: Sequence[float], full: float) -> np.ndarray:
    """Factor of the smoothing at some voxels: `min(1, t / full)^2`.

    `t` is the thickness of what is near: the largest distance to another label among the voxels that are no background
    and at most `full` away along each axis. A strip of w voxels has t of about (w + 1) / 2.

    Args:
        labels: `(X, Y, Z)` uint8, 0 the background.
        at: `(X, Y, Z)` bool, the voxels asked for.
        units: spacing over the smallest spacing, infinite for an axis of one voxel.
        full: thickness from which on nothing is weakened, in units of the smallest spacing; 0: nowhere.

    Returns:
        `(n,)` float32 in (0, 1], in the order of the array; 1 where only background is near.
    """
    wanted = np.count_nonzero(at)
    if not full or not wanted:
        return np.ones(wanted, np.float32)
    reach = [int(full / unit) if math.isfinite(unit) else 0 for unit in units]
    (box,) = ndimage.find_objects(at.view(np.uint8))
    around = tuple(
        slice(max(b.start - 2 * r, 0), b.stop + 2 * r) for b, r in zip(box, reach, strict=True)
    )  # what is near a voxel that is near a voxel of the box
    near = np.ascontiguousarray(labels[around])
    sides = tuple(unit if math.isfinite(unit) else 1.0 for unit in units)
    depth = edt.edt(near + np.uint8(1), anisotropy=sides, parallel=1)  # every change of label is a boundary
    depth[near == 0] = 0
    thickest = ndimage.maximum_filter(depth, [2 * r + 1 for r in reach], mode="constant")[at[around]]
    return np.where(thickest > 0, np.minimum(thickest / np.float32(full), 1) ** 2, np.float32(1))
