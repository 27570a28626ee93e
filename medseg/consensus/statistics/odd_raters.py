"""What is odd about a rater, in plain words: the first thing to know about a panel.

Everything here is read from the votes alone, by comparing raters with one another. So each sentence says whom a rater
differs from, and none says who is right.
"""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from medseg.consensus.statistics.panel import Panel, join_names
from medseg.consensus.study import MISSING, Study

MOST = 0.5
"""Share of a structure that counts as most of it, and Dice from which two structures are the same one."""
CLEARLY = 0.3
"""How much higher a Dice must become for a rater's values to look exchanged, or an annotation mirrored."""
MUCH_LOWER = 0.7
"""A rater is odd whose median Dice with the others is below this share of the others' own, and `LOWER` below it."""
LOWER = 0.2
AXES = ("left and right", "front and back", "top and bottom")


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


def find_oddities(study: Study) -> list[dict[str, Any]]:
    """All that is odd about the raters of a study, JSON-ready entries of `Oddity`; [] if nothing is.

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
    found = [*_identical(panel), *_not_looked_for(panel), *_same_structures(panel)]
    exchanged = _exchanged(panel)
    found += exchanged
    explained = {name for oddity in exchanged for name in oddity.raters}
    for r in _odd_ones(panel):
        if panel.names[r] not in explained:
            found.append(_what_is_odd(study, panel, r))
    found.sort(key=lambda oddity: _ORDER.index(oddity.kind))
    return [{**asdict(oddity), "raters": list(oddity.raters), "classes": list(oddity.classes)} for oddity in found]


_ORDER = (
    "exchanged", "inverted", "mirrored", "nothing in common", "elsewhere", "not looked for", "same structure",
    "identical",
)  # fmt: skip


def _identical(panel: Panel) -> list[Oddity]:
    """Raters whose annotations are one file twice."""
    found = []
    for r, name in enumerate(panel.names):
        for s in range(r + 1, len(panel.names)):
            if panel.sizes()[r, 1:].any() and panel.identical[r, s]:
                other = panel.names[s]
                text = f"{name} and {other} are alike in every voxel: is it one annotation given twice?"
                found.append(Oddity("identical", (name, other), (), text))
    return found


def classes_not_looked_for(study: Study) -> list[tuple[str, str]]:
    """Names of rater and class where it seems that the rater did not look for the class."""
    found = []
    for oddity in _not_looked_for(Panel.of(study)):
        found.append((oddity.raters[0], oddity.classes[0]))
    return found


def _not_looked_for(panel: Panel) -> list[Oddity]:
    """Classes that a rater never drew although two others did, in most of their extent annotated by this rater."""
    sizes, found = panel.sizes(), []
    for r, name in enumerate(panel.names):
        if not sizes[r, 1:].any():
            continue  # an empty annotation has its own warning
        for c in range(1, len(panel.classes)):
            if sizes[r, c]:
                continue
            others = []
            for s, other in enumerate(panel.names):
                left_empty = panel.overlap[r, s, 0, c]
                if s != r and sizes[s, c] and left_empty > MOST * sizes[s, c]:
                    others.append(other)
            if len(others) >= 2:
                title = panel.classes[c]
                asked = shlex.quote(f"{name}:{title}")  # to be copied into a shell
                text = (
                    f"{name} never drew {title}, which {join_names(others)} did. Not looked for? Then give "
                    f"--partial-protocol {asked} (or auto), so that it is no vote against it."
                )
                found.append(Oddity("not looked for", (name,), (title,), text))
    return found


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


def _exchanged(panel: Panel) -> list[Oddity]:
    """Two values of a rater that fit the others' better the other way round."""
    found = []
    raters = len(panel.names)
    for a in range(1, len(panel.classes)):
        for b in range(a + 1, len(panel.classes)):
            gains = np.zeros((raters, raters, 2))
            for r in range(raters):
                for s in range(raters):
                    if r != s:
                        gains[r, s] = _dice_as_given_and_exchanged(panel, r, s, a, b)
            fits = (gains[..., 1] > MOST) & (gains[..., 1] > gains[..., 0] + CLEARLY)
            found += _name_the_exchanged(panel, (a, b), gains, fits)
    return found


def _dice_as_given_and_exchanged(panel: Panel, r: int, s: int, a: int, b: int) -> tuple[float, float]:
    """Mean Dice of two classes of rater r with those of rater s, as given and with the two exchanged."""
    dice = panel.dice(r, s)
    drawn = panel.overlap[r, r][[a, b], [a, b]].all() and panel.overlap[s, s][[a, b], [a, b]].all()
    if not drawn:
        return 0.0, 0.0
    return float(dice[a, a] + dice[b, b]) / 2, float(dice[a, b] + dice[b, a]) / 2


