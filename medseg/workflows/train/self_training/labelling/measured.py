"""How right pseudo-labels are, by labels of unlabelled cases that are opened to measure them and for nothing else.

The manifest names such labels where `medseg evaluate` looks for them, under `label` of cases in `unlabeled`. They stay
closed unless the pipeline says `measure_pseudo_labels`; no network, rule or batch ever sees them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medseg.atomic import make_folder, write_whole
from medseg.engine import distributed
from medseg.manifest.manifest import Case, Manifest
from medseg.method import IGNORE
from medseg.progress import say
from medseg.records import Record, digest_of, read_record
from medseg.workflows.train.self_training.labelling.pseudo_labels import PseudoLabeller
from medseg.workflows.train.self_training.validation_scores import read_reference

FILE = "measured.json"
"""In the folder of the labels: what `summarize_measured` gave."""

CASES = "measured"
"""Folder of the records of single cases."""

MEASURES = {
    "dice": "Dice",
    "precision": "precision",
    "recall": "recall",
    "dice_where_learnt": "Dice where something is learnt",
}
"""Measure -> what it is called. Voxels to ignore are no voxels of a structure in the first three, and left out of the
last one."""

KIND = "pseudo"
"""Of lines of logs that say something of pseudo-labels."""

COUNTS = ("both", "predicted", "true", "left_out")

Counts = dict[str, list[int | None]]


def cases_to_measure(manifest: Manifest) -> dict[str, Case]:
    """Name -> unlabelled case that has a label to measure its pseudo-label by."""
    return {case.name: case for case in manifest.unlabeled if case.label is not None}


def measure_pseudo_labels(labeller: PseudoLabeller, manifest: Manifest | None, where: str) -> dict[str, Any]:
    """Compare the pseudo-labels that there are with the labels of their cases, say what comes of it and keep it.

    Args:
        labeller: has labelled the cases, in all processes.
        manifest: of the run, before any rule labelled a case; None: nothing is measured.
        where: the round or stage, for the line that is said.

    Returns:
        `measured`: what `summarize_measured` gives. Nothing where no case was measured.

    Raises:
        DataError: a label that cannot be read, or is not on the grid of its image.
        OutputError: what was found cannot be written.
    """
    known = {} if manifest is None else cases_to_measure(manifest)
    cases = [known[case.name] for case in labeller.cases if case.name in known and labeller.file(case).exists()]
    if manifest is None or not cases:
        return {}
    counts = _count_cases(labeller, manifest, cases)
    found = summarize_measured(counts, list(manifest.structures.values()))
    if distributed.rank() == 0:
        write_whole(labeller.folder / FILE, json.dumps(found, indent=1) + "\n")
        for line in describe_measured(found, where):
            say(line)
    return {"measured": found}


def read_measured(folder: Path) -> dict[str, Any]:
    """What `measure_pseudo_labels` kept in the folder of some labels; nothing where they were not measured."""
    return read_record(folder / FILE)


def add_to_log(file: Path, iteration: int, measured: Mapping[str, Any]) -> None:
    """Add what was measured to the log of the stage that made the pseudo-labels, in the place of an earlier line.

    Args:
        file: the log, a JSON object a line.
        iteration: of the end of the stage.
        measured: what `measure_pseudo_labels` gave.

    Raises:
        OutputError: it cannot be written.
    """
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    kept = [line for line in lines if json.loads(line)["kind"] != KIND]
    kept.append(json.dumps({"iteration": iteration, "kind": KIND, **measured}, allow_nan=False))
    write_whole(file, "".join(f"{line}\n" for line in kept))


def _count_cases(labeller: PseudoLabeller, manifest: Manifest, cases: Sequence[Case]) -> list[Counts]:
    """What `count_measured` counts of each case; each process counts some of them."""
    folder = make_folder(labeller.folder / CASES)
    records = []
    for case in cases:
        inputs = {"pseudo": digest_of(labeller.file(case)), "label": digest_of(manifest.resolve(str(case.label)))}
        settings = {"labels": list(manifest.label_values), "covered": manifest.covered(case)}
        records.append(Record(folder / f"{case.name}.json", inputs=inputs, settings=settings))
    missing = [place for place, record in enumerate(records) if record.notes() is None]
    distributed.barrier()  # all have seen what is there before anything changes
    for place in missing[distributed.rank() :: distributed.world()]:
        records[place].begin()
        records[place].finish(count_labels_of(manifest, cases[place], labeller.file(cases[place])))
    distributed.barrier()
    return [record.notes() or {} for record in records]


def count_labels_of(manifest: Manifest, case: Case, pseudo: Path) -> Counts:
    """What `count_measured` counts of a pseudo-label and the label of its case.

    Args:
        manifest: that the case is of.
        case: with a label.
        pseudo: file of the pseudo-label.
    """
    made = case.model_copy(update={"label": pseudo.absolute().as_posix()})
    return count_measured(
        read_reference(manifest, made),
        read_reference(manifest, case),
        len(manifest.labels),
        has_background=manifest.has_background,
        covered=manifest.covered(case),
    )


def count_measured(
    predicted: np.ndarray,
    reference: np.ndarray,
    classes: int,
    *,
    has_background: bool = True,
    covered: Sequence[bool] | None = None,
) -> Counts:
    """Voxels of each structure where the reference is known.

    Args:
        predicted: `(X, Y, Z)` class indices of a pseudo-label, 255 = ignore.
        reference: `(X, Y, Z)` class indices, 255 = not known.
        classes: with background.
        has_background: whether class 0 is the background, which is not counted.
        covered: for each class whether the reference tells it apart; None: it tells all.

    Returns:
        For each structure, in the order of the classes, voxels of it in `both`, in `predicted` and in the reference
        (`true`), and those of the reference that the pseudo-label ignores (`left_out`); None where the reference does
        not tell the structure apart.

    Examples:
        >>> import numpy as np
        >>> pseudo, label = np.array([[[0, 1, 1, 255, 2]]]), np.array([[[0, 0, 1, 1, 255]]])
        >>> count_measured(pseudo, label, 3)
        {'both': [1, 0], 'predicted': [2, 0], 'true': [2, 0], 'left_out': [1, 0]}
    """
    table = _joint_histogram(predicted, reference)[:IGNORE]
    counts: Counts = {name: [] for name in COUNTS}
    for structure in range(int(has_background), classes):
        if covered is not None and not covered[structure]:
            for name in COUNTS:
                counts[name].append(None)
            continue
        counts["both"].append(int(table[structure, structure]))
        counts["predicted"].append(int(table[:, structure].sum()))
        counts["true"].append(int(table[structure].sum()))
        counts["left_out"].append(int(table[structure, IGNORE]))
    return counts


def _joint_histogram(predicted: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Voxels of each pair of values, `(256 of the reference, 256 predicted)`."""
    values = IGNORE + 1
    table = np.zeros(values * values, np.int64)
    for place in range(predicted.shape[-1]):  # one plane at a time: counting wants eight bytes a voxel
        pairs = reference[..., place].astype(np.int64) * values + predicted[..., place]
        table += np.bincount(pairs.ravel(), minlength=values * values)
    return table.reshape(values, values)


