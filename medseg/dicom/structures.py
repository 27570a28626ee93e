"""Structures of a DICOM annotation: what is read of them, and which of them are taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.errors import DataError
from medseg.portable.io.header import Header
from medseg.structure_names import find_named

MOST = 254  # structures that fit into bytes beside 0 and the mark of what is missing

Color = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Annotation:
    """A rater's annotation as a DICOM file holds it.

    Attributes:
        labels: `(X, Y, Z)` uint8: 0, or the place of a structure from 1.
        header: where it lies.
        names: of the structures.
        colors: of each, red, green, blue in [0, 1]; None where the file has none.
        notes: what is strange about it.
    """

    labels: np.ndarray
    header: Header
    names: tuple[str, ...]
    colors: tuple[Color | None, ...]
    notes: tuple[str, ...]


def choose_structures(names: Sequence[str], only: Sequence[str], path: Path) -> tuple[list[int], list[str]]:
    """Places of the structures to take, and notes.

    Args:
        names: of all structures of a file.
        only: names of those to take, see `find_named`; none: all.
        path: of the file, for messages.

    Raises:
        DataError: none is wanted, or there are too many.
    """
    wanted = set(range(len(names)))
    if only:
        wanted = {place for name in only for place in find_named(name, names)}
    taken = sorted(wanted)
    left_out = [name for place, name in enumerate(names) if place not in wanted]
    if not taken:
        problem = f"has no structure called {' or '.join(only) or 'anything'}; it has {', '.join(names)}"
        raise DataError(problem, path=path)
    if len(taken) > MOST:
        problem = f"holds {len(taken)} structures; accepted are up to {MOST}"
        raise DataError(problem, path=path, hint="name some by --label")
    return taken, [f"left out: {', '.join(left_out)}"] if left_out else []
