"""A slice of each class's map of a case, kept for the sheets that show where a method looks."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from torch import Tensor

from medseg.atomic import write_whole
from medseg.manifest.manifest import Case

SHOWN = 12
"""Cases on a sheet."""

KEPT = 24
"""Cases of which a slice is kept: a rule leaves some without a label, and those are not shown."""

STRONGEST = 0.8
"""Opacity of a class's colour where its map is largest."""


def evenly_chosen(cases: Sequence[Case], count: int) -> list[Case]:
    """So many cases at equal distances in their order, the first and the last among them; all where they are fewer."""
    places = np.linspace(0, len(cases) - 1, min(count, len(cases))).round().astype(int)
    return [cases[place] for place in places]


def fullest_place(label: np.ndarray, structures: Sequence[int]) -> int:
    """Along the last axis of a label `(X, Y, Z)` the slice with most voxels of the structures."""
    return int(np.isin(label, list(structures)).sum((0, 1)).argmax())


def map_slice(maps: Tensor, classes: int, place: int, tags: Mapping[int, bool] | None = None) -> np.ndarray | None:
    """What is positive of each structure's map in one slice, divided by the map's maximum in the whole image.

    Args:
        maps: `(K, X, Y, Z)`: of the structures first, or of all classes with the background first.
        classes: number of classes with background.
        place: of the slice along the last axis.
        tags: class index -> whether it is in the image; maps of classes that are not are 0.

    Returns:
        `(classes - 1, X, Y)` float32 in [0, 1]; None where the maps are too few to be those of the structures.
    """
    structures = classes - 1
    if len(maps) < structures:
        return None
    first = 1 if len(maps) == classes else 0
    shown = np.zeros((structures, *maps.shape[1:3]), np.float32)
    for number in range(structures):
        largest = float(maps[first + number].max())
        is_absent = tags is not None and tags.get(number + 1) is False
        if largest > 0 and not is_absent:
            shown[number] = maps[first + number, ..., place].float().numpy().clip(0) / largest
    return shown


def keep_map_slice(path: Path, shown: np.ndarray) -> Path:
    """Write a slice of `map_slice` as bytes."""
    stream = io.BytesIO()
    np.savez_compressed(stream, maps=np.round(255 * shown).astype(np.uint8))
    return write_whole(path, stream.getvalue())


def read_map_slice(path: Path) -> np.ndarray:
    """The slice as it was written, `(classes - 1, X, Y)` in [0, 1]."""
    with np.load(path) as kept:
        return kept["maps"] / np.float32(255)


def colour_maps(shown: np.ndarray, colors: Sequence[Any]) -> np.ndarray:
    """The largest map at each pixel in its class's colour, the more opaque the larger it is.

    Args:
        shown: `(structures, X, Y)` in [0, 1].
        colors: one of each structure.

    Returns:
        Rows of a picture `(Y, X, 4)`.
    """
    rows = shown.transpose(0, 2, 1)
    palette = np.array([to_rgb(color) for color in colors], np.float32)
    opacity = STRONGEST * rows.max(0)
    return np.concatenate([palette[rows.argmax(0)], opacity[..., None]], 2)