def summarize_measured(
    cases: Sequence[Mapping[str, Sequence[int | None]]], structures: Sequence[str]
) -> dict[str, Any]:
    """Means over cases of each structure's measures.

    Args:
        cases: what `count_measured` gave of each.
        structures: names of the classes, the background aside.

    Returns:
        `cases`, their number; `mean_dice` over the structures that occur; and for each of `MEASURES` structure -> mean
        over the cases in which it exists: `dice` where pseudo-label or label have the structure, `precision` where the
        pseudo-label has it, `recall` where the label has it. None where it exists in no case.
    """
    found: dict[str, Any] = {"cases": len(cases), "mean_dice": None}
    for measure in MEASURES:
        found[measure] = {}
        for index, name in enumerate(structures):
            values = [_measure_of_case(case, index, measure) for case in cases]
            existing = [value for value in values if value is not None]
            found[measure][name] = round(float(np.mean(existing)), 4) if existing else None
    dice = [value for value in found["dice"].values() if value is not None]
    if dice:
        found["mean_dice"] = round(float(np.mean(dice)), 4)
    return found


def _measure_of_case(case: Mapping[str, Sequence[int | None]], index: int, measure: str) -> float | None:
    both, predicted, true, left_out = (case[name][index] for name in COUNTS)
    if both is None or predicted is None or true is None or left_out is None:
        return None
    numerator, denominator = {
        "dice": (2 * both, predicted + true),
        "precision": (both, predicted),
        "recall": (both, true),
        "dice_where_learnt": (2 * both, predicted + true - left_out),
    }[measure]
    return numerator / denominator if denominator else None


def describe_measured(found: Mapping[str, Any], where: str) -> list[str]:
    """What was measured, a line for all structures and one for each.

    Args:
        found: what `summarize_measured` gave.
        where: the round or stage.
    """
    lines = [
        f"{where}: pseudo-labels of {found['cases']} cases against their own labels, opened for this alone: "
        f"mean Dice {_text(found['mean_dice'])}"
    ]
    for name in found["dice"]:
        values = [f"{words} {_text(found[measure][name])}" for measure, words in MEASURES.items()]
        lines.append(f"  {name}: {', '.join(values)}")
    return lines


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
