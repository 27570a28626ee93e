"""When two names mean one structure: capitals, blanks and how a letter is coded make no difference, in any command.

Where structures of several files are matched, underscores are blanks too, as long as no file tells names apart by them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence


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


def key_with_blanks(name: str) -> str:
    """What names of one structure in several files have in common.

    Examples:
        >>> key_with_blanks("Left_Kidney") == key_with_blanks("left kidney")
        True
    """
    return structure_key(name.replace("_", " "))


def find_named(wanted: str, names: Sequence[str]) -> list[int]:
    """Places of the names that mean a structure: those that only capitals and blanks tell apart, or else underscores.

    Examples:
        >>> find_named("left kidney", ["liver", "Left_Kidney"])
        [1]
        >>> find_named("left kidney", ["LEFT KIDNEY", "left_kidney"])
        [0]
    """
    same = [place for place, name in enumerate(names) if same_structure(name, wanted)]
    if same:
        return same
    return [place for place, name in enumerate(names) if key_with_blanks(name) == key_with_blanks(wanted)]


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
