"""`medseg data init`: a manifest from a Decathlon file, a CSV, a raw folder of nnU-Net, or plain folders."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.atomic import make_folder, real_path
from medseg.errors import ConfigError, DataError, ManifestError
from medseg.manifest.fields import value_to_name
from medseg.manifest.json_file import read_json
from medseg.manifest.manifest import SECTIONS, Case, Manifest
from medseg.manifest.splits import draw_lot
from medseg.options import api
from medseg.portable.io.read import read_header
from medseg.progress import say
from medseg.workflows.data.convert_series import convert_series
from medseg.workflows.data.labels.converted import PICTURES
from medseg.workflows.data.labels.finish import finish_labels, found_labels, with_names
from medseg.workflows.data.layouts.folders import data_set_in, from_folders
from medseg.workflows.data.layouts.found import Found
from medseg.workflows.data.layouts.nnunet import from_nnunet, is_nnunet, with_numbered_channels
from medseg.workflows.data.layouts.patterns import Layout
from medseg.workflows.data.layouts.table import from_table, is_table
from medseg.workflows.data.options import InitOptions

KINDS = ("auto", "decathlon", "nnunet", "folders", "csv")
COLOR = ("red", "green", "blue")

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
    if source.is_dir() and not options.image_pattern and (inner := data_set_in(source)) != source:
        say(f"found in {inner}")
        source = inner
    kind = "folders" if options.image_pattern else _kind(source, options.kind)
    if output in (source, source / "dataset.json"):
        raise ConfigError("the manifest would overwrite its own source", path=output, hint="name another file")
    if kind in ("folders", "csv"):
        content, base = _of_files(source, kind, options, output)
    else:
        content = _described(source, kind, options)
        base = source if source.is_file() else source / "dataset.json"
    if options.name is not None:
        content["name"] = options.name
    manifest = _split(Manifest.build(content, base), options.validation, options.seed)
    _refuse_another([path for case in manifest.cases for path in manifest.images(case)], output, source)
    make_folder(output.parent)
    return Manifest.load(manifest.save(output))


init_manifest = api(InitOptions, run_init)


def _refuse_another(images: Sequence[Path], output: Path, source: Path) -> None:
    """See that a manifest takes the place of one of the same data only: it lists images of the same folders."""
    if not output.exists():
        return
    try:
        before = Manifest.load(output)
    except ManifestError as error:
        raise ConfigError("is there already and is no manifest", path=output, hint="name another --output") from error
    one = {real_path(path).parent for path in images}
    other = {real_path(path).parent for case in before.cases for path in before.images(case)}
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
            return "csv" if is_table(source) else "decathlon"
        if not listed.is_file():
            return "folders"
        return "nnunet" if is_nnunet(read_json(listed)) else "decathlon"
    if kind in ("nnunet", "folders") and not source.is_dir():
        raise DataError("is no folder", path=source, hint=f"--kind {kind} takes one")
    if kind == "csv" and not source.is_file():
        raise DataError("is no file", path=source, hint="--kind csv takes one")
    return kind


def _described(source: Path, kind: str, options: InitOptions) -> dict[str, Any]:
    """What a manifest says of a data set that comes with a file that lists and names."""
    if options.colors is not None:
        hint = "it is for masks in folders or in a CSV"
        raise ConfigError("--colors is given, and the labels are listed by dataset.json", path=source, hint=hint)
    read = from_nnunet if kind == "nnunet" else _decathlon
    content = read(source, options.modality)
    if options.names:
        content["labels"] = _renamed(content["labels"], options.names, source)
    return content


def _renamed(labels: Any, names: Mapping[int, str], source: Path) -> dict[str, str]:
    """Labels of a file that lists them, with the names that the user gave.

    Raises:
        ManifestError: the file has no values with one name each.
    """
    if isinstance(labels, dict) and any(isinstance(value, list) for value in labels.values()):
        regions = ", ".join(labels)
        raise ManifestError(f"--label names values, and its labels are regions: {regions}", path=source)
    try:
        return with_names(dict(value_to_name(labels)), names, looked=False)
    except (TypeError, ValueError) as error:
        raise ManifestError(f"labels: {error}", path=source, hint="accepted is value: name, or name: value") from error


def _decathlon(source: Path, modality: str | None) -> dict[str, Any]:
    file = source if source.is_file() else source / "dataset.json"
    content = read_json(file)
    if modality is not None:
        content["modality"] = [part.strip() for part in modality.split(",")]
    if "labels" not in content:
        content["labels"] = found_labels(_label_files(content, file))
    return with_numbered_channels(content, file.parent)


def _of_files(source: Path, kind: str, options: InitOptions, output: Path) -> tuple[dict[str, Any], Path]:
    """What a manifest says of images and labels that are found by their places, and the file that paths start from."""
    if kind == "csv":
        found, folder = from_table(source), source.parent
    else:
        if not source.is_dir():
            raise DataError("is no folder", path=source, hint="patterns of paths take one")
        found, folder = from_folders(source, options.modality, _layout(options)), source
    cases = list(found.cases)
    series = {}
    for case in cases:
        places = [folder / image for image in case["image"]]
        if places[0].is_dir():
            series[case.get("case", places[0].name)] = places[0]
    converted = output.parent / f"{output.stem}_images"
    images = [folder / image for case in cases for image in case["image"]]
    _refuse_another([converted / "any"] if series else images, output, source)
    convert_series(cases, folder, converted)
    copies = output.parent / f"{output.stem}_labels"
    content: dict[str, Any] = {"name": source.stem if kind == "csv" else source.name}
    content["modality"] = _modality([folder / image for image in cases[0]["image"]], options.modality, found)
    content |= finish_labels(cases, options.names, options.colors, series, folder, copies)
    lists = {section: cases for section, cases in found.sections.items() if cases}
    return content | lists, folder / "dataset.json"


def _modality(images: Sequence[Path], given: str | None, found: Found) -> dict[str, str]:
    """One entry per channel of the first case, whether they are files or colours."""
    headers = [read_header(path) for path in images]
    count = sum(header.channels for header in headers)
    names = tuple(part.strip() for part in given.split(",")) if given else found.modality
    if not names:
        is_picture = len(images) == 1 and count == 3 and images[0].name.lower().endswith(PICTURES)
        names = COLOR if is_picture else ("unknown",)
    if len(names) not in (1, count):
        raise DataError(f"has {count} channels, {len(names)} modalities were given", path=images[0])
    return {str(n): names[n % len(names)] for n in range(count)}


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
