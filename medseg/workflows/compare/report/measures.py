"""What a comparison shows and tests: of segmentations Dice and distances, of classified images their classes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from medseg.metrics import METRICS, Metric
from medseg.metrics.classification import IMAGE_METRICS, ImageMetric


@dataclass(frozen=True)
class Measures:
    """What is shown of one kind of rows.

    Args:
        shown: metrics of the report, in order; `cases.csv` has all.
        compared: those of which differences between arms are given.
        tested: the one that is tested; of the others there are intervals alone.
        name: of the one that is tested, as a difference between cases.
        mean_name: of its mean over the cases and structures.
        curves: those of which learning curves are drawn.
    """

    shown: tuple[str, ...]
    compared: tuple[str, ...]
    tested: str
    name: str
    mean_name: str
    curves: tuple[str, ...]


OF_VOXELS = Measures(
    shown=("dice", "hd95_mm", "surface_dice"),
    compared=("dice", "hd95_mm", "surface_dice"),
    tested="dice",
    name="Dice",
    mean_name="mean Dice",
    curves=("dice", "hd95_mm"),
)
OF_IMAGES = Measures(
    shown=("recall", "precision"),
    compared=("recall",),
    tested="recall",
    name="accuracy",
    mean_name="balanced accuracy",
    curves=("recall",),
)


def measures_of(metrics: Iterable[str]) -> Measures:
    """The measures of rows.

    Args:
        metrics: names that rows have; without any, those of segmentations.
    """
    return OF_IMAGES if OF_IMAGES.tested in metrics else OF_VOXELS


def metric_called(name: str) -> Metric | ImageMetric:
    """A metric by its name."""
    return IMAGE_METRICS[name] if name in IMAGE_METRICS else METRICS[name]
