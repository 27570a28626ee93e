"""How right the labels are that a rule would make, by cases whose labels are known: the labelled validation cases."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medseg.atomic import make_folder, write_whole
from medseg.engine import distributed
from medseg.manifest.manifest import Case, Manifest
from medseg.method import IGNORE, PseudoLabels
from medseg.records import Record, digest_of, read_record
from medseg.workflows.train.self_training.labelling.prediction_store import PredictionStore
from medseg.workflows.train.self_training.validation_scores import read_reference

FILE = "precision.json"
"""In the folder of a round."""

LEAST = 0.5
"""Part of the pseudo-labels of a class that is right, below which they teach more errors than truth."""

CASES = "precision"
"""Folder of the records of single cases."""


def judge_rule(
    rule: PseudoLabels,
    decided: Mapping[str, Any],
    store: PredictionStore,
    manifest: Manifest,
    folder: Path,
    number: int,
) -> dict[str, Any]:
    """Write `FILE`: what a rule keeps of the predictions of validation cases, and how much of it is right.

    It only informs, unless the rule leaves out classes by it (`PseudoLabels.leave_out`).

    Args:
        rule: with its class counts.
        decided: by the rule, of the cases that it labels.
        store: of what the networks predict.
        manifest: the data set.
        folder: of the round.
        number: of the round.

    Returns:
        What is decided in the end.

    Raises:
        DataError: an image that cannot be predicted, or a label that cannot be read.
    """
    cases = [case for case in manifest.validation if case.is_labelled]
    of_others = rule.for_others(decided)
    records = [_record(case, of_others, store, manifest, folder) for case in cases]
    missing = [place for place, record in enumerate(records) if record.notes() is None]
    distributed.barrier()  # all have seen what is there before anything changes
    for place in missing[distributed.rank() :: distributed.world()]:
        case = cases[place]
        records[place].begin()
        predicted = store.predict(manifest, case)
        made = rule.label(predicted, of_others, number)
        if not isinstance(made, Tensor):  # nothing of this case is kept
            made = torch.full_like(predicted.labels[0], IGNORE)
        reference = read_reference(manifest, case)
        if case.classes is not None:
            reference[reference == 0] = IGNORE  # a structure that this label does not cover may be there
        given, kept = predicted.labels[0].numpy(), made.numpy()
        if rule.counts_images:
            given, kept, reference = as_one_image(given), as_one_image(kept), as_one_image(reference)
        counts = count_right(given, kept, reference, len(manifest.labels))
        records[place].finish(counts)
        store.forget(case)
    distributed.barrier()
    names = [manifest.labels[value] for value in manifest.label_values]
    found: dict[str, Any] = summarize([record.notes() or {} for record in records], names)
    final, left_out = rule.leave_out(decided, list(found["precision"].values()))
    if left_out:
        found["left_out"] = [names[value] for value in left_out]
    if distributed.rank() == 0:
        write_whole(folder / FILE, json.dumps(found, indent=1) + "\n")
    return final


def read_precision(folder: Path) -> dict[str, Any]:
    """What `judge_rule` wrote; nothing where the rule of a round is not judged."""
    return read_record(folder / FILE)


def low_precision(statistics: Mapping[str, Any]) -> list[str]:
    """Warnings where labels of classes are more often wrong than right, by the validation cases, or are left out.

    Args:
        statistics: what `read_precision` gave.
    """
    low = []
    for name, precision in statistics.get("precision", {}).items():
        if precision is not None and precision < LEAST:
            low.append(f"{name} {precision:.0%}")
    lines = []
    if low:
        lines.append(f"pseudo-labels of which less than half is right, by the validation cases: {', '.join(low)}")
    if left_out := statistics.get("left_out"):
        lines.append(f"too little is right by the validation cases, so that nothing is added of {', '.join(left_out)}")
    return lines


def _record(case: Case, decided: Mapping[str, Any], store: PredictionStore, manifest: Manifest, folder: Path) -> Record:
    label = manifest.label(case)
    inputs = {
        "images": [digest_of(path) for path in manifest.images(case)],
        "label": digest_of(label) if label else f"class {case.image_class}",
        "networks": store.networks.digest,
    }
    file = make_folder(folder / CASES) / f"{case.name}.json"
    return Record(file, inputs=inputs, settings={"decided": dict(decided)})


def as_one_image(values: np.ndarray) -> np.ndarray:
    """The class of most voxels of an image, which counts once, `(1,)`; 255 where all are 255."""
    known = values[values != IGNORE]
    return np.array([np.bincount(known).argmax() if known.size else IGNORE], np.uint8)


def count_right(predicted: np.ndarray, kept: np.ndarray, reference: np.ndarray, classes: int) -> dict[str, list[int]]:
    """Voxels or images of each class, where the reference is known: `predicted`, `kept` by the rule, of these `right`.

    Args:
        predicted: class indices, `(X, Y, Z)`, or `(1,)` of an image as a whole.
        kept: class indices, 255 where the rule keeps nothing.
        reference: class indices, 255 = not known.
        classes: with background.
    """
    known = reference != IGNORE
    counted = {"predicted": predicted[known], "kept": kept[known], "right": kept[known & (kept == reference)]}
    counts = {}
    for name, values in counted.items():
        counts[name] = np.bincount(values.ravel(), minlength=IGNORE + 1)[:classes].tolist()
    return counts


def summarize(cases: list[dict[str, Any]], names: list[str]) -> dict[str, dict[str, float | None]]:
    """Of all cases and for each class: `kept_share` of what is predicted, and `precision`, how much of it is right.

    Args:
        cases: what `count_right` gave.
        names: of the classes.
    """
    sums = {}
    for key in ("predicted", "kept", "right"):
        sums[key] = [sum(case[key][index] for case in cases) for index in range(len(names))]
    kept_share, precision = {}, {}
    for index, name in enumerate(names):
        kept_share[name] = _share(sums["kept"][index], sums["predicted"][index])
        precision[name] = _share(sums["right"][index], sums["kept"][index])
    return {"kept_share": kept_share, "precision": precision}


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
