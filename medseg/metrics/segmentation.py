"""Metrics of a pair of label maps: one entry each, with its definition, unit, function and column."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from medseg.metrics.surfaces import Pair, pairs, surface_distances

Value = float | int | str | None


@dataclass(frozen=True)
class Comparison:
    """The masks of one class, prediction against reference, and what several metrics are made of.

    Args:
        pair: the two masks in their joint bounding box.
        spacing_mm: side of a voxel along each axis.
        tolerance_mm: of the surface Dice.
    """

    pair: Pair
    spacing_mm: Sequence[float]
    tolerance_mm: float

    @cached_property
    def predicted(self) -> int:
        """Voxels of the prediction."""
        return int(np.count_nonzero(self.pair.prediction))

    @cached_property
    def true(self) -> int:
        """Voxels of the reference."""
        return int(np.count_nonzero(self.pair.reference))

    @cached_property
    def tp(self) -> int:
        """True positives: voxels of both."""
        return int(np.count_nonzero(self.pair.prediction & self.pair.reference))

    @property
    def situation(self) -> str:
        """Which of the two masks have voxels: both, both_empty, missing (no prediction) or spurious (no reference)."""
        if self.predicted and self.true:
            return "both"
        if self.predicted:
            return "spurious"
        return "missing" if self.true else "both_empty"

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel."""
        return float(np.prod(self.spacing_mm)) / 1000

    @cached_property
    def directed_mm(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Distances of each surface voxel of the prediction to the reference's surface, and the reverse.

        None where they do not exist: a mask is empty, or has no face towards annotated voxels.
        """
        if self.situation != "both":
            return None
        there, back = surface_distances(self.pair, self.spacing_mm)
        return (there, back) if there.size else None

    @cached_property
    def pooled_mm(self) -> np.ndarray | None:
        """The distances of both directions together."""
        return None if self.directed_mm is None else np.concatenate(self.directed_mm)


@dataclass(frozen=True)
class Metric:
    """One metric.

    Args:
        name: its column in tables and key in reports; ends in the unit where there is one.
        definition: a formula or a phrase.
        compute: the value of one class in one case; None where it does not exist.
        heading: of its column in tables for people; empty: it is left out there. `{tolerance}` is filled in.
        unit: "", "mm", "ml" or "%".
        averaged: whether a mean over cases says something.
    """

    name: str
    definition: str
    compute: Callable[[Comparison], Value]
    heading: str = ""
    unit: str = ""
    averaged: bool = True

    def head(self, tolerance: float, unit: str = "mm") -> str:
        """The heading, with distances in `unit`: mm, or px of images without a spacing."""
        return self.heading.format(tolerance=f"{tolerance:g}").replace(" mm", f" {unit}")

    def text(self, value: float | None) -> str:
        """A value with as many digits as it deserves."""
        if value is None:
            return "-"
        digits = {"%": 1, "mm": 2, "ml": 1}.get(self.unit, 3)
        return f"{value:.{digits}f}"


METRICS: dict[str, Metric] = {}
"""Name -> metric, in the order of the columns of `metrics.csv`."""


def metric(
    name: str, definition: str, *, heading: str = "", unit: str = "", averaged: bool = True
) -> Callable[[Callable[[Comparison], Value]], Callable[[Comparison], Value]]:
    """Register a function of a comparison as a metric; the arguments are those of `Metric`."""

    def register(compute: Callable[[Comparison], Value]) -> Callable[[Comparison], Value]:
        METRICS[name] = Metric(name, definition, compute, heading, unit, averaged)
        return compute

    return register


@metric("situation", "both, missing (no prediction), spurious (no reference) or both_empty", averaged=False)
def situation(found: Comparison) -> str:
    """Which of the two masks have voxels."""
    return found.situation


@metric("dice", "2 TP / (2 TP + FP + FN)", heading="Dice")
def dice(found: Comparison) -> float:
    """Dice coefficient; 1 for two empty masks."""
    if found.situation == "both_empty":
        return 1.0
    return 2 * found.tp / (found.predicted + found.true)


@metric("jaccard", "TP / (TP + FP + FN)", heading="Jaccard")
def jaccard(found: Comparison) -> float:
    """Jaccard index, intersection over union; 1 for two empty masks."""
    if found.situation == "both_empty":
        return 1.0
    return found.tp / (found.predicted + found.true - found.tp)


@metric(
    "surface_dice",
    "share of the surface voxels of both masks within the tolerance of the other surface",
    heading="surface Dice at {tolerance} mm",
)
def surface_dice(found: Comparison) -> float | None:
    """Surface Dice (MONAI's definition); 1 for two empty masks, 0 if one is empty."""
    if found.situation != "both":
        return float(found.situation == "both_empty")
    if found.pooled_mm is None:
        return None
    # 2.5 times 0.8 is a little more than 2: a distance that equals the tolerance is within it
    within = np.count_nonzero(found.pooled_mm <= found.tolerance_mm * (1 + 1e-6))
    return float(within / found.pooled_mm.size)


@metric("hd95_mm", "max_directed: larger of the two directed 95th percentiles (MONAI)", heading="HD95 mm", unit="mm")
def hd95_mm(found: Comparison) -> float | None:
    """95th percentile of the Hausdorff distance, the larger of both directions."""
    if found.directed_mm is None:
        return None
    there, back = found.directed_mm
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


@metric("hd95_pooled_mm", "pooled: 95th percentile of both directions together (medpy)", unit="mm")
def hd95_pooled_mm(found: Comparison) -> float | None:
    """95th percentile of the distances of both directions together."""
    return None if found.pooled_mm is None else float(np.percentile(found.pooled_mm, 95))


@metric("hd_mm", "Hausdorff distance: largest distance of either direction", unit="mm")
def hd_mm(found: Comparison) -> float | None:
    """Hausdorff distance."""
    return None if found.pooled_mm is None else float(found.pooled_mm.max())


@metric(
    "asd_mm",
    "mean distance from the prediction's surface to the reference's, one-directional (DTC, UA-MT)",
    heading="ASD mm",
    unit="mm",
)
def asd_mm(found: Comparison) -> float | None:
    """Average surface distance, from the prediction to the reference."""
    return None if found.directed_mm is None else float(found.directed_mm[0].mean(dtype=np.float64))


@metric("assd_mm", "mean distance of both directions together, symmetric", heading="ASSD mm", unit="mm")
def assd_mm(found: Comparison) -> float | None:
    """Average symmetric surface distance."""
    return None if found.pooled_mm is None else float(found.pooled_mm.mean(dtype=np.float64))


@metric("prediction_ml", "volume of the prediction", unit="ml", averaged=False)
def prediction_ml(found: Comparison) -> float:
    """Volume of the prediction."""
    return found.predicted * found.voxel_ml


@metric("reference_ml", "volume of the reference", unit="ml", averaged=False)
def reference_ml(found: Comparison) -> float:
    """Volume of the reference."""
    return found.true * found.voxel_ml


@metric("volume_error_ml", "prediction minus reference", unit="ml")
def volume_error_ml(found: Comparison) -> float:
    """Difference of the volumes."""
    return (found.predicted - found.true) * found.voxel_ml


@metric("volume_error_percent", "prediction minus reference, of the reference", heading="volume error %", unit="%")
def volume_error_percent(found: Comparison) -> float | None:
    """Difference of the volumes, in percent of the reference's."""
    return 100 * (found.predicted - found.true) / found.true if found.true else None


@metric("tp", "true positive voxels", averaged=False)
def tp(found: Comparison) -> int:
    """Voxels of both masks."""
    return found.tp


@metric("fp", "false positive voxels", averaged=False)
def fp(found: Comparison) -> int:
    """Voxels of the prediction alone."""
    return found.predicted - found.tp


@metric("fn", "false negative voxels", averaged=False)
def fn(found: Comparison) -> int:
    """Voxels of the reference alone."""
    return found.true - found.tp


def segmentation_metrics(
    prediction: np.ndarray,
    reference: np.ndarray,
    *,
    label_values: Sequence[int] | Mapping[int, Sequence[int]],
    spacing_mm: Sequence[float],
    tolerance_mm: float = 1.0,
    ignore: int = 255,
) -> dict[int, dict[str, Value]]:
    """Every metric of `METRICS` for each label.

    Args:
        prediction: integer `(X, Y, Z)`.
        reference: integer `(X, Y, Z)`; voxels that hold `ignore` count nowhere, and a face towards them is no
            surface.
        label_values: the values to measure, usually without the background's; of structures that overlap value -> the
            values whose union it is.
        spacing_mm: side of a voxel along each axis.
        tolerance_mm: for the surface Dice.
        ignore: value of voxels nobody annotated.

    Returns:
        For each value the metrics by name. What does not exist is None; nothing is NaN or infinite.

    Raises:
        ValueError: arrays that are not integer or of different shapes, or a spacing that does not fit.

    Examples:
        >>> import numpy as np
        >>> from medseg.metrics import segmentation_metrics
        >>> reference = np.zeros((4, 4, 4), np.uint8)
        >>> reference[1:3] = 1
        >>> prediction = np.zeros_like(reference)
        >>> prediction[1:4] = 1
        >>> found = segmentation_metrics(prediction, reference, label_values=[1], spacing_mm=(2, 1, 1))
        >>> found[1]["dice"], found[1]["hd_mm"], found[1]["volume_error_percent"]
        (0.8, 2.0, 50.0)
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction {prediction.shape} and reference {reference.shape} differ in shape")
    for array in (prediction, reference):
        if not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"labels must be integers, got {array.dtype}")
    if len(spacing_mm) != prediction.ndim or not all(0 < s < np.inf for s in spacing_mm):
        raise ValueError(f"spacing_mm must be {prediction.ndim} positive numbers, got {tuple(spacing_mm)}")
    measured = {}
    members = label_values if isinstance(label_values, Mapping) else {value: (value,) for value in label_values}
    for value, pair in pairs(prediction, reference, members, ignore):
        found = Comparison(pair, spacing_mm, tolerance_mm)
        measured[value] = {name: entry.compute(found) for name, entry in METRICS.items()}
    return measured
