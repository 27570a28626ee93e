"""A server's studies as a manifest: what is labelled trains or validates, what is not is unlabelled training data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.atomic import real_path, write_whole
from medseg.bundle.bundle import OpenBundle
from medseg.errors import DataError, OutputError
from medseg.manifest.fields import stem
from medseg.manifest.manifest import SECTIONS, Case, Manifest
from medseg.workflows.data.check_case import check_case

HELD_OUT = "validation.json"
ONE_IN = 5
"""Of so many labelled studies one is held out to evaluate models on."""


@dataclass
class Studies:
    """The studies of a datastore: labelled, unlabelled and unusable ones.

    Attributes:
        labeled: image and final label of each study.
        unlabeled: images without one.
        unusable: study -> why the label that it has is none.
    """

    labeled: Mapping[str, tuple[Path, Path]]
    unlabeled: Mapping[str, Path]
    unusable: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_paths(
        cls, labeled: Iterable[tuple[str, str]], unlabeled: Iterable[str], unusable: Mapping[str, str] | None = None
    ) -> Studies:
        """From files; a study is called as its image's file."""
        pairs = {stem(image): (Path(image), Path(label)) for image, label in labeled}
        bad = {study: why for study, why in (unusable or {}).items() if study not in pairs}
        return cls(pairs, {stem(image): Path(image) for image in unlabeled}, bad)


@dataclass
class Gathered:
    """A manifest to train on, and what was left out of it.

    Attributes:
        manifest: of studies that can be used.
        new: how many labelled studies of the server are in `training`.
        left_out: study -> why it is in no list.
    """

    manifest: Manifest
    new: int
    left_out: dict[str, str] = field(default_factory=dict)


def gather(studies: Studies, bundle: OpenBundle, run: Path, folder: Path, held_out: Path) -> Gathered:
    """Put the studies of a server and the cases of the model's own run into one manifest.

    The run's cases stay in their lists as long as their files are there, so that what was learned is not forgotten and
    models are evaluated on the same cases; of a study that is also a case of the run the server's label counts, if it
    has one. No model is evaluated on a study that the run learned from.

    Args:
        studies: of the server.
        bundle: the model; its labels and modality are those of the manifest.
        run: its run folder, or its bundle.
        folder: that the manifest would be in.
        held_out: file that remembers which studies are never trained on.

    Raises:
        DataError: no labelled case to train on, or none to evaluate on.
        OutputError: `held_out` cannot be written or read.
    """
    before = _manifest_of_run(run)
    held = _hold_out(studies, before, held_out)
    cases: dict[str, list[dict[str, Any]]] = {section: [] for section in SECTIONS}
    for name, (image, label) in sorted(studies.labeled.items()):
        section = "validation" if name in held else "training"
        cases[section].append({"case": name, "image": str(image), "label": str(label)})
    if before is not None:
        _add_cases_of_run(cases, before, ("training", "validation"))
    known = {entry["case"] for entries in cases.values() for entry in entries}
    for name, image in sorted(studies.unlabeled.items()):
        if name not in known:
            cases["unlabeled"].append({"case": name, "image": str(image)})
    if before is not None:
        _add_cases_of_run(cases, before, ("unlabeled",))
    content: dict[str, Any] = {
        "name": folder.name,
        "modality": {str(channel): modality for channel, modality in enumerate(bundle.data.modality)},
        "labels": {str(value): name for value, name in bundle.data.labels.items()},
    }
    if not bundle.data.has_background:
        content["background"] = None  # else the first class would be judged by nothing
    if before is not None:
        content["ignore_index"] = before.ignore_index
    return _usable(Manifest.build({**content, **cases}, folder / "manifest.json"), studies)


def _manifest_of_run(run: Path) -> Manifest | None:
    """The manifest that the model was trained on."""
    for folder in (run, run.parent):
        if (folder / "manifest.json").is_file() and (folder / "pipeline.yaml").is_file():
            return Manifest.load(folder / "manifest.json")
    return None


