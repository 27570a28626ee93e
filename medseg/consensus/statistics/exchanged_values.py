"""Raters whose values mean other structures than the others' do: exchanged, moved on by one, or in another order."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from medseg.consensus.statistics.panel import Panel, join_names

MOST = 0.5
"""Dice from which two structures are the same one."""
CLEARLY = 0.3
"""How much higher a Dice must become for values to look exchanged."""


@dataclass(frozen=True)
class Exchange:
    """Values that mean other structures.

    Args:
        raters: the numbers of the raters who stand against more than half of the others, one at a time; two where
            nobody can tell which of both it is.
        meaning: class of the first rater -> class that the others call so.
        classes: all classes that take part.
        text: a sentence.
    """

    raters: tuple[int, ...]
    meaning: dict[int, int]
    classes: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class _Fit:
    """Classes of a rater that fit other classes of another rater better, and the mean Dice of both readings."""

    meaning: dict[int, int]
    given: float
    exchanged: float

    @property
    def classes(self) -> tuple[int, ...]:
        return tuple(sorted({*self.meaning, *self.meaning.values()}))


def find_exchanges(panel: Panel) -> list[Exchange]:
    """All exchanges of a panel, by the best permutation of each rater's classes against each other rater's."""
    raters = len(panel.names)
    fits: dict[tuple[int, ...], dict[tuple[int, int], _Fit]] = defaultdict(dict)
    for r in range(raters):
        for s in range(raters):
            if r != s:
                for fit in _fits(panel, r, s):
                    fits[fit.classes][r, s] = fit
    found: list[Exchange] = []
    for classes in sorted(fits):
        found += _name_raters(panel, classes, fits[classes])
    return found


def _fits(panel: Panel, r: int, s: int) -> list[_Fit]:
    """What of rater r fits rater s better under another meaning; classes that pass on to one another are one entry."""
    dice = panel.dice(r, s)
    own, others = np.arange(1, len(dice)), np.arange(1, len(dice))
    chosen = linear_sum_assignment(dice[1:, 1:], maximize=True)
    moved = {}
    for a, b in zip(own[chosen[0]], others[chosen[1]], strict=True):
        if dice[a, b] > dice[a, a] and not _are_names_of_one(panel, int(a), int(b)):
            moved[int(a)] = int(b)
    found = []
    for group in _connected(moved.items()):
        given = float(np.mean([dice[a, a] for a in group]))
        exchanged = float(np.mean([dice[a, b] for a, b in group.items()]))
        if exchanged > MOST and exchanged > given + CLEARLY:
            found.append(_Fit(group, given, exchanged))
    return found


def _are_names_of_one(panel: Panel, a: int, b: int) -> bool:
    """Whether nobody drew both classes: then they are two names of one structure, and nothing is exchanged."""
    sizes = panel.sizes()
    return not ((sizes[:, a] > 0) & (sizes[:, b] > 0)).any()


def _connected(pairs: Iterable[tuple[int, int]]) -> list[dict[int, int]]:
    """Pairs that share a class, together."""
    groups: list[dict[int, int]] = []
    for a, b in pairs:
        touching = [group for group in groups if {a, b} & {*group, *group.values()}]
        joined = {a: b}
        for group in touching:
            joined |= group
            groups.remove(group)
        groups.append(dict(sorted(joined.items())))
    return groups


def _name_raters(panel: Panel, classes: tuple[int, ...], fits: dict[tuple[int, int], _Fit]) -> list[Exchange]:
    """The raters who stand against more than half of those they can be compared with; else each pair that differs."""
    raters = len(panel.names)
    drew = panel.sizes()[:, list(classes)].any(axis=1)
    comparable = np.count_nonzero(drew) - 1
    against = {r: [s for s in range(raters) if (r, s) in fits] for r in range(raters)}
    blamed = [r for r in range(raters) if len(against[r]) > comparable / 2]
    if raters > 2 and blamed:
        return [_exchange(panel, (r,), against[r], fits) for r in blamed]
    return [_exchange(panel, (r, s), [s], fits) for r, s in fits if r < s or (s, r) not in fits]


def _exchange(panel: Panel, raters: tuple[int, ...], against: list[int], fits: dict[tuple[int, int], _Fit]) -> Exchange:
    r = raters[0]
    chosen = [fits[r, s] for s in against]
    votes: dict[int, Counter[int]] = defaultdict(Counter)
    for fit in chosen:
        for a, b in fit.meaning.items():
            votes[a][b] += 1
    meaning = {a: counted.most_common(1)[0][0] for a, counted in sorted(votes.items())}
    given, exchanged = np.mean([fit.given for fit in chosen]), np.mean([fit.exchanged for fit in chosen])
    others = join_names([panel.names[s] for s in against])
    dice = f"the mean Dice is {given:.2f} as given and {exchanged:.2f} exchanged"
    what = _in_words(panel, meaning, others)
    if len(raters) == 2:
        text = f"Either {panel.names[r]} or {others}: {what}; {dice}."
    else:
        text = f"{panel.names[r]}: {what}; with {others} {dice}."
    classes = tuple(sorted({*meaning, *meaning.values()}))
    return Exchange(raters, meaning, classes, text)


def _in_words(panel: Panel, meaning: dict[int, int], others: str) -> str:
    """Two values that changed places, or who calls what how."""
    titles = panel.classes
    classes = sorted({*meaning, *meaning.values()})
    if len(classes) == 2 and len(meaning) == 2:
        return f"{titles[classes[0]]} and {titles[classes[1]]} look exchanged"
    parts = [f"{titles[a]} looks like {titles[b]}" for a, b in meaning.items()]
    return f"the values mean other structures than with {others}: {join_names(parts)}"
