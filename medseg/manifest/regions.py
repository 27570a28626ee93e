"""Regions: classes that overlap, each the union of some values of the label files, as nnU-Net has them.

A label file holds one value per voxel. A region, such as a whole tumour, is a union of these values. Where label maps
are written, each region in turn paints its own value over those before it, so that the last one stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictInt

ORDER = "regions_class_order"
"""nnU-Net's key of the values that regions paint, one for each region in the order of the labels."""


class Region(BaseModel):
    """A class that is the union of several values in label files.

    Args:
        name: one of the names of the labels, whose value it paints.
        values: in label files, that belong to it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    values: tuple[StrictInt, ...] = Field(min_length=1)


def with_regions(content: Any) -> Any:
    """A manifest whose labels are nnU-Net's regions, in the form that manifests are kept in; others as they are.

    `{"labels": {"background": 0, "tumour": [1, 2], "core": 2}, "regions_class_order": [1, 2]}` becomes
    `{"labels": {"0": "background", "1": "tumour", "2": "core"}, "regions": [...]}`.

    Raises:
        ValueError: an order that does not fit the labels, or values that are none.
    """
    labels = content.get("labels") if isinstance(content, Mapping) else None
    if not isinstance(labels, Mapping) or not any(isinstance(value, list | tuple) for value in labels.values()):
        return content
    of_regions = {str(name): value for name, value in labels.items() if value != 0}
    order = content.get(ORDER)
    names = ", ".join(of_regions)
    if not isinstance(order, list | tuple) or len(order) != len(of_regions):
        found = "missing" if order is None else f"{order!r}"
        raise ValueError(
            f"{ORDER}: is {found}; accepted is a list of {len(of_regions)} values, one for each of the regions "
            f"{names}, in the order in which they are painted"
        )
    wrong = [value for value in order if type(value) is not int]
    if wrong or len(set(order)) < len(order):
        raise ValueError(f"{ORDER}: is {list(order)}; accepted are different whole numbers, one for each of {names}")
    regions = []
    for name, value in of_regions.items():
        values = list(value) if isinstance(value, list | tuple) else [value]
        regions.append({"name": name, "values": values})
    written = dict(zip(order, of_regions, strict=True))
    background = {value: name for name, value in labels.items() if value == 0}
    kept = {key: value for key, value in content.items() if key != ORDER}
    return {**kept, "labels": {**background, **written}, "regions": regions}


def wrong_regions(labels: Mapping[int, str], regions: Sequence[Region], *, has_background: bool) -> Iterator[str]:
    """What is wrong with regions, a line each that begins with the place.

    Args:
        labels: value -> name of every class.
        regions: in the order in which they are painted.
        has_background: whether 0 is the background.
    """
    if not regions:
        return
    if not has_background:
        yield "regions: what is in no region is background, and background is null"
        return
    structures = {value: name for value, name in labels.items() if value != 0}
    if sorted(region.name for region in regions) != sorted(structures.values()):
        found = ", ".join(region.name for region in regions)
        yield f"regions: has {found}; accepted is each of the labels {', '.join(structures.values())} once"
        return
    outside = [(region.name, value) for region in regions for value in region.values if not 1 <= value <= 254]
    for name, value in outside:
        yield f"regions: '{name}' holds {value}; accepted are values of structures, 1 to 254"
    if not outside:
        yield from _not_written_back(structures, regions)


def _not_written_back(structures: Mapping[int, str], regions: Sequence[Region]) -> Iterator[str]:
    """Values that painting does not give back, and such as nothing paints."""
    own = {name: value for value, name in structures.items()}
    for value in sorted({value for region in regions for value in region.values} | set(structures)):
        having = [region.name for region in regions if value in region.values]
        if not having:
            yield f"regions: {value} is written for '{structures[value]}', and no region holds it"
        elif own[having[-1]] != value:
            yield (
                f"regions: the value {value} cannot be written back: it belongs to {', '.join(having)}, of which "
                f"'{having[-1]}' is painted last with {own[having[-1]]}"
            )


def members_of(structures: Mapping[int, str], regions: Sequence[Region]) -> dict[int, tuple[int, ...]]:
    """Value of each structure -> the values in label maps that belong to it, of a class that is no region its own.

    Args:
        structures: value -> name of every class but the background.
        regions: may be none.

    Examples:
        >>> regions = [Region(name="tumour", values=(1, 2)), Region(name="core", values=(2,))]
        >>> members_of({1: "tumour", 2: "core"}, regions)
        {1: (1, 2), 2: (2,)}
        >>> members_of({1: "liver"}, [])
        {1: (1,)}
    """
    by_name = {region.name: region.values for region in regions}
    return {value: by_name.get(name, (value,)) for value, name in structures.items()}


def names_of_values(structures: Mapping[int, str], regions: Sequence[Region]) -> dict[int, str]:
    """Value -> what the voxels of this one value are: of a region with several values only what is left of it.

    Examples:
        >>> regions = [Region(name="tumour", values=(1, 2)), Region(name="core", values=(2,))]
        >>> names_of_values({1: "tumour", 2: "core"}, regions)
        {1: 'rest of tumour', 2: 'core'}
    """
    members = members_of(structures, regions)
    return {value: name if len(members[value]) == 1 else f"rest of {name}" for value, name in structures.items()}
