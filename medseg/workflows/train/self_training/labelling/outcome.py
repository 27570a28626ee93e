"""What came of labelling, as it is told: cases without a label and why, labels that ignore everything, dead maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.errors import DataError
from medseg.manifest.labelling import is_pseudo
from medseg.manifest.manifest import Case, Manifest, streams_of
from medseg.method import IGNORE, LabelAndMaps, Predictions, PseudoLabels
from medseg.progress import say
from medseg.records import read_record
from medseg.workflows.train.self_training.labelling.dead_maps import count_dead_maps, dead_map_warnings, dead_maps

LEFT_OUT = "left_out"
"""Key of the notes of a case without a label: why."""

NO_TAGS = "for want of tags"
ALL_IGNORED = "of which every voxel would be ignored"

SALIENCY = "saliency"
"""Name of an input of rules, and key of the notes of a case: its largest value."""


def notes_of(rule: PseudoLabels, predicted: Predictions, made: LabelAndMaps | None) -> dict[str, Any]:
    """What is told of a case after all are labelled, as plain values; by `LEFT_OUT` whether and why it has no label.

    A label that ignores every voxel teaches something only where maps come with it.

    Args:
        rule: that labelled it.
        predicted: of the case.
        made: what the rule made of it.
    """
    notes: dict[str, Any] = {}
    if rule.needs == "maps" and rule.has_background:
        notes |= count_dead_maps(predicted, rule.classes)
    saliency = predicted.inputs.get(SALIENCY)
    if saliency is not None:
        notes[SALIENCY] = float(saliency.max())
    if made is None:
        is_untagged = rule.needs == "maps" and predicted.tags is None
        notes[LEFT_OUT] = NO_TAGS if is_untagged else rule.left_out
    elif not made.maps and bool((made.label == IGNORE).all()):
        notes[LEFT_OUT] = ALL_IGNORED
    return notes


def tell_outcome(manifest: Manifest, notes: Mapping[str, Mapping[str, Any]]) -> None:
    """Say of which classes maps say nothing, how many cases stay without a label, and how many labels ignore all.

    Args:
        manifest: names the classes.
        notes: case -> what `notes_of` gave, and its counts if it has a label.
    """
    for line in dead_map_warnings(manifest, notes.values()):
        say(f"warning: {line}")
    for line in _describe_labels(list(notes.values()), int(manifest.has_background)):
        say(line)


def _describe_labels(notes: Sequence[Mapping[str, Any]], first: int) -> list[str]:
    """Why cases have no label, and how many labels have no structure, from which class index `first` on they are."""
    total = len(notes)
    lines = []
    for reason, count in Counter(each[LEFT_OUT] for each in notes if LEFT_OUT in each).items():
        lines.append(f"{count} of {total} cases stay without a label, {reason}")
    labels = [each for each in notes if "fused" in each]
    ignored = sum(each["ignored"] == each["voxels"] for each in labels)
    if ignored:
        lines.append(f"{ignored} of {total} pseudo-labels ignore every voxel: tags and maps alone are learnt of these")
    bare = sum(not sum(each["fused"][first:]) for each in labels) - ignored
    if bare:
        lines.append(f"{bare} of {total} pseudo-labels have background, and no structure")
    return lines


def refuse_nothing_learnt(manifest: Manifest, labelled: Manifest, folder: Path, cases: Sequence[Case]) -> None:
    """See that there is a voxel of some structure to learn from.

    Args:
        manifest: of which the cases are.
        labelled: the data set after labelling.
        folder: of the pseudo-labels.
        cases: that a rule was to label.

    Raises:
        DataError: nobody labelled a case, and no pseudo-label has a structure; it says what each has instead.
    """
    if any(not is_pseudo(case) for case in streams_of(labelled)["labeled"]):
        return
    notes = [read_record(folder / f"{case.name}.json").get("notes") or {} for case in cases]
    first = int(manifest.has_background)
    if any(sum(each["fused"][first:]) for each in notes if "fused" in each):
        return
    found = _describe_labels(notes, first)
    empty = sum(each.get(SALIENCY) == 0 for each in notes)
    if empty:
        found.append(f"saliency is 0 everywhere in {empty} cases")
    found += dead_maps(manifest, notes)
    raise DataError(
        f"no pseudo-label has a voxel of any structure: {'; '.join(found)}",
        path=folder,
        hint="train the stage before longer, or choose other thresholds of the rule",
    )