def _add_cases_of_run(cases: dict[str, list[dict[str, Any]]], before: Manifest, sections: Sequence[str]) -> None:
    """Add the run's cases that are there still; never its test cases, by which nothing may be learned.

    Args:
        cases: section -> entries of the new manifest; a case of which the name or an image is there is left out.
        before: the run's manifest.
        sections: to take cases of.
    """
    names: set[str] = set()
    files: set[Path] = set()
    for entries in cases.values():
        for entry in entries:
            names.add(entry["case"])
            files.update(_image_files(entry["image"]))
    for section in sections:
        for case in getattr(before, section):
            images = [real_path(path) for path in before.images(case)]
            is_new = case.name not in names and files.isdisjoint(images)
            if is_new and _is_there(before, case):
                cases[section].append(_entry(before, case))


def _image_files(image: str | list[str]) -> list[Path]:
    """The image of an entry, which is one file or one per channel."""
    names = [image] if isinstance(image, str) else image
    return [real_path(Path(name)) for name in names]


def _is_there(before: Manifest, case: Case) -> bool:
    label = before.label(case)
    files = [*before.images(case)] if label is None else [*before.images(case), label]
    return all(path.is_file() for path in files)


def _entry(before: Manifest, case: Case) -> dict[str, Any]:
    entry: dict[str, Any] = {"case": case.name, "image": [str(path) for path in before.images(case)]}
    label = before.label(case)
    if label is not None:
        entry["label"] = str(label)
    return entry


def _hold_out(studies: Studies, before: Manifest | None, record: Path) -> set[str]:
    """Names of the cases that models are evaluated on: of the run's validation cases and of labelled studies.

    Of the studies it is every fifth by the hash of its name, and whichever was before.

    Args:
        studies: of the server.
        before: the manifest of the model's run.
        record: file that remembers the studies.
    """
    learned = {case.name for case in before.training} if before else set()
    validation = {case.name for case in before.validation} if before else set()
    names = sorted(set(studies.labeled) - learned)
    held = _read_held_out(record)
    order = sorted(names, key=_hash_of)
    new = {name for name in order if int(_hash_of(name), 16) % ONE_IN == 0}
    if len(names) > len(new | held):
        held |= new
    if not validation and len(names) > 1 and held.isdisjoint(names):  # nothing else evaluates
        held.add(order[0])
    write_whole(record, json.dumps(sorted(held)) + "\n")
    return held | validation


def _read_held_out(record: Path) -> set[str]:
    if not record.exists():
        return set()
    try:
        return set(json.loads(record.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise OutputError(f"is damaged ({error})", path=record, hint="remove it") from error


def _hash_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _usable(manifest: Manifest, studies: Studies) -> Gathered:
    """The manifest without the cases that have an error, each named with its reason."""
    left_out = dict(studies.unusable)
    kept: dict[str, tuple[Case, ...]] = {}
    for section in SECTIONS:
        cases = []
        for case in getattr(manifest, section):
            problems = check_case(manifest, section, case, headers_only=False).problems
            errors = [problem.message for problem in problems if problem.severity == "error"]
            if errors:
                left_out[case.name] = errors[0]
            else:
                cases.append(case)
        kept[section] = tuple(cases)
    good = manifest.model_copy(update=kept)
    for section, purpose in (("training", "to learn from"), ("validation", "to evaluate models on")):
        if not getattr(good, section):
            raise DataError(f"there is no labelled study {purpose}", hint=_how_to_get_studies(left_out))
    new = sum(case.name in studies.labeled for case in good.training)
    return Gathered(good, new, left_out)


def _how_to_get_studies(left_out: Mapping[str, str]) -> str:
    hint = "save final labels of at least two studies"
    if not left_out:
        return hint
    reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
    return f"{hint} (left out: {reasons})"
