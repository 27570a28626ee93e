"""The energy and its minimum: against every labelling of small grids, a second library, and symmetries."""

from __future__ import annotations

import itertools
import math
import sys

import numpy as np
import pytest
from energies import FLAT, lowest, random_energy
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.consensus.fusers.gcssl.graph_cut.alpha_expansion import (
    able_to_take,
    alpha_expansion,
    cut_two_labels,
    expansion_move,
    minimise,
)
from medseg.consensus.fusers.gcssl.graph_cut.energy import Energy, find_pairs, neighbour_offsets
from medseg.consensus.fusers.gcssl.raters.missing_votes import count_votes
from medseg.consensus.fusers.gcssl.raters.scores import compute_weights
from medseg.consensus.study import MISSING
from medseg.errors import ConfigError

seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize(("neighbours", "pairs"), [(4, 12), (8, 20)])
@settings(max_examples=60, deadline=None)
@given(seed=seeds)
def test_two_labels_are_solved_exactly(neighbours, pairs, seed):
    energy = random_energy(seed, 2, neighbours)
    assert energy.first.size == pairs
    labels, found = cut_two_labels(energy)
    assert energy.of(labels) == pytest.approx(lowest(energy), abs=1e-9)
    assert found.flow == pytest.approx(energy.of(labels), abs=1e-9)


def test_three_labels_are_nearly_always_solved_exactly():
    exact = 0
    for seed in range(40):
        energy = random_energy(seed, 3)
        labels = energy.cheapest_labels()
        value = energy.of(labels)
        for alpha in (0, 1, 2, 0, 1, 2):
            taken, promised = expansion_move(energy, labels, alpha)
            labels[taken] = alpha
            assert energy.of(labels) == pytest.approx(promised, abs=1e-9)
            assert energy.of(labels) <= value + 1e-9
            value = energy.of(labels)
        best, reached = lowest(energy), energy.of(alpha_expansion(energy)[0])
        assert reached <= value + 1e-9
        assert best - 1e-9 <= reached <= 2 * best
        exact += reached <= best + 1e-9
    assert exact > 36


