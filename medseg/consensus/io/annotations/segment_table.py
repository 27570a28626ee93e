"""What the classes of an annotation are called: names, label values and colours, as segmentation files keep them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import SimpleITK as sitk  # noqa: N813 - the name everyone knows

from medseg.errors import DataError
from medseg.structure_names import key_with_blanks, structure_key

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
        has_value: whether the value alone tells which class it is. It does not where several layers have it, and where
            it is but a place in the file; it then says nothing of the values of other files.
    """

    value: int
    name: str | None = None
    color: tuple[float, float, float] | None = None
    layer: int = 0
    extra: Mapping[str, str] = field(default_factory=dict)
    has_value: bool = True

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
    try:
        table = [_segment(number, fields) for number, fields in sorted(_fields_of_segments(reader).items())]
    except ValueError as error:
        raise DataError(f"its segment table is broken: {error}", path=path, hint="save it anew") from error
    times = Counter(segment.value for segment in table)
    return tuple(segment if times[segment.value] == 1 else _without_value(segment) for segment in table)


def _without_value(segment: Segment) -> Segment:
    """A segment that its value alone does not tell from others of its file."""
    return replace(segment, has_value=False, name=segment.name or f"layer {segment.layer}")


def _fields_of_segments(reader: sitk.ImageFileReader) -> dict[int, dict[str, str]]:
    """Number of each segment -> its fields by their short names, from keys such as `Segment0_Name`."""
    fields: dict[int, dict[str, str]] = {}
    for key in reader.GetMetaDataKeys():
        segment, _, short_name = key.partition("_")
        number = segment.removeprefix("Segment")
        if segment.startswith("Segment") and number.isdecimal() and short_name:
            fields.setdefault(int(number), {})[short_name] = reader.GetMetaData(key)
    return fields


def _segment(number: int, fields: dict[str, str]) -> Segment:
    """One segment from its fields.

    Raises:
        ValueError: a field that cannot be understood.
    """
    # before there were layers, each segment had a channel
    layer_without_field = 0 if "LabelValue" in fields else number
    read_here = {"LabelValue", "Name", "Color", "Layer", "Extent"}
    return Segment(
        value=int(fields.get("LabelValue", 1)),
        name=fields.get("Name") or fields.get("ID"),
        color=_color(fields.get("Color", "")),
        layer=int(fields.get("Layer", layer_without_field)),
        extra={name: value for name, value in fields.items() if name not in read_here},
    )


def _color(text: str) -> tuple[float, float, float] | None:
    """Red, green and blue in [0, 1]; None for anything else, since a colour never stops a label."""
    try:
        red, green, blue = (float(part) for part in text.split())
    except ValueError:
        return None
    return (red, green, blue) if all(0 <= part <= 1 for part in (red, green, blue)) else None


def merge_segments(
    tables: Sequence[Sequence[Segment]],
) -> tuple[tuple[Segment, ...], list[list[int]], list[str]]:
    """All classes of several files, each once, with values that do not collide.

    Args:
        tables: of each file; the first that names a class decides its name and colour, and the first that has a value
            for it decides its value.

    Returns:
        the classes in rising order of their values; for each file the class index (from 1) of each of its segments;
        notes on values that had to change.

    Raises:
        DataError: more classes than fit.
    """
    keys = ClassKeys(tables)
    merged: dict[str | int, Segment] = {}
    for table in tables:
        for segment in table:
            key = keys.of(segment)
            merged[key] = _join(merged[key], segment) if key in merged else segment
    if len(merged) > MOST:
        raise DataError(f"the annotations hold {len(merged)} classes; accepted are up to {MOST}")
    notes = _separate_values(merged)
    order = sorted(merged, key=lambda key: merged[key].value)
    class_index = {key: index for index, key in enumerate(order, start=1)}
    indices = []
    for table in tables:
        indices.append([class_index[keys.of(segment)] for segment in table])
    return tuple(merged[key] for key in order), indices, notes


class ClassKeys:
    """Which segments of several files are one class.

    Names tell, in which blanks may be underscores unless a file has both spellings. A file without names beside one
    with names means the same by the same values.

    Args:
        tables: of each file; the first that names a value counts.
    """

    def __init__(self, tables: Sequence[Sequence[Segment]]) -> None:
        self._names: dict[int, str] = {}
        self._spelled_twice: set[str] = set()
        for table in tables:
            named = [segment for segment in table if segment.name is not None]
            for segment in named:
                if segment.has_value:
                    self._names.setdefault(segment.value, str(segment.name))
            spellings = {structure_key(str(segment.name)) for segment in named}
            times = Counter(key_with_blanks(spelling) for spelling in spellings)
            self._spelled_twice.update(key for key, count in times.items() if count > 1)

    def of(self, segment: Segment) -> str | int:
        """The same for all segments of one class: its name for comparisons, or its value where nobody names that."""
        name = segment.name or self._names.get(segment.value)
        if not name:
            return segment.value
        key = key_with_blanks(name)
        return structure_key(name) if key in self._spelled_twice else key


def _join(first: Segment, segment: Segment) -> Segment:
    """One class from what an earlier and a later file know of it."""
    best = segment if first.name is None else first  # whoever names it knows more
    if best.has_value or first.has_value == segment.has_value:
        return best
    valued = first if first.has_value else segment
    return replace(best, value=valued.value, has_value=True)


def _separate_values(merged: dict[str | int, Segment]) -> list[str]:
    """Give each class a value of its own, in place; returns notes on those that had to change."""
    wanted = {segment.value for segment in merged.values()}
    taken, notes = {0}, []
    for key, segment in sorted(merged.items(), key=lambda item: not item[1].has_value):
        value = segment.value
        if value in taken:
            value = next(number for number in count(1) if number not in taken | wanted)
            if segment.has_value:
                problem = f"the value {segment.value} means several things"
                notes.append(f"{problem}: '{segment.title}' is written as {value}")
        taken.add(value)
        merged[key] = replace(segment, value=value, layer=0, has_value=True)
    return notes
