"""Rates by which rare classes keep more than frequent ones, and how exactly that share of a whole data set is found.

A score is a float16 number, the larger the more confident. As there are 65,536 such numbers, the scores of a class in
all cases are counted without loss, case by case; with the counts of all cases the share that is kept is exact.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from math import floor
from typing import Any, Literal

import numpy as np

Counted = Mapping[str, Sequence[int]]
"""Scores of a class in one case: `score`, as ordered integers, rising, and `count` of each."""

NOTHING = 1 << 16
"""A cut above all codes."""

LARGEST_DRAW = 10**9
"""Samples from which NumPy draws no more."""


def class_rates(
    counts: Sequence[float], *, alpha: float, rate: Literal["rank", "inverse"] = "rank", least: float = 0.0
) -> list[float]:
    """Share of each class that is kept.

    rank: `(N_(L+1-l) / N_1)^alpha` for the class of rank l, the mean over classes of the same size; inverse:
    `(N_min / N_c)^alpha`. N_min is the smallest size above 0.

    Args:
        counts: N, labelled samples of each class, or their volume.
        alpha: exponent; 0 keeps everything.
        rate: by rank or by size.
        least: smallest rate of a class that is labelled.

    Returns:
        Rates in [0, 1]; 0 for a class without a label.

    Examples:
        >>> from medseg.ops.semi_supervised.rebalancing import class_rates
        >>> [round(rate, 5) for rate in class_rates([10, 100, 1], alpha=1 / 3)]
        [0.46416, 0.21544, 1.0]
    """
    sizes = np.array(counts, float)
    used = sizes > 0
    rates = np.zeros(len(sizes))
    if not used.any():
        return rates.tolist()
    if rate == "inverse":
        rates[used] = (sizes[used].min() / sizes[used]) ** alpha
    else:
        falling = np.sort(sizes[used])[::-1]
        of_rank = (falling[::-1] / falling[0]) ** alpha
        for size in np.unique(falling):
            rates[sizes == size] = of_rank[falling == size].mean()
    rates[used] = np.clip(rates[used], least, 1)
    return rates.tolist()


def ordered_code(scores: np.ndarray) -> np.ndarray:
    """float16 scores as integers in the same order, `int32`."""
    bits = np.ascontiguousarray(scores, np.float16).view(np.int16).astype(np.int32)
    return np.where(bits < 0, -(bits & 0x7FFF), bits)


def count_scores(codes: np.ndarray) -> dict[str, list[int]]:
    """How often each code occurs, see `Counted`."""
    values, counts = np.unique(codes, return_counts=True)
    return {"score": values.tolist(), "count": counts.tolist()}


def choose_share(cases: Mapping[str, Counted], rate: float, seed: int) -> tuple[int, dict[str, int]]:
    """Where to cut so that exactly `floor(rate n)` of the n samples of all cases are kept, the most confident ones.

    Args:
        cases: name -> scores of one class.
        rate: share to keep.
        seed: decides which of equally confident samples are kept.

    Returns:
        The code of which only some are kept, all above being kept, and case -> how many of that code it keeps.
    """
    totals: dict[int, int] = {}
    for counted in cases.values():
        for score, count in zip(counted["score"], counted["count"], strict=True):
            totals[score] = totals.get(score, 0) + count
    left = floor(rate * sum(totals.values()) + 1e-9)  # 0.3 of 10 are 3 in floating point too
    cut = max(totals, default=0) + 1
    for score in sorted(totals, reverse=True):
        cut = score
        if totals[score] > left:
            break
        left -= totals[score]
        cut = score - 1  # all of this score are kept
    names = sorted(cases)
    there = [_count_at(cases[name], cut) for name in names]
    if left <= 0 or sum(there) == 0:
        return cut, dict.fromkeys(names, 0)
    drawn = _draw_quotas(there, min(left, sum(there)), seed)
    return cut, dict(zip(names, drawn, strict=True))


def _count_at(counted: Counted, code: int) -> int:
    """How many samples of a case have a code."""
    of_codes = dict(zip(counted["score"], counted["count"], strict=True))
    return of_codes.get(code, 0)


def _draw_quotas(there: Sequence[int], wanted: int, seed: int) -> list[int]:
    """How many of equal samples each case keeps, as if so many were drawn from all without replacement."""
    if sum(there) < LARGEST_DRAW:
        drawn = np.random.default_rng(seed).multivariate_hypergeometric(there, wanted, method="marginals")
        return [int(count) for count in drawn]
    # of so many the draw hardly differs from what is expected of each case
    ends = [total * wanted // sum(there) for total in accumulate(there)]
    return [end - begin for begin, end in pairwise([0, *ends])]


def decide_class(cases: Mapping[str, Counted], rate: float, seed: int) -> dict[str, Any]:
    """What is kept of a class, in plain numbers.

    Args:
        cases: name -> scores of the class; none: nothing of it is kept.
        rate: share to keep.
        seed: decides which of equally confident samples are kept.

    Returns:
        The `rate`; `cut` and `quotas` as of `choose_share`; and the `share` of the samples with that code that all
        cases keep together.
    """
    cut, quotas = choose_share(cases, rate, seed)
    has_samples = any(counted["score"] for counted in cases.values())
    there = sum(_count_at(counted, cut) for counted in cases.values())
    share = sum(quotas.values()) / there if there else 0.0
    if not has_samples or rate <= 0:
        cut = NOTHING
    return {"rate": rate, "cut": cut, "quotas": quotas, "share": share}


def keep_share(codes: np.ndarray, decided: Mapping[str, Any], *, seed: int, name: str) -> np.ndarray:
    """Which samples of a case are kept: all above the cut, and so many of those at it.

    Args:
        codes: `(n,)` of the samples of one class.
        decided: of the class, as `decide_class` gives it; where its quotas are None, the case keeps the share of the
            samples at the cut, rounded up or down at random.
        seed: of the draw among them.
        name: of the case, so that cases draw differently.

    Returns:
        `(n,)` bool.
    """
    kept = codes > decided["cut"]
    at_cut = np.flatnonzero(codes == decided["cut"])
    if decided["quotas"] is None:
        quota = floor(decided["share"] * len(at_cut) + _generator(f"{seed}:{name}:quota").random())
    else:
        quota = decided["quotas"].get(name, 0)
    if quota > 0:
        kept[_generator(f"{seed}:{name}").permutation(at_cut)[:quota]] = True
    return kept


def _generator(text: str) -> np.random.Generator:
    """Draws of its own for each text."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]))
