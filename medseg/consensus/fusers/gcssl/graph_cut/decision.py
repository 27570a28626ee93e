"""From votes to labels: the energy of the disputed voxels, guesses where they matter, and the cut."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medseg.consensus.fusers.fusion_log import FusionLog
from medseg.consensus.fusers.gcssl.graph_cut.alpha_expansion import decide_between_extremes, decide_sure_nodes, minimise
from medseg.consensus.fusers.gcssl.graph_cut.energy import NeighbourPairs, find_pairs
from medseg.consensus.fusers.gcssl.graph_cut.minimum_cut import Range
from medseg.consensus.fusers.gcssl.image_features import NormalisedImage
from medseg.consensus.fusers.gcssl.raters.missing_votes import (
    Ballots,
    WeightedVotes,
    change_by_guesses,
    range_by_guesses,
)
from medseg.consensus.fusers.gcssl.region import Region
from medseg.consensus.fusers.gcssl.thickness import thickness_factor
from medseg.consensus.study import MISSING

SIGMA_PAIRS = 0.7
"""Smoothing of the intensities that neighbours are compared by, in units of the smallest spacing."""


@dataclass(frozen=True)
class PairOptions:
    """What differing neighbours cost.

    Args:
        smoothness: total cost of a voxel that differs from all its neighbours where the image has no edge.
        thin: see `medseg.consensus.fusers.gcssl.thickness.thickness_factor`.
        neighbours: see `neighbour_offsets`.
    """

    smoothness: float
    thin: float
    neighbours: int | None


@dataclass(frozen=True, eq=False)
class Decision:
    """Answer for the disputed voxels.

    Args:
        labels: `(n,)` uint8; background where nobody votes.
        confidence: `(n,)` float32, the weighted share of the votes that the label won; 0 where nobody votes.
    """

    labels: np.ndarray
    confidence: np.ndarray


def decide(region: Region, ballots: Ballots, image: NormalisedImage, options: PairOptions, log: FusionLog) -> Decision:
    """Labels of least energy at the disputed voxels.

    Guesses are asked for where they could change a label, and nowhere else: what a voxel's votes and neighbours decide
    whatever is guessed has no need of them, and its confidence is that of the votes given.

    Args:
        region: of the raters.
        ballots: what they say about its disputed voxels; guesses are added to what was counted.
        image: that neighbours are compared by.
        options: of the pairs.
        log: gets the energy's facts and seconds.
    """
    counted, guesses = ballots.counted, ballots.guesses
    possible = np.zeros_like(counted.total) if guesses is None else guesses.possible()
    if guesses is not None:
        with log.stage("missing"):
            nobody = np.flatnonzero((counted.total == 0) & (possible > 0))
            log.facts["soft_votes"] = guesses.add(counted, nobody)
            possible[nobody] = 0
    has_votes = counted.total > 0
    with log.stage("graph"), ballots.weighed() as votes:
        pairs, strength = _find_pairs(region, votes, image, options)
        log.facts |= {"lambda": strength, "beta": pairs.beta}
    sure = None
    if guesses is not None and possible.any():
        with log.stage("missing"):
            with ballots.weighed() as votes:
                before_guesses = pairs.energy(votes.of(has_votes).costs(), strength)
            change = change_by_guesses(counted.total, possible)[has_votes]
            sure = decide_sure_nodes(before_guesses, change)
            if len(before_guesses.unary) == 2:
                raised, lowered = range_by_guesses(counted.of(has_votes), possible[has_votes])
                sure = decide_between_extremes(sure, Range(more=raised, less=lowered))
            del before_guesses
            in_question = np.flatnonzero(has_votes)[sure.in_question]
            log.facts["soft_votes"] += guesses.add(counted, in_question[possible[in_question] > 0])
    with log.stage("graph"), ballots.weighed() as votes:
        energy = pairs.energy(votes.of(has_votes).costs(), strength)
    with log.stage("cut"):
        decided, facts = minimise(energy, sure)
    with log.stage("confidence"), ballots.weighed() as votes:
        won, most = votes.of(has_votes).shares_of(decided)
    log.facts |= facts
    log.facts["uncovered_voxels"] += int(np.count_nonzero(~has_votes))
    log.facts["overruled_voxels"] = int(np.count_nonzero(won < most))
    if "note" in facts:
        log.warn(facts["note"])
    labels, confidence = np.zeros(has_votes.size, np.uint8), np.zeros(has_votes.size, np.float32)
    labels[has_votes], confidence[has_votes] = decided, won
    return Decision(labels, confidence)


def _find_pairs(
    region: Region, votes: WeightedVotes, image: NormalisedImage, options: PairOptions
) -> tuple[NeighbourPairs, float]:
    """Neighbours of the disputed voxels that have any vote, and the factor of what they cost.

    How thin structures are is told by the votes before the guesses, of which it is not known yet where they matter.
    """
    nodes = region.disputed.copy()
    nodes[region.disputed] = votes.total > 0
    fixed = region.agreed[region.inner_box].copy()
    fixed[region.disputed & ~nodes] = MISSING  # what nobody can tell has no influence on its neighbours
    pairs = find_pairs(nodes, fixed, image.smoothed(SIGMA_PAIRS), region.units, options.neighbours)
    voted = np.where(fixed == MISSING, 0, fixed).astype(np.uint8)
    voted[region.disputed] = votes.votes.argmax(axis=0)
    factor = thickness_factor(voted, nodes, region.units, options.thin)
    return pairs.scaled(factor), options.smoothness / pairs.lattice if pairs.lattice else 0.0
