"""`medseg data init`: a manifest from a Decathlon file, a raw folder of nnU-Net, or plain folders."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from medseg.atomic import real_path
from medseg.errors import ConfigError, DataError, ManifestError
from medseg.manifest.json_file import read_json
from medseg.manifest.manifest import SECTIONS, Case, Manifest
from medseg.manifest.splits import draw_lot
from medseg.options import api
from medseg.workflows.data.init_from_folders import found_labels, from_folders
from medseg.workflows.data.init_from_nnunet import from_nnunet, is_nnunet, with_numbered_channels
from medseg.workflows.data.options import InitOptions
from medseg.workflows.data.patterns import Layout

KINDS = ("auto", "decathlon", "nnunet", "folders")

SUBJECT = re.compile(r"^(sub-[a-zA-Z0-9]+|patient[-_]?\d+)(?=[-_.]|$)", re.IGNORECASE)
"""Names that tell the subject: BIDS, and `patient001_frame01`; images of a patient must stay together."""


def run_init(options: InitOptions) -> Manifest:
    """Write a manifest for data that are laid out some other way.

    Args:
        options: files below the folder of `output` are named relative to it; the choice of validation subjects depends
            on `seed` and on nothing else but the subjects' names.

    Raises:
        ConfigError: for an unknown kind, a share outside its range, or an `output` that is something else already.
        ManifestError: for a source that contradicts itself.
        DataError: for folders without images or labels.
        OutputError: when the manifest cannot be written.
    """
    source, output = options.source.absolute(), options.output.absolute()
    if not 0 <= options.validation < 1:
        raise ConfigError(f"--validation is {options.validation}; accepted is 0 to below 1")
    kind = "folders" if options.image_pattern else _kind(source, options.kind)
    if output in (source, source / "dataset.json"):
        raise ConfigError("the manifest would overwrite its own source", path=output, hint="name another file")
    copies = output.parent / f"{output.stem}_labels"
    content = _content(source, kind, options, copies)
    if options.name is not None:
        content["name"] = options.name
    base = source if source.is_file() else source / "dataset.json"
    manifest = _split(Manifest.build(content, base), options.validation, options.seed)
    _refuse_another(manifest, output, source)
    return Manifest.load(manifest.save(output))


init_manifest = api(InitOptions, run_init)


def _refuse_another(manifest: Manifest, output: Path, source: Path) -> None:
    """See that a manifest takes the place of one of the same data only: it lists images of the same folders."""
    if not output.exists():
        return
    try:
        before = Manifest.load(output)
    except ManifestError as error:
        raise ConfigError("is there already and is no manifest", path=output, hint="name another --output") from error
    one, other = (
        {real_path(path).parent for case in each.cases for path in each.images(case)} for each in (manifest, before)
    )
    if not one & other:
        what = f"is the manifest of images in {min(other)} and not of {source}"
        raise ConfigError(what, path=output, hint="name another --output, or remove it")


def _kind(source: Path, kind: str) -> str:
    if kind not in KINDS:
        raise ConfigError(f"--kind is '{kind}'; accepted are {', '.join(KINDS)}")
    if not source.exists():
        raise DataError("no such file or folder", path=source)
    listed = source / "dataset.json"
    if kind == "auto":
        if source.is_file():
            return "decathlon"
        if not listed.is_file():
            return "folders"
        return "nnunet" if is_nnunet(read_json(listed)) else "decathlon"
    if kind in ("nnunet", "folders") and not source.is_dir():
        raise DataError("is no folder", path=source, hint=f"--kind {kind} takes one")
    return kind


def _content(source: Path, kind: str, options: InitOptions, copies: Path) -> dict[str, Any]:
    modality = options.modality
    if kind == "nnunet":
        return from_nnunet(source, modality)
    if kind == "folders":
        if not source.is_dir():
            raise DataError("is no folder", path=source, hint="patterns of paths take one")
        return from_folders(source, modality, layout=_layout(options), copies=copies)
    file = source if source.is_file() else source / "dataset.json"
    content = read_json(file)
    if modality is not None:
        content["modality"] = [part.strip() for part in modality.split(",")]
    if "labels" not in content:
        content["labels"] = found_labels(_label_files(content, file))
    return with_numbered_channels(content, file.parent)


def _layout(options: InitOptions) -> Layout | None:
    """The user's patterns."""
    if options.image_pattern is None or options.label_pattern is None:
        return None
    images = tuple(part.strip() for part in options.image_pattern.split(","))
    return Layout("", images, options.label_pattern)


def _label_files(content: dict[str, Any], file: Path) -> list[Path]:
    """The label files of a data list that does not name its classes, as MONAI's Auto3DSeg writes them.

    Raises:
        ManifestError: no case has a label.
    """
    cases = [case for name in SECTIONS for case in content.get(name) or () if isinstance(case, dict)]
    labels = [file.parent / str(case["label"]) for case in cases if case.get("label")]
    if not labels:
        raise ManifestError("names no labels, and no case has a label file to find them in", path=file)
    return labels


def _subject(case: Case) -> str:
    if case.subject is not None:
        return case.subject
    match = SUBJECT.match(case.name)
    return match[0] if match else case.name


def _with_subject(case: Case) -> Case:
    """The case, with its subject where that is another name than its own."""
    subject = _subject(case)
    return case if subject == case.name else case.model_copy(update={"subject": subject})


def _split(manifest: Manifest, share: float, seed: int) -> Manifest:
    """Enter the subjects that the names of cases show, and hold some out for validation."""
    with_subjects = {}
    for section in SECTIONS:
        cases = tuple(_with_subject(case) for case in getattr(manifest, section))
        if cases:
            with_subjects[section] = cases
    manifest = manifest.model_copy(update=with_subjects)
    if not share:
        return manifest
    if manifest.validation:
        what = f"already has {len(manifest.validation)} validation cases"
        raise ManifestError(what, path=manifest.path, hint="leave --validation out")
    subjects = sorted({_subject(c) for c in manifest.training}, key=lambda s: draw_lot(seed, s))
    count = max(1, round(share * len(subjects)))
    if count >= len(subjects):
        what = f"{count} of {len(subjects)} labelled subjects for validation leave none for training"
        raise ManifestError(what, path=manifest.path, hint="lower --validation")
    held_out = set(subjects[:count])
    parts = {
        "training": tuple(c for c in manifest.training if _subject(c) not in held_out),
        "validation": tuple(c for c in manifest.training if _subject(c) in held_out),
    }
    counts = {"numTraining": len(parts["training"])} if "numTraining" in (manifest.model_extra or {}) else {}
    return manifest.model_copy(update={**parts, **counts})
