"""Structures that share voxels, as one label map: of two nested ones the inner counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

ENCLOSED = 0.95
"""Share of a structure within another one from which on it is inside of it; outlines of neighbours are never exact."""


class StackedStructures:
    """Structures put one after the other into a label map.

    What lies inside of another structure counts there, whichever comes first: a liver in the body's outline. Where two
    overlap otherwise the later one counts.

    Args:
        shape: of the label map.
        names: of the structures, in the order in which they are added.

    Attributes:
        labels: uint8: 0, or the place of a structure from 1.

    Examples:
        >>> import numpy as np
        >>> from medseg.dicom.overlaps import StackedStructures
        >>> stacked = StackedStructures((4,), ["liver", "body"])
        >>> stacked.add(np.array([False, True, True, False]))
        >>> stacked.add(np.array([True, True, True, True]))
        >>> stacked.labels.tolist()
        [2, 1, 1, 2]
        >>> stacked.notes()
        ["'body' encloses 'liver', which counts there"]
    """

    def __init__(self, shape: Sequence[int], names: Sequence[str]) -> None:
        self.labels = np.zeros(shape, np.uint8)
        self.names = names
        self._sizes: list[int] = []
        self._overlapping = 0
        self._enclosed: dict[str, list[str]] = {}

    def add(self, mask: np.ndarray) -> None:
        """Add the next structure, bool of the map's shape."""
        place = len(self._sizes) + 1
        size = int(np.count_nonzero(mask))
        self._sizes.append(size)
        shared = np.bincount(self.labels[mask], minlength=place)
        visible = np.bincount(self.labels.ravel(), minlength=place) if shared[1:].any() else shared
        others = (np.flatnonzero(shared[1:]) + 1).tolist()
        inner = [n for n in others if shared[n] >= ENCLOSED * visible[n] and size > visible[n] / ENCLOSED]
        left = size - int(shared[inner].sum())
        for other in others:
            if other in inner:
                self._enclose(place, other)
            elif shared[other] >= ENCLOSED * left and self._sizes[other - 1] > size / ENCLOSED:
                self._enclose(other, place)
            else:
                self._overlapping += int(shared[other])
        self.labels[mask & ~np.isin(self.labels, inner)] = place

    def _enclose(self, outer: int, inner: int) -> None:
        self._enclosed.setdefault(self.names[outer - 1], []).append(self.names[inner - 1])

    def notes(self) -> list[str]:
        """What was decided where structures share voxels."""
        notes = []
        for outer, inner in self._enclosed.items():
            verb = "counts" if len(inner) == 1 else "count"
            notes.append(f"'{outer}' encloses {', '.join(repr(name) for name in inner)}, which {verb} there")
        if self._overlapping:
            notes.append(f"its structures overlap in {self._overlapping} voxels, which count for the later one")
        return notes
