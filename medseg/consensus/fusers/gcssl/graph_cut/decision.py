"""From votes to labels: the energy of the disputed voxels, guesses where they matter, and the cut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import edt
import numpy as np
from scipy import ndimage

from medseg.consensus.fusers.fusion_log import FusionLog
from medseg.consensus.fusers.gcssl.graph_cut.alpha_expansion import decide_sure_nodes, minimise
from medseg.consensus.fusers.gcssl.graph_cut.energy import NeighbourPairs, find_pairs
from medseg.consensus.fusers.gcssl.image_features import NormalisedImage
from medseg.consensus.fusers.gcssl.raters.missing_votes import Ballots, WeightedVotes, change_by_guesses
from medseg.consensus.fusers.gcssl.region import Region
from medseg.consensus.study import MISSING

SIGMA_PAIRS = 0.7
"""Smoothing of the intensities that neighbours are compared by, in units of the smallest spacing."""


@dataclass(frozen=True)
class PairOptions:
    """What differing neighbours cost.

    Args:
        smoothness: total cost of a voxel that differs from all its neighbours where the image has no edge.
        thin: see `thickness_factor`.
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


def thickness_factor(labels: np.ndarray, at: np.ndarray, units: Sequence[float], full: float) -> np.ndarray:
    """Factor of the smoothing at some voxels, smaller where structures are thin: `min(1, t / full)^2`.

    `t` is the thickness of what is near: the largest distance to another label among the voxels that are no background
    and at most `full` away along each axis. A strip of w voxels has t of about (w + 1) / 2.

    Args:
        labels: `(X, Y, Z)` uint8, 0 the background.
        at: `(X, Y, Z)` bool, the voxels in question.
        units: spacing over the smallest spacing, infinite for an axis of one voxel.
        full: thickness from which on the factor is 1, in units of the smallest spacing; 0: everywhere.

    Returns:
        `(n,)` float32 in (0, 1], in the order of the array; 1 where only background is near.
    """
    count = np.count_nonzero(at)
    if not full or not count:
        return np.ones(count, np.float32)
    near = [int(full / unit) if math.isfinite(unit) else 0 for unit in units]
    (box,) = ndimage.find_objects(at.view(np.uint8))
    around = []
    for side, voxels in zip(box, near, strict=True):
        # what is near a voxel that is near a voxel of the box
        around.append(slice(max(side.start - 2 * voxels, 0), side.stop + 2 * voxels))
    window = tuple(around)
    crop = np.ascontiguousarray(labels[window])
    sides = tuple(unit if math.isfinite(unit) else 1.0 for unit in units)
    depth = edt.edt(crop + np.uint8(1), anisotropy=sides, parallel=1)  # every change of label is a boundary
    depth[crop == 0] = 0
    thickest = ndimage.maximum_filter(depth, [2 * voxels + 1 for voxels in near], mode="constant")
    thickness = thickest[at[window]]
    factor = np.minimum(thickness / np.float32(full), 1) ** 2
    return np.where(thickness > 0, factor, np.float32(1))
