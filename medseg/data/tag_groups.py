"""Groups of images with the same tags: each case in turn, with others that show the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medseg.config.pipeline import DataSpec
from medseg.data import sampling
from medseg.data.cached_volume import CachedVolume
from medseg.errors import DataError
from medseg.method import Stream

ABSENT, PRESENT = 0, 1

NEIGHBORS = (-6, -5, -4, -3, -2, 2, 3, 4, 5, 6)
"""Slices between an image and its neighbour in a volume: nearer ones would be copies."""


@dataclass(frozen=True)
class Partners:
    """Whom a case may share a group with, by its tags.

    Attributes:
        ranks: indices of all cases in four ranks, see `ranked_partners`.
        lacking: `(cases,)` bool, the cases that are known to show none of its classes, see `cases_without`.
    """

    ranks: Sequence[np.ndarray]
    lacking: np.ndarray


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
        self._partners = partners_of_cases(np.stack([case.tags(classes) for case in cases]))
        self._subjects = [case.subject or f"case {number}" for number, case in enumerate(cases)]
        self._has_slices = [across is not None and case.shape[across] > NEIGHBORS[-1] for case in cases]

    def case(self, seed: int, stream: str, number: int) -> int:
        """Index of the case of sample `number`."""
        group, place = divmod(number, self._stream.group_size)
        first = self._first(seed, stream, group)
        return first if place == 0 else self._others(seed, stream, group)[place - 1]

    def slices_beside(self, seed: int, stream: str, number: int) -> int | None:
        """How many slices from the sample before this one lies in the same volume; None: it lies anywhere."""
        group, place = divmod(number, self._stream.group_size)
        if place != 1:
            return None
        if self._others(seed, stream, group)[0] != self._first(seed, stream, group):
            return None
        return int(sampling.generator(seed, f"{stream}/neighbors", group).choice(NEIGHBORS))

    def _first(self, seed: int, stream: str, group: int) -> int:
        """The case whose turn it is."""
        return sampling.case_of(seed, f"{stream}/first", group, self._count)

    def _others(self, seed: int, stream: str, group: int) -> list[int]:
        """The other cases of a group; the first of them may be the case itself, for another of its slices."""
        first = self._first(seed, stream, group)
        candidates = self._candidates(sampling.generator(seed, f"{stream}/partners", group), first)
        wanted = self._stream.group_size - 1
        second: list[int] = []
        last: list[int] = []
        if self._stream.neighbor and wanted:
            second = self._neighbor(candidates, first)
        if self._stream.contrast and wanted > len(second):
            last = self._contrast([case for case in candidates if case not in second], first)
        between = [case for case in candidates if case not in (*second, *last)]
        return [*second, *between[: wanted - len(second) - len(last)], *last]

    def _candidates(self, rng: np.random.Generator, first: int) -> list[int]:
        """All other cases in a random order, those first that share most with one."""
        order: list[int] = []
        for rank in self._partners[first].ranks:
            order += rng.permutation(rank[rank != first]).tolist()
        return order

    def _neighbor(self, candidates: Sequence[int], first: int) -> list[int]:
        """A case of the same subject, else, for another slice of it, the very case; none where there is neither."""
        for case in candidates:
            if self._subjects[case] == self._subjects[first]:
                return [case]
        return [first] if self._has_slices[first] else []

    def _contrast(self, candidates: Sequence[int], first: int) -> list[int]:
        """A case that shows none of the classes of one, of the lowest rank; none where there is no such case."""
        for case in reversed(candidates):
            if self._partners[first].lacking[case]:
                return [case]
        return []


def order_of(
    cases: Sequence[CachedVolume], stream: Stream, spec: DataSpec
) -> sampling.CaseOrder | sampling.TagOrder | SameTagsOrder:
    """From which case each sample of a stream is taken.

    Args:
        cases: of the stream.
        stream: what it declares.
        spec: how cases are sampled, and the axis across which a planar view cuts.
    """
    if stream.group == "tags":
        return sampling.TagOrder(cases, spec.classes, stream.group_size)
    if stream.group == "same_tags":
        return SameTagsOrder(cases, spec.classes, stream, spec.slice_axis)
    has_labels = "label" in stream.keys
    if spec.sampling == "classes" and has_labels:
        return sampling.TagOrder(cases, spec.classes, 1)
    # who made a label matters only where it is learnt from
    is_union = spec.sampling == "half" and not has_labels
    return sampling.CaseOrder(cases, "union" if is_union else spec.sampling, spec.slice_axis)


def partners_of_cases(tags: np.ndarray) -> list[Partners]:
    """Whom each case may share a group with; cases of the same tags have the same one.

    Args:
        tags: of all cases `(cases, structures)`: 1 present, 0 absent, 255 not known.
    """
    of_tags: dict[bytes, Partners] = {}
    found = []
    for row in tags:
        key = row.tobytes()
        if key not in of_tags:
            of_tags[key] = Partners(ranked_partners(tags, row), cases_without(tags, row))
        found.append(of_tags[key])
    return found


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
    with_the_same = (tags == of_first).all(1)
    with_the_rarest = np.zeros(len(tags), dtype=bool)
    if own.any():
        cases_of_tag = np.where(own, present.sum(0), len(tags) + 1)  # more than any, where the tag is not of the first
        with_the_rarest = present[:, int(cases_of_tag.argmin())]
    with_any = present[:, own].any(1)
    all_cases = np.ones(len(tags), dtype=bool)

    ranks = []
    ranked = np.zeros(len(tags), dtype=bool)
    for rank in (with_the_same, with_the_rarest, with_any, all_cases):
        ranks.append(np.flatnonzero(rank & ~ranked))
        ranked = ranked | rank
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
