"""Groups of images with the same tags: each case in turn, with others that show the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medseg.data import sampling
from medseg.data.cached_volume import CachedVolume
from medseg.errors import DataError
from medseg.method import Stream

ABSENT, PRESENT = 0, 1

NEIGHBORS = (-6, -5, -4, -3, -2, 2, 3, 4, 5, 6)
"""Slices between an image and its neighbour in a volume: nearer ones would be copies."""


class SameTagsOrder:
    """From which case each sample is taken where each case in turn has a group of cases with the same tags.

    The first sample of a group is of the case whose turn it is; each case has one group in a round, in a new order
    every round. The others are drawn anew for each group, and are different cases: of those with the very same tags
    and, where they are too few, of those that share its rarest tag, then of those that share any, then of all.

    Args:
        cases: of the stream.
        classes: number of classes with background.
        stream: whose groups they are, see `medseg.method.Stream`.
        across: the axis across which a planar view cuts; None for volumes.

    Raises:
        DataError: fewer cases than a group has.
    """

    def __init__(self, cases: Sequence[CachedVolume], classes: int, stream: Stream, across: int | None = None) -> None:
        size = stream.group_size
        if len(cases) < size:
            raise DataError(f"groups of {size} different cases are asked for, there are {len(cases)} cases")
        self._stream, self._count = stream, len(cases)
        tags = np.stack([case.tags(classes) for case in cases])
        self._tags_of_case = [row.tobytes() for row in tags]
        self._ranked = {row.tobytes(): ranked_partners(tags, row) for row in tags}
        self._without = {row.tobytes(): cases_without(tags, row) for row in tags}
        self._subjects = np.array([case.subject or f"case {number}" for number, case in enumerate(cases)])
        self._has_slices = [across is not None and case.shape[across] > NEIGHBORS[-1] for case in cases]

    def case(self, seed: int, stream: str, number: int) -> int:
        """Index of the case of sample `number`."""
        group, place = divmod(number, self._stream.group_size)
        first = sampling.case_of(seed, f"{stream}/first", group, self._count)
        return [first, *self._others(seed, stream, group, first)][place]

    def slices_beside(self, seed: int, stream: str, number: int) -> int | None:
        """How many slices from the sample before this one lies in the same volume; None: it lies anywhere."""
        group, place = divmod(number, self._stream.group_size)
        first = sampling.case_of(seed, f"{stream}/first", group, self._count)
        if place != 1 or self._others(seed, stream, group, first)[0] != first:
            return None
        return int(sampling.generator(seed, f"{stream}/neighbors", group).choice(NEIGHBORS))

    def _others(self, seed: int, stream: str, group: int, first: int) -> list[int]:
        """The other cases of a group; the first of them may be the case itself, for another of its slices."""
        rng = sampling.generator(seed, f"{stream}/partners", group)
        order = self._random_order(rng, first)
        missing = self._stream.group_size - 1
        neighbor, last = [], []
        if self._stream.neighbor and missing:
            neighbor = self._neighbor(order, first)
        if self._stream.contrast and missing > len(neighbor):
            without = self._without[self._tags_of_case[first]]
            last = [case for case in order if without[case] and case not in neighbor][-1:]
        between = [case for case in order if case not in (*neighbor, *last)]
        return [*neighbor, *between[: missing - len(neighbor) - len(last)], *last]

    def _random_order(self, rng: np.random.Generator, first: int) -> list[int]:
        """All other cases, those first that share most with one."""
        order: list[int] = []
        for rank in self._ranked[self._tags_of_case[first]]:
            order += rng.permutation(rank[rank != first]).tolist()
        return order

    def _neighbor(self, order: Sequence[int], first: int) -> list[int]:
        """A case of the same subject, else, for another slice of it, the very case; none where there is neither."""
        own = self._subjects[first]
        of_subject = [case for case in order if self._subjects[case] == own]
        if of_subject:
            return of_subject[:1]
        return [first] if self._has_slices[first] else []


def ranked_partners(tags: np.ndarray, of_first: np.ndarray) -> list[np.ndarray]:
    """Cases by how much they share with tags, each case in one of the four ranks.

    Args:
        tags: of all cases `(cases, structures)`: 1 present, 0 absent, 255 not known.
        of_first: `(structures,)`, those to share.

    Returns:
        Indices of the cases with the very same tags; that share the rarest of them; that share any; of the others.
    """
    present = tags == PRESENT
    own = of_first == PRESENT
    same = (tags == of_first).all(1)
    rarest = np.zeros(len(tags), dtype=bool)
    if own.any():
        counts = np.where(own, present.sum(0), len(tags) + 1)
        rarest = present[:, int(counts.argmin())]
    shared = present[:, own].any(1)
    left = np.ones(len(tags), dtype=bool)
    ranks = []
    for rank in (same, rarest, shared, left):
        ranks.append(np.flatnonzero(rank & left))
        left = left & ~rank
    return ranks


def cases_without(tags: np.ndarray, of_first: np.ndarray) -> np.ndarray:
    """Which cases are known to lack every present tag, `(cases,)` bool; none where no tag is present."""
    own = of_first == PRESENT
    if not own.any():
        return np.zeros(len(tags), dtype=bool)
    return (tags[:, own] == ABSENT).all(1)


def slice_beside(number: int, slices: int, count: int) -> int:
    """The slice so many slices away from another, on its other side where the volume ends before."""
    return number + slices if 0 <= number + slices < count else number - slices
