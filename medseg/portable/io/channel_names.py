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
    present, labeled = set(names), set(labels)
    if len(present) < len(names):
        raise ValueError("two files have one name")
    cases: dict[str, list[str]] = {}
    alone = set(present)
    for case, numbers in _numbers_by_case(present).items():
        members = _members(case, numbers)
        number_belongs_to_name = case in present or not labeled.isdisjoint(members)
        if number_belongs_to_name:
            continue
        all_channels = _counts_channels(numbers) and len(numbers) in channels
        only_channel = numbers == [0] and (raw or case in labeled)
        if all_channels or only_channel:
            cases[case] = members
            alone.difference_update(members)
    for name in alone:
        cases[name] = [name]
    return dict(sorted(cases.items()))


def shown_by_labels(names: Collection[str], labels: Collection[str]) -> set[int]:
    """How many channels cases have where nobody declares it: as many as files whose label is called without a number.

    Args:
        names: of the files without their endings.
        labels: names of the label files.

    Returns:
        The numbers of channels that occur, from 2 up; empty where no label shows that there are channels.
    """
    present, labeled = set(names), set(labels)
    counts = set()
    for case, numbers in _numbers_by_case(present).items():
        number_belongs_to_name = case in present or not labeled.isdisjoint(_members(case, numbers))
        if case in labeled and not number_belongs_to_name and _counts_channels(numbers):
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
    in_order = _counts_channels(numbers)
    if len(cases) > 1:
        several = f"are numbered as the channels of one case and are called {' and '.join(cases)}"
        return several if in_order else None
    if in_order:
        return None
    if _counts_channels(sorted(numbers)):
        return f"are in another order than their numbers; channels are {FIRST} first"
    return f"are no channels by their numbers, which would be {FIRST} to _{len(numbers) - 1:04d}"


def alike(case: str, names: Collection[str]) -> list[str]:
    """Those of the names that are the case's but for a number at their end."""
    found = []
    for name in sorted(names):
        parts = split_number(name)
        if parts is not None and parts[0] == case:
            found.append(name)
    return found


LABEL_MARK = re.compile(r"[-_. ](seg|segmentation|label|mask|gt)s?$", re.IGNORECASE)
"""What names of labels end in beside those of their images: `case1_seg`, `case1-label`."""


def without_mark(name: str) -> str:
    """The name of a label as its image may have it."""
    return LABEL_MARK.sub("", name)


def listed(names: Sequence[str]) -> str:
    """The first few of many names, for a message."""
    text = ", ".join(names[:SHOWN])
    if len(names) > SHOWN:
        text += f" and {len(names) - SHOWN} more"
    return text


def _numbers_by_case(names: Collection[str]) -> dict[str, list[int]]:
    """Name without its number -> the numbers that occur, sorted."""
    found: dict[str, list[int]] = {}
    for name in names:
        parts = split_number(name)
        if parts is not None:
            case, number = parts
            found.setdefault(case, []).append(number)
    return {case: sorted(numbers) for case, numbers in found.items()}


def _counts_channels(numbers: Sequence[int]) -> bool:
    """Whether sorted numbers are those of several channels: 0, 1 and so on, none missing."""
    return len(numbers) > 1 and list(numbers) == list(range(len(numbers)))


def _members(case: str, numbers: Collection[int]) -> list[str]:
    return [f"{case}_{number:04d}" for number in numbers]
