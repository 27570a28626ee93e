"""Classes of which a method's maps say nothing, found while labels are made of the maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from medseg.manifest.manifest import Manifest
from medseg.method import Predictions

FLAT = 1e-3
"""Of a map's largest value: by less it does not vary in 16 bits."""

LIVE, DEAD = "live_maps", "dead_maps"
"""Keys of the notes of a case."""


def count_dead_maps(predicted: Predictions, classes: int) -> dict[str, list[int]]:
    """Which classes that a case is tagged with have a map that says something, and which have none.

    Args:
        predicted: of the case.
        classes: number of classes with background.

    Returns:
        Class indices by `LIVE` and `DEAD`; nothing of a case without maps or tags.
    """
    if not predicted.maps or not predicted.tags:
        return {}
    found: dict[str, list[int]] = {LIVE: [], DEAD: []}
    for index, is_there in predicted.tags.items():
        if is_there:
            speaks = any(says_something(maps, index, classes) for maps in predicted.maps)
            found[LIVE if speaks else DEAD].append(index)
    return found


def dead_maps(manifest: Manifest, notes: Iterable[Mapping[str, Any]]) -> list[str]:
    """Of each class whose map is nowhere positive, or flat, in some image tagged with it, in how many it is.

    Args:
        manifest: names the classes.
        notes: of each case what `count_dead_maps` gave.
    """
    dead: Counter[int] = Counter()
    tagged: Counter[int] = Counter()
    for of_case in notes:
        dead.update(of_case.get(DEAD, ()))
        tagged.update([*of_case.get(LIVE, ()), *of_case.get(DEAD, ())])
    found = []
    for index, count in sorted(dead.items()):
        name = manifest.classes[index]
        found.append(
            f"the map of {name} is nowhere positive, or flat, in {count} of {tagged[index]} images tagged with it"
        )
    return found


def dead_map_warnings(manifest: Manifest, notes: Iterable[Mapping[str, Any]]) -> list[str]:
    """The lines of `dead_maps` with what follows from them."""
    consequence = "no pseudo-label of these tells where it is; train the stage before longer, or look at these tags"
    return [f"{line}: {consequence}" for line in dead_maps(manifest, notes)]


def says_something(maps: Tensor, index: int, classes: int) -> bool:
    """Whether the map of a class is somewhere positive and not the same everywhere; yes where there is no such map.

    Args:
        maps: `(K, X, Y, Z)`: of the structures first, or of all classes with the background first.
        index: of the class.
        classes: number of classes with background.
    """
    if len(maps) < classes - 1:
        return True
    of_class = maps[index if len(maps) == classes else index - 1]
    largest, smallest = float(of_class.max()), float(of_class.min())
    return largest > 0 and largest - smallest > FLAT * largest
