"""Dice of two label files of one study."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medseg.errors import DataError
from medseg.metrics import segmentation_metrics
from medseg.portable.io.labels import read_labels


def dice_of(one: Path, other: Path) -> dict[str, float]:
    """Dice of each label value that either of two label maps has, and `mean` of all; 1 where both are empty.

    Raises:
        DataError: a file that cannot be read or is no label map, or different sizes.
    """
    try:
        (first, header), (second, _) = read_labels(one), read_labels(other)
        values = _values_in(first, second)
        metrics = segmentation_metrics(first[0], second[0], label_values=values, spacing_mm=header.spacing_mm)
    except ValueError as error:
        raise DataError(f"cannot be compared with {other} ({error})", path=one) from error
    dice = {str(value): float(metrics[value]["dice"] or 0.0) for value in values}
    mean = float(np.mean(list(dice.values()))) if dice else 1.0
    return {**dice, "mean": mean}


def _values_in(first: np.ndarray, second: np.ndarray) -> list[int]:
    """The label values of two label maps, without the background."""
    found = set(np.unique(first).tolist()) | set(np.unique(second).tolist())
    return [int(value) for value in sorted(found - {0})]