def _name_the_exchanged(panel: Panel, classes: tuple[int, int], gains: np.ndarray, fits: np.ndarray) -> list[Oddity]:
    """The raters who stand against more than half of the others; if that is nobody, each pair that is exchanged."""
    first, second = (panel.classes[c] for c in classes)
    count = fits.sum(axis=1)
    blamed = np.flatnonzero(count > (len(panel.names) - 1) / 2)
    if len(panel.names) == 2:
        blamed = np.flatnonzero(count)[:1]
    found = []
    for r in blamed:
        against = np.flatnonzero(fits[r])
        given, exchanged = gains[r, against].mean(axis=0)
        others = join_names([panel.names[s] for s in against])
        text = (
            f"{panel.names[r]}: {first} and {second} look exchanged; with {others} the mean Dice is "
            f"{given:.2f} as given and {exchanged:.2f} exchanged."
        )
        found.append(Oddity("exchanged", (panel.names[r],), (first, second), text))
    return found


def _odd_ones(panel: Panel) -> list[int]:
    """Raters whose median Dice with the others is much lower than that among the others."""
    raters = len(panel.names)
    if raters < 3:
        return []
    dice, sizes, found = panel.mean_dice(), panel.sizes(), []
    for r in range(raters):
        others = [s for s in range(raters) if s != r]
        own = dice[r, others]
        among = dice[np.ix_(others, others)][np.triu_indices(len(others), 1)]
        if not sizes[r, 1:].any() or not np.isfinite(own).any() or not np.isfinite(among).any():
            continue
        mine, theirs = float(np.nanmedian(own)), float(np.nanmedian(among))
        if mine < MUCH_LOWER * theirs and mine < theirs - LOWER:
            found.append(r)
    return found


def _what_is_odd(study: Study, panel: Panel, r: int) -> Oddity:
    """Why a rater agrees so little: another list of classes, an inverted mask, a mirrored one, or just elsewhere."""
    name, sizes = panel.names[r], panel.sizes()
    drawn = sizes[:, 1:] > 0
    others = np.delete(np.arange(len(drawn)), r)
    if not (drawn[r] & drawn[others].any(axis=0)).any():
        titles = tuple(np.array(panel.classes[1:])[drawn[r]])
        return Oddity(
            "nothing in common",
            (name,),
            titles,
            f"{name} drew {join_names(titles)}, and nobody else did: are these other names?",
        )
    dice = panel.mean_dice()
    mine = float(np.nanmedian(dice[r, others]))
    theirs = float(np.nanmedian(dice[np.ix_(others, others)][np.triu_indices(len(others), 1)]))
    against = f"the mean Dice with the others is {mine:.2f}, while they have {theirs:.2f} with one another"
    if len(panel.classes) == 2 and _dice_of_complement(study, r) > max(MOST, mine + CLEARLY):
        return Oddity("inverted", (name,), (), f"{name} looks inverted, structure for background: {against}.")
    for axis, what in enumerate(AXES):
        if _dice_mirrored(study, r, axis) > max(MOST, mine + CLEARLY):
            return Oddity("mirrored", (name,), (), f"{name} looks mirrored, {what} exchanged: {against}.")
    return Oddity("elsewhere", (name,), (), f"{name} drew something else than the others, or elsewhere: {against}.")


def _dice_of_complement(study: Study, r: int) -> float:
    """Median Dice of what a rater left as background with the others' structure, in the whole grid."""
    background = study.raters[r].labels == 0
    return _median_dice(background.astype(np.uint8), study, r)


def _dice_mirrored(study: Study, r: int, axis: int) -> float:
    """Median over the others of the mean Dice with a rater's annotation mirrored in the middle of the grid."""
    if study.shape[axis] == 1:
        return 0.0
    return _median_dice(np.flip(study.raters[r].labels, axis), study, r)


def _median_dice(labels: np.ndarray, study: Study, r: int) -> float:
    scores = []
    for s, rater in enumerate(study.raters):
        if s == r:
            continue
        both = (labels != MISSING) & (rater.labels != MISSING)
        of_classes = []
        for c in range(1, len(study.classes)):
            first, second = (labels == c) & both, (rater.labels == c) & both
            total = np.count_nonzero(first) + np.count_nonzero(second)
            if total:
                of_classes.append(2 * np.count_nonzero(first & second) / total)
        if of_classes:
            scores.append(float(np.mean(of_classes)))
    return float(np.median(scores)) if scores else 0.0
