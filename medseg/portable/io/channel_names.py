"""Whether a number at the end of a file's name is a channel, in nnU-Net's convention, or part of the name."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

RAW_FOLDERS = ("imagesTr", "imagesTs")
"""Folders of nnU-Net's raw data: a file in them ends in its channel even where there is only one."""

FIRST = "_0000"
SHOWN = 4  # names that a message spells out
_NUMBER = re.compile(r"^(?P<case>.+)_(?P<number>[0-9]{4})$", re.DOTALL)


def split_number(name: str) -> tuple[str, int] | None:
    """`case_0002` as `("case", 2)`; None for a name that ends in no such number."""
    match = _NUMBER.match(name)
    return (match["case"], int(match["number"])) if match else None


def group_channels(
    names: Collection[str], channels: Collection[int], *, raw: bool = False, labels: Collection[str] = ()
) -> dict[str, list[str]]:
    """Which of these names are channels of one case; every other name is a case by itself.

    Many data sets number their patients (`amos_0001`), so that `_NNNN` is a channel only where nnU-Net's whole
    convention is kept: `n` channels are declared, and for this case exactly `_0000` to `_n-1` are there. A single file
    is a case without its number only if the number is `_0000`, and in one of `RAW_FOLDERS` or where a label is called
    so. A label that carries the number, or another file called as the case, says that the number belongs to the name.

        channels  raw  names                         labels      cases
        1         no   a_0001 a_0002                 any         a_0001, a_0002
        1         no   a_0000                        none        a_0000
        1         yes  a_0000                        none        a
        1         no   a_0000                        a           a
        1         any  a_0000                        a_0000      a_0000
        1         any  a_0001                        a           a_0001
        1         any  a_0000 a_0001                 any         a_0000, a_0001
        1         any  a_0000 a                      any         a_0000, a
        2         any  a_0000 a_0001                 none or a   a: both
        2         any  a_0000 a_0001                 a_0000      a_0000, a_0001
        2         any  a_0000 a_0001 a               any         a_0000, a_0001, a
        2         any  a_0001 a_0002                 any         a_0001, a_0002
        2         any  a_0000 a_0002                 any         a_0000, a_0002
        2         any  a_0000 a_0001 a_0002          any         a_0000, a_0001, a_0002
        2         yes  a_0000 (both in one file)     none        a

    Args:
        names: of the files without their endings, each once.
        channels: how many a case may have: the number that is declared, or those that `shown_by_labels` finds.
        raw: whether the files lie in one of `RAW_FOLDERS`.
        labels: names of label files, as far as they are known.

    Returns:
        Name of the case -> names of its files in the order of the channels, sorted by case. Each of `names` is in
        exactly one case.

    Raises:
        ValueError: a name is given twice.
    """
    present, known = set(names), set(labels)
    if len(present) < len(names):
        raise ValueError("two files have one name")
    cases: dict[str, list[str]] = {}
    for case, numbers in _numbered(present).items():
        members = _members(case, numbers)
        if case in present or known & set(members):
            continue
        whole = len(numbers) > 1 and len(numbers) in channels and numbers == list(range(len(numbers)))
        alone = numbers == [0] and (raw or case in known)
        if whole or alone:
            cases[case] = members
    grouped = {name for members in cases.values() for name in members}
    cases |= {name: [name] for name in present - grouped}
    return dict(sorted(cases.items()))


def shown_by_labels(names: Collection[str], labels: Collection[str]) -> set[int]:
    """How many channels cases have where nobody declares it: as many as files whose label is called without a number.

    Args:
        names: of the files without their endings.
        labels: names of the label files.

    Returns:
        The numbers of channels that occur, from 2 up; empty where no label shows that there are channels.
    """
    present, known = set(names), set(labels)
    counts = set()
    for case, numbers in _numbered(present).items():
        of_label = case in known and case not in present and not known & set(_members(case, numbers))
        if of_label and len(numbers) > 1 and numbers == list(range(len(numbers))):
            counts.add(len(numbers))
    return counts


def doubtful_channels(names: Sequence[str]) -> str | None:
    """Why the files of one case, in the order of its channels, may not be its channels.

    Args:
        names: of the files without their endings.

    Returns:
        What is wrong with their numbers; None where they keep the convention, or do not look as if they followed it.
    """
    found = [split_number(name) for name in names]
    parts = [part for part in found if part is not None]
    if len(names) < 2 or len(parts) < len(names) or len(set(names)) < len(names):
        return None
    cases = sorted({case for case, _ in parts})
    numbers = [number for _, number in parts]
    counted = list(range(len(numbers)))
    if len(cases) > 1:
        several = f"are numbered as the channels of one case and are called {' and '.join(cases)}"
        return several if numbers == counted else None
    if numbers == counted:
        return None
    if sorted(numbers) == counted:
        return f"are in another order than their numbers; channels are {FIRST} first"
    return f"are no channels by their numbers, which would be {FIRST} to _{len(numbers) - 1:04d}"


def alike(case: str, names: Collection[str]) -> list[str]:
    """Those of the names that are the case's but for a number at their end."""
    return [name for name in sorted(names) if (parts := split_number(name)) and parts[0] == case]


def listed(names: Sequence[str]) -> str:
    """The first few of many names, for a message."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _numbered(names: Collection[str]) -> dict[str, list[int]]:
    """Name without its number -> the numbers that occur, sorted."""
    found: dict[str, list[int]] = {}
    for name in names:
        if parts := split_number(name):
            found.setdefault(parts[0], []).append(parts[1])
    return {case: sorted(numbers) for case, numbers in found.items()}


def _members(case: str, numbers: Collection[int]) -> list[str]:
    return [f"{case}_{number:04d}" for number in numbers]
