"""What the classes of an annotation are called: names, label values and colours, as segmentation files keep them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import SimpleITK as sitk  # noqa: N813 - the name everyone knows

from medseg.errors import DataError

MOST = 254
"""Classes besides the background that fit into bytes beside the mark of what is missing."""


@dataclass(frozen=True)
class Segment:
    """One class of one file.

    Attributes:
        value: in the file.
        name: None where the file has none.
        color: red, green, blue in [0, 1]; None where the file has none.
        layer: channel of the file that holds it.
        extra: further fields of a `.seg.nrrd` by their short names ("ID", "Tags", ...).
    """

    value: int
    name: str | None = None
    color: tuple[float, float, float] | None = None
    layer: int = 0
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What to call it in reports."""
        return self.name if self.name is not None else f"label {self.value}"


def read_segments(path: Path) -> tuple[Segment, ...]:
    """The segment table of a `.seg.nrrd`, in the file's order; empty for a file that has none.

    Raises:
        DataError: for a table that cannot be understood.
    """
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise DataError(f"cannot be read: {str(error).strip().splitlines()[-1]}", path=path) from error
    fields: dict[int, dict[str, str]] = {}
    for key in reader.GetMetaDataKeys():
        head, _, short = key.partition("_")
        number = head.removeprefix("Segment")
        if head.startswith("Segment") and number.isdigit() and short:
            fields.setdefault(int(number), {})[short] = reader.GetMetaData(key)
    try:
        return tuple(_segment(n, fields[n]) for n in sorted(fields))
    except ValueError as error:
        raise DataError(f"its segment table is broken: {error}", path=path, hint="save it anew") from error


def _segment(number: int, given: dict[str, str]) -> Segment:
    layered = "LabelValue" in given
    color = tuple(float(c) for c in given.get("Color", "").split())
    if color and (len(color) != 3 or not all(0 <= c <= 1 for c in color)):
        raise ValueError(f"the colour of segment {number} is '{given['Color']}'")
    own = {"LabelValue", "Name", "Color", "Layer", "Extent"}
    return Segment(
        value=int(given.get("LabelValue", 1)),
        name=given.get("Name") or given.get("ID"),
        color=(color[0], color[1], color[2]) if color else None,
        layer=int(given.get("Layer", 0 if layered else number)),  # before layers, each segment had a channel
        extra={k: v for k, v in given.items() if k not in own},
    )


def union(tables: Sequence[Sequence[Segment]]) -> tuple[tuple[Segment, ...], list[list[int]], list[str]]:
    """All classes of several files, each once, with values that do not collide.

    Args:
        tables: of each file; the first that names a class decides its value and colour.

    Returns:
        the classes in rising order of their values; for each file the class index (from 1) of each of its segments;
        notes on values that had to change.

    Raises:
        DataError: more classes than fit.
    """
    names = {s.value: s.name for table in reversed(tables) for s in table if s.name is not None}

    def key(segment: Segment) -> str | int:
        """A file without names beside one with names means the same by the same numbers."""
        return segment.name or names.get(segment.value) or segment.value

    found: dict[str | int, Segment] = {}
    for table in tables:
        for segment in table:
            first = found.setdefault(key(segment), segment)
            if first.name is None:  # whoever names it knows more
                found[key(segment)] = segment
    if len(found) > MOST:
        raise DataError(f"the annotations hold {len(found)} classes; accepted are up to {MOST}")
    wanted = {segment.value for segment in found.values()}
    taken, notes = {0}, []
    for name, segment in found.items():
        value = segment.value
        if value in taken:
            value = next(v for v in count(1) if v not in taken | wanted)
            notes.append(f"the value {segment.value} means several things: '{segment.title}' is written as {value}")
        taken.add(value)
        found[name] = replace(segment, value=value, layer=0)
    order = sorted(found, key=lambda name: found[name].value)
    indices = [[order.index(key(segment)) + 1 for segment in table] for table in tables]
    return tuple(found[name] for name in order), indices, notes
