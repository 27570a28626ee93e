"""Numbers that options may have: what lies outside is refused by name, where it would silently mean something else."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf


def check_shares(**values: float) -> None:
    """See that each number is a share.

    Raises:
        ValueError: one that is less than 0 or more than 1, or is not a number.
    """
    _check(values, 0, 1, "at least 0 and at most 1")


def check_not_negative(**values: float) -> None:
    """See that no number is negative.

    Raises:
        ValueError: one that is, or is not a number.
    """
    _check(values, 0, inf, "at least 0")


def check_at_least_one(**values: float) -> None:
    """See that no number is less than 1.

    Raises:
        ValueError: one that is, or is not a number.
    """
    _check(values, 1, inf, "at least 1")


def _check(values: Mapping[str, float], least: float, most: float, wanted: str) -> None:
    for name, value in values.items():
        if not least <= value <= most:
            raise ValueError(f"{name} {value:g}: must be {wanted}")
