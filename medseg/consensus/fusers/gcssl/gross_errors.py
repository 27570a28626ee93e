"""Gross disagreement: where somebody overlooked a structure, omissions are weighed as STAPLE weighs them.

Two kinds of error meet in a panel. Outlines that lie a voxel or two apart err to both sides alike, and raters who draw
wide do so together: votes are right there, and STAPLE, which holds raters for independent, takes the widest outline.
A slice, a vessel or an organ that somebody overlooked is another matter: people omit far more than they invent, and
they omit independently of one another, which is STAPLE's model. Neither truth nor image is needed to tell the two:

    c*(x)  label above 0 that most raters gave x
    tau    distance up to which outlines are drawn differently: `SPREADS` times the median distance of two raters'
           outlines of c*, at least `TAU`
    G      the disputed x that somebody overlooked: a rater who annotated x did not give it c* and has no c* within
           tau of x, while two others or more did, and no more have their outline near and x outside of it
    rho    mean correlation of two raters' votes inside STAPLE's structure: near 0 where errors are independent

On G the shares of the votes move towards STAPLE's posterior W, the more the lower rho is (`trust_in_posterior`), and
elsewhere, where rho is lower still and nobody drew something apart, towards shares times the root of W.
A rater whose own c* lies apart from everybody else's drew another thing: that is an invention, votes are right about
it, and what this rater lacks of the others' c* puts nothing into G.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from medseg.consensus.boxes import Box
from medseg.consensus.fusers.gcssl.missing_votes import WeightedVotes
from medseg.consensus.fusers.gcssl.outlines import Outlines, boxes_of_classes
from medseg.consensus.fusers.gcssl.region import Region
from medseg.consensus.fusers.staple import estimate
from medseg.consensus.fusers.vote_patterns import VotePatterns
from medseg.consensus.study import MISSING

TAU = 3.0
"""Distance of outlines, in units of the smallest spacing, up to which nothing counts as overlooked."""
SPREADS = 3.0
"""Median distances of two outlines up to which they are drawn differently: a fine grid has many voxels in a
millimetre."""
GROSS_BOUNDS, NEAR_BOUNDS = (0.12, 0.18), (0.10, 0.12)
"""Correlations of votes up to which errors count as independent, and from which as shared: on G, and elsewhere."""
FLOOR = 0.02
"""Added to shares and posterior before they are multiplied, so that neither alone rules a label out."""
APART = 0.05
"""Share of a rater's own structure away from everybody else's from which on it is another structure."""
CONFIRMED = 2
"""Raters who must have what another overlooked: what one alone has may as well be invented."""


FEWEST = 3
"""Raters without whom independence cannot be seen: with two, an omission is as likely as an invention."""

_CHUNK = 1 << 16


@dataclass(frozen=True, eq=False)
class Posterior:
    """STAPLE's answer on vote patterns, and how far its model holds.

    Args:
        truth: `(P, K)` probability of each class, sum 1.
        correlation: mean correlation of two raters' votes inside the structures; NaN where no two raters vary there.
    """

    truth: np.ndarray
    correlation: float


@dataclass(frozen=True, eq=False)
class GrossErrors:
    """Where raters differ grossly.

    Args:
        voxels: `(n,)` bool of the disputed voxels: G.
        near: `(n,)` bool: the other disputed voxels of structures that nobody drew apart.
        apart: `(R, K)` bool: the rater's structure is another one than everybody else's.
    """

    voxels: np.ndarray
    near: np.ndarray
    apart: np.ndarray


def weigh_omissions(
    votes: WeightedVotes, region: Region, patterns: VotePatterns
) -> tuple[WeightedVotes, dict[str, object]]:
    """The votes with STAPLE's posterior in place of their shares where raters differ grossly.

    Args:
        votes: on the disputed voxels of the region.
        region: of the raters.
        patterns: of the same raters in the region's `outer_box`.

    Returns:
        votes: of the same strength.
        facts: JSON-ready: `vote_correlation`; `trust_in_posterior` and `trust_near_outlines` in [0, 1];
            `gross_voxels`; and `apart`, pairs of rater's and class's number.
    """
    facts: dict[str, object] = {
        **{"vote_correlation": None, "trust_in_posterior": 0.0, "trust_near_outlines": 0.0},
        **{"gross_voxels": 0, "apart": []},
    }
    if len(region.labels) < FEWEST:
        return votes, facts
    posterior = find_posterior(patterns)
    found = find_gross_errors(region, patterns)
    trust = np.zeros(votes.total.size, np.float32)
    gross, near = (trust_in_posterior(posterior.correlation, bounds) for bounds in (GROSS_BOUNDS, NEAR_BOUNDS))
    trust[found.near] = near
    trust[found.voxels] = gross
    facts |= {
        "vote_correlation": posterior.correlation if math.isfinite(posterior.correlation) else None,
        "trust_in_posterior": gross,
        "trust_near_outlines": near,
        "gross_voxels": int(np.count_nonzero(found.voxels)),
        "apart": [[int(r), int(c)] for r, c in np.argwhere(found.apart)],
    }
    return _mix(votes, posterior, found, trust, _PatternsAt(region, patterns)), facts


def _mix(
    votes: WeightedVotes, posterior: Posterior, found: GrossErrors, trust: np.ndarray, pattern_of: _PatternsAt
) -> WeightedVotes:
    """The votes with a part `trust` `(n,)` of their shares from the posterior: alone on G, else times the votes."""
    changed = votes.votes.copy()
    shares, wanted = votes.shares(), np.flatnonzero(trust)
    for start in range(0, wanted.size, _CHUNK):
        at = wanted[start : start + _CHUNK]
        truth = posterior.truth[pattern_of.rows(at)].T
        both = (shares[:, at] + FLOOR) * np.sqrt(truth + FLOOR)
        both /= both.sum(axis=0)
        of_posterior = np.where(found.voxels[at], truth, both)
        mixed = trust[at] * of_posterior + (1 - trust[at]) * shares[:, at]
        changed[:, at] = mixed * votes.total[at]
    return replace(votes, votes=changed)


def trust_in_posterior(correlation: float, bounds: tuple[float, float]) -> float:
    """How much STAPLE's posterior counts, in [0, 1]: all of it up to the first bound, nothing from the second on.

    Where no two raters vary inside the structures nothing speaks against their independence: 1.
    """
    if not math.isfinite(correlation):
        return 1.0
    independent, alike = bounds
    return float(np.clip((alike - correlation) / (alike - independent), 0, 1))


def find_posterior(patterns: VotePatterns) -> Posterior:
    """STAPLE of each class against the rest, normalised over the classes; the rest of the probability is background."""
    classes = patterns.classes
    truth = np.zeros((len(patterns.table), classes))
    correlations, sizes = [], []
    for c in range(1, classes):
        decisions = np.where(patterns.table == classes, 2, patterns.table == c).astype(np.uint8)
        if not patterns.counts @ (decisions == 1).any(axis=1):
            continue
        truth[:, c] = estimate(decisions, patterns.counts).truth
        inside = np.where(truth[:, c] > 0.5, patterns.counts, 0)
        correlation = correlation_of_votes(decisions, inside)
        if math.isfinite(correlation):
            correlations.append(correlation)
            sizes.append(float(inside.sum()))
    truth[:, 0] = np.clip(1 - truth[:, 1:].sum(axis=1), 0, 1)
    truth /= truth.sum(axis=1, keepdims=True)
    return Posterior(truth, float(np.average(correlations, weights=sizes)) if correlations else math.nan)


def correlation_of_votes(decisions: np.ndarray, counts: np.ndarray) -> float:
    """Mean correlation of two raters' decisions over the voxels that both annotated; NaN without a pair that varies.

    Args:
        decisions: `(P, R)`: 1 for the structure, 0 against it, 2 not annotated.
        counts: `(P,)` voxels of each pattern.
    """
    found = []
    raters = decisions.shape[1]
    for r in range(raters):
        for s in range(r + 1, raters):
            both = counts * ((decisions[:, r] < 2) & (decisions[:, s] < 2))
            total = both.sum()
            if not total:
                continue
            first, second = decisions[:, r] == 1, decisions[:, s] == 1
            mean_first, mean_second = both @ first / total, both @ second / total
            spread = mean_first * (1 - mean_first) * mean_second * (1 - mean_second)
            if spread > 0:
                covariance = both @ (first & second) / total - mean_first * mean_second
                found.append(covariance / math.sqrt(spread))
    return float(np.mean(found)) if found else math.nan


def find_gross_errors(region: Region, patterns: VotePatterns) -> GrossErrors:
    """Where a rater lacks what most others have, and has nothing of it near; and whose structures lie apart.

    Args:
        region: of the raters.
        patterns: of the same raters, for the sizes of their structures.
    """
    labels = region.labels[:, region.disputed]
    structure = most_voted_structure(labels, patterns.classes)
    positions = np.nonzero(region.disputed)
    voxels = np.zeros(structure.size, bool)
    apart = np.zeros((len(labels), patterns.classes), bool)
    boxes = boxes_of_classes(region.labels, patterns.classes)
    for c in np.unique(structure[structure > 0]):
        box = boxes[c]
        outlines = Outlines(region, box, int(c))
        apart[:, c] = _lie_apart(region, patterns, box, outlines.within(TAU), int(c))
        near = outlines.within(max(TAU, SPREADS * outlines.spread()))
        chosen = np.flatnonzero(structure == c)
        place = tuple(axis[chosen] - side.start for axis, side in zip(positions, box, strict=True))
        having, lacking, overlooking = (np.zeros(chosen.size, np.int16) for _ in range(3))
        for r in np.flatnonzero(~apart[:, c]):
            given = labels[r, chosen]
            has, close = given == c, near[r][place]
            lacks = (given != MISSING) & ~has
            having += has
            lacking += lacks & close
            overlooking += lacks & ~close
        voxels[chosen] = (overlooking > 0) & (having >= CONFIRMED) & (having >= lacking)
    anybody_apart = np.any(apart, axis=0)
    near_outlines = (structure > 0) & ~voxels & ~np.asarray(anybody_apart)[structure]
    return GrossErrors(voxels, near_outlines, apart)


def most_voted_structure(labels: np.ndarray, classes: int) -> np.ndarray:
    """`(n,)` uint8: the label above 0 that most of the `(R, n)` labels are, the lowest of equally many; 0: none is."""
    best = np.zeros(labels.shape[1], np.uint8)
    most = np.zeros(labels.shape[1], np.int32)
    for c in range(1, classes):
        count = np.count_nonzero(labels == c, axis=0)
        more = count > most
        best[more] = c
        most[more] = count[more]
    return best


def _lie_apart(region: Region, patterns: VotePatterns, box: Box, near: Sequence[np.ndarray], c: int) -> np.ndarray:
    """`(R,)` bool: raters of whose `c` more than `APART` lies away from every other rater's.

    Where fewer than two raters' structures would be left nobody is: nothing says then which is the other one.
    """
    raters = np.zeros(near[0].shape, np.uint8)
    for volume in near:
        raters += volume
    alone = np.zeros(len(near))
    for r, volume in enumerate(region.labels):
        alone[r] = np.count_nonzero((volume[box] == c) & (raters < 2))
    sizes = patterns.counts @ (patterns.table == c)
    apart = alone > APART * sizes
    left = (sizes > 0) & ~apart
    return apart if np.count_nonzero(left) >= 2 else np.zeros_like(apart)


class _PatternsAt:
    """Rows of the patterns' table by disputed voxels of a region."""

    def __init__(self, region: Region, patterns: VotePatterns) -> None:
        self.voxels = np.flatnonzero(region.disputed)
        self.shape = region.disputed.shape
        sides = zip(region.inner_box, patterns.coded_box, strict=True)
        self.shift = [inner.start - coded.start for inner, coded in sides]
        self.indices = patterns.indices()

    def rows(self, at: np.ndarray) -> np.ndarray:
        """Rows of the disputed voxels with these numbers."""
        position = np.unravel_index(self.voxels[at], self.shape)
        return self.indices[tuple(axis + shift for axis, shift in zip(position, self.shift, strict=True))]
