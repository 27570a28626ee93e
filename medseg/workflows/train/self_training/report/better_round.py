"""Whether an earlier round is better than the last one, by the validation cases."""

from __future__ import annotations

from collections.abc import Mapping

CLEARLY = 0.002
"""A smaller difference in Dice is not worth a word."""


def find_better_round(fused: Mapping[int, float | None]) -> int | None:
    """The round with the highest score, where it is an earlier one than the last and clearly better.

    Args:
        fused: number of each round in order -> its score on the validation cases; None: it has none.

    Examples:
        >>> find_better_round({0: 0.52, 1: 0.50, 2: 0.47})
        0
        >>> find_better_round({0: 0.50, 1: 0.52})
    """
    scores = {number: score for number, score in fused.items() if score is not None}
    if not scores:
        return None
    best, last = max(scores, key=lambda number: scores[number]), max(scores)
    return best if scores[best] > scores[last] + CLEARLY else None


def advise(fused: Mapping[int, float | None], score: str, folder: str) -> str | None:
    """One sentence that names the round to use; None where it is the last one, which is the run's bundle.

    Args:
        fused: as in `find_better_round`.
        score: what is compared: "Dice" or "recall".
        folder: name of the folder of the rounds.
    """
    best = find_better_round(fused)
    if best is None:
        return None
    last = max(number for number, value in fused.items() if value is not None)
    return (
        f"use round {best}: on the validation cases its fused {score} is {fused[best]:.3f}, that of round {last}, "
        f"which is the run's bundle, {fused[last]:.3f}; predict with --model {folder}/round{best}"
    )
