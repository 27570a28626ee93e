"""Which studies there are to fuse: one by its files, folders of raters, a manifest, a MONAI Label folder."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.consensus.io.file_names import (
    by_name,
    case_of,
    files_in,
    find_case_files,
    is_series,
    possible_names,
    resolve_rater_names,
    stem,
)
from medseg.errors import ConfigError, DataError, ManifestError
from medseg.manifest.manifest import SECTIONS, Annotation, Case, Manifest
from medseg.portable.io.channel_names import alike, group_channels, shown_by_labels
from medseg.portable.io.find_cases import images_in, is_raw, passed_over
from medseg.progress import say

NOT_RATERS = ("final", "original")
"""MONAI Label's tags for what was accepted and for what a model proposed."""


@dataclass(frozen=True)
class Item:
    """One study to fuse: its files and what is known of them.

    Attributes:
        name: of the case.
        images: one file, or one per channel, or the folder of a DICOM series; empty if there is no image.
        annotations: a file or a folder of each rater.
        raters: their names.
        reading: what is known of these files, as fields of `medseg.consensus.io.formats.Reading`.
    """

    name: str
    images: tuple[Path, ...]
    annotations: tuple[Path, ...]
    raters: tuple[str, ...]
    reading: dict[str, Any] = field(default_factory=dict)


def collect_from_files(images: Sequence[Path], annotations: Sequence[Path], names: Sequence[str]) -> list[Item]:
    """One study by its files, or all studies of a folder of images and one folder per rater.

    Raises:
        ConfigError, DataError: nothing is there, or names do not fit.
    """
    if not annotations:
        raise ConfigError("no annotation is given; give --annotation once per rater, or --data, or --studies")
    raters = resolve_rater_names(annotations, names or None)
    if len(images) == 1 and images[0].is_dir() and not is_series(images[0], annotations):
        return _collect_from_folders(images[0], annotations, raters)
    _tell_passed_over([place for place in annotations if place.is_dir() and images_in(place)])
    name = case_of(images, annotations) if images else stem(annotations[0].name)
    return [Item(name, tuple(images), tuple(annotations), tuple(raters))]


def _collect_from_folders(folder: Path, annotations: Sequence[Path], raters: Sequence[str]) -> list[Item]:
    """The cases of a folder of images that at least one rater annotated."""
    files = [path for path in annotations if not path.is_dir()]
    if files:
        raise ConfigError(f"{folder} is a folder of images and {files[0]} no folder; give one folder per rater")
    _tell_passed_over((folder, *annotations))
    items = []
    names_in_folder = _names_in(folder)
    for case, images in _cases(folder, annotations).items():
        possible = _possible_names(case, images, names_in_folder)
        found: dict[str, Path] = {}
        for rater, place in zip(raters, annotations, strict=True):
            annotation = _find_annotation(place, possible)
            if annotation is not None:
                found[rater] = annotation
        if found:
            items.append(Item(case, images, tuple(found.values()), tuple(found)))
    if not items:
        raise DataError("has no image of which a rater's folder has an annotation", path=folder)
    return items


def _tell_passed_over(folders: Iterable[Path]) -> None:
    """Warn of files whose ending is unknown."""
    for place in folders:
        if others := passed_over(place):
            say(f"warning: {place}: {others}")


def _names_in(folder: Path) -> set[str]:
    """Names of the folders and, without endings, of the files in a folder."""
    return {path.name if path.is_dir() else stem(path.name) for path in folder.iterdir()}


def _cases(folder: Path, annotations: Sequence[Path]) -> dict[str, tuple[Path, ...]]:
    """The cases of a folder of images: name -> files of the channels, or the folder of a DICOM series.

    Raises:
        DataError: two have one name.
    """
    files = by_name(files_in(folder))
    labels: set[str] = set()
    for place in annotations:
        labels |= _names_in(place)
    counts = shown_by_labels(files, labels)
    groups = group_channels(files, counts, raw=is_raw(folder), labels=labels)
    cases: dict[str, tuple[Path, ...]] = {}
    for case, names in groups.items():
        cases[case] = tuple(files[name] for name in names)
    for path in sorted(folder.iterdir()):
        if path.is_dir() and is_series(path):
            if path.name in cases:
                problem = f"has {cases[path.name][0].name} and the series {path.name}, both of one name"
                raise DataError(problem, path=folder, hint="rename or remove one of them")
            cases[path.name] = (path,)
    return cases


