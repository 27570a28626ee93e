"""Raters on grids that are small enough to count voxels by hand, and what is odd about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medseg.consensus.statistics.odd_raters import find_oddities
from medseg.consensus.study import MISSING, Rater, Study

NAMES = ("anna", "bob", "cleo", "dora", "emil", "fay", "gus")
LIVER_AND_SPLEEN = ("background", "liver", "spleen")


def grid(*rows: str) -> np.ndarray:
    """Labels of a picture from its rows; m is not annotated."""
    table = {"m": MISSING}
    return np.array([[table.get(sign, 0) or int(sign) for sign in row] for row in rows], np.uint8)[..., None]


def study_of(*labels: np.ndarray, classes: Sequence[str] = LIVER_AND_SPLEEN) -> Study:
    """Raters with these labels, who are called by `NAMES`."""
    raters = tuple(Rater(name, array) for name, array in zip(NAMES, labels, strict=False))
    return Study(raters, tuple(classes), (1.0, 1.0, 1.0))


def oddities(*labels: np.ndarray, classes: Sequence[str] = LIVER_AND_SPLEEN) -> list[dict[str, Any]]:
    """What is odd about these raters."""
    return find_oddities(study_of(*labels, classes=classes))


def kinds(*labels: np.ndarray, classes: Sequence[str] = LIVER_AND_SPLEEN) -> list[tuple[str, list[str]]]:
    """The same: of what kind, and about whom."""
    return [(entry["kind"], entry["raters"]) for entry in oddities(*labels, classes=classes)]
