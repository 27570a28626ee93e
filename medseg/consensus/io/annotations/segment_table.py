"""What the classes of an annotation are called: names, label values and colours, as segmentation files keep them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import SimpleITK as sitk  # noqa: N813 - the name everyone knows

from medseg.errors import DataError
from medseg.structure_names import structure_key

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
    try:
        return tuple(_segment(number, fields) for number, fields in sorted(_fields_of_segments(reader).items()))
    except ValueError as error:
        raise DataError(f"its segment table is broken: {error}", path=path, hint="save it anew") from error


def _fields_of_segments(reader: sitk.ImageFileReader) -> dict[int, dict[str, str]]:
    """Number of each segment -> its fields by their short names, from keys such as `Segment0_Name`."""
    fields: dict[int, dict[str, str]] = {}
    for key in reader.GetMetaDataKeys():
        segment, _, short_name = key.partition("_")
        number = segment.removeprefix("Segment")
        if segment.startswith("Segment") and number.isdigit() and short_name:
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
        tables: of each file; the first that names a class decides its value and colour.

    Returns:
        the classes in rising order of their values; for each file the class index (from 1) of each of its segments;
        notes on values that had to change.

    Raises:
        DataError: more classes than fit.
    """
    names = _names_of_values(tables)
    merged: dict[str | int, Segment] = {}
    for table in tables:
        for segment in table:
            key = _key(segment, names)
            first = merged.setdefault(key, segment)
            if first.name is None:  # whoever names it knows more
                merged[key] = segment
    if len(merged) > MOST:
        raise DataError(f"the annotations hold {len(merged)} classes; accepted are up to {MOST}")
    notes = _separate_values(merged)
    order = sorted(merged, key=lambda key: merged[key].value)
    class_index = {key: index for index, key in enumerate(order, start=1)}
    indices = []
    for table in tables:
        indices.append([class_index[_key(segment, names)] for segment in table])
    return tuple(merged[key] for key in order), indices, notes


def _names_of_values(tables: Sequence[Sequence[Segment]]) -> dict[int, str]:
    """Label value -> its name in the first file that gives it one."""
    names: dict[int, str] = {}
    for table in reversed(tables):
        for segment in table:
            if segment.name is not None:
                names[segment.value] = segment.name
    return names


def _key(segment: Segment, names: dict[int, str]) -> str | int:
    """What is one class; a file without names beside one with names means the same by the same numbers."""
    name = segment.name or names.get(segment.value)
    return structure_key(name) if name else segment.value


def _separate_values(merged: dict[str | int, Segment]) -> list[str]:
    """Give each class a value of its own, in place; returns notes on those that had to change."""
    wanted = {segment.value for segment in merged.values()}
    taken, notes = {0}, []
    for key, segment in merged.items():
        value = segment.value
        if value in taken:
            value = next(number for number in count(1) if number not in taken | wanted)
            notes.append(f"the value {segment.value} means several things: '{segment.title}' is written as {value}")
        taken.add(value)
        merged[key] = replace(segment, value=value, layer=0)
    return notes
