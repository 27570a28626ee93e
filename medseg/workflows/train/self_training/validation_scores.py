"""Dice of a round's networks on the validation cases: each view alone, and fused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from medseg.engine import distributed
from medseg.engine.validation import ClassDice, ImageClasses
from medseg.manifest.classification import class_index
from medseg.manifest.labelling import is_pseudo
from medseg.manifest.manifest import Case, Manifest
from medseg.method import IGNORE, PseudoLabels
from medseg.portable.io.read import read_header
from medseg.workflows.evaluate.compare_case import Scale, onto, read_labels
from medseg.workflows.train.self_training.labelling.predict_views import Voter

FUSED = "fused"


def score_round(voter: Voter, manifest: Manifest, views: Sequence[str]) -> dict[str, Any]:
    """Predict the validation cases on their own grids and compare.

    Args:
        voter: of the round's networks.
        manifest: the data set.
        views: in the order of the votes.

    Returns:
        `dice`: view, and "fused" -> mean over the structures that occur, empty without a labelled validation case;
        `classes`: structure -> Dice of the fused labels, or None; of classified images balanced accuracy
        and recalls; `silent`: views that found nothing at all.
    """
    cases = [case for case in manifest.validation if case.is_labelled]
    if not cases:
        return {"dice": {}, "classes": {}, "silent": []}
    # sums of all processes come together on the device, where the group can reach them
    scores = {name: _new_score(voter, manifest) for name in (*views, FUSED)}
    found = dict.fromkeys(views, False)
    first = int(manifest.has_background)
    for case in cases[distributed.rank() :: distributed.world()]:
        reference = torch.from_numpy(read_reference(manifest, case))
        covered = torch.tensor(manifest.covered(case) or (True,) * len(manifest.labels))
        votes, fused = voter.both(manifest.images(case))
        for view, label in zip(views, votes.labels, strict=True):
            scores[view].update(([label], [reference], [covered]))
            found[view] = found[view] or bool((label >= first).any())
        scores[FUSED].update(([fused], [reference], [covered]))
    results = {name: score.compute() for name, score in scores.items()}
    silent = []
    for view in views:
        if not distributed.any_process(found[view]):
            silent.append(view)
    return {
        "dice": {name: result["mean"] for name, result in results.items()},
        "classes": dict(zip(manifest.structures.values(), results[FUSED]["classes"], strict=True)),
        "silent": silent,
    }


def _new_score(voter: Voter, manifest: Manifest) -> ClassDice | ImageClasses:
    """Dice, or recall where whole images have a class."""
    if voter.runner.bundle.data.target == "images":
        return ImageClasses(len(manifest.labels), voter.device)
    return ClassDice(len(manifest.labels), voter.device, manifest.has_background)


def read_reference(manifest: Manifest, case: Case) -> np.ndarray:
    """The label of a case `(X, Y, Z)` as class indices, 255 = ignore, along the axes of its image's file."""
    path = manifest.label(case)
    scale = Scale.of_manifest(manifest)
    header = read_header(manifest.images(case)[0])
    if path is None:
        return np.full(header.shape, class_index(manifest, case), np.uint8)
    stored, _ = onto(header, *read_labels(path, scale, may_ignore=True))
    reference = np.full(stored.shape, IGNORE, np.uint8)
    for index, value in enumerate(manifest.label_values):
        reference[stored == value] = index
    return reference


def mean_volumes_ml(manifest: Manifest) -> dict[str, float]:
    """Mean volume of each structure in the labelled training cases, in ml.

    Cases of which a part is ignored say nothing of whole volumes and are passed over; without others it is empty.

    Raises:
        DataError: a label that cannot be read.
    """
    volumes = []
    for case in manifest.training:
        if case.label is None:
            continue
        counts = np.bincount(read_reference(manifest, case).ravel(order="K"), minlength=IGNORE + 1)
        if counts[IGNORE]:
            continue
        structures = counts[int(manifest.has_background) : len(manifest.labels)]
        volumes.append(structures * _voxel_mm3(manifest, case) / 1000)
    if not volumes:
        return {}
    return dict(zip(manifest.structures.values(), np.mean(volumes, 0).tolist(), strict=True))


def class_sizes(manifest: Manifest, rule: PseudoLabels) -> Sequence[float]:
    """How large each class is in the labels that people made, in what a rule counts: images, mm^3 or voxels.

    Raises:
        DataError: a label that cannot be read.
    """
    if rule.counts_images:
        return count_labelled_images(manifest)
    return count_labelled_voxels(manifest, in_mm3=rule.counts_mm3)


def count_labelled_voxels(manifest: Manifest, *, in_mm3: bool = False) -> list[float]:
    """Voxels of each class in the labels of the training cases, or mm^3 of them, without those that a rule made.

    Where a label covers some structures only, its background is not counted: it may hold the others.

    Raises:
        DataError: a label that cannot be read.
    """
    counts = np.zeros(len(manifest.labels))
    for case in manifest.training:
        if case.label is None or is_pseudo(case):
            continue
        of_case = np.bincount(read_reference(manifest, case).ravel(order="K"), minlength=IGNORE + 1)
        of_case = of_case[: len(counts)]
        if case.classes is not None:
            of_case[0] = 0
        counts += of_case * (_voxel_mm3(manifest, case) if in_mm3 else 1)
    return counts.tolist()


def _voxel_mm3(manifest: Manifest, case: Case) -> float:
    """Of the file of a case."""
    affine = read_header(manifest.images(case)[0]).affine
    return abs(float(np.linalg.det(affine[:3, :3])))


def count_labelled_images(manifest: Manifest) -> list[int]:
    """Images of each class among the training cases whose label people made; one with a label file is of its most.

    Raises:
        DataError: a label that cannot be read.
    """
    counts = [0] * len(manifest.labels)
    for case in manifest.training:
        if not case.is_labelled or is_pseudo(case):
            continue
        index = class_index(manifest, case)
        if index is None:
            reference = read_reference(manifest, case)
            index = int(np.bincount(reference[reference != IGNORE]).argmax())
        counts[index] += 1
    return counts
