"""Single structures that a rater drew elsewhere than the others, much smaller, much larger, or not on all slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import ndimage

from medseg.consensus.boxes import labelled_box
from medseg.consensus.statistics.oddity import Oddity
from medseg.consensus.statistics.panel import Panel, join_names
from medseg.consensus.study import MISSING, Study

MUCH_LOWER = 0.7
"""A rater is odd whose median Dice with the others is below this share of the others' own, and `LOWER` below it."""
LOWER = 0.2
AGREED = 0.7
"""Dice of the others with one another from which a structure is one about which a single rater can be odd."""
CONTAINED = 0.85
"""Share of an outline inside of another from which it is the same structure, drawn smaller; of careful ones 0.9 is."""
SOMEWHAT = 0.1
"""How much lower the Dice is of a rater whose slices that are left out are told: fewer at thin ends are nothing."""
EDGE = 2
"""Voxels along an outline that are no more than a way of drawing."""
FAR = 3.0
"""Voxels from the other outline from which a voxel is not near it."""
LEFT_OUT = 1 / 3
"""Share of the others' slices, and `FEWEST` slices, that a rater left out to be told so."""
FEWEST = 4
MOST_NAMED = 4
"""Structures of one sentence with numbers of their own."""


@dataclass(frozen=True)
class Difference:
    """How one rater's structure differs from the others'.

    Args:
        kind: "elsewhere", "much less", "much more" or "slices left out".
        number: of the class.
        own: median Dice of the rater with the others.
        theirs: median Dice of the others with one another.
        voxels: of the rater, and the median of the others.
        slices: on how many of the slices on which all others have the class this rater has it, and how many these are;
            without those where he annotated nothing.
    """

    kind: str
    number: int
    own: float
    theirs: float
    voxels: tuple[float, float]
    slices: tuple[int, int]


def is_much_lower(own: float, theirs: float) -> bool:
    """Whether a rater's Dice with the others is odd beside theirs with one another."""
    return own < MUCH_LOWER * theirs and own < theirs - LOWER


def comparable_classes(panel: Panel, r: int) -> list[int]:
    """Classes that rater r drew, and at least two others."""
    drew = panel.drew()
    enough = drew[r] & (np.count_nonzero(drew, axis=0) >= 3)
    return [int(c) + 1 for c in np.flatnonzero(enough)]


def find_differences(
    study: Study, panel: Panel, r: int, classes: Sequence[int], *, even_small: bool
) -> list[Difference]:
    """What rater r drew otherwise than the others, class by class.

    Args:
        study: of the raters.
        panel: the same.
        r: number of the rater.
        classes: to look at, some of `comparable_classes`.
        even_small: also tell what an outline moved inwards by `EDGE` voxels would differ as much in, as all small
            structures do, and where the others disagree themselves. For raters who are odd as a whole.
    """
    found: list[Difference] = []
    for c in classes:
        others = [s for s in np.flatnonzero(panel.sizes()[:, c]).tolist() if s != r]
        own = [_dice(panel, r, s, c) for s in others]
        among = [_dice(panel, s, t, c) for s, t in combinations(others, 2)]
        if np.isnan(own).all() or np.isnan(among).all():
            continue
        mine, theirs = float(np.nanmedian(own)), float(np.nanmedian(among))
        if theirs < AGREED and not even_small:
            continue
        slices = _slices(panel, r, others, c)
        is_odd = is_much_lower(mine, theirs)
        if is_odd and (even_small or _is_gross(study, r, others, c)):
            kind = _kind(panel, r, others, c)
        elif slices[1] - slices[0] >= max(FEWEST, LEFT_OUT * slices[1]) and mine < theirs - SOMEWHAT:
            kind = "slices left out"
        else:
            continue
        found.append(Difference(kind, c, mine, theirs, _voxels(panel, r, others, c), slices))
    return found


def _voxels(panel: Panel, r: int, others: Sequence[int], c: int) -> tuple[float, float]:
    """Voxels of class c of rater r and of each of the others in what both annotated, medians over the others."""
    own = [panel.overlap[r, s, c].sum() for s in others]
    theirs = [panel.overlap[r, s, :, c].sum() for s in others]
    return float(np.median(own)), float(np.median(theirs))


def _dice(panel: Panel, r: int, s: int, c: int) -> float:
    """Dice of a class of two raters; NaN where neither has it in what both annotated."""
    table = panel.overlap[r, s]
    total = table[c].sum() + table[:, c].sum()
    return float(2 * table[c, c] / total) if total else np.nan


def _kind(panel: Panel, r: int, others: Sequence[int], c: int) -> str:
    """Whether one of two structures lies within the other."""
    inside, round_theirs = [], []
    for s in others:
        table = panel.overlap[r, s]
        inside.append(table[c, c] / max(table[c].sum(), 1))
        round_theirs.append(table[c, c] / max(table[:, c].sum(), 1))
    if np.median(inside) >= CONTAINED:
        return "much less"
    return "much more" if np.median(round_theirs) >= CONTAINED else "elsewhere"


