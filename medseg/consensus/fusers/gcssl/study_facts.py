"""What GC-SSL reports besides its labels: what is known before anything is decided, and a row for each rater."""

from __future__ import annotations

import numpy as np

from medseg.consensus.fusers.fusion_log import FusionLog, Row
from medseg.consensus.fusers.gcssl.rater_scores import RaterScores
from medseg.consensus.fusers.gcssl.region import Region
from medseg.consensus.study import MISSING, Study


def find_unannotated(study: Study) -> np.ndarray:
    """`(X, Y, Z)` bool; a broadcast False where one rater is complete."""
    nobody = np.broadcast_to(np.True_, study.shape)
    for rater in study.raters:
        if not nobody.any() or rater.labels.max() != MISSING:
            return np.broadcast_to(np.False_, study.shape)
        nobody = nobody & (rater.labels == MISSING)
    return nobody


def describe_study(study: Study, annotating: np.ndarray, region: Region | None, log: FusionLog) -> None:
    """Enter the facts that hold before anything is decided, and what they are for a study without dispute."""
    dropped = [study.raters[r].name for r in np.flatnonzero(~annotating)]
    for name in dropped:
        log.warn(f"{name} annotated no voxel and is left out")
    if annotating.sum() < 2:
        log.warn("no consensus possible: fewer than two raters annotated anything")
    if region is None:
        some = annotating.any()
        log.warn("no rater labelled anything: the consensus is empty" if some else "nothing is annotated")
    unannotated = find_unannotated(study)
    all_unannotated = int(np.count_nonzero(unannotated))
    box: list[list[int]] | None = None
    in_box = disputed = 0
    if region is not None:
        box = [[side.start, side.stop] for side in region.outer_box]
        in_box = int(np.count_nonzero(unannotated[region.outer_box]))
        disputed = int(np.count_nonzero(region.disputed))
    log.facts |= {
        **{"energy": 0.0, "energy_of_votes": 0.0, "nodes": 0, "edges": 0, "cuts": 0, "soft_votes": 0},
        **{"lambda": None, "beta": None, "rho": None, "overruled_voxels": 0},
        # outside of the box there are no votes to count, the answer is background
        "uncovered_voxels": all_unannotated - in_box,
        "unannotated_voxels": all_unannotated,
        "dropped": dropped,
        "box": box,
        "disputed_voxels": disputed,
    }


def rater_rows(study: Study, kept: np.ndarray, weights: np.ndarray, scores: RaterScores | None) -> list[Row]:
    """One row per rater of the study; who was left out has weight 0 and no scores."""
    rows = []
    place = np.cumsum(kept) - 1
    for rater, is_kept, k in zip(study.raters, kept, place, strict=True):
        row: Row = {"name": rater.name, "weight": 0.0, "self_consistency": None, "kappa": None}
        if is_kept:
            row["weight"] = float(weights[k])
        if is_kept and scores is not None:
            row["self_consistency"] = float(scores.self_consistency[k])
            row["kappa"] = float(scores.kappa[k])
        rows.append(row)
    return rows
