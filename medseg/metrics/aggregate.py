"""From the metrics of many cases to one table: what is averaged, over how many, and what is only counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import mean, median, stdev
from typing import Any, NamedTuple

from medseg.metrics.segmentation import METRICS, Value

SITUATIONS = ("both", "missing", "spurious", "both_empty")


class Overlap(NamedTuple):
    """Voxels of a class whose reference is known: in both label maps, in the prediction, in the reference."""

    shared: int
    predicted: int
    reference: int


def averaged() -> list[str]:
    """Names of the metrics of which a mean over cases says something."""
    return [name for name, entry in METRICS.items() if entry.averaged]


def statistics(values: Sequence[float]) -> dict[str, float | int | None]:
    """Mean, sample standard deviation, median, smallest, largest and how many; None where undefined."""
    if not values:
        return {"mean": None, "sd": None, "median": None, "min": None, "max": None, "n": 0}
    return {
        "mean": mean(values),
        "sd": stdev(values) if len(values) > 1 else None,
        "median": median(values),
        "min": min(values),
        "max": max(values),
        "n": len(values),
    }


def summarize(compared: Sequence[dict[str, Value]], failed: Sequence[dict[str, Value]]) -> dict[str, Any]:
    """One class over all cases.

    Cases in which neither the prediction nor the reference has the class are counted and left out of every
    mean: their perfect Dice says nothing about the organ.

    Args:
        compared: metrics of the cases with a usable prediction.
        failed: metrics, against an empty prediction, of the cases without one.

    Returns:
        `statistics` of each metric that is averaged; `dice_with_failures`, in which a failed case that has the class
        counts as Dice 0; `counts` of the situations and of `failed`.
    """
    with_class = [metrics for metrics in compared if metrics["situation"] != "both_empty"]
    found: dict[str, Any] = {name: statistics(_numbers(with_class, name)) for name in averaged()}
    zeros = [0.0 for metrics in failed if metrics["situation"] != "both_empty"]
    found["dice_with_failures"] = statistics([*_numbers(with_class, "dice"), *zeros])
    counted = Counter(metrics["situation"] for metrics in compared)
    counts = {name: counted[name] for name in SITUATIONS}
    found["counts"] = {**counts, "failed": len(zeros)}
    return found


def mean_of_classes(classes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean over classes of each class's mean; `n` is the number of classes that have one."""
    found = {}
    for name in (*averaged(), "dice_with_failures"):
        of_classes = [summary[name]["mean"] for summary in classes]
        means = [value for value in of_classes if value is not None]
        found[name] = {"mean": mean(means) if means else None, "n": len(means)}
    return found


def iou_of_set(cases: Sequence[Mapping[str, Overlap]]) -> dict[str, Any]:
    """Intersection over union of a whole set: one confusion over all cases, then the mean over the classes.

    It is the number of the papers on photographs (Everingham et al., "The Pascal Visual Object Classes Challenge",
    2015). A class that neither any prediction nor any reference has is left out.

    Args:
        cases: of each case the classes that its reference tells apart, the background among them where there is one.

    Returns:
        `classes`: name -> IoU, or None; `mean` of them; `n`, how many have one; `cases`.

    Examples:
        >>> iou_of_set([{"sky": Overlap(3, 4, 3)}, {"sky": Overlap(0, 0, 2), "road": Overlap(5, 5, 10)}])
        {'classes': {'sky': 0.5, 'road': 0.5}, 'mean': 0.5, 'n': 2, 'cases': 2}
    """
    totals: dict[str, Overlap] = {}
    for case in cases:
        for name, counted in case.items():
            before = totals.get(name, Overlap(0, 0, 0))
            totals[name] = Overlap(*(one + other for one, other in zip(before, counted, strict=True)))
    classes: dict[str, float | None] = {}
    for name, total in totals.items():
        union = total.predicted + total.reference - total.shared
        classes[name] = total.shared / union if union else None
    found = [value for value in classes.values() if value is not None]
    return {"classes": classes, "mean": mean(found) if found else None, "n": len(found), "cases": len(cases)}


def _numbers(cases: Sequence[dict[str, Value]], name: str) -> list[float]:
    """A metric of the cases in which it exists."""
    values = [metrics[name] for metrics in cases]
    return [float(value) for value in values if value is not None]