def _slices(panel: Panel, r: int, others: Sequence[int], c: int) -> tuple[int, int]:
    """On how many of the slices on which all others have class c rater r has it too, and how many these are."""
    looked_at = panel.slices[r].any(axis=0)
    theirs = panel.slices[others, c].all(axis=0) & looked_at
    shared = theirs & panel.slices[r, c]
    return int(np.count_nonzero(shared)), int(np.count_nonzero(theirs))


def _is_gross(study: Study, r: int, others: Sequence[int], c: int) -> bool:
    """Whether more differs than the edge of the outline: most of one is far from the other, or Dice is lower.

    Args:
        study: of the raters.
        r: number of the rater.
        others: who drew the class besides.
        c: number of the class.
    """
    box = labelled_box([study.raters[s].labels == c for s in (r, *others)])
    if box is None:
        return False
    annotated = study.raters[r].labels[box] != MISSING
    votes = np.count_nonzero([study.raters[s].labels[box] == c for s in others], axis=0)
    theirs = (2 * votes > len(others)) & annotated
    own = study.raters[r].labels[box] == c
    if not theirs.any():
        return False  # they do not agree with one another
    if _share_far(own, theirs) > 0.5 or _share_far(theirs, own) > 0.5:
        return True
    # no neighbours along an axis of one voxel
    cross = ndimage.generate_binary_structure(3, 1)
    for axis, length in enumerate(study.shape):
        if length == 1:
            np.moveaxis(cross, axis, 0)[[0, 2]] = False
    within = ndimage.binary_erosion(theirs, cross, iterations=EDGE)
    return _dice_of_masks(own, theirs) < _dice_of_masks(within, theirs)


def _share_far(mask: np.ndarray, other: np.ndarray) -> float:
    """Share of a mask that lies further than `FAR` voxels from another."""
    return float(np.mean(ndimage.distance_transform_edt(~other)[mask] > FAR))


def _dice_of_masks(one: np.ndarray, other: np.ndarray) -> float:
    voxels = int(np.count_nonzero(one)) + int(np.count_nonzero(other))
    return 2 * int(np.count_nonzero(one & other)) / max(voxels, 1)


def in_words(panel: Panel, r: int, differences: Sequence[Difference], compared: Sequence[int]) -> list[Oddity]:
    """A sentence on each kind of difference of one rater.

    Args:
        panel: of the raters.
        r: number of the rater.
        differences: of this rater.
        compared: classes that were looked at; where all of them differ in one way, they are not named.
    """
    found = []
    for kind in dict.fromkeys(difference.kind for difference in differences):
        chosen = [difference for difference in differences if difference.kind == kind]
        titles = tuple(panel.classes[difference.number] for difference in chosen)
        everything = len(chosen) == len(compared)
        if kind == "slices left out":
            text = _words_on_slices(titles, chosen)
        elif kind == "elsewhere":
            text = _words_on_places(titles, chosen)
        else:
            text = _words_on_volumes(kind, "" if everything else f" of {join_names(titles)}", chosen)
        found.append(Oddity(kind, (panel.names[r],), titles, f"{panel.names[r]} {text}."))
    return found


def _words_on_places(titles: Sequence[str], differences: Sequence[Difference]) -> str:
    theirs = float(np.median([difference.theirs for difference in differences]))
    own = [f"{difference.own:.2f}" for difference in differences[:MOST_NAMED]]
    if len(titles) > MOST_NAMED:
        own = [f"at most {max(difference.own for difference in differences):.2f}"]
    where = "elsewhere" if max(difference.own for difference in differences) < LOWER else "otherwise, or elsewhere"
    return f"drew {join_names(titles)} {where}: Dice {join_names(own)} with the others, who have {theirs:.2f}"


def _words_on_volumes(kind: str, of: str, differences: Sequence[Difference]) -> str:
    own = sum(difference.voxels[0] for difference in differences)
    theirs = sum(difference.voxels[1] for difference in differences)
    # of the structure that most slices are missing of
    there, all_slices = max((difference.slices for difference in differences), key=lambda slices: slices[1] - slices[0])
    words = f"drew {kind}{of} than the others: {100 * own / theirs:.0f} % of their volume"
    return words + (f", on {there} of {all_slices} slices" if there < all_slices else "")


def _words_on_slices(titles: Sequence[str], differences: Sequence[Difference]) -> str:
    parts: list[str] = []
    for title, difference in zip(titles[:MOST_NAMED], differences, strict=False):
        there, theirs = difference.slices
        slices = f"{there} of {theirs}" if parts else f"{there} of the {theirs} slices on which all others have it"
        parts.append(f"{title} on {slices}")
    if len(titles) > MOST_NAMED:
        parts.append(f"{len(titles) - MOST_NAMED} more on a part of them")
    return f"drew {join_names(parts)}"
