"""Raters whose values mean other structures than the others' do: exchanged, moved on by one, or in another order."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
from scipy.optimize import linear_sum_assignment

from medseg.consensus.statistics.panel import Panel, join_names

MOST = 0.5
"""Dice from which two structures are the same one."""
CLEARLY = 0.3
"""How much higher a Dice must become for values to look exchanged."""
MOST_CLAUSES = 4
"""More classes that mean others are not all listed."""


@dataclass(frozen=True)
class Exchange:
    """Values that mean other structures.

    Args:
        raters: the number of the rater who stands against more than half of the others; where nobody can tell who is
            right, of all on one side.
        others: those on the other side where nobody can tell, else none.
        meaning: class of `raters` -> class that the others call so.
        what: in words, a clause.
        text: a sentence.
    """

    raters: tuple[int, ...]
    others: tuple[int, ...]
    meaning: dict[int, int]
    what: str
    text: str

    @property
    def classes(self) -> tuple[int, ...]:
        """All that take part."""
        return _classes_of(self.meaning)

    def concerns(self, r: int) -> bool:
        """Whether rater r stands on either side."""
        return r in self.raters or r in self.others


@dataclass(frozen=True)
class _Fit:
    """Classes of a rater that fit other classes of another rater better, and the mean Dice of both readings."""

    meaning: dict[int, int]
    given: float
    exchanged: float

    @property
    def classes(self) -> tuple[int, ...]:
        return _classes_of(self.meaning)


Fits = dict[tuple[int, int], _Fit]
"""Two raters -> how the first one's classes fit the second's better."""


def _classes_of(meaning: Mapping[int, int]) -> tuple[int, ...]:
    """All classes on either side, rising."""
    return tuple(sorted({*meaning, *meaning.values()}))


def find_exchanges(panel: Panel) -> list[Exchange]:
    """All exchanges of a panel, by the best permutation of each rater's classes against each other rater's."""
    raters = len(panel.names)
    fits: dict[tuple[int, ...], Fits] = defaultdict(dict)
    for r, s in permutations(range(raters), 2):
        for fit in _fits(panel, r, s):
            fits[fit.classes][r, s] = fit
    found: list[Exchange] = []
    for classes in sorted(fits):
        found += _name_raters(panel, classes, fits[classes])
    return found


def _fits(panel: Panel, r: int, s: int) -> list[_Fit]:
    """What of rater r fits rater s better under another meaning; classes that pass on to one another are one entry."""
    dice = panel.dice(r, s)
    own, others = linear_sum_assignment(dice[1:, 1:], maximize=True)
    moved = {}
    for a, b in zip((own + 1).tolist(), (others + 1).tolist(), strict=True):
        if dice[a, b] > dice[a, a] and not _are_names_of_one(panel, a, b):
            moved[a] = b
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


def _name_raters(panel: Panel, classes: tuple[int, ...], fits: Fits) -> list[Exchange]:
    """The raters who stand against more than half of those they can be compared with; else side against side."""
    drew = np.flatnonzero(panel.sizes()[:, list(classes)].any(axis=1)).tolist()
    sides = _two_sides(drew, fits)
    if sides is not None:
        return [_exchange(panel, *sides, fits)]
    against: dict[int, list[int]] = defaultdict(list)
    for r, s in sorted(fits):
        against[r].append(s)
    half = (len(drew) - 1) / 2
    blamed = [r for r in sorted(against) if len(against[r]) > half]
    if len(panel.names) > 2 and blamed:
        return [_exchange(panel, [r], against[r], fits) for r in blamed]
    # each pair once, by its first rater where both say so
    pairs = [(r, s) for r, s in fits if r < s or (s, r) not in fits]
    return [_exchange(panel, [r], [s], fits) for r, s in pairs]


def _two_sides(drew: list[int], fits: Fits) -> tuple[list[int], list[int]] | None:
    """The two halves of a panel of which each has the values the other way round than the other; None: there are none.

    Args:
        drew: raters who have any of the classes.
        fits: of pairs of raters who differ.
    """
    first = [r for r in drew if (drew[0], r) not in fits]
    second = [r for r in drew if (drew[0], r) in fits]
    if len(first) != len(second):
        return None
    within = [*permutations(first, 2), *permutations(second, 2)]
    is_split = all(pair in fits for pair in product(first, second))
    agree_within = not any(pair in fits for pair in within)
    return (first, second) if is_split and agree_within else None


def _exchange(panel: Panel, raters: list[int], against: list[int], fits: Fits) -> Exchange:
    """The sentence on one rater, or on the two sides of a panel in halves."""
    chosen = [fits[pair] for pair in product(raters, against)]
    meaning = _most_frequent(chosen)
    given = np.mean([fit.given for fit in chosen])
    exchanged = np.mean([fit.exchanged for fit in chosen])
    dice = f"the mean Dice is {given:.2f} as given and {exchanged:.2f} exchanged"
    names = join_names([panel.names[r] for r in raters])
    others = join_names([panel.names[s] for s in against])
    what = _in_words(panel, meaning, others)
    if len(raters) != len(against):
        text = f"{names}: {what}; with {others} {dice}."
        return Exchange(tuple(raters), (), meaning, what, text)
    swapped = _swapped(panel, meaning)
    if len(raters) == 1:
        text = f"Either {names} or {others}: {what}; {dice}."
    elif swapped:
        text = f"{names} against {others}: {swapped} are the other way round; {dice}."
    else:
        text = f"{names} against {others}: {what}; {dice}."
    return Exchange(tuple(raters), tuple(against), meaning, what, text)


def _most_frequent(fits: Iterable[_Fit]) -> dict[int, int]:
    """What each class means to most pairs of raters."""
    votes: dict[int, Counter[int]] = defaultdict(Counter)
    for fit in fits:
        for a, b in fit.meaning.items():
            votes[a][b] += 1
    meaning = {}
    for a, counted in sorted(votes.items()):
        (most, _), *_ = counted.most_common(1)
        meaning[a] = most
    return meaning


def _swapped(panel: Panel, meaning: dict[int, int]) -> str | None:
    """Names of two classes that changed places; None: it is something else."""
    classes = _classes_of(meaning)
    if len(classes) == 2 and len(meaning) == 2:
        return join_names([panel.classes[c] for c in classes])
    return None


def _in_words(panel: Panel, meaning: dict[int, int], others: str) -> str:
    """Two values that changed places, all that moved on by one, or who calls what how."""
    swapped = _swapped(panel, meaning)
    if swapped:
        return f"{swapped} look exchanged"
    parts = [f"{panel.classes[a]} looks like {panel.classes[b]}" for a, b in meaning.items()]
    if len(parts) > MOST_CLAUSES and _moved_on(meaning):
        moved = _classes_of(meaning)
        first, last = panel.classes[moved[0]], panel.classes[moved[-1]]
        is_all = len(moved) == len(panel.classes) - 1
        which = "all values" if is_all else f"the values of {first} to {last}"
        return f"{which} are moved on by one ({parts[0]}, and so on)"
    if len(parts) > MOST_CLAUSES:
        left = len(parts) - MOST_CLAUSES
        parts = [*parts[:MOST_CLAUSES], f"{left} more are exchanged"]
    return f"the values mean other structures than with {others}: {join_names(parts)}"


def _moved_on(meaning: dict[int, int]) -> bool:
    """Whether each class means the next, or each the one before it; at the end it may begin anew."""
    classes = _classes_of(meaning)
    span = classes[-1] - classes[0] + 1
    steps = {(b - a) % span for a, b in meaning.items()}
    return steps in ({1}, {span - 1})
