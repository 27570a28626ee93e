"""The data set after cases were labelled by a rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medseg.engine import distributed
from medseg.manifest.labelling import is_pseudo
from medseg.manifest.manifest import Case, Manifest
from medseg.methods import find_rule
from medseg.workflows.train.self_training.labelling.pseudo_labels import PseudoLabeller
from medseg.workflows.train.self_training.labelling.rules import with_standing_maps


def write_round_manifest(manifest: Manifest, labeller: PseudoLabeller, path: Path) -> Manifest:
    """The data set after labelling: cases with labels as they are, others with pseudo-labels, marked `pseudo`.

    Tags and maps of a case stay true. A case that the rule left without a label stays where it is; one that had a
    pseudo-label loses it, and is with its tags among the training cases, without any among the unlabelled ones.

    Args:
        manifest: of the run.
        labeller: knows where the pseudo-labels are.
        path: where it is written.
    """
    rule = find_rule(labeller.rule.name)
    training: list[Case] = []
    unlabeled: list[Case] = []
    labelled: list[Case] = []
    tried = {case.name for case in labeller.cases}
    for case in manifest.training:
        if case.name not in tried:
            training.append(with_standing_maps(case, rule) if case.is_labelled else case)
        elif labeller.file(case).exists():
            labelled.append(case)
        elif is_pseudo(case):
            bare = _without_label(case)
            (unlabeled if bare.tags is None else training).append(bare)
        else:
            training.append(case)
    for case in manifest.unlabeled:
        is_labelled = case.name in tried and labeller.file(case).exists()
        (labelled if is_labelled else unlabeled).append(case)
    made = [_with_pseudo_label(manifest, case, labeller) for case in labelled]
    new = manifest.model_copy(update={"training": (*training, *made), "unlabeled": tuple(unlabeled)})
    if distributed.rank() == 0:
        new.save(path)
    distributed.barrier()
    return Manifest.load(path)


def _with_pseudo_label(manifest: Manifest, case: Case, labeller: PseudoLabeller) -> Case:
    fields = _fields(case, "annotations", "classes")
    fields["label"] = manifest.relative(labeller.file(case).absolute(), manifest.path.parent)
    fields["pseudo"] = True
    made = {name: labeller.made_map(case, name).absolute() for name in find_rule(labeller.rule.name).makes}
    if made:
        files = {name: manifest.relative(file, manifest.path.parent) for name, file in made.items()}
        fields["maps"] = {**case.maps, **files}
    return Case(**fields)


def _without_label(case: Case) -> Case:
    return Case(**_fields(case, "label", "pseudo"))


def _fields(case: Case, *without: str) -> dict[str, Any]:
    """What is said of a case, with its name, which may be that of its files."""
    return {**case.model_dump(exclude_unset=True, exclude=set(without)), "case": case.name}
