"""What is odd about a rater, in plain words: the first thing to know about a panel.

Everything here is read from the votes alone, by comparing raters with one another. So each sentence says whom a rater
differs from, and none says who is right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, product
from typing import Any

import numpy as np

from medseg.consensus.statistics.exchanged_values import MOST, Exchange, find_exchanges
from medseg.consensus.statistics.never_drawn import find_empty, find_not_looked_for
from medseg.consensus.statistics.odd_structures import (
    LOWER,
    comparable_classes,
    find_differences,
    in_words,
    is_much_lower,
)
from medseg.consensus.statistics.oddity import KINDS, Oddity
from medseg.consensus.statistics.panel import Panel, join_names
from medseg.consensus.statistics.turned_annotations import AXES, dice_exchanged, find_turn, median_dice
from medseg.consensus.study import Study

ALIKE = 0.05
"""Difference of Dice below which two explanations of an annotation are as good as one another."""


def find_oddities(study: Study, axes: Sequence[str] = AXES, panel: Panel | None = None) -> list[dict[str, Any]]:
    """All that is odd about the raters of a study, JSON-ready entries of `Oddity`; [] if nothing is.

    Args:
        study: of the raters.
        axes: what is exchanged where an annotation is mirrored along each axis of the grid.
        panel: of the study, where it is known already.

    Examples:
        The third rater has liver and spleen the other way round.

        >>> import numpy as np
        >>> from medseg.consensus.statistics.odd_raters import find_oddities
        >>> from medseg.consensus.study import Rater, Study
        >>> drawn = np.uint8([[[0, 1, 1, 1, 0, 2, 2, 0]]])
        >>> other = np.uint8([[[0, 1, 1, 0, 0, 2, 2, 2]]])
        >>> exchanged = np.uint8([[[0, 2, 2, 2, 0, 1, 1, 0]]])
        >>> raters = (Rater("a", drawn), Rater("b", other), Rater("c", exchanged))
        >>> found = find_oddities(Study(raters, ("background", "liver", "spleen"), (1.0, 1.0, 1.0)))
        >>> found[0]["text"]
        'c: liver and spleen look exchanged; with a and b the mean Dice is 0.00 as given and 0.90 exchanged.'
    """
    if len(study.raters) < 2:
        return []
    panel = panel or Panel.of(study)
    same = _same_structures(panel)
    found = [*_identical(panel), *find_empty(panel), *find_not_looked_for(panel), *same]
    odd = dict(_odd_ones(panel))
    turns, exchanges = _turned(study, panel, odd, find_exchanges(panel), axes)
    found += turns.values()
    for r in range(len(panel.names)):
        if r in turns:
            continue
        exchanged = [exchange for exchange in exchanges if exchange.concerns(r)]
        # two names of one structure say enough of two raters
        is_explained = bool(exchanged) or (bool(same) and len(panel.names) == 2)
        others = [] if is_explained else odd.get(r, [])
        found += _what_is_odd(study, panel, r, others, exchanged)
    found += [_as_oddity(panel, exchange) for exchange in exchanges]
    found.sort(key=lambda oddity: KINDS.index(oddity.kind))
    return [oddity.as_json() for oddity in found]


def _as_oddity(panel: Panel, exchange: Exchange) -> Oddity:
    names = tuple(panel.names[r] for r in (*exchange.raters, *exchange.others))
    titles = tuple(panel.classes[c] for c in exchange.classes)
    return Oddity("exchanged", names, titles, exchange.text)


def _identical(panel: Panel) -> list[Oddity]:
    """Raters whose annotations are one file several times."""
    found = []
    for r in np.flatnonzero(panel.drew().any(axis=1)):
        alike = np.flatnonzero(panel.identical[r])
        if alike[0] == r and alike.size > 1:
            names = tuple(panel.names[s] for s in alike)
            times = "twice" if len(names) == 2 else f"{len(names)} times"
            text = f"{join_names(names)} are alike in every voxel: is it one annotation given {times}?"
            found.append(Oddity("identical", names, (), text))
    return found


def _same_structures(panel: Panel) -> list[Oddity]:
    """Two names that coincide in space and that nobody used both of."""
    sizes, found = panel.sizes(), []
    for a, b in combinations(range(1, len(panel.classes)), 2):
        drew_first, drew_second = np.flatnonzero(sizes[:, a]).tolist(), np.flatnonzero(sizes[:, b]).tolist()
        if not drew_first or not drew_second or set(drew_first) & set(drew_second):
            continue
        dice = np.median([panel.dice(r, s)[a, b] for r, s in product(drew_first, drew_second)])
        if dice <= MOST:
            continue
        first, second = panel.classes[a], panel.classes[b]
        users = tuple(panel.names[r] for r in sorted([*drew_first, *drew_second]))
        text = (
            f"{first} and {second} coincide (Dice {dice:.2f}) and nobody drew both: are they two names of one "
            "structure? Then give both the same name or value."
        )
        found.append(Oddity("same structure", users, (first, second), text))
    return found


def _odd_ones(panel: Panel) -> list[tuple[int, list[int]]]:
    """Raters whose median Dice with the others is much lower than that among the others, and the numbers of these.

    Of two raters the first stands for both, where they hardly overlap.
    """
    raters, dice = len(panel.names), panel.mean_dice()
    drew = np.asarray(panel.drew().any(axis=1))
    if raters == 2:
        return [(0, [1])] if dice[0, 1] < LOWER else []
    found = []
    for r in range(raters):
        others = [s for s in range(raters) if s != r]
        own, among = dice[r, others], _of_pairs(dice, others)
        if not drew[r] or not np.isfinite(own).any() or not np.isfinite(among).any():
            continue
        if is_much_lower(float(np.nanmedian(own)), float(np.nanmedian(among))):
            found.append((r, others))
    return found


def _of_pairs(dice: np.ndarray, raters: Sequence[int]) -> np.ndarray:
    """Of the symmetric `(R, R)` the values of each two of some raters, once."""
    chosen = dice[np.ix_(raters, raters)]
    return chosen[np.triu_indices(len(raters), 1)]


def _turned(
    study: Study, panel: Panel, odd: Mapping[int, Sequence[int]], exchanges: list[Exchange], axes: Sequence[str]
) -> tuple[dict[int, Oddity], list[Exchange]]:
    """Raters who look inverted or mirrored, and the exchanges of values that this does not explain.

    Left and right kidney change places too where a whole annotation is mirrored.

    Args:
        study: of the raters.
        panel: the same.
        odd: rater who agrees little with the others -> these.
        exchanges: of values.
        axes: see `find_oddities`.
    """
    found = {}
    for r, others in odd.items():
        given = median_dice(study.raters[r].labels, study, r)
        turn = find_turn(study, r, given, axes)
        if turn is None:
            continue
        own = [exchange for exchange in exchanges if exchange.concerns(r)]
        after = dice_exchanged(study, r, own) if own else 0.0
        if after > turn.dice + ALIKE:
            continue  # exchanged values explain it better
        names, who, against = _with_whom(panel, r, others)
        text = f"{who} looks {turn.words}: {against}."
        if own and turn.dice <= after + ALIKE:
            exchanged = join_names([exchange.what for exchange in own])
            numbers = f"{turn.dice:.2f} {turn.kind}, {after:.2f} with the values exchanged"
            text = f"{who} looks {turn.words}, or {exchanged}: {against}; {numbers}."
        found[r] = Oddity(turn.kind, names, (), text)
        exchanges = [exchange for exchange in exchanges if exchange not in own]
    return found, exchanges


def _what_is_odd(
    study: Study, panel: Panel, r: int, others: Sequence[int], exchanged: Sequence[Exchange]
) -> list[Oddity]:
    """Why a rater agrees so little, with another list of classes or in which structures, or about which he differs.

    Args:
        study: of the raters.
        panel: the same.
        r: number of the rater.
        others: numbers of the others with whom he agrees little as a whole; none where he agrees, or exchanged values
            explain it; of a single one nobody can tell which of the two it is.
        exchanged: of this rater, whose classes are explained.
    """
    drew = panel.drew()
    if others and not (drew[r] & drew[others].any(axis=0)).any():
        return [_nothing_in_common(panel, r, others)]
    explained = {c for exchange in exchanged for c in exchange.classes}
    compared = [c for c in comparable_classes(panel, r) if c not in explained]
    differences = find_differences(study, panel, r, compared, even_small=bool(others))
    kinds = [difference.kind for difference in differences]
    is_all_elsewhere = kinds.count("elsewhere") == len(compared)
    if not others or (differences and not is_all_elsewhere):
        return in_words(panel, r, differences, compared)
    names, who, against = _with_whom(panel, r, others)
    if len(others) == 1:
        return [Oddity("elsewhere", names, (), f"{join_names(names)} hardly overlap: {against}.")]
    return [Oddity("elsewhere", names, (), f"{who} drew something else than the others, or elsewhere: {against}.")]


def _with_whom(panel: Panel, r: int, others: Sequence[int]) -> tuple[tuple[str, ...], str, str]:
    """Names of whom a sentence is about, its subject, and how little they agree."""
    dice, name = panel.mean_dice(), panel.names[r]
    mine = float(np.nanmedian(dice[r, others]))
    if len(others) == 1:
        names = (name, panel.names[others[0]])
        return names, f"One of {join_names(names)}", f"the mean Dice of the two is {mine:.2f}"
    theirs = float(np.nanmedian(_of_pairs(dice, others)))
    against = f"the mean Dice with the others is {mine:.2f}, while they have {theirs:.2f} with one another"
    return (name,), name, against


def _nothing_in_common(panel: Panel, r: int, others: Sequence[int]) -> Oddity:
    """A rater none of whose classes anybody else drew."""
    name, own = panel.names[r], _titles_of(panel, r)
    if len(others) > 1:
        text = f"{name} drew {join_names(own)}, and nobody else did: are these other names?"
        return Oddity("nothing in common", (name,), own, text)
    other = panel.names[others[0]]
    theirs = _titles_of(panel, others[0])
    text = f"{name} drew {join_names(own)}, {other} {join_names(theirs)}, and neither what the other did: other names?"
    return Oddity("nothing in common", (name, other), own + theirs, text)


def _titles_of(panel: Panel, r: int) -> tuple[str, ...]:
    """Names of the structures that a rater drew."""
    return tuple(panel.classes[c] for c in np.flatnonzero(panel.drew()[r]) + 1)
