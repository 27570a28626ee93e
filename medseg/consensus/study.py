"""What every fuser takes and gives: raters on one grid in, labels with their confidence out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MISSING = 255
"""Class index of a voxel that a rater did not annotate. Seen and left empty is 0: the two are never merged."""


@dataclass(frozen=True, eq=False)
class Rater:
    """One rater's annotation.

    Args:
        name: of the rater.
        labels: `(X, Y, Z)` uint8 class indices, `MISSING` where nothing was annotated. Where the rater gave
            probabilities, their first maximum.
        probabilities: `(K, X, Y, Z)` float32 that sum to 1, or to 0 where nothing was annotated; None for hard labels.
    """

    name: str
    labels: np.ndarray
    probabilities: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Study:
    """One image and its raters, all on one grid; a 2D image has Z = 1.

    Args:
        raters: at least one.
        classes: names of the K classes, background first.
        spacing_mm: of the grid.
        image: `(C, X, Y, Z)` float32, finite; None where there is none, which the image-based fuser refuses.
    """

    raters: tuple[Rater, ...]
    classes: tuple[str, ...]
    spacing_mm: tuple[float, float, float]
    image: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along x, y, z."""
        x, y, z = self.raters[0].labels.shape
        return x, y, z


@dataclass(frozen=True, eq=False)
class Fused:
    """What a fuser answers.

    Args:
        labels: `(X, Y, Z)` uint8 class indices; `MISSING` only where ties stay undecided on request.
        confidence: `(X, Y, Z)` float32 in [0, 1], the share of the (weighted) votes that the label won.
        raters: JSON-ready facts per rater, in the order of the study: "weight" and what the fuser finds besides.
        facts: JSON-ready facts of the run: energies, counts, seconds per stage.
    """

    labels: np.ndarray
    confidence: np.ndarray
    raters: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


Fuser = Callable[[Study, Any], Fused]
"""`fuser(study, options)`; the second parameter's type is a frozen dataclass of documented options with defaults."""