def _possible_names(case: str, images: Sequence[Path], others: Collection[str]) -> list[str]:
    """What the raters' files of a case may be called; without the number only if no other image may be meant."""
    if len(images) > 1:
        return [case]
    name, *shorter = possible_names(images[0])
    free = [short for short in shorter if short not in others and alike(short, others) == [name]]
    return list(dict.fromkeys([case, name, *free]))


def _find_annotation(folder: Path, names: Sequence[str]) -> Path | None:
    """A rater's file of a case, or the folder of the case with a file per class; None if there is neither."""
    files = find_case_files(folder, names)
    if not files:
        return None
    if files[0].parent != folder:
        return files[0].parent
    if len(files) > 1:
        raise DataError(f"has several files for {names[0]}: {', '.join(path.name for path in files)}", path=folder)
    return files[0]


def collect_from_manifest(manifest: Manifest, section: str | None) -> list[Item]:
    """The cases of a manifest that have annotations.

    Args:
        manifest: the data set.
        section: one of its lists; None: all.

    Raises:
        ConfigError, ManifestError: an unknown section, or no such case.
    """
    if section is not None and section not in SECTIONS:
        raise ConfigError(f"section {section!r} is not known; one of {', '.join(SECTIONS)}")
    sections = SECTIONS if section is None else (section,)
    items = []
    for name in sections:
        for case in getattr(manifest, name):
            if case.annotations:
                items.append(_item_of_case(manifest, case))
    if not items:
        raise ManifestError(
            f"has no case with annotations under {' or '.join(sections)}", path=manifest.path,
            hint='a case wants "annotations": [{"rater": ..., "label": ...}, ...]',
        )  # fmt: skip
    return items


def _item_of_case(manifest: Manifest, case: Case) -> Item:
    raters = [annotation.rater for annotation in case.annotations]
    if len(set(raters)) < len(raters):
        twice = next(rater for rater in raters if raters.count(rater) > 1)
        raise ManifestError(f"the case '{case.name}' has two annotations of the rater '{twice}'", path=manifest.path)
    partial: list[tuple[str, str]] = []
    for annotation in case.annotations:
        partial += _not_looked_for(manifest, annotation)
    reading = {
        "labels": {**manifest.labels, **manifest.value_names},
        "closed": True,
        "missing": manifest.ignore_index,
        "channel": "all" if manifest.channels > 1 else None,
        "partial": tuple(partial),
    }
    labels = tuple(manifest.resolve(annotation.label) for annotation in case.annotations)
    return Item(case.name, manifest.images(case), labels, tuple(raters), reading)


def _not_looked_for(manifest: Manifest, annotation: Annotation) -> list[tuple[str, str]]:
    """Pairs of the rater and each class that the rater did not look for."""
    if annotation.classes is None:
        return []
    if manifest.regions:
        what = f"rater '{annotation.rater}' looked for some classes only, and the classes are regions, which overlap"
        raise ManifestError(what, path=manifest.path, hint="a consensus is of values: name these as classes")
    looked_for = {str(value_or_name) for value_or_name in annotation.classes}
    others = []
    for value, name in manifest.labels.items():
        if value and str(value) not in looked_for and name not in looked_for:
            others.append((annotation.rater, name))
    return others


def collect_from_studies_folder(folder: Path, tags: Sequence[str]) -> list[Item]:
    """The images of a MONAI Label studies folder that were annotated: `labels/TAG/IMAGE.*`.

    Args:
        folder: with images, and `labels` in it.
        tags: of the raters; none: all but `NOT_RATERS`.

    Raises:
        DataError: it has no labels of raters.
    """
    labels = folder / "labels"
    if not labels.is_dir():
        raise DataError("has no folder 'labels' with one folder per tag", path=folder, hint="give the studies folder")
    there = sorted(path.name for path in labels.iterdir() if path.is_dir())
    unknown = sorted(set(tags) - set(there))
    if unknown:
        raise DataError(f"has no tag {', '.join(unknown)}; there are {', '.join(there)}", path=labels)
    raters = list(tags) or [tag for tag in there if tag not in NOT_RATERS]
    items = []
    for case, image in by_name(files_in(folder)).items():
        annotations, names = [], []
        for tag in raters:
            files = find_case_files(labels / tag, [case])
            if files:
                annotations.append(files[0])
                names.append(tag)
        if annotations:
            items.append(Item(case, (image,), tuple(annotations), tuple(names)))
    if not items:
        raise DataError(
            f"has no image with labels of raters; tags are {', '.join(there) or 'none'}", path=folder,
            hint=f"{' and '.join(NOT_RATERS)} count only if named by --tag",
        )  # fmt: skip
    return items
