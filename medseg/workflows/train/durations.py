"""Times that a user gives, such as `--budget 25m`."""

from __future__ import annotations

import re

from medseg.errors import ConfigError

UNITS = {"s": 1, "m": 60, "h": 3600}
SHORTEST = 10.0
"""Seconds; loading a case and measuring a step take longer."""


def budget_seconds(budget: str) -> float:
    """Seconds of "90s", "25m" or "1.5h".

    Raises:
        ConfigError: anything else, less than ten seconds, or a bare number, which could be minutes or seconds.
    """
    text = str(budget).strip()
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text)
    if match and not match[2]:
        raise ConfigError(f"--budget {text}: a unit is missing; {text}m is minutes, {text}s seconds, {text}h hours")
    seconds = float(match[1]) * UNITS[match[2]] if match else 0.0
    if seconds < SHORTEST:
        raise ConfigError(f"--budget {text!r}: expected at least 10 seconds, such as 90s, 25m or 1.5h")
    return seconds
