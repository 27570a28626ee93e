"""Structures that there are on both sides of the body, by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable

_OTHER_SIDE = {"left": "right", "l": "r", "lt": "rt"}


def have_sides(structures: Iterable[str]) -> bool:
    """Whether among names of structures there are two of which one says left where the other says right."""
    names = [tuple(re.split(r"[^a-z]+", name.lower())) for name in structures]
    for words in names:
        mirrored = tuple(_OTHER_SIDE.get(word, word) for word in words)
        if mirrored != words and mirrored in names:
            return True
    return False
