"""The step after a training: predictions of the validation cases, and what of them its bundle is to keep."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from medseg.atomic import make_folder, write_whole
from medseg.bundle.bundle import open_bundle
from medseg.bundle.components import components_of, set_components
from medseg.bundle.runner import BundleRunner, prediction_errors
from medseg.bundle.safe_load import read_json
from medseg.engine import distributed
from medseg.manifest.fields import unit_of
from medseg.manifest.manifest import Case, Manifest
from medseg.portable.inference.components import Rules
from medseg.portable.io.read import read_header
from medseg.progress import say, show_progress
from medseg.records import Record
from medseg.workflows.evaluate.compare_case import Scale
from medseg.workflows.train.postprocessing.choose import Choice, choose_rules
from medseg.workflows.train.postprocessing.evidence import (
    Evidence,
    evidence_of,
    smallest_true_components,
    voxel_volume,
)
from medseg.workflows.train.self_training.validation_scores import read_reference

PICTURES = "validation"
"""Folder of a run with a picture of each of the first validation cases, named by their number."""

MOST_PICTURES = 12

MEASURED, CHOSEN = "validation_components.json", "postprocessing.json"
"""Of a run folder: the components of its predictions, and the rules that were chosen by them."""


@dataclass(frozen=True)
class Measured:
    """What the validation cases of one run say.

    Args:
        folder: of the run.
        evidence: structure -> what each case says of it.
        smallest_mm3: structure -> volume of the smallest component in the labels of the training cases, of those where
            a rule may help.
    """

    folder: Path
    evidence: dict[str, list[Evidence]]
    smallest_mm3: dict[str, float]


def measure(folder: Path, manifest: Manifest, device: torch.device) -> Measured | None:
    """Predict the validation cases of a finished run and look at the components; done once, all processes together.

    Args:
        folder: of the run.
        manifest: its data set.
        device: of the networks.

    Returns:
        What they say; None where no validation case has a label, which is said.

    Raises:
        MedsegError: a case that cannot be predicted, or a place that cannot be written.
        Stopped: by a signal.
    """
    cases = [case for case in manifest.validation if case.label]
    if not cases:
        if distributed.rank() == 0:
            say(
                "post-processing: no validation case has a label, none is chosen; "
                "medseg predict --largest NAME keeps a structure in one piece"
            )
        return None
    weights = read_json(folder / "bundle" / "configs" / "medseg.json")["weights_sha256"]
    record = Record(folder / MEASURED, inputs={"weights": weights}, settings={"work": "components"}, version=None)
    notes = record.notes()
    distributed.barrier()
    if notes is None:
        evidence = _gather(_evidence_of_share(folder / "bundle", manifest, cases, device))
        asked = [name for name, found in evidence.items() if any(each.may_gain for each in found)]
        smallest = smallest_true_components(manifest, asked) if asked and distributed.rank() == 0 else {}
        plain = {name: [each.plain() for each in found] for name, found in evidence.items()}
        notes = {"structures": plain, "smallest_mm3": smallest}
        if distributed.rank() == 0:
            record.begin()
            record.finish(notes)
        distributed.barrier()
    of_structures: dict[str, list[Evidence]] = {}
    for name, found in notes["structures"].items():
        of_structures[name] = [Evidence.of_plain(each) for each in found]
    return Measured(folder, of_structures, notes["smallest_mm3"])


def _evidence_of_share(
    bundle: Path, manifest: Manifest, cases: Sequence[Case], device: torch.device
) -> dict[str, list[Evidence]]:
    """What this process's share of the cases says."""
    opened = open_bundle(bundle)
    opened.inferer.components = {}
    runner = BundleRunner(opened, device)
    share = cases[distributed.rank() :: distributed.world()]
    evidence: dict[str, list[Evidence]] = {name: [] for name in manifest.structures.values()}
    first = int(manifest.has_background)
    pictures = bundle.parent / PICTURES
    with show_progress("choosing post-processing", shown=distributed.rank() == 0, kept="the bundle is there") as tell:
        for done, case in enumerate(share):
            tell(done, len(share))
            prediction = _predict(runner, manifest, case)
            reference = read_reference(manifest, case)
            if cases.index(case) < MOST_PICTURES:
                draw_validation_case(pictures / f"{cases.index(case)}.png", manifest, case, reference, prediction)
            covered = manifest.covered(case) or (True,) * len(manifest.labels)
            for index, name in enumerate(evidence, first):
                voxel_mm3 = voxel_volume(manifest, case)
                found = evidence_of(case.name, prediction, reference, index, voxel_mm3) if covered[index] else None
                if found is not None:
                    evidence[name].append(found)
    return evidence


