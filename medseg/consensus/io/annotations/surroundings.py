"""A structure of one rater alone that contains all others, such as the outline of the body, takes no part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from medseg.consensus.boxes import labelled_box
from medseg.consensus.study import MISSING, Rater

CONTAINED = 0.99
"""Share of all other structures that lies inside of one which contains them."""
LARGER = 2.0
"""How many times their volume it has itself: two outlines of one structure under two names contain each other too."""


def leave_out_surroundings(raters: Sequence[Rater], classes: Sequence[str]) -> tuple[list[Rater], list[str]]:
    """The raters without structures that one of them alone drew round all others.

    It would be one voice against all others everywhere, and make most of the image disputed.

    Args:
        raters: of a study.
        classes: names of the K classes, background first.

    Returns:
        The raters, and a note for each structure that was left out.

    Examples:
        The first rater also drew the body.

        >>> import numpy as np
        >>> from medseg.consensus.io.annotations.surroundings import leave_out_surroundings
        >>> from medseg.consensus.study import Rater
        >>> anna = np.uint8([[[2, 2, 2, 1, 2, 2, 0]]])
        >>> bob = np.uint8([[[0, 0, 0, 1, 0, 0, 0]]])
        >>> names = ("background", "liver", "body")
        >>> raters, notes = leave_out_surroundings([Rater("anna", anna), Rater("bob", bob)], names)
        >>> raters[0].labels.tolist()
        [[[0, 0, 0, 1, 0, 0, 0]]]
    """
    if len(raters) < 2 or any(rater.probabilities is not None for rater in raters):
        return list(raters), []
    found, notes = list(raters), []
    box = labelled_box([rater.labels for rater in raters])
    if box is None:
        return found, []
    labels = [rater.labels[box] for rater in raters]
    sizes = np.stack([np.bincount(each.ravel(order="K"), minlength=MISSING + 1)[: len(classes)] for each in labels])
    for c in range(1, len(classes)):
        drawers = np.flatnonzero(sizes[:, c])
        if len(drawers) != 1:
            continue
        r = int(drawers[0])
        others = [other for n, other in enumerate(labels) if n != r]
        if _contains_all(labels[r], others, c):
            own = found[r].labels.copy()
            own[own == c] = 0
            found[r] = replace(found[r], labels=own)
            notes.append(
                f"{classes[c]}: only {raters[r].name} drew it, and it contains all other structures: it is left out; "
                f"to count it, say that the others did not look for it (--partial-protocol NAME:{classes[c]})"
            )
    return found, notes


def _contains_all(own: np.ndarray, others: Sequence[np.ndarray], c: int) -> bool:
    """Whether the structure `c` of one rater contains all other structures, which the others say are not `c`.

    Args:
        own: labels of the rater who drew it, in which an inner structure counts.
        others: labels of the others.
        c: number of the class.
    """
    surrounding = own == c
    size = np.count_nonzero(surrounding)
    drawn = (own > 0) & (own != MISSING)
    inner = drawn & ~surrounding
    is_denied = False
    for other in others:
        inner |= (other > 0) & (other != MISSING)
        background_there = np.count_nonzero(surrounding & (other == 0))
        if background_there > size / 2:
            is_denied = True
    total = np.count_nonzero(inner)
    if not total or not is_denied:
        return False
    covered = np.count_nonzero(inner & drawn)
    return bool(covered >= CONTAINED * total and size >= LARGER * total)
