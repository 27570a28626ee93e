"""Each rater against the consensus, class by class: which of the two has more, and how far they lie apart.

Only voxels that the rater annotated and the consensus decided count. Sensitivity, precision, Dice and the
surface metrics are those of `medseg.metrics` with the rater as prediction and the consensus as reference;
specificity and coverage are shares of the voxels in the box of all labels and its margin, since the air around the
patient would make every specificity perfect.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from statistics import mean
from typing import Any

import numpy as np

from medseg.consensus.boxes import add_margin, labelled_box
from medseg.consensus.study import MISSING, Fused, Rater, Study
from medseg.metrics import segmentation_metrics
from medseg.metrics.aggregate import SITUATIONS

METRICS = (
    "sensitivity", "specificity", "precision", "dice", "hd95_mm", "surface_dice", "rater_ml", "consensus_ml",
    "bias_ml", "bias_percent",
)  # fmt: skip
AVERAGED = ("sensitivity", "specificity", "precision", "dice", "hd95_mm", "surface_dice", "bias_ml", "bias_percent")
COLUMNS = ("rater", "class", "situation", "coverage", *METRICS, "tp", "fp", "fn", "tn", "classes_averaged")
Facts = dict[str, Any]


def rater_table(study: Study, fused: Fused, *, tolerance_mm: float = 1.0) -> list[Facts]:
    """One entry per rater, JSON-ready; what does not exist is None.

    Args:
        study: the raters.
        fused: their consensus.
        tolerance_mm: of the surface Dice.

    Returns:
        `rater`; `coverage`, the annotated share of the box, and `coverage_of_grid`; `classes`: for each class
        but the background `situation` (both, both_empty, missing: the rater does not have it, spurious: only the
        rater has it), `METRICS` and voxel counts; `overall`: means over the classes that either has, `n` classes
        that each mean is of, and `situations` counted. A class that one of the two lacks has Dice 0 and no distance;
        one that the rater never drew, and most of which he did not annotate, counts as one that neither has.
    """
    labelled = labelled_box([fused.labels, *(rater.labels for rater in study.raters)])
    box = add_margin(labelled, study.shape, study.spacing_mm)
    consensus = fused.labels[box]
    return [_compare(study, rater, consensus, rater.labels[box], tolerance_mm) for rater in study.raters]


def _compare(study: Study, rater: Rater, consensus: np.ndarray, labels: np.ndarray, tolerance_mm: float) -> Facts:
    annotated = labels != MISSING
    reference = np.where(annotated, consensus, MISSING).astype(np.uint8)
    for c in range(1, len(study.classes)):
        if not (labels == c).any() and 2 * np.count_nonzero(reference == c) < np.count_nonzero(consensus == c):
            reference[reference == c] = MISSING  # the rest of what this rater was not asked for
    compared = segmentation_metrics(
        labels,
        reference,
        label_values=range(1, len(study.classes)),
        spacing_mm=study.spacing_mm,
        tolerance_mm=tolerance_mm,
        ignore=MISSING,
    )
    voxels = int(np.count_nonzero(reference != MISSING))
    classes = {study.classes[c]: _class_metrics(row, voxels) for c, row in compared.items()}
    return {
        "rater": rater.name,
        "coverage": float(annotated.mean()),
        "coverage_of_grid": float((rater.labels != MISSING).mean()),
        "classes": classes,
        "overall": _overall(list(classes.values())),
    }


def _class_metrics(row: Facts, voxels: int) -> Facts:
    """The metrics of one class, of `voxels` that both decided."""
    tp, fp, fn = int(row["tp"]), int(row["fp"]), int(row["fn"])
    tn = voxels - tp - fp - fn
    exists = row["situation"] != "both_empty"
    return {
        "situation": row["situation"],
        "sensitivity": _share(tp, fn),
        "specificity": _share(tn, fp),
        "precision": _share(tp, fp),
        "dice": row["dice"] if exists else None,
        "hd95_mm": row["hd95_mm"],
        "surface_dice": row["surface_dice"] if exists else None,
        "rater_ml": row["prediction_ml"],
        "consensus_ml": row["reference_ml"],
        "bias_ml": row["volume_error_ml"],
        "bias_percent": row["volume_error_percent"],
        **{"tp": tp, "fp": fp, "fn": fn, "tn": tn},
    }


def _share(part: int, rest: int) -> float | None:
    return part / (part + rest) if part + rest else None


def _overall(rows: list[Facts]) -> Facts:
    """Means over the classes that either has."""
    means: Facts = {}
    numbers: dict[str, int] = {}
    for key in AVERAGED:
        values = [row[key] for row in rows if row["situation"] != "both_empty" and row[key] is not None]
        means[key] = mean(values) if values else None
        numbers[key] = len(values)
    situations = Counter(row["situation"] for row in rows)
    return {
        **means,
        "rater_ml": sum(row["rater_ml"] for row in rows),
        "consensus_ml": sum(row["consensus_ml"] for row in rows),
        "n": numbers,
        "situations": {name: situations[name] for name in SITUATIONS},
    }


def csv_rows(table: list[Facts]) -> Iterator[list[Any]]:
    """The table as rows, the heads first; numbers are numbers, what does not exist is None.

    The row of class "overall" holds the means, its situation how many classes are in both, only in the
    consensus (missing), only in the rater's (spurious) or in neither.
    """
    yield list(COLUMNS)
    for entry in table:
        for name, row in entry["classes"].items():
            yield _cells(entry, name, row)
        overall = entry["overall"]
        situation = " ".join(f"{key}={n}" for key, n in overall["situations"].items())
        yield _cells(entry, "overall", {**overall, "situation": situation, "classes_averaged": overall["n"]["dice"]})


def _cells(entry: Facts, name: str, row: Facts) -> list[Any]:
    full = {**row, "rater": entry["rater"], "class": name, "coverage": entry["coverage"]}
    return [full.get(key) for key in COLUMNS]
