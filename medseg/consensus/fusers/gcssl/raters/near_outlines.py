"""Outlines that lie near one another: each says where the boundary is only up to how far outlines are apart.

A vote tells on which side of a rater's outline a voxel lies and not how near. So the boundary of the votes is the
median of the outlines, and where most raters draw wide it is wide too. An outline is taken for the boundary but for an
error of up to b to either side, any of them as likely. With s_r(x) the signed distance of x to the outline of rater r,
negative inside, the vote of r is then in part for the structure and in part for what lies beside it:

    p_r(x) = 1/2 - s_r(x) / (2 b), in [0, 1]         b: median distance of two raters' outlines of the structure,
                                                     at most `TAU`

The boundary of such votes is the mean of outlines within b of one another. They count where one vote decides: where
more than one rater would have to change sides the votes are clear, and one who draws far too wide would move the mean.
And they count where all outlines are near: a rater who has nothing of the structure within 2 b overlooked something or
drew another thing, which is a vote against it and says nothing about where the others' boundary is.
Where outlines coincide but for single voxels b is small, and the votes stay as they are. Whose structure is another one
(`Drawn.apart`) has no outline of this one, and goes with the mean of the others. A mean of outlines erases what is
thinner than they are apart, so that a thin structure keeps the plain votes as well: a share min(1, t / thin)^2 of them
is replaced, t being the thickness of what the votes give of the structure nearby (`thickness`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medseg.consensus.fusers.gcssl.raters.missing_votes import WeightedVotes
from medseg.consensus.fusers.gcssl.raters.outlines import TAU, Drawn, Outlines
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
        apart: `(R,)` bool: raters whose structure is another one.
    """

    c: int
    voxels: np.ndarray
    inside: np.ndarray
    apart: np.ndarray

    def of(self, chosen: np.ndarray) -> SoftVotes:
        """The same on some of the voxels, `(m,)` bool."""
        return SoftVotes(self.c, self.voxels[chosen], self.inside[:, chosen], self.apart)

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
        shares = self._shares(labels)
        for r, own in enumerate(labels[:, self.voxels]):
            strength = np.float32(weights[r]) * share
            self._give(votes, np.flatnonzero(own == self.c), strength * (1 - shares[r]), beside)
            self._get(votes, np.flatnonzero((own != self.c) & (own != MISSING)), strength * shares[r], own)

    def _give(self, votes: WeightedVotes, at: np.ndarray, moved: np.ndarray, beside: np.ndarray) -> None:
        """Move votes `(m,)` of a rater from the structure to what lies beside it, at some of the voxels."""
        voxels = self.voxels[at]
        votes.votes[self.c, voxels] -= moved[at]
        votes.votes[:, voxels] += moved[at] * beside[:, at]

    def _get(self, votes: WeightedVotes, at: np.ndarray, moved: np.ndarray, own: np.ndarray) -> None:
        """Move votes `(m,)` of a rater from the rater's own labels to the structure, at some of the voxels."""
        voxels = self.voxels[at]
        votes.votes[own[at], voxels] -= moved[at]
        votes.votes[self.c, voxels] += moved[at]

    def _shares(self, labels: np.ndarray) -> np.ndarray:
        """`(R, m)` float32: p_r, and of raters who drew another structure the mean of the others' at the voxel."""
        shares = self.inside.astype(np.float32)
        if self.apart.any():
            counts = (labels[:, self.voxels] != MISSING) & ~self.apart[:, None]
            mean = (shares * counts).sum(axis=0) / np.maximum(counts.sum(axis=0), 1)
            shares[self.apart] = mean
        return shares


def _closeness(votes: WeightedVotes, of_each: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    """`(m,)` float32 in [0, 1]: 1 where one vote decides between the first two labels, 0 where it takes two.

    Args:
        votes: on all disputed voxels.
        of_each: `(n,)` mean strength of a vote there.
        voxels: `(m,)` numbers of those that are asked about.
    """
    strength = of_each[voxels]
    second, first = np.partition(votes.votes[:, voxels], -2, axis=0)[-2:]
    lead = (first - second) / np.where(strength > 0, strength, 1)
    return np.clip(2 - lead, 0, 1).astype(np.float32)


def soften(drawn: Sequence[Drawn], region: Region) -> list[SoftVotes]:
    """The votes where all outlines are near; nothing about structures whose outlines coincide.

    Args:
        drawn: the structures of the disputed voxels.
        region: of the same raters.
    """
    annotated = region.labels[:, region.disputed] != MISSING
    found = []
    for structure in drawn:
        width = min(structure.outlines.spread, TAU)
        if width <= SURFACE:
            continue
        near = np.ones(structure.chosen.size, bool)
        for r in np.flatnonzero(~structure.apart):
            distance = structure.outlines.signed[r][structure.places]
            is_far = distance > np.float16(2 * width)
            is_far &= annotated[r][structure.chosen]
            near[is_far] = False
        inside = _share_inside(structure.outlines, structure.places[near], width)
        found.append(SoftVotes(structure.c, structure.chosen[near], inside, structure.apart))
    return found


def count_near_outlines(
    votes: WeightedVotes, near: Sequence[SoftVotes], study: Study, region: Region, weights: np.ndarray, thin: float
) -> None:
    """Replace votes near outlines as far as structures are thick, in place.

    Args:
        votes: on all disputed voxels.
        near: what `soften` found.
        study: the raters; what soft raters are not sure of stays as they said it.
        region: of the same raters.
        weights: `(R,)`.
        thin: thickness from which on votes are replaced in full, in units of the smallest spacing; 0: everywhere.
    """
    labels = region.labels[:, region.disputed]
    of_each = votes.total / np.maximum(np.count_nonzero(labels != MISSING, axis=0), 1)
    for own, rater in zip(labels, study.raters, strict=True):
        if rater.probabilities is not None:
            probability = rater.probabilities[(slice(None), *region.box)][:, region.disputed].max(axis=0)
            own[probability < 1] = MISSING
    voted = region.agreed[region.inner_box].copy()
    voted[region.disputed] = votes.votes.argmax(axis=0)
    places = np.flatnonzero(region.disputed)
    for everywhere in near:
        share = _closeness(votes, of_each, everywhere.voxels)
        structure = everywhere.of(share > 0)
        share = share[share > 0]
        if thin:
            at = np.zeros(voted.shape, bool)
            at.reshape(-1)[places[structure.voxels]] = True
            thickness = thickness_near((voted == structure.c).view(np.uint8), at, region.units, thin)
            share *= np.minimum(thickness / np.float32(thin), 1) ** 2
        structure.replace(votes, labels, weights, share)


def _share_inside(outlines: Outlines, places: np.ndarray, width: float) -> np.ndarray:
    """`(R, m)` float16: p_r at some voxels of the outlines, b being `width`."""
    inside = np.zeros((len(outlines.signed), places.size), np.float16)
    for r, distances in enumerate(outlines.signed):
        from_voxels = distances[places].astype(np.float32)
        signed = from_voxels - np.copysign(np.float32(SURFACE), from_voxels)
        inside[r] = np.clip(0.5 - signed / (2 * width), 0, 1)
    return inside