@settings(max_examples=40, deadline=None)
@given(seed=seeds)
def test_swapped_labels_and_added_constants(seed):
    energy = random_energy(seed, 2, shape=(6, 5))
    labels, _ = cut_two_labels(energy)
    swapped = Energy(energy.unary[::-1], energy.first, energy.second, energy.weight)
    np.testing.assert_array_equal(cut_two_labels(swapped)[0], 1 - labels)
    shift = np.random.default_rng(seed).normal(size=labels.size)
    lifted = Energy(energy.unary + shift, energy.first, energy.second, energy.weight)
    again, found = cut_two_labels(lifted)
    np.testing.assert_array_equal(again, labels)
    assert found.flow == pytest.approx(energy.of(labels) + shift.sum(), abs=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_nodes_left_out_of_a_move_would_not_take_part_in_it(seed):
    random = np.random.default_rng(seed)
    grid = random.random((4, 5, 5))
    energy = Energy(grid.reshape(4, -1), *grid_pairs(5, random))
    labels = random.integers(0, 4, 25).astype(np.uint8)
    for alpha in range(4):
        able = able_to_take(energy, labels, alpha, energy.total_weights())
        _, of_all = expansion_move(energy, labels, alpha)
        taken, of_some = expansion_move(energy, labels, alpha, able)
        moved = labels.copy()
        moved[taken] = alpha
        assert of_some == pytest.approx(of_all, abs=1e-9)
        assert energy.of(moved) == pytest.approx(of_all, abs=1e-9)
        assert np.count_nonzero(able) < 25


def test_no_expansion_of_all_nodes_pays_after_the_sure_ones_were_left_out():
    for seed in range(20):
        energy = random_energy(seed, 4, neighbours=4, shape=(12, 10))
        found, facts = minimise(energy)
        for alpha in range(4):
            _, promised = expansion_move(energy, found, alpha)
            assert promised >= facts["energy"] - 1e-9


def grid_pairs(side: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Neighbours along both axes of a square, and random weights."""
    number = np.arange(side * side, dtype=np.int32).reshape(side, side)
    first = np.concatenate([number[:-1].ravel(), number[:, :-1].ravel()])
    second = np.concatenate([number[1:].ravel(), number[:, 1:].ravel()])
    return first, second, random.random(first.size) * 0.4


def test_expansion_reaches_the_energy_of_another_library():
    fastmin = pytest.importorskip("maxflow.fastmin")
    for seed in range(20):
        energy = random_energy(seed, 4, neighbours=4, shape=(12, 10))
        uniform = Energy(energy.unary, energy.first, energy.second, np.full(energy.first.size, 0.3))
        grid = np.ascontiguousarray(energy.unary.T.reshape(12, 10, 4))
        other = fastmin.aexpansion_grid(grid, 0.3 * (1 - np.eye(4)))
        assert uniform.of(alpha_expansion(uniform)[0]) == pytest.approx(uniform.of(other.reshape(-1)), rel=1e-3)


@pytest.mark.parametrize("solver", ["PyMaxflow", "scipy"])
@pytest.mark.parametrize("neighbours", [4, 8])
def test_either_library_finds_the_least_energy_of_all_labellings(solver, neighbours, monkeypatch):
    if solver == "scipy":
        monkeypatch.setitem(sys.modules, "maxflow", None)
    for seed in range(30):
        energy = random_energy(seed, 2, neighbours)
        labels, facts = minimise(energy)
        assert facts["solver"] == solver
        assert facts["energy"] == energy.of(labels) == pytest.approx(lowest(energy), abs=1e-5)


@pytest.mark.parametrize("labels", [2, 3])
def test_without_pymaxflow_scipy_cuts(labels, monkeypatch):
    energies = [random_energy(seed, labels, shape=(9, 8)) for seed in range(8)]
    expected = [minimise(energy) for energy in energies]
    monkeypatch.setitem(sys.modules, "maxflow", None)
    for energy, (answer, facts) in zip(energies, expected, strict=True):
        found, facts_of_scipy = minimise(energy)
        assert (facts["solver"], facts_of_scipy["solver"]) == ("PyMaxflow", "scipy")
        assert "PyMaxflow is not installed" in facts_of_scipy["note"]
        assert facts_of_scipy["energy"] == pytest.approx(facts["energy"], abs=1e-4)
        np.testing.assert_array_equal(found, answer)


def test_equal_costs_are_decided_alike_by_both_libraries(monkeypatch):
    energy = random_energy(0, 2, shape=(5, 5))
    tied = Energy(np.full((2, 25), 0.5), energy.first, energy.second, np.round(energy.weight, 1))
    assert not cut_two_labels(tied)[0].any()
    monkeypatch.setitem(sys.modules, "maxflow", None)
    assert not cut_two_labels(tied)[0].any()


def test_nothing_to_cut():
    none = np.zeros(0, np.int32)
    labels, facts = minimise(Energy(np.zeros((2, 0)), none, none, np.zeros(0)))
    assert labels.shape == (0,)
    assert facts["energy"] == 0
    with pytest.raises(ValueError, match="between 2 labels"):
        cut_two_labels(Energy(np.zeros((3, 1)), none, none, np.zeros(0)))


def test_the_worked_energies_of_three_by_three():
    b = np.array([[0, 0, 0], [0, 1, 1], [0, 1, 1]], np.uint8)
    c = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0]], np.uint8)
    said = np.stack([b, b, c]).reshape(3, -1)
    weights = compute_weights(np.array([1, 1, (0.75 + (2 / 6 + 4) / 6) / 2]), 2, "logodds", 1.0)
    np.testing.assert_allclose(weights, [0.4498, 0.4498, 0.1004], atol=5e-5)
    costs = count_votes(said, [None] * 3, weights, 2).costs()
    np.testing.assert_allclose(
        costs[1], np.where(said[0] == 1, weights[2], np.where(said[2] == 1, 1 - weights[2], 1)), atol=1e-6
    )
    grid = (3, 3, 1)
    everywhere, nowhere = np.ones(grid, bool), np.full(grid, MISSING, np.uint8)
    pairs = find_pairs(everywhere, nowhere, b.reshape(1, *grid).astype(np.float64), FLAT, 4)
    assert (pairs.first.size, pairs.border_node.size) == (12, 0)
    assert pairs.beta == pytest.approx(1.5)
    np.testing.assert_allclose(np.unique(pairs.value.round(5)), [0.22313, 1])
    energy = pairs.energy(costs.astype(np.float64), 0.5)
    assert energy.of(said[0]) == pytest.approx(1.149168, abs=1e-6)
    assert energy.of(np.zeros(9, np.uint8)) == pytest.approx(3.899585, abs=1e-6)
    assert energy.of(said[2]) == pytest.approx(7.520222, abs=1e-6)
    assert lowest(energy) == pytest.approx(energy.of(said[0]))
    np.testing.assert_array_equal(cut_two_labels(energy)[0], said[0])


@pytest.mark.parametrize(
    ("units", "neighbours", "lattice"),
    [(FLAT, 4, 4), (FLAT, 8, 6.828), ((1, 1, 1), 6, 6), ((1, 1, 1), 26, 19.104), ((1, 1, 2), 6, 5)],
)
def test_total_of_the_neighbours(units, neighbours, lattice):
    assert 2 * sum(1 / d for _, d in neighbour_offsets(units, neighbours)) == pytest.approx(lattice, abs=1e-3)


@pytest.mark.parametrize(("units", "neighbours"), [(FLAT, 6), ((1, 1, 1), 8), ((1, 1, 1), 5)])
def test_neighbourhoods_that_do_not_exist(units, neighbours):
    with pytest.raises(ConfigError, match=f"{neighbours} neighbours in a"):
        neighbour_offsets(units, neighbours)


@pytest.mark.parametrize("labels", [2, 3])
def test_fixed_voxels_pull_like_the_whole_grid(labels):
    """Clamped neighbours as part of the costs: the energy differs from that of the whole grid by a constant."""
    random = np.random.default_rng(labels)
    shape = (5, 4, 3)
    nodes, fixed = random.random(shape) < 0.4, random.integers(0, labels, shape).astype(np.uint8)
    image, units = random.random((2, *shape)), (1.0, 1.0, 2.0)
    pairs = find_pairs(nodes, fixed, image, units, 26)
    energy = pairs.energy(np.zeros((labels, np.count_nonzero(nodes))), 0.7)
    for _ in range(3):
        whole = fixed.copy()
        whole[nodes] = random.integers(0, labels, np.count_nonzero(nodes))
        cost = 0.0
        for x, y in itertools.combinations(np.ndindex(shape), 2):
            step = np.subtract(x, y)
            if np.abs(step).max() == 1 and (nodes[x] or nodes[y]) and whole[x] != whole[y]:
                change = ((image[(slice(None), *x)] - image[(slice(None), *y)]) ** 2).sum()
                cost += 0.7 * math.exp(-pairs.beta * change) / math.hypot(*(step * units))
        assert energy.of(whole[nodes]) == pytest.approx(cost, abs=1e-9)
