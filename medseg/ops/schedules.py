"""Weights that change during a run."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, floor

RAMPUP = 0.4
"""Part of a run in which a network that starts anew is taught more and more by what it says itself."""


def sigmoid_rampup(fraction: float, steps: int | None = None) -> float:
    """`exp(-5 (1 - e)^2)`, from 0.0067 at the start of the run to 1 at its end (Laine & Aila, ICLR 2017).

    Args:
        fraction: part of the ramp that is over; clamped to [0, 1].
        steps: with a number, `e` moves in that many equal steps instead of continuously.
    """
    e = min(max(fraction, 0.0), 1.0)
    if steps:
        # 1e-9: 2999/6000 and 3000/6000 must fall on their own sides of the step in floating point
        e = floor(e * steps + 1e-9) / steps
    return exp(-5.0 * (1.0 - e) ** 2)


def rampup_of_start(labels: Sequence[str], known: Sequence[str] = ()) -> float:
    """Part of the run in which the weight of unlabelled images rises, by what the run starts from.

    Args:
        labels: names of the classes.
        known: names of those that the network knows from which the run starts; empty: it starts anew, or from an
            encoder alone.

    Returns:
        0, the full weight from the first step on, where the network knows all classes; else `RAMPUP`.
    """
    return 0.0 if set(labels) <= set(known) else RAMPUP
