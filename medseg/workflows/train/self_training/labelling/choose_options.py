"""Thresholds of a rule that the pipeline does not give, chosen by the labelled validation cases."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medseg.atomic import make_folder, write_whole
from medseg.config.between_runs import RuleSpec
from medseg.engine import distributed
from medseg.manifest.manifest import Case, Manifest
from medseg.method import IGNORE, LabelAndMaps, Predictions, PseudoLabels
from medseg.progress import say
from medseg.records import Record, digest_of
from medseg.workflows.train.self_training.labelling.predict_maps import IMAGE, Predictors
from medseg.workflows.train.self_training.labelling.prediction_store import PredictionStore
from medseg.workflows.train.self_training.labelling.rules import rule_for
from medseg.workflows.train.self_training.validation_scores import read_reference

FILE = "chosen_options.json"
"""In the folder of the labels: each combination that was tried, and its score."""

CASES = "chosen_options"
"""Folder of the records of single cases."""

MOST_CASES = 40
"""Validation cases that are looked at."""

Options = Mapping[str, float]


def choose_options(
    spec: RuleSpec, networks: Predictors, device: torch.device, manifest: Manifest, folder: Path, number: int
) -> RuleSpec:
    """Complete the options of a rule by those with which its labels of validation cases are the best.

    The score of a combination is the mean over the classes, the background among them, of intersection over union, over
    all voxels of these cases at once. A voxel that is ignored is wrong: labels that are right and leave out all that
    surrounds a structure do not teach where it ends. Of equal ones the first is taken, the paper's.

    Args:
        spec: of the rule; what it gives stays.
        networks: that predict for the rule.
        device: of the networks.
        manifest: the data set.
        folder: of the labels.
        number: of the round or pass.

    Returns:
        The rule with all options that are chosen; as it was where there is nothing to choose, or to choose by.

    Raises:
        DataError: an image that cannot be predicted, or a label that cannot be read.
        OutputError: what was found cannot be written.
    """
    rule = rule_for(manifest, spec)
    candidates = _candidates(rule, spec)
    if not candidates:
        return spec
    cases = [case for case in manifest.validation if _can_be_asked(case, rule)][:MOST_CASES]
    if not cases:
        if distributed.rank() == 0:
            wanted = "".join(f" and a map called {name}" for name in rule.inputs if name != IMAGE)
            say(f"pseudo-labels by {_listed(candidates[0])}: no validation case has a label{wanted} to choose them by")
        return spec
    store = PredictionStore(networks, device, rule, folder / CASES / "predictions")
    counts = _count_cases(spec, candidates, cases, store, manifest)
    scores = [mean_iou(of_candidate) for of_candidate in counts]
    best = scores.index(max(scores))
    if distributed.rank() == 0:
        rows = [{"options": options, "iou": score} for options, score in zip(candidates, scores, strict=True)]
        found = {"cases": [case.name for case in cases], "tried": rows, "chosen": candidates[best]}
        write_whole(folder / FILE, json.dumps(found, indent=1) + "\n")
        say(
            f"pseudo-labels by {_listed(candidates[best])}, chosen by {len(cases)} validation cases: mean IoU, what is "
            f"ignored being wrong, {scores[0]:.3f} -> {scores[best]:.3f}"
        )
    return spec.model_copy(update={"options": {**spec.options, **candidates[best]}})


def _candidates(rule: PseudoLabels, spec: RuleSpec) -> list[dict[str, float]]:
    """Every combination of the values to try, the defaults first; none where the pipeline gives all options."""
    tried = {name: values for name, values in rule.tried.items() if name not in spec.options}
    if not tried:
        return []
    combinations = itertools.product(*tried.values())
    return [dict(zip(tried, values, strict=True)) for values in combinations]


def _can_be_asked(case: Case, rule: PseudoLabels) -> bool:
    """Whether a validation case has all that the rule looks at, and a label."""
    return case.label is not None and all(name == IMAGE or name in case.maps for name in rule.inputs)


def _listed(options: Options) -> str:
    return " and ".join(f"{name} {value:g}" for name, value in options.items())


def _count_cases(
    spec: RuleSpec, candidates: Sequence[Options], cases: Sequence[Case], store: PredictionStore, manifest: Manifest
) -> np.ndarray:
    """What `count_overlap` counts of each candidate in all cases, `(candidates, 3, classes)`."""
    rules = []
    for options in candidates:
        completed = spec.model_copy(update={"options": {**spec.options, **options}})
        rules.append(rule_for(manifest, completed))
    settings = {"rule": spec.model_dump(mode="json"), "candidates": [dict(each) for each in candidates]}
    records = [_record(case, settings, store, manifest) for case in cases]
    missing = [place for place, record in enumerate(records) if record.notes() is None]
    distributed.barrier()  # all have seen what is there before anything changes
    with store:
        for place in missing[distributed.rank() :: distributed.world()]:
            records[place].begin()
            records[place].finish({"counts": _count_case(rules, cases[place], store, manifest)})
            store.forget(cases[place])
    distributed.barrier()
    return np.sum([(record.notes() or {})["counts"] for record in records], axis=0)


def _record(case: Case, settings: Mapping[str, Any], store: PredictionStore, manifest: Manifest) -> Record:
    label = manifest.label(case)
    assert label is not None  # else it would not be asked
    files = [*manifest.images(case), label]
    files += [manifest.resolve(case.maps[name]) for name in store.inputs if name != IMAGE]
    inputs = {"files": [digest_of(file) for file in files], "networks": store.networks.digest}
    return Record(make_folder(store.folder.parent) / f"{case.name}.json", inputs=inputs, settings=dict(settings))


def _count_case(rules: Sequence[PseudoLabels], case: Case, store: PredictionStore, manifest: Manifest) -> list[Any]:
    """Of each rule what `count_overlap` gives for a case."""
    reference = read_reference(manifest, case)
    predicted = store.predict(manifest, case)
    if predicted.tags is None:
        predicted = replace(predicted, tags=_tags_of(reference, manifest, case))
    counts = []
    for rule in rules:
        counts.append(count_overlap(_label_by(rule, predicted, reference.shape), reference, len(manifest.labels)))
    return counts


def _label_by(rule: PseudoLabels, predicted: Predictions, shape: tuple[int, ...]) -> np.ndarray:
    made = rule.label(predicted, {}, 1)
    if isinstance(made, LabelAndMaps):
        made = made.label
    return made.numpy() if isinstance(made, Tensor) else np.full(shape, IGNORE, np.uint8)


def _tags_of(reference: np.ndarray, manifest: Manifest, case: Case) -> dict[int, bool]:
    """Which structures a label has, as tags would say it; of those that it does not cover nothing."""
    covered = manifest.covered(case) or (True,) * len(manifest.labels)
    found = set(np.unique(reference).tolist())
    return {index: index in found for index in range(1, len(manifest.labels)) if covered[index]}


def count_overlap(label: np.ndarray, reference: np.ndarray, classes: int) -> list[list[int]]:
    """Voxels that both, the label, and the reference give to each class, where the reference is known.

    Args:
        label: class indices, 255 = ignore.
        reference: the same shape, 255 = not known.
        classes: with background.

    Returns:
        Three rows of `classes` numbers.
    """
    known = reference != IGNORE
    parts = (label[known & (label == reference)], label[known], reference[known])
    return [np.bincount(part.ravel(), minlength=IGNORE + 1)[:classes].tolist() for part in parts]


def mean_iou(counts: np.ndarray) -> float:
    """Mean intersection over union of the classes that the label or the reference has anywhere; 0 without one.

    Args:
        counts: `(3, classes)` of `count_overlap`, summed over cases.

    Examples:
        >>> round(mean_iou(np.array([[5, 0], [10, 0], [5, 0]])), 2)
        0.5
    """
    both, labelled, referenced = counts
    union = labelled + referenced - both
    there = union > 0
    return float(np.mean(both[there] / union[there])) if there.any() else 0.0
