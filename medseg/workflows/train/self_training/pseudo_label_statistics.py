"""What is counted of pseudo-labels: whole numbers per case, and shares of a round made of their sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medseg.method import IGNORE

Counts = dict[str, Any]


def count_case(
    labels: Sequence[np.ndarray], fused: np.ndarray, *, classes: int, voxel_ml: float, before: np.ndarray | None = None
) -> Counts:
    """Count one case.

    Args:
        labels: for each view `(X, Y, Z)` uint8 class indices.
        fused: `(X, Y, Z)` uint8 class indices, 255 = ignore.
        classes: with background.
        voxel_ml: millilitres of a voxel.
        before: `fused` of the round before.

    Returns:
        Plain numbers: `voxels`, `voxel_ml`, `ignored`, voxels per class `fused` and `views` (one list per view);
        `structure` (some view finds a structure), `agreed` (of those, all views give the same label), `disagreed` and
        `all_differ` (of all voxels); against `before`: `changed`, and `both`, `size` per foreground class, whose
        quotient `2 both / size` is the Dice.
    """
    agreed, structure = np.ones(fused.shape, bool), np.zeros(fused.shape, bool)
    for view in labels:
        agreed &= view == labels[0]
        structure |= view > 0
    found: Counts = {
        "voxels": int(fused.size),
        "voxel_ml": voxel_ml,
        "ignored": int(np.count_nonzero(fused == IGNORE)),
        "fused": _histogram(fused, classes),
        "views": [_histogram(view, classes) for view in labels],
        "structure": int(np.count_nonzero(structure)),
        "agreed": int(np.count_nonzero(agreed & structure)),
        "disagreed": int(agreed.size - np.count_nonzero(agreed)),
        "all_differ": _all_differ(labels),
    }
    if before is not None:
        found["changed"] = int(np.count_nonzero(fused != before))
        found |= _overlap(fused, before, classes)
    return found


def _histogram(labels: np.ndarray, classes: int) -> list[int]:
    counts = np.zeros(IGNORE + 1, np.int64)
    for plane in np.moveaxis(labels, -1, 0):  # one at a time: counting wants eight bytes a voxel
        counts += np.bincount(plane.ravel(order="K"), minlength=IGNORE + 1)
    return counts[:classes].tolist()


def _all_differ(labels: Sequence[np.ndarray]) -> int:
    if len(labels) < 3:
        return 0
    apart = np.ones(labels[0].shape, bool)
    for i, view in enumerate(labels):
        for other in labels[:i]:
            apart &= view != other
    return int(np.count_nonzero(apart))


def _overlap(fused: np.ndarray, before: np.ndarray, classes: int) -> dict[str, list[int]]:
    both = [int(np.count_nonzero((fused == c) & (before == c))) for c in range(1, classes)]
    here, there = _histogram(fused, classes), _histogram(before, classes)
    return {"both": both, "size": [a + b for a, b in zip(here[1:], there[1:], strict=True)]}


def figures(cases: Mapping[str, Counts], structures: Sequence[str], views: Sequence[str]) -> dict[str, Any]:
    """The figures of a round.

    Args:
        cases: name -> what `count_case` gave; at least one.
        structures: names of the foreground classes.
        views: in the order of the votes.

    Returns:
        `cases`; `volume_ml` per structure, mean over the cases; `agreement`, the share of voxels in which all views
        agree of those in which any finds a structure; `diversity`, the share of all voxels with any disagreement, and
        `all_differ`; `ignored`, the share of voxels left out; `changed`, the share that differs from the round
        before, and `dice_to_last`, mean over cases and structures (None in the first round); `empty`, the cases of
        which the pseudo-label is all background; `silent`, the views that found nothing in any case.
    """
    counts = list(cases.values())
    voxels = sum(c["voxels"] for c in counts)
    structure = sum(c["structure"] for c in counts)
    volumes = np.array([[n * c["voxel_ml"] for n in c["fused"][1:]] for c in counts])
    dice = [2 * b / n for c in counts for b, n in zip(c.get("both", ()), c.get("size", ()), strict=True) if n]
    seen = np.array([[sum(view[1:]) for view in c["views"]] for c in counts]).sum(0)
    return {
        "cases": len(counts),
        "volume_ml": dict(zip(structures, volumes.mean(0).round(3).tolist(), strict=True)),
        "agreement": sum(c["agreed"] for c in counts) / structure if structure else None,
        "diversity": sum(c["disagreed"] for c in counts) / voxels,
        "all_differ": sum(c["all_differ"] for c in counts) / voxels,
        "ignored": sum(c["ignored"] for c in counts) / voxels,
        "changed": sum(c["changed"] for c in counts) / voxels if all("changed" in c for c in counts) else None,
        "dice_to_last": float(np.mean(dice)) if dice else None,
        "empty": [name for name, c in cases.items() if not sum(c["fused"][1:]) and not c["ignored"]],
        "silent": [view for view, found in zip(views, seen, strict=True) if not found],
    }
