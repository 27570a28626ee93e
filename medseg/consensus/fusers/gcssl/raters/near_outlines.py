"""Outlines that lie near one another: each says where the boundary is only up to how far outlines are apart.

A vote tells on which side of a rater's outline a voxel lies and not how near. So the boundary of the votes is the
median of the outlines, and where most raters draw wide it is wide too. An outline is taken for the boundary but for an
error of up to b to either side, any of them as likely. With s_r(x) the signed distance of x to the outline of rater r,
negative inside, the vote of r is then in part for the structure and in part for what lies beside it:

    p_r(x) = 1/2 - s_r(x) / (2 b), in [0, 1]         b: median distance of two raters' outlines of the structure

The boundary of such votes is the mean of outlines within b of one another. Where outlines coincide but for single
voxels b is small, and the vote stays as it is. A mean of outlines erases what is thinner than they are apart, so that
a thin structure keeps the plain vote as well: a share min(1, t / thin)^2 of it is replaced, t being the thickness of
what the votes give of the structure nearby (`thickness`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medseg.consensus.fusers.gcssl.raters.missing_votes import WeightedVotes
from medseg.consensus.fusers.gcssl.raters.outlines import Drawn, Outlines
from medseg.consensus.fusers.gcssl.region import Region
from medseg.consensus.fusers.gcssl.thickness import thickness_near
from medseg.consensus.study import MISSING, Study

SURFACE = 0.5
"""Distance of the last voxel's centre from an outline, which goes along the faces of voxels."""


@dataclass(frozen=True, eq=False)
class SoftVotes:
    """Votes about one structure on the disputed voxels near its outlines.

    Args:
        c: number of the structure.
        voxels: `(m,)` their numbers among the disputed voxels.
        inside: `(R, m)` float16, p_r.
    """

    c: int
    voxels: np.ndarray
    inside: np.ndarray

    def replace(self, votes: WeightedVotes, labels: np.ndarray, weights: np.ndarray, share: np.ndarray) -> None:
        """Put p_r in the place of a share of each rater's vote, in place.

        What a rater takes from the structure goes to the labels that others gave the voxel, as the votes for them are.

        Args:
            votes: on all disputed voxels, as they were given.
            labels: `(R, n)` uint8 on all disputed voxels; `MISSING` of raters whose votes stay as they are.
            weights: `(R,)`.
            share: `(m,)` of a vote that is replaced, in [0, 1].
        """
        beside = votes.votes[:, self.voxels]
        beside[self.c] = 0
        total = beside.sum(axis=0)
        beside /= np.where(total > 0, total, 1)
        share = np.where(total > 0, share, 0)
        for own, inside, weight in zip(labels[:, self.voxels], self.inside, weights, strict=True):
            strength = np.float32(weight) * share
            gives = np.flatnonzero(own == self.c)
            moved = strength[gives] * (1 - inside[gives].astype(np.float32))
            votes.votes[self.c, self.voxels[gives]] -= moved
            votes.votes[:, self.voxels[gives]] += moved * beside[:, gives]
            gets = np.flatnonzero((own != self.c) & (own != MISSING))
            moved = strength[gets] * inside[gets].astype(np.float32)
            votes.votes[own[gets], self.voxels[gets]] -= moved
            votes.votes[self.c, self.voxels[gets]] += moved


def soften(drawn: Sequence[Drawn]) -> list[SoftVotes]:
    """The votes near outlines that lie apart; nothing about structures whose outlines coincide.

    Args:
        drawn: the structures of the disputed voxels.
    """
    found = []
    for structure in drawn:
        width = structure.outlines.spread()
        if width > SURFACE:
            inside = _share_inside(structure.outlines, structure.places, width)
            found.append(SoftVotes(structure.c, structure.chosen, inside))
    return found


def count_near_outlines(
    votes: WeightedVotes, near: Sequence[SoftVotes], study: Study, region: Region, weights: np.ndarray, thin: float
) -> None:
    """Replace votes near outlines as far as structures are thick, in place.

    Args:
        votes: on all disputed voxels.
        near: what `soften` found.
        study: the raters; what soft raters said stays as it is.
        region: of the same raters.
        weights: `(R,)`.
        thin: thickness from which on votes are replaced in full, in units of the smallest spacing; 0: everywhere.
    """
    labels = region.labels[:, region.disputed]
    for own, rater in zip(labels, study.raters, strict=True):
        if rater.probabilities is not None:
            own[:] = MISSING
    voted = region.agreed[region.inner_box].copy()
    voted[region.disputed] = votes.votes.argmax(axis=0)
    places = np.flatnonzero(region.disputed)
    for structure in near:
        share = np.ones(structure.voxels.size, np.float32)
        if thin:
            at = np.zeros(voted.shape, bool)
            at.reshape(-1)[places[structure.voxels]] = True
            thickness = thickness_near((voted == structure.c).view(np.uint8), at, region.units, thin)
            share = np.minimum(thickness / np.float32(thin), 1) ** 2
        structure.replace(votes, labels, weights, share)


def _share_inside(outlines: Outlines, places: np.ndarray, width: float) -> np.ndarray:
    """`(R, m)` float16: p_r at some voxels of the outlines, b being `width`."""
    inside = np.zeros((len(outlines.distances), places.size), np.float16)
    for r, distances in enumerate(outlines.distances):
        outside = distances[places].astype(np.float32)
        depth = outlines.depths(r)[places]
        signed = np.where(outside > 0, outside - SURFACE, SURFACE - depth)
        inside[r] = np.clip(0.5 - signed / (2 * width), 0, 1)
    return inside
