"""Groups of images with the same tags: each case in turn, with others that show the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medseg.data import sampling
from medseg.data.cached_volume import CachedVolume
from medseg.errors import DataError

PRESENT = 1


class SameTagsOrder:
    """From which case each sample is taken where each case in turn has a group of cases with the same tags.

    The first sample of a group is of the case whose turn it is; each case has one group in a round, in a new order
    every round. The others are drawn anew for each group, and are different cases: of those with the very same tags
    and, where they are too few, of those that share its rarest tag, then of those that share any, then of all.

    Args:
        cases: of the stream.
        classes: number of classes with background.
        group_size: samples of a group.

    Raises:
        DataError: fewer cases than a group has.
    """

    def __init__(self, cases: Sequence[CachedVolume], classes: int, group_size: int) -> None:
        if len(cases) < group_size:
            raise DataError(f"groups of {group_size} different cases are asked for, there are {len(cases)} cases")
        self._group_size, self._count = group_size, len(cases)
        tags = np.stack([case.tags(classes) for case in cases])
        self._tags_of_case = [row.tobytes() for row in tags]
        self._choices = {row.tobytes(): ranked_partners(tags, row) for row in tags}

    def case(self, seed: int, stream: str, number: int) -> int:
        """Index of the case of sample `number`."""
        group, place = divmod(number, self._group_size)
        first = sampling.case_of(seed, f"{stream}/first", group, self._count)
        if place == 0:
            return first
        return self._partners(seed, stream, group, first)[place - 1]

    def _partners(self, seed: int, stream: str, group: int, first: int) -> list[int]:
        """The other cases of a group."""
        rng = sampling.generator(seed, f"{stream}/partners", group)
        found: list[int] = []
        for choice in self._choices[self._tags_of_case[first]]:
            others = choice[choice != first]
            missing = self._group_size - 1 - len(found)
            found += rng.permutation(others)[:missing].tolist()
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
