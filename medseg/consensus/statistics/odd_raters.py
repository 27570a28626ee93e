"""What is odd about a rater, in plain words: the first thing to know about a panel.

Everything here is read from the votes alone, by comparing raters with one another. So each sentence says whom a rater
differs from, and none says who is right.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from medseg.consensus.statistics.exchanged_values import MOST, find_exchanges
from medseg.consensus.statistics.panel import Panel, join_names
from medseg.consensus.statistics.turned_annotations import AXES, dice_exchanged, find_turn
from medseg.consensus.study import Study

MUCH_LOWER = 0.7
"""A rater is odd whose median Dice with the others is below this share of the others' own, and `LOWER` below it."""
LOWER = 0.2


@dataclass(frozen=True)
class Oddity:
    """One sentence about raters.

    Args:
        kind: "identical", "inverted", "mirrored", "exchanged", "same structure", "nothing in common",
            "not looked for" or "elsewhere".
        raters: names of those it is about.
        classes: names of the structures it is about.
        text: the sentence.
    """

    kind: str
    raters: tuple[str, ...]
    classes: tuple[str, ...]
    text: str


def find_oddities(study: Study, axes: Sequence[str] = AXES) -> list[dict[str, Any]]:
    """All that is odd about the raters of a study, JSON-ready entries of `Oddity`; [] if nothing is.

    Args:
        study: of the raters.
        axes: what is exchanged where an annotation is mirrored along each axis of the grid.

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
    panel = Panel.of(study)
    same = _same_structures(panel)
    found = [*_identical(panel), *_not_looked_for(panel), *same]
    exchanges = find_exchanges(panel)
    for r, others in _odd_ones(panel):
        own = [exchange for exchange in exchanges if r in exchange.raters]
        if own:
            # left and right kidney change places too where the whole annotation is mirrored
            if find_turn(study, r, dice_exchanged(study, r, own), axes) is None:
                continue
            exchanges = [exchange for exchange in exchanges if exchange not in own]
        elif same and len(others) == 1:
            continue  # two names of one structure say enough of two raters
        found.append(_what_is_odd(study, panel, r, others, axes))
    for exchange in exchanges:
        names = tuple(panel.names[r] for r in exchange.raters)
        titles = tuple(panel.classes[c] for c in exchange.classes)
        found.append(Oddity("exchanged", names, titles, exchange.text))
    found.sort(key=lambda oddity: _ORDER.index(oddity.kind))
    return [{**asdict(oddity), "raters": list(oddity.raters), "classes": list(oddity.classes)} for oddity in found]


_ORDER = (
    "exchanged", "inverted", "mirrored", "nothing in common", "elsewhere", "not looked for", "same structure",
    "identical",
)  # fmt: skip


def _identical(panel: Panel) -> list[Oddity]:
    """Raters whose annotations are one file several times."""
    drew, found = panel.sizes()[:, 1:].any(axis=1), []
    for r in np.flatnonzero(drew):
        alike = np.flatnonzero(panel.identical[r])
        if alike[0] == r and alike.size > 1:
            names = tuple(panel.names[s] for s in alike)
            times = "twice" if len(names) == 2 else f"{len(names)} times"
            text = f"{join_names(names)} are alike in every voxel: is it one annotation given {times}?"
            found.append(Oddity("identical", names, (), text))
    return found


def classes_not_looked_for(study: Study) -> list[tuple[str, str]]:
    """Names of rater and class where it seems that the rater did not look for the class."""
    found = []
    for oddity in _not_looked_for(Panel.of(study)):
        found += [(oddity.raters[0], name) for name in oddity.classes]
    return found


def _not_looked_for(panel: Panel) -> list[Oddity]:
    """Classes that a rater never drew although two others did, in most of their extent annotated by this rater."""
    sizes, found = panel.sizes(), []
    for r, name in enumerate(panel.names):
        if not sizes[r, 1:].any():
            continue  # an empty annotation has its own warning
        drawn_by: dict[str, list[str]] = {}
        for c in np.flatnonzero(sizes[r] == 0):
            # background by this rater, or not annotated
            left_empty = panel.overlap[r, :, 0, c] > MOST * sizes[:, c]
            others = np.flatnonzero((sizes[:, c] > 0) & left_empty)
            if c and others.size >= 2:
                drawn_by[panel.classes[c]] = [panel.names[s] for s in others]
        if drawn_by:
            found.append(_names_not_looked_for(name, drawn_by))
    return found


def _names_not_looked_for(name: str, drawn_by: dict[str, list[str]]) -> Oddity:
    """The sentence on the structures, each with who drew it, that one rater never drew."""
    titles = tuple(drawn_by)
    # to be copied into a shell
    asked = " ".join(f"--partial-protocol {shlex.quote(f'{name}:{title}')}" for title in titles)
    one = len(titles) == 1
    others = f"{join_names(drawn_by[titles[0]])} did" if one else "two others or more did"
    no_vote = "it is no vote against it" if one else "that is no vote against them"
    text = (
        f"{name} never drew {join_names(titles)}, which {others}. Not looked for? Then give {asked} (or auto), so that "
        f"{no_vote}."
    )
    return Oddity("not looked for", (name,), titles, text)


def _same_structures(panel: Panel) -> list[Oddity]:
    """Two names that coincide in space and that nobody used both of."""
    sizes, found = panel.sizes(), []
    for a in range(1, len(panel.classes)):
        for b in range(a + 1, len(panel.classes)):
            if ((sizes[:, a] > 0) & (sizes[:, b] > 0)).any():
                continue
            scores = []
            for r in np.flatnonzero(sizes[:, a]):
                for s in np.flatnonzero(sizes[:, b]):
                    scores.append(panel.dice(int(r), int(s))[a, b])
            if scores and np.median(scores) > MOST:
                first, second = panel.classes[a], panel.classes[b]
                users = [name for r, name in enumerate(panel.names) if sizes[r, a] or sizes[r, b]]
                text = (
                    f"{first} and {second} coincide (Dice {np.median(scores):.2f}) and nobody drew both: are they two "
                    "names of one structure? Then give both the same name or value."
                )
                found.append(Oddity("same structure", tuple(users), (first, second), text))
    return found


def _odd_ones(panel: Panel) -> list[tuple[int, list[int]]]:
    """Raters whose median Dice with the others is much lower than that among the others, and the numbers of these.

    Of two raters the first stands for both, where they hardly overlap.
    """
    raters, dice, sizes = len(panel.names), panel.mean_dice(), panel.sizes()
    if raters == 2:
        return [(0, [1])] if dice[0, 1] < LOWER else []
    found = []
    for r in range(raters):
        others = [s for s in range(raters) if s != r]
        own = dice[r, others]
        among = dice[np.ix_(others, others)][np.triu_indices(len(others), 1)]
        if not sizes[r, 1:].any() or not np.isfinite(own).any() or not np.isfinite(among).any():
            continue
        mine, theirs = float(np.nanmedian(own)), float(np.nanmedian(among))
        if mine < MUCH_LOWER * theirs and mine < theirs - LOWER:
            found.append((r, others))
    return found


def _what_is_odd(study: Study, panel: Panel, r: int, others: Sequence[int], axes: Sequence[str]) -> Oddity:
    """Why a rater agrees so little: another list of classes, an inverted mask, a mirrored one, or just elsewhere.

    Args:
        study: of the raters.
        panel: the same.
        r: number of the rater.
        others: numbers of the others; of a single one nobody can tell which of the two it is.
        axes: see `find_oddities`.
    """
    alone = len(others) == 1
    names = (panel.names[r], panel.names[others[0]]) if alone else (panel.names[r],)
    who = f"One of {join_names(names)}" if alone else names[0]
    drawn = panel.sizes()[:, 1:] > 0
    if not (drawn[r] & drawn[others].any(axis=0)).any():
        return _nothing_in_common(panel, r, others)
    dice = panel.mean_dice()
    mine = float(np.nanmedian(dice[r, others]))
    against = f"the mean Dice of the two is {mine:.2f}"
    if not alone:
        theirs = float(np.nanmedian(dice[np.ix_(others, others)][np.triu_indices(len(others), 1)]))
        against = f"the mean Dice with the others is {mine:.2f}, while they have {theirs:.2f} with one another"
    turn = find_turn(study, r, mine, axes)
    if turn is not None:
        return Oddity(turn.kind, names, (), f"{who} looks {turn.words}: {against}.")
    if alone:
        return Oddity("elsewhere", names, (), f"{join_names(names)} hardly overlap: {against}.")
    return Oddity("elsewhere", names, (), f"{who} drew something else than the others, or elsewhere: {against}.")


def _nothing_in_common(panel: Panel, r: int, others: Sequence[int]) -> Oddity:
    """A rater none of whose classes anybody else drew."""
    name, drawn, titles = panel.names[r], panel.sizes()[:, 1:] > 0, np.array(panel.classes[1:])
    own = tuple(str(title) for title in titles[drawn[r]])
    if len(others) > 1:
        text = f"{name} drew {join_names(own)}, and nobody else did: are these other names?"
        return Oddity("nothing in common", (name,), own, text)
    other = panel.names[others[0]]
    theirs = tuple(str(title) for title in titles[drawn[others[0]]])
    text = f"{name} drew {join_names(own)}, {other} {join_names(theirs)}, and neither what the other did: other names?"
    return Oddity("nothing in common", (name, other), own + theirs, text)
