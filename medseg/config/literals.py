"""What a file may say that somebody gave: numbers, words and lists of them, nothing that is evaluated.

MONAI's configurations are a language: `$` runs the Python behind it, `@` refers to another part, `%` copies from a
file, and a key such as `_target_` or `_requires_` calls or runs what it names. Pipelines, and what medseg reads of a
bundle, have none of that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_MOST = 10_000
"""Values of a pipeline; with more, something in it contains itself."""
_WORD = re.compile(r"\w+", re.ASCII)
Place = tuple[str | int, ...]


def is_expression(text: str) -> bool:
    """Whether a text has anything of MONAI's language: `$` or `@` anywhere, `%` at its beginning."""
    return text.startswith("%") or "$" in text or "@" in text


def begins_expression(text: str) -> bool:
    """Whether MONAI would take a name for more than a name: of structures and modalities, which manifests choose."""
    return text.startswith(("$", "@", "%"))


def is_instruction(key: object) -> bool:
    """Whether a key says what to do with its mapping, as `_target_` does, instead of naming a value."""
    return isinstance(key, str) and (key.startswith("_") or is_expression(key))


def texts(content: Any) -> Iterator[tuple[Place, str, bool]]:
    """Every key and every text of nested mappings and lists.

    Yields:
        Where it stands, the text, and whether it is a key.

    Raises:
        ValueError: more values than a pipeline can have, as in one that contains itself.
    """
    waiting: list[tuple[Place, Any]] = [((), content)]
    for _ in range(_MOST):
        if not waiting:
            return
        place, node = waiting.pop()
        if isinstance(node, str):
            yield place, node, False
        elif isinstance(node, dict):
            for key, value in node.items():
                inside = (*place, key)
                yield inside, str(key), True
                waiting.append((inside, value))
        elif isinstance(node, list | tuple | set):
            waiting += [((*place, number), value) for number, value in enumerate(node)]
    raise ValueError(f"holds more than {_MOST} values, or contains itself")


def named(place: Place) -> str:
    """A place as `--set` spells it."""
    return ".".join(map(str, place))


def not_plain(value: Any, place: Place = ()) -> str | None:
    """What in an argument of a network is neither a number, a word such as "batch", nor a list or mapping of them.

    A file's name and an address are no words, since they have a dot, a slash or a colon.

    Returns:
        The place and the value, for a message; None where all is plain.
    """
    if value is None or isinstance(value, bool | int | float):
        return None
    if isinstance(value, str) and _WORD.fullmatch(value):
        return None
    if isinstance(value, list | tuple) and len(place) < 8:
        found = (not_plain(part, (*place, number)) for number, part in enumerate(value))
        return next((problem for problem in found if problem), None)
    if isinstance(value, dict) and len(place) < 8:
        found = (not_plain(part, (*place, key)) for key, part in value.items())
        keys = (not_plain(key, (*place, key)) for key in value)
        return next((problem for problem in (*keys, *found) if problem), None)
    return f"{named(place)} is {value!r}"
