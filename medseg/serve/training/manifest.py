"""A server's studies as a manifest: what is labelled trains or validates, what is not is unlabelled training data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.atomic import write_whole
from medseg.bundle.bundle import OpenBundle
from medseg.errors import DataError, OutputError
from medseg.manifest.fields import stem
from medseg.manifest.manifest import SECTIONS, Case, Manifest
from medseg.workflows.data.check_case import check_case

HELD_OUT = "validation.json"
ONE_IN = 5
"""Of so many labelled studies one is held out to judge models by."""


@dataclass
class Studies:
    """What a datastore has.

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
    """A manifest to train on.

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
    models are judged by the same cases; of a study that is also a case of the run the server's label counts, if it has
    one. No model is judged by a study that the run learned from.

    Args:
        studies: of the server.
        bundle: the model; its labels and modality are those of the manifest.
        run: its run folder, or its bundle.
        folder: that the manifest would be in.
        held_out: file that remembers which studies are never trained on.

    Raises:
        DataError: no labelled case to train on, or none to judge by.
        OutputError: `held_out` cannot be written or read.
    """
    before = _before(run)
    learned = {case.name for case in before.training} if before else set()
    held = _hold_out(sorted(set(studies.labeled) - learned), held_out, need=not (before and before.validation))
    held |= {case.name for case in before.validation} if before else set()
    lists: dict[str, list[dict[str, Any]]] = {section: [] for section in SECTIONS}
    for name, (image, label) in sorted(studies.labeled.items()):
        section = "validation" if name in held else "training"
        lists[section].append({"case": name, "image": str(image), "label": str(label)})
    if before:
        _add_before(lists, before, ("training", "validation"))
    known = {entry["case"] for section in lists.values() for entry in section}
    for name, image in sorted(studies.unlabeled.items()):
        if name not in known:
            lists["unlabeled"].append({"case": name, "image": str(image)})
    if before:
        _add_before(lists, before, ("unlabeled",))
    content = {
        "name": folder.name,
        "modality": {str(i): m for i, m in enumerate(bundle.data.modality)},
        "labels": {str(value): name for value, name in bundle.data.labels.items()},
        **({"ignore_index": before.ignore_index} if before else {}),
    }
    return _usable(Manifest.build({**content, **lists}, folder / "manifest.json"), studies)


def _before(run: Path) -> Manifest | None:
    """The manifest that the model was trained on."""
    for folder in (run, run.parent):
        if (folder / "manifest.json").is_file() and (folder / "pipeline.yaml").is_file():
            return Manifest.load(folder / "manifest.json")
    return None


def _add_before(lists: dict[str, list[dict[str, Any]]], before: Manifest, sections: Sequence[str]) -> None:
    """Add the run's cases that are there still; never its test cases, by which nothing may be learned."""
    entries = [entry for section in lists.values() for entry in section]
    known = {entry["case"] for entry in entries}
    files = {str(Path(file).resolve()) for entry in entries for file in _files(entry["image"])}
    for section in sections:
        for case in getattr(before, section):
            images = before.images(case)
            label = before.label(case)
            there = all(path.is_file() for path in (*images, *([label] if label else ())))
            if there and case.name not in known and not {str(p.resolve()) for p in images} & files:
                lists[section].append(_entry(before, case))


def _files(image: str | list[str]) -> list[str]:
    return [image] if isinstance(image, str) else image


def _entry(before: Manifest, case: Case) -> dict[str, Any]:
    label = before.label(case)
    entry: dict[str, Any] = {"case": case.name, "image": [str(path) for path in before.images(case)]}
    return {**entry, "label": str(label)} if label else entry


def _hold_out(names: list[str], record: Path, *, need: bool) -> set[str]:
    """Which labelled studies judge: every fifth by the hash of its name, and whichever did before.

    Args:
        names: of the labelled studies.
        record: file that remembers them.
        need: at least one of two must be held out, since nothing else judges.
    """
    try:
        held = set(json.loads(record.read_text("utf-8"))) if record.exists() else set()
    except (OSError, ValueError, TypeError) as error:
        raise OutputError(f"is damaged ({error})", path=record, hint="remove it") from error
    order = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    new = {name for name in order if int(hashlib.sha256(name.encode()).hexdigest(), 16) % ONE_IN == 0}
    held |= new if len(names) > len(new | held) else set()
    if need and len(names) > 1 and not held & set(names):
        held.add(order[0])
    write_whole(record, json.dumps(sorted(held)) + "\n")
    return held


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
    why = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
    for section, purpose in (("training", "to learn from"), ("validation", "to judge models by")):
        if not kept[section]:
            hint = f"save final labels of at least two studies{f' (left out: {why})' if why else ''}"
            raise DataError(f"there is no labelled study {purpose}", hint=hint)
    good = manifest.model_copy(update=kept)
    return Gathered(good, sum(case.name in studies.labeled for case in kept["training"]), left_out)
