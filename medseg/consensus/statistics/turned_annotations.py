"""Annotations that fit the others' when they are mirrored, or when structure and background change places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from medseg.consensus.statistics.exchanged_values import CLEARLY, MOST, Exchange
from medseg.consensus.study import MISSING, Study

AXES = ("the ends of the first axis", "the ends of the second axis", "the ends of the third axis")
"""What is exchanged where an array is mirrored that has no patient's axes."""


class Turn(NamedTuple):
    """What would make an annotation fit: "inverted" or "mirrored", in words, and the Dice that it would have then."""

    kind: str
    words: str
    dice: float


def find_turn(study: Study, r: int, given: float, axes: Sequence[str]) -> Turn | None:
    """The best of all turns that make a rater's annotation fit the others' clearly better; None if none does.

    Args:
        study: of the raters.
        r: number of the rater.
        given: Dice with the others, as given.
        axes: what is exchanged where an annotation is mirrored along each axis of the grid.
    """
    labels = study.raters[r].labels
    turns = []
    as_given, inverted = _dice_of_foreground(labels > 0, study, r), _dice_of_foreground(labels == 0, study, r)
    if inverted > max(MOST, as_given + CLEARLY, given + CLEARLY):
        turns.append(Turn("inverted", "inverted, structure for background", inverted))
    for axis, what in enumerate(axes):
        if study.shape[axis] > 1:
            # mirrored in the middle of the grid
            dice = median_dice(np.flip(labels, axis), study, r)
            turns.append(Turn("mirrored", f"mirrored, {what} exchanged", dice))
    fitting = [turn for turn in turns if turn.kind == "inverted" or turn.dice > max(MOST, given + CLEARLY)]
    return max(fitting, key=lambda turn: turn.dice, default=None)


def dice_exchanged(study: Study, r: int, exchanges: Sequence[Exchange]) -> float:
    """Dice of a rater with the others after values have been exchanged back."""
    table = np.arange(MISSING + 1, dtype=np.uint8)
    for exchange in exchanges:
        for own, other in exchange.meaning.items():
            if r in exchange.raters:
                table[own] = other
            else:
                table[other] = own
    return median_dice(table[study.raters[r].labels], study, r)


def median_dice(labels: np.ndarray, study: Study, r: int) -> float:
    """Median over the others of the mean Dice over the classes that both have; `labels` `(X, Y, Z)` are rater r's."""
    scores = []
    for s, rater in enumerate(study.raters):
        if s == r:
            continue
        both = (labels != MISSING) & (rater.labels != MISSING)
        of_classes = []
        for c in range(1, len(study.classes)):
            first, second = (labels == c) & both, (rater.labels == c) & both
            sizes = np.count_nonzero(first), np.count_nonzero(second)
            if all(sizes):
                of_classes.append(2 * np.count_nonzero(first & second) / sum(sizes))
        if of_classes:
            scores.append(float(np.mean(of_classes)))
    return float(np.median(scores)) if scores else 0.0


def _dice_of_foreground(own: np.ndarray, study: Study, r: int) -> float:
    """Median Dice of a mask `(X, Y, Z)` of rater r with all that another labelled, in the whole grid."""
    annotated = study.raters[r].labels != MISSING
    scores = []
    for s, rater in enumerate(study.raters):
        if s == r:
            continue
        both = annotated & (rater.labels != MISSING)
        first, second = own & both, (rater.labels > 0) & both
        total = np.count_nonzero(first) + np.count_nonzero(second)
        if total:
            scores.append(2 * np.count_nonzero(first & second) / total)
    return float(np.median(scores)) if scores else 0.0
