"""Gross disagreement: where somebody overlooked a structure, omissions are weighed as STAPLE weighs them.

Two kinds of error meet in a panel. Outlines that lie a voxel or two apart err to both sides alike, and raters who draw
wide do so together: votes, or means (`near_outlines`), are right there, and STAPLE, which holds raters for independent,
takes the widest outline. A slice, a vessel or an organ that somebody overlooked is another matter: people omit far more
than they invent, and they omit independently of one another, which is STAPLE's model. Neither truth nor image is needed
to tell the two:

    c*(x)  label above 0 that most raters gave x
    tau    distance up to which outlines are drawn differently: `SPREADS` times the median distance of two raters'
           outlines of c*, at least `TAU`
    G      the disputed x that somebody overlooked: a rater who annotated x did not give it c* and has no c* within
           tau of x, while two others or more did, and no more have their outline near and x outside of it
    rho    mean correlation of two raters' votes inside STAPLE's structure c*: near 0 where errors are independent

On G the shares of the votes move towards STAPLE's posterior W, the more the lower rho is (`trust_in_posterior`). What
counts is the structure's own rho or the mean of all structures by their size, whichever is lower: those who draw large
organs wide together may still have overlooked a small one each for themselves.
A rater whose own c* lies apart from everybody else's drew another thing: that is an invention, votes are right about
it, and what this rater lacks of the others' c* puts nothing into G.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medseg.consensus.fusers.gcssl.raters.missing_votes import WeightedVotes
from medseg.consensus.fusers.gcssl.raters.outlines import TAU, Drawn, most_voted_structures
from medseg.consensus.fusers.staple import estimate
from medseg.consensus.fusers.vote_patterns import VotePatterns

SPREADS = 3.0
"""Median distances of two outlines up to which they are drawn differently: a fine grid has many voxels in a
millimetre."""
INDEPENDENT, SHARED = 0.12, 0.18
"""Correlations of votes up to which errors count as independent, and from which on as shared."""
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
        correlations: `(K,)` mean correlation of two raters' votes inside each structure; NaN where no two raters vary.
        mean: of all structures where raters vary, by their size; NaN without any.
    """

    truth: np.ndarray
    correlations: np.ndarray
    mean: float

    def trusts(self) -> np.ndarray:
        """`(K,)` of each structure, see `trust_in_posterior`."""
        counting = np.minimum(self.correlations, self.mean)  # NaN stays: where nobody varies nothing speaks against it
        return np.array([trust_in_posterior(correlation) for correlation in counting])


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
        truth: `(P, K)` STAPLE's posterior on each vote pattern.
        voxels: `(n,)` numbers of the voxels of G among the disputed ones.
        rows: `(n,)` the vote pattern of each of them.
        trust: `(P,)` in [0, 1], of the structure that each pattern may be of; see `trust_in_posterior`.
        facts: JSON-ready: `vote_correlation` and `trust_in_posterior` of each structure, `gross_voxels`, and `apart`,
            pairs of rater's and class's number.
    """

    truth: np.ndarray
    voxels: np.ndarray
    rows: np.ndarray
    trust: np.ndarray
    facts: dict[str, object]

    def mix(self, shares: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """`(n, K)` shares of the votes on G, moved towards the posterior of the voxels' patterns `(n,)`."""
        trust = self.trust[rows, None]
        return trust * self.truth[rows] + (1 - trust) * shares

    def weigh(self, votes: WeightedVotes) -> np.ndarray:
        """Take a part of the shares on G from the posterior, in place, and tell what the votes were there, `(K, n)`."""
        if not self.trust.any():
            return votes.votes[:, :0]
        before = votes.votes[:, self.voxels]
        for start in range(0, self.voxels.size, _CHUNK):
            part = slice(start, start + _CHUNK)
            at = self.voxels[part]
            total = votes.total[at]
            shares = before[:, part] / np.where(total > 0, total, 1)
            votes.votes[:, at] = self.mix(shares.T, self.rows[part]).T * total
        return before

    def restore(self, votes: WeightedVotes, before: np.ndarray) -> None:
        """Undo `weigh`, which told what the votes were before."""
        if before.size:
            votes.votes[:, self.voxels] = before


