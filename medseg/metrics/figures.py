"""All figures of a pair of label maps; the package says what each means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from medseg.metrics.pairs import Pair, pairs
from medseg.metrics.surfaces import surface_distances

DEFINITIONS: Mapping[str, str] = {
    "dice": "2 TP / (2 TP + FP + FN)",
    "jaccard": "TP / (TP + FP + FN)",
    "surface_dice": "share of the surface voxels of both masks within the tolerance of the other surface",
    "hd95_mm": "max_directed: larger of the two directed 95th percentiles (MONAI)",
    "hd95_pooled_mm": "pooled: 95th percentile of both directions together (medpy)",
    "hd_mm": "Hausdorff distance: largest distance of either direction",
    "asd_mm": "mean distance from the prediction's surface to the reference's, one-directional (DTC, UA-MT)",
    "assd_mm": "mean distance of both directions together, symmetric",
    "volume_error_ml": "prediction minus reference",
    "volume_error_percent": "prediction minus reference, of the reference",
}
DISTANCES = ("hd95_mm", "hd95_pooled_mm", "hd_mm", "asd_mm", "assd_mm")
Value = float | int | str | None


def segmentation_metrics(
    prediction: np.ndarray,
    reference: np.ndarray,
    *,
    label_values: Sequence[int],
    spacing_mm: Sequence[float],
    tolerance_mm: float = 1.0,
    ignore: int = 255,
) -> dict[int, dict[str, Value]]:
    """All figures of this module for each label.

    Args:
        prediction: integer `(X, Y, Z)`.
        reference: integer `(X, Y, Z)`; voxels that hold `ignore` count nowhere, and a face towards them is no
            surface.
        label_values: the values to measure, usually without the background's.
        spacing_mm: side of a voxel along each axis.
        tolerance_mm: for the surface Dice.
        ignore: value of voxels nobody annotated.

    Returns:
        For each value the figures of `DEFINITIONS`, `situation` (both, both_empty, missing, spurious),
        `prediction_ml`, `reference_ml`, `volume_error_ml`, `volume_error_percent` and the voxel counts `tp`,
        `fp`, `fn`. What does not exist is None; nothing is NaN or infinite.

    Raises:
        ValueError: arrays that are not integer or of different shapes, or a spacing that does not fit.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction {prediction.shape} and reference {reference.shape} differ in shape")
    for array in (prediction, reference):
        if not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"labels must be integers, got {array.dtype}")
    if len(spacing_mm) != prediction.ndim or not all(0 < s < np.inf for s in spacing_mm):
        raise ValueError(f"spacing_mm must be {prediction.ndim} positive numbers, got {tuple(spacing_mm)}")
    found = pairs(prediction, reference, label_values, ignore)
    return {value: _figures(pair, spacing_mm, tolerance_mm) for value, pair in found}


def _figures(pair: Pair, spacing_mm: Sequence[float], tolerance_mm: float) -> dict[str, Value]:
    in_p, in_r = int(np.count_nonzero(pair.prediction)), int(np.count_nonzero(pair.reference))
    tp = int(np.count_nonzero(pair.prediction & pair.reference))
    ml = float(np.prod(spacing_mm)) / 1000
    empty = not in_p and not in_r
    situation = "both_empty" if empty else "missing" if not in_p else "spurious" if not in_r else "both"
    return {
        "situation": situation,
        "dice": 1.0 if empty else 2 * tp / (in_p + in_r),
        "jaccard": 1.0 if empty else tp / (in_p + in_r - tp),
        **_surface_figures(pair, spacing_mm, tolerance_mm, situation),
        "prediction_ml": in_p * ml,
        "reference_ml": in_r * ml,
        "volume_error_ml": (in_p - in_r) * ml,
        "volume_error_percent": 100 * (in_p - in_r) / in_r if in_r else None,
        "tp": tp,
        "fp": in_p - tp,
        "fn": in_r - tp,
    }


def _surface_figures(pair: Pair, spacing_mm: Sequence[float], tolerance_mm: float, situation: str) -> dict[str, Value]:
    nothing: dict[str, Value] = {"surface_dice": 1.0 if situation == "both_empty" else 0.0}
    nothing.update(dict.fromkeys(DISTANCES))
    if situation != "both":
        return nothing
    there, back = surface_distances(pair, spacing_mm)
    if not there.size:  # all their faces are towards voxels that nobody annotated
        return {**nothing, "surface_dice": None}
    both = np.concatenate([there, back])
    return {
        # 2.5 times 0.8 is a little more than 2: a distance that equals the tolerance is within it
        "surface_dice": float(np.count_nonzero(both <= tolerance_mm * (1 + 1e-6)) / both.size),
        "hd95_mm": float(max(np.percentile(there, 95), np.percentile(back, 95))),
        "hd95_pooled_mm": float(np.percentile(both, 95)),
        "hd_mm": float(both.max()),
        "asd_mm": float(there.mean(dtype=np.float64)),
        "assd_mm": float(both.mean(dtype=np.float64)),
    }
