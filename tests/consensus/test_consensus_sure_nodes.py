"""Which nodes have their label before any cut: by hand, and against every labelling of small grids."""

from __future__ import annotations

import numpy as np
import pytest
from energies import labellings, random_energy

from medseg.consensus.fusers.gcssl.graph_cut.alpha_expansion import (
    SureNodes,
    cut_two_labels,
    decide_between_extremes,
    decide_sure_nodes,
    minimise,
)
from medseg.consensus.fusers.gcssl.graph_cut.energy import Energy
from medseg.consensus.fusers.gcssl.graph_cut.minimum_cut import Arcs, Range, extreme_cuts


def chain_of_three() -> Energy:
    unary = np.array([[0, 0.3, 0.05], [1, 0, 0]])
    return Energy(unary, np.array([0, 1], np.int32), np.array([1, 2], np.int32), np.array([0.5, 0.1]))


def test_sure_nodes_by_hand():
    # the first loses 1 and can win 0.5; beside it the second pays 0.5 for label 1 and 0.3 for 0, and can win 0.1;
    # beside that one the last pays 0.1 for label 1 and 0.05 for 0
    energy = chain_of_three()
    labels, in_question, _ = decide_sure_nodes(energy)
    assert in_question.size == 0
    np.testing.assert_array_equal(labels, [0, 0, 0])
    assert energy.of(labels) == pytest.approx(0.35)
    np.testing.assert_array_equal(energy.sure_nodes(), [True, False, False])


def test_a_node_whose_costs_may_yet_change_is_not_sure():
    energy = chain_of_three()
    assert decide_sure_nodes(energy, np.array([0.4, 0, 0])).in_question.size == 0
    before = decide_sure_nodes(energy, np.array([0.6, 0, 0]))
    np.testing.assert_array_equal(before.in_question, [0, 1, 2])
    # what was sure already stays as it is, and the others are decided beside it
    known = decide_sure_nodes(energy, np.array([0, 0.2, 0]))
    np.testing.assert_array_equal(known.in_question, [1, 2])
    np.testing.assert_array_equal(decide_sure_nodes(energy, known=known).labels, [0, 0, 0])


@pytest.mark.parametrize("labels", [2, 3])
def test_sure_nodes_have_their_labels_in_the_best_labelling(labels):
    sure = 0
    for seed in range(30):
        energy = random_energy(seed, labels)
        found = decide_sure_nodes(energy)
        every = labellings(*energy.unary.shape)
        cost = sum(costs[choice] for costs, choice in zip(energy.unary.T, every, strict=True))
        for i, j, w in zip(energy.first, energy.second, energy.weight, strict=True):
            cost = cost + w * (every[i] != every[j])
        is_sure = np.ones(every.shape[0], bool)
        is_sure[found.in_question] = False
        np.testing.assert_array_equal(every[is_sure, cost.argmin()], found.labels[is_sure])
        sure += np.count_nonzero(is_sure)
    assert sure > 30


def both_ways(*change: float) -> Range:
    return Range(np.array(change), np.array(change))


def test_extremes_of_two_nodes_by_hand():
    # the first node is for label 0 by 0.3, the second for label 1 by 0.5, apart they pay 0.1 more
    energy = Energy(np.array([[0, 0.5], [0.3, 0]]), np.array([0], np.int32), np.array([1], np.int32), np.array([0.1]))
    every = SureNodes(np.zeros(2, np.uint8), np.arange(2), energy)
    # by 0.1 each nothing changes: the pair takes 0.1, and 0.1 is left to the first
    found = decide_between_extremes(every, both_ways(0.1, 0.1))
    assert found.in_question.size == 0
    np.testing.assert_array_equal(found.labels, [0, 1])
    # by 0.25 the first may be for label 0 by 0.05, of which the neighbour takes more
    found = decide_between_extremes(every, both_ways(0.25, 0.25))
    np.testing.assert_array_equal(found.in_question, [0])
    assert found.labels[1] == 1
    # beside label 1 the first costs 0.1 more with label 0
    np.testing.assert_allclose(found.rest.unary, [[0.1], [0.3]])
    # where label 1 may only become dearer the first is for label 0 whatever happens
    one_way = Range(more=np.array([0.25, 0.25]), less=np.zeros(2))
    assert decide_between_extremes(every, one_way).in_question.size == 0


def test_what_extremes_decide_is_in_the_best_labelling_of_every_energy_between():
    decided = 0
    for seed in range(30):
        energy = random_energy(seed, 2)
        random = np.random.default_rng(seed)
        change = Range(*random.uniform(0, 0.4, (2, energy.unary.shape[1])))
        every = SureNodes(energy.cheapest_labels(), np.arange(change.more.size), energy)
        found = decide_between_extremes(every, change)
        is_decided = np.ones(change.more.size, bool)
        is_decided[found.in_question] = False
        decided += np.count_nonzero(is_decided)
        for _ in range(5):
            unary = energy.unary.astype(np.float64)
            unary[1] += random.uniform(-change.less, change.more)
            between = Energy(unary, energy.first, energy.second, energy.weight)
            best, _ = cut_two_labels(between)
            np.testing.assert_array_equal(best[is_decided], found.labels[is_decided])
            labels = minimise(between, found)[0]
            assert between.of(labels) == pytest.approx(between.of(best), abs=1e-9)
    assert 30 < decided < 30 * energy.unary.shape[1]


def test_extremes_by_either_solver(monkeypatch):
    for seed in range(10):
        energy = random_energy(seed, 2)
        arcs = Arcs(energy.first, energy.second, energy.weight, energy.weight)
        costs = (*np.asarray(energy.unary, np.float64), arcs, both_ways(*[0.2] * energy.unary.shape[1]))
        fewest, most = extreme_cuts(*costs)
        assert not (fewest & ~most).any()
        with monkeypatch.context() as patch:
            patch.setattr("medseg.consensus.fusers.gcssl.graph_cut.minimum_cut.installed_solver", lambda: "scipy")
            by_scipy = extreme_cuts(*costs)
        np.testing.assert_array_equal([fewest, most], by_scipy)


def test_extremes_of_three_labels_are_refused():
    every = SureNodes(np.zeros(1, np.uint8), np.arange(1), Energy(np.zeros((3, 1)), *np.zeros((3, 0))))
    with pytest.raises(ValueError, match="between 2 labels, got 3"):
        decide_between_extremes(every, both_ways(0))
