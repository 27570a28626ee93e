"""When two names mean one structure: capitals, blanks and how a letter is coded make no difference, in any command."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable


def structure_key(name: str) -> str:
    """What names of one structure have in common.

    Examples:
        >>> structure_key(" Left  Kidney") == structure_key("left kidney")
        True
        >>> structure_key("left kidney") == structure_key("left_kidney")
        False

        Letters with marks, which macOS takes apart in names of files:

        >>> structure_key("m\u00fcller") == structure_key("MU\u0308LLER")
        True
    """
    return unicodedata.normalize("NFC", " ".join(name.split()).casefold())


def same_structure(one: str, other: str) -> bool:
    """Whether two names are the same but for capitals and blanks."""
    return structure_key(one) == structure_key(other)


def named_twice(names: Iterable[str]) -> list[str]:
    """Names that mean the same structure as an earlier one."""
    seen: set[str] = set()
    twice = []
    for name in names:
        key = structure_key(name)
        if key in seen:
            twice.append(name)
        seen.add(key)
    return twice