def draw_validation_case(
    path: Path, manifest: Manifest, case: Case, reference: np.ndarray, prediction: np.ndarray
) -> None:
    """Draw the outlines of a label and of a prediction, both class indices `(X, Y, Z)`, over their image.

    Raises:
        OutputError: the picture cannot be written.
    """
    from medseg.workflows.evaluate.montage import draw_cases, show_case  # matplotlib takes seconds to import

    first = int(manifest.has_background)
    structures = dict(enumerate(manifest.structures.values(), first))
    images = manifest.images(case)
    shown = show_case(images, reference, prediction, read_header(images[0]), ct=manifest.modalities[0] == "CT")
    scale = Scale(structures, 0 if manifest.has_background else None)
    make_folder(path.parent)
    write_whole(path, draw_cases({case.name: shown}, scale))


def _predict(runner: BundleRunner, manifest: Manifest, case: Case) -> np.ndarray:
    """Class indices `(X, Y, Z)` on the grid of the image's file."""
    images = manifest.images(case)
    with prediction_errors(images[0]):
        labels = runner.predict(runner.read(images)).labels
    index_of = np.zeros(256, np.uint8)
    for index, value in enumerate(manifest.label_values):
        index_of[value] = index
    return index_of[labels]


def _gather(evidence: dict[str, list[Evidence]]) -> dict[str, list[Evidence]]:
    """What the cases of all processes say, in one order whatever their number."""
    plain = {name: [each.plain() for each in found] for name, found in evidence.items()}
    together: dict[str, list[Evidence]] = {name: [] for name in evidence}
    for text in distributed.gather_texts(json.dumps(plain)):
        for name, found in json.loads(text).items():
            together[name] += [Evidence.of_plain(each) for each in found]
    for found in together.values():
        found.sort(key=lambda each: each.case)
    return together


def apply_choice(measured: Sequence[Measured], folder: Path, manifest: Manifest) -> None:
    """Choose by all cases together and give every bundle the same rules; says what was chosen.

    Args:
        measured: of one run, or of all folds of a cross-validation, each by its own held-out cases.
        folder: gets the table of what was chosen.
        manifest: which label value each structure has.

    Raises:
        OutputError: a bundle or the table cannot be written.
    """
    choices = choose_rules(*_pooled(measured))
    chosen = [choice for choice in choices if choice.rule is not None]
    rule_of = {choice.structure: choice.rule for choice in choices}
    rules: Rules = {}
    for value, structure in manifest.structures.items():
        rule = rule_of.get(structure)
        if rule is not None:
            rules[value] = rule
    for each in measured:
        bundle = each.folder / "bundle"
        if components_of(bundle) != rules:
            set_components(bundle, rules, [choice.plain() for choice in chosen])
    rows = [choice.plain() for choice in choices]
    write_whole(folder / CHOSEN, json.dumps({"structures": rows}, indent=1, allow_nan=False) + "\n")
    _tell(choices, unit_of(file for case in manifest.cases for file in case.image))


def _pooled(measured: Sequence[Measured]) -> tuple[dict[str, list[Evidence]], dict[str, float]]:
    """What all runs say together."""
    evidence: dict[str, list[Evidence]] = {}
    smallest: dict[str, float] = {}
    for each in measured:
        for name, found in each.evidence.items():
            evidence.setdefault(name, []).extend(found)
        for name, volume in each.smallest_mm3.items():
            smallest[name] = min(volume, smallest.get(name, volume))
    return evidence, smallest


def _tell(choices: Sequence[Choice], unit: str) -> None:
    chosen = [choice for choice in choices if choice.rule is not None]
    for choice in chosen:
        say(f"post-processing, {choice.line(unit)}")
    if not chosen:
        say("post-processing: no rule clearly raises the validation Dice, none is chosen")
