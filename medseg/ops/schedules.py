"""Weights that change during a run."""

from __future__ import annotations

from math import exp, floor


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
