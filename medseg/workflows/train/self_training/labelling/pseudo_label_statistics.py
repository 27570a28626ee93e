"""Statistics of pseudo-labels: counts of voxels per case, and of a round the shares made of their sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medseg.method import IGNORE

Counts = dict[str, Any]


def count_case(
    labels: Sequence[np.ndarray],
    fused: np.ndarray,
    *,
    classes: int,
    voxel_ml: float,
    before: np.ndarray | None = None,
    has_background: bool = True,
) -> Counts:
    """Count one case.

    Args:
        labels: for each view `(X, Y, Z)` uint8 class indices.
        fused: `(X, Y, Z)` uint8 class indices, 255 = ignore.
        classes: with background.
        voxel_ml: millilitres of a voxel.
        before: `fused` of the round before.
        has_background: whether class 0 is the background; else all voxels are of some structure.

    Returns:
        Plain numbers: `voxels`, `voxel_ml`, `ignored`, voxels per class `fused` and `views` (one list per view);
        `structure` (some view finds a structure), `agreed` (of those, all views give the same label), `disagreed` and
        `all_differ` (of all voxels); against `before`: `changed`, and `both`, `size` per structure, whose
        quotient `2 both / size` is the Dice.
    """
    first = int(has_background)
    agreed = np.ones(fused.shape, bool)
    structure = np.zeros(fused.shape, bool)
    for view in labels:
        agreed &= view == labels[0]
        structure |= view >= first
    counts: Counts = {
        "voxels": int(fused.size),
        "voxel_ml": voxel_ml,
        "ignored": int(np.count_nonzero(fused == IGNORE)),
        "fused": _histogram(fused, classes),
        "views": [_histogram(view, classes) for view in labels],
        "structure": int(np.count_nonzero(structure)),
        "agreed": int(np.count_nonzero(agreed & structure)),
        "disagreed": int(agreed.size - np.count_nonzero(agreed)),
        "all_differ": _count_all_differ(labels),
    }
    if before is not None:
        counts["changed"] = int(np.count_nonzero(fused != before))
        counts |= _count_overlap(fused, before, range(first, classes))
    return counts


def _histogram(labels: np.ndarray, classes: int) -> list[int]:
    counts = np.zeros(IGNORE + 1, np.int64)
    for plane in np.moveaxis(labels, -1, 0):  # one at a time: counting wants eight bytes a voxel
        counts += np.bincount(plane.ravel(order="K"), minlength=IGNORE + 1)
    return counts[:classes].tolist()


def _count_all_differ(labels: Sequence[np.ndarray]) -> int:
    """Voxels at which no two of three or more views agree."""
    if len(labels) < 3:
        return 0
    apart = np.ones(labels[0].shape, bool)
    for i, view in enumerate(labels):
        for other in labels[:i]:
            apart &= view != other
    return int(np.count_nonzero(apart))


def _count_overlap(fused: np.ndarray, before: np.ndarray, structures: range) -> dict[str, list[int]]:
    """Voxels of each structure in both label maps, and the sum of those in either."""
    voxels_now = _histogram(fused, structures.stop)
    voxels_before = _histogram(before, structures.stop)
    both, size = [], []
    for c in structures:
        both.append(int(np.count_nonzero((fused == c) & (before == c))))
        size.append(voxels_now[c] + voxels_before[c])
    return {"both": both, "size": size}


def summarize_round(cases: Mapping[str, Counts], structures: Sequence[str], views: Sequence[str]) -> dict[str, Any]:
    """Statistics of the pseudo-labels of a round.

    Args:
        cases: name -> what `count_case` gave; none where a rule left all without a label.
        structures: names of the classes, the background aside.
        views: in the order of the votes.

    Returns:
        `cases`; `volume_ml` per structure, mean over the cases; `agreement`, the share of voxels in which all views
        agree of those in which any finds a structure; `diversity`, the share of all voxels with any disagreement, and
        `all_differ`; `ignored`, the share of voxels left out; `changed`, the share that differs from the round
        before, and `dice_to_last`, mean over cases and structures (None in the first round); `empty`, the cases of
        which the pseudo-label is all background; `silent`, the views that found nothing in any case.
    """
    counts = list(cases.values())
    voxels = max(1, _sum(counts, "voxels"))
    structure_voxels = _sum(counts, "structure")
    has_earlier_round = bool(counts) and all("changed" in case for case in counts)
    return {
        "cases": len(counts),
        "volume_ml": _mean_volumes(counts, structures),
        "agreement": _sum(counts, "agreed") / structure_voxels if structure_voxels else None,
        "diversity": _sum(counts, "disagreed") / voxels,
        "all_differ": _sum(counts, "all_differ") / voxels,
        "ignored": _sum(counts, "ignored") / voxels,
        "changed": _sum(counts, "changed") / voxels if has_earlier_round else None,
        "dice_to_last": mean_dice(counts),
        "empty": [
            name
            for name, case in cases.items()
            if not sum(_of_structures(case["fused"], structures)) and not case["ignored"]
        ],
        "silent": _find_silent_views(counts, structures, views),
    }


def cautions_of_round(statistics: Mapping[str, Any]) -> list[str]:
    """Warnings of views that found nothing, and of cases without any structure.

    Args:
        statistics: what `summarize_round` gave.
    """
    lines = []
    for view in statistics["silent"]:
        lines.append(f"the {view} network found nothing but background in any unlabelled case")
    if empty := statistics["empty"]:
        lines.append(f"{len(empty)} unlabelled cases without any structure: {', '.join(empty)}")
    return lines


def _sum(counts: Sequence[Counts], key: str) -> int:
    return sum(case[key] for case in counts)


def _of_structures(voxels: Sequence[int], structures: Sequence[str]) -> Sequence[int]:
    """Counts per class without the background's, which is first where there is one."""
    return voxels[len(voxels) - len(structures) :]


def _mean_volumes(counts: Sequence[Counts], structures: Sequence[str]) -> dict[str, float]:
    """Structure -> ml, mean over the cases."""
    if not counts:
        return dict.fromkeys(structures, 0.0)
    volumes = np.array([np.array(_of_structures(case["fused"], structures)) * case["voxel_ml"] for case in counts])
    return dict(zip(structures, volumes.mean(0).round(3).tolist(), strict=True))


def mean_dice(counts: Sequence[Counts]) -> float | None:
    """Dice with the round before, mean over cases and the structures that occur; None without such a round."""
    dice = []
    for case in counts:
        for both, size in zip(case.get("both", ()), case.get("size", ()), strict=True):
            if size:
                dice.append(2 * both / size)
    return float(np.mean(dice)) if dice else None


def _find_silent_views(counts: Sequence[Counts], structures: Sequence[str], views: Sequence[str]) -> list[str]:
    """The views that found no structure in any case."""
    silent = []
    for index, view in enumerate(views):
        foreground = sum(sum(_of_structures(case["views"][index], structures)) for case in counts)
        if counts and not foreground:
            silent.append(view)
    return silent
