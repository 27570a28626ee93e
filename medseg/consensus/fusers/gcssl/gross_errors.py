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

On G the shares of the votes move towards STAPLE's posterior W, the more the lower rho is (`trust_in_posterior`).
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
INDEPENDENT, SHARED = 0.12, 0.18
"""Correlations of votes up to which errors count as independent, and from which on as shared."""
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
        apart: `(R, K)` bool: the rater's structure is another one than everybody else's.
    """

    voxels: np.ndarray
    apart: np.ndarray


@dataclass(frozen=True, eq=False)
class Omissions:
    """What somebody overlooked, and how far STAPLE is to be trusted about it.

    Args:
        truth: `(n, K)` STAPLE's posterior at the disputed voxels of G.
        voxels: `(n,)` numbers of these voxels among the disputed ones.
        trust: in [0, 1]; see `trust_in_posterior`.
        facts: JSON-ready: `vote_correlation`, `trust_in_posterior`, `gross_voxels`, and `apart`, pairs of rater's and
            class's number.
    """

    truth: np.ndarray
    voxels: np.ndarray
    trust: float
    facts: dict[str, object]

    def weigh(self, votes: WeightedVotes) -> WeightedVotes:
        """The votes, of the same strength, with a part of their shares on G from the posterior."""
        if not self.trust or not self.voxels.size:
            return votes
        changed = votes.votes.copy()
        for start in range(0, self.voxels.size, _CHUNK):
            part = slice(start, start + _CHUNK)
            at = self.voxels[part]
            total = votes.total[at]
            shares = votes.votes[:, at] / np.where(total > 0, total, 1)
            changed[:, at] = (self.trust * self.truth[part].T + (1 - self.trust) * shares) * total
        return replace(votes, votes=changed)


def find_omissions(region: Region, patterns: VotePatterns) -> Omissions:
    """Where raters overlooked something, and what STAPLE says there.

    Args:
        region: of the raters.
        patterns: of the same raters in the region's `outer_box`.
    """
    none = np.zeros((0, patterns.classes)), np.zeros(0, np.intp)
    facts: dict[str, object] = {"vote_correlation": None, "trust_in_posterior": 0.0, "gross_voxels": 0, "apart": []}
    if len(region.labels) < FEWEST:
        return Omissions(*none, 0.0, facts)
    found = find_gross_errors(region, patterns)
    posterior = find_posterior(patterns, found.apart)
    trust = trust_in_posterior(posterior.correlation)
    voxels = np.flatnonzero(found.voxels)
    facts = {
        "vote_correlation": posterior.correlation if math.isfinite(posterior.correlation) else None,
        "trust_in_posterior": trust,
        "gross_voxels": int(voxels.size),
        "apart": [[int(r), int(c)] for r, c in np.argwhere(found.apart)],
    }
    truth = posterior.truth[_rows_of_patterns(region, patterns, voxels)]
    return Omissions(truth, voxels, trust, facts)


def trust_in_posterior(correlation: float) -> float:
    """How much STAPLE's posterior counts on G, in [0, 1]: alone up to `INDEPENDENT`, not at all from `SHARED` on.

    Where no two raters vary inside the structures nothing speaks against their independence: 1.
    """
    if not math.isfinite(correlation):
        return 1.0
    return float(np.clip((SHARED - correlation) / (SHARED - INDEPENDENT), 0, 1))


def find_posterior(patterns: VotePatterns, apart: np.ndarray) -> Posterior:
    """STAPLE of each class against the rest, normalised over the classes; the rest of the probability is background.

    Args:
        patterns: of the raters.
        apart: `(R, K)` bool: raters whose class is another structure; their votes are correlated with nobody's, which
            says nothing about the errors of those who drew the same thing.
    """
    classes = patterns.classes
    truth = np.zeros((len(patterns.table), classes))
    correlations, sizes = [], []
    for c in range(1, classes):
        decisions = np.where(patterns.table == classes, 2, patterns.table == c).astype(np.uint8)
        if not patterns.counts @ (decisions == 1).any(axis=1):
            continue
        truth[:, c] = estimate(decisions, patterns.counts).truth
        inside = np.where(truth[:, c] > 0.5, patterns.counts, 0)
        correlation = correlation_of_votes(decisions[:, ~apart[:, c]], inside)
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
    return GrossErrors(voxels, apart)


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


def _rows_of_patterns(region: Region, patterns: VotePatterns, voxels: np.ndarray) -> np.ndarray:
    """`(n,)` rows of the patterns' table of the disputed voxels with these numbers."""
    flat = np.flatnonzero(region.disputed)[voxels]
    position = np.unravel_index(flat, region.disputed.shape)
    sides = zip(position, region.inner_box, patterns.coded_box, strict=True)
    return patterns.indices()[tuple(axis + inner.start - coded.start for axis, inner, coded in sides)]
