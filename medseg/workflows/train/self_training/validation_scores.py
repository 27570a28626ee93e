"""Dice of a round's networks on the validation cases: each view alone, and fused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from medseg.engine import distributed
from medseg.engine.validation import ClassDice
from medseg.manifest.manifest import Case, Manifest
from medseg.method import IGNORE
from medseg.portable.io.read import read_header
from medseg.workflows.evaluate.compare_case import Scale, onto, read_labels
from medseg.workflows.train.self_training.predict_views import Voter

FUSED = "fused"


def score_round(voter: Voter, manifest: Manifest, views: Sequence[str]) -> dict[str, Any]:
    """Predict the validation cases on their own grids and compare.

    Args:
        voter: of the round's networks.
        manifest: the data set.
        views: in the order of the votes.

    Returns:
        `dice`: view, and "fused" -> mean over the structures that occur, empty without a labelled validation case;
        `classes`: structure -> Dice of the fused labels, or None; `silent`: views that found nothing at all.
    """
    cases = [case for case in manifest.validation if case.label]
    if not cases:
        return {"dice": {}, "classes": {}, "silent": []}
    classes = len(manifest.labels)
    # sums of all processes come together on the device, where the group can reach them
    scores = {name: ClassDice(classes, voter.device) for name in (*views, FUSED)}
    found = torch.zeros(len(views), device=voter.device)
    for case in cases[distributed.rank() :: distributed.world()]:
        truth = torch.from_numpy(truth_of(manifest, case))
        votes, fused = voter.both(manifest.images(case))
        for number, (name, label) in enumerate(zip(scores, [*votes.labels, fused], strict=True)):
            scores[name].update(([label], [truth]))
            if name != FUSED:
                found[number] += float((label > 0).any())
    results = {name: score.compute() for name, score in scores.items()}
    structures = [name for value, name in manifest.labels.items() if value]
    return {
        "dice": {name: result["mean"] for name, result in results.items()},
        "classes": dict(zip(structures, results[FUSED]["classes"], strict=True)),
        "silent": [view for view, n in zip(views, found.tolist(), strict=True) if not distributed.any_of(n > 0)],
    }


def truth_of(manifest: Manifest, case: Case) -> np.ndarray:
    """The label of a case `(X, Y, Z)` as class indices, 255 = ignore, along the axes of its image's file."""
    path = manifest.label(case)
    assert path is not None
    background, *measured = manifest.label_values
    scale = Scale({value: manifest.labels[value] for value in measured}, background, ignore=manifest.ignore_index)
    stored, _ = onto(read_header(manifest.images(case)[0]), *read_labels(path, scale, may_ignore=True))
    truth = np.full(stored.shape, IGNORE, np.uint8)
    for index, value in enumerate(manifest.label_values):
        truth[stored == value] = index
    return truth


def drawn_ml(manifest: Manifest) -> dict[str, float]:
    """Mean volume of each structure in the labelled training cases, in ml.

    Cases of which a part is ignored say nothing of whole volumes and are passed over; without others it is empty.

    Raises:
        DataError: a label that cannot be read.
    """
    classes, volumes = len(manifest.labels), []
    for case in manifest.training:
        if case.label is None:
            continue
        counts = np.bincount(truth_of(manifest, case).ravel(order="K"), minlength=IGNORE + 1)
        if not counts[IGNORE]:
            affine = read_header(manifest.images(case)[0]).affine
            volumes.append(counts[1:classes] * abs(float(np.linalg.det(affine[:3, :3]))) / 1000)
    if not volumes:
        return {}
    structures = [name for value, name in manifest.labels.items() if value]
    return dict(zip(structures, np.mean(volumes, 0).tolist(), strict=True))
