"""Dice of two label files of one study."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medseg.errors import DataError
from medseg.metrics import segmentation_metrics
from medseg.portable.io.read import read_volume


def dice_of(one: Path, other: Path) -> dict[str, float]:
    """Dice of each label value that either of two label maps has, and `mean` of all; 1 where both are empty.

    Raises:
        DataError: a file that cannot be read or is no label map, or different sizes.
    """
    try:
        (a, header), (b, _) = read_volume(one), read_volume(other)
        values = [int(v) for v in sorted({*np.unique(a).tolist(), *np.unique(b).tolist()} - {0})]
        figures = segmentation_metrics(a[0], b[0], label_values=values, spacing_mm=header.spacing_mm)
    except ValueError as error:
        raise DataError(f"cannot be compared with {other} ({error})", path=one) from error
    found = {str(value): float(figures[value]["dice"] or 0.0) for value in values}
    return {**found, "mean": float(np.mean(list(found.values()))) if found else 1.0}