def find_omissions(drawn: Sequence[Drawn], patterns: VotePatterns, rows: np.ndarray) -> Omissions:
    """Where raters overlooked something, and what STAPLE says there.

    Args:
        drawn: the structures of the disputed voxels; of fewer than `FEWEST` raters none are needed.
        patterns: of the same raters.
        rows: `(n,)` pattern of each disputed voxel.
    """
    if patterns.table.shape[1] < FEWEST:
        facts: dict[str, object] = {"vote_correlation": [], "trust_in_posterior": [], "gross_voxels": 0, "apart": []}
        nowhere = np.zeros(0, np.intp)
        nothing = np.zeros((len(patterns.table), patterns.classes))
        return Omissions(nothing, nowhere, nowhere, np.zeros(len(nothing)), facts)
    found = find_gross_errors(drawn, patterns, rows)
    posterior = find_posterior(patterns, found.apart)
    trust = posterior.trusts()
    voxels = np.flatnonzero(found.voxels)
    facts = {
        "vote_correlation": [float(r) if math.isfinite(r) else None for r in posterior.correlations[1:]],
        "trust_in_posterior": trust[1:].tolist(),
        "gross_voxels": int(voxels.size),
        "apart": [[int(r), int(c)] for r, c in np.argwhere(found.apart)],
    }
    return Omissions(posterior.truth, voxels, rows[voxels], trust[most_voted_structures(patterns)], facts)


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
    correlations, sizes = np.full(classes, np.nan), np.zeros(classes)
    for c in range(1, classes):
        decisions = np.where(patterns.table == classes, 2, patterns.table == c).astype(np.uint8)
        if not patterns.counts @ (decisions == 1).any(axis=1):
            continue
        truth[:, c] = estimate(decisions, patterns.counts).truth
        inside = np.where(truth[:, c] > 0.5, patterns.counts, 0)
        correlations[c] = correlation_of_votes(decisions[:, ~apart[:, c]], inside)
        sizes[c] = inside.sum()
    truth[:, 0] = np.clip(1 - truth[:, 1:].sum(axis=1), 0, 1)
    truth /= truth.sum(axis=1, keepdims=True)
    vary = np.isfinite(correlations)
    mean = float(np.average(correlations[vary], weights=sizes[vary])) if vary.any() else math.nan
    return Posterior(truth, correlations, mean)


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


def find_gross_errors(drawn: Sequence[Drawn], patterns: VotePatterns, rows: np.ndarray) -> GrossErrors:
    """Where a rater lacks what most others have, and has nothing of it near; and whose structures lie apart.

    Args:
        drawn: the structures of the disputed voxels.
        patterns: of the same raters.
        rows: `(n,)` pattern of each disputed voxel.
    """
    voxels = np.zeros(rows.size, bool)
    apart = np.zeros((patterns.table.shape[1], patterns.classes), bool)
    voted = patterns.voted()
    for structure in drawn:
        outlines, chosen, has = structure.outlines, structure.chosen, patterns.table == structure.c
        apart[:, structure.c] = structure.apart
        tau = max(TAU, SPREADS * outlines.spread)
        of_it = ~structure.apart
        near = outlines.signed[:, structure.places] <= tau
        voxels[chosen] = _are_overlooked(has[rows[chosen]].T[of_it], voted[rows[chosen]].T[of_it], near[of_it])
    return GrossErrors(voxels, apart)


def _are_overlooked(has: np.ndarray, voted: np.ndarray, near: np.ndarray) -> np.ndarray:
    """`(n,)` bool: voxels that somebody overlooked.

    Args:
        has: `(R, n)` bool: the rater gave the structure.
        voted: `(R, n)` bool: the rater annotated the voxel.
        near: `(R, n)` bool: the rater's structure is so near that no outline is missing.
    """
    lacks = voted & ~has
    having = has.sum(axis=0, dtype=np.uint16)
    beside = (lacks & near).sum(axis=0, dtype=np.uint16)
    overlooked = (lacks & ~near).any(axis=0)
    return overlooked & (having >= CONFIRMED) & (having >= beside)
