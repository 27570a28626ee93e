"""Which studies there are to fuse: one by its files, folders of raters, a manifest, a MONAI Label folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.consensus.io.file_names import case_of, files_in, found_in, is_series, rater_names, stem
from medseg.errors import ConfigError, DataError, ManifestError
from medseg.manifest.manifest import SECTIONS, Annotation, Case, Manifest

CHANNEL = re.compile(r"_\d{4}$")
NOT_RATERS = ("final", "original")
"""MONAI Label's tags for what was accepted and for what a model proposed."""


@dataclass(frozen=True)
class Item:
    """One study.

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


def of_files(images: Sequence[Path], annotations: Sequence[Path], names: Sequence[str]) -> list[Item]:
    """One study by its files, or all studies of a folder of images and one folder per rater.

    Raises:
        ConfigError, DataError: nothing is there, or names do not fit.
    """
    if not annotations:
        raise ConfigError("no annotation is given; give --annotation once per rater, or --data, or --studies")
    raters = rater_names(annotations, names or None)
    if len(images) == 1 and images[0].is_dir() and not is_series(images[0], annotations):
        return _of_folders(images[0], annotations, raters)
    name = case_of(images[0]) if images else stem(annotations[0].name)
    return [Item(name, tuple(images), tuple(annotations), tuple(raters))]


def _of_folders(folder: Path, annotations: Sequence[Path], raters: Sequence[str]) -> list[Item]:
    files = [path for path in annotations if not path.is_dir()]
    if files:
        raise ConfigError(f"{folder} is a folder of images and {files[0]} no folder; give one folder per rater")
    cases: dict[str, list[Path]] = {}
    for path in files_in(folder):
        cases.setdefault(CHANNEL.sub("", stem(path.name)) or stem(path.name), []).append(path)
    series = sorted(path for path in folder.iterdir() if path.is_dir() and is_series(path))
    cases |= {path.name: [path] for path in series}
    items = []
    for case, images in cases.items():
        found = [(place, name) for place, name in zip(annotations, raters, strict=True) if found_in(place, case)]
        if found:
            places, names = zip(*found, strict=True)
            items.append(Item(case, tuple(images), _one_file(places, case), names))
    if not items:
        raise DataError("has no image of which a rater's folder has an annotation", path=folder)
    return items


def _one_file(folders: Sequence[Path], case: str) -> tuple[Path, ...]:
    """Each rater's file of a case, or the folder of the case with a file per class."""
    chosen = []
    for folder in folders:
        files = found_in(folder, case)
        inside = (folder / case).is_dir()
        if len(files) > 1 and not inside:
            raise DataError(f"has several files for {case}: {', '.join(p.name for p in files)}", path=folder)
        chosen.append(folder / case if inside else files[0])
    return tuple(chosen)


def of_manifest(manifest: Manifest, section: str | None) -> list[Item]:
    """The cases of a manifest that have annotations.

    Args:
        manifest: the data set.
        section: one of its lists; None: all.

    Raises:
        ConfigError, ManifestError: an unknown section, or no such case.
    """
    if section is not None and section not in SECTIONS:
        raise ConfigError(f"section {section!r} is not known; one of {', '.join(SECTIONS)}")
    sections = [section] if section else list(SECTIONS)
    items = [_of_case(manifest, case) for s in sections for case in getattr(manifest, s) if case.annotations]
    if not items:
        raise ManifestError(
            f"has no case with annotations under {' or '.join(sections)}", path=manifest.path,
            hint='a case wants "annotations": [{"rater": ..., "label": ...}, ...]',
        )  # fmt: skip
    return items


def _of_case(manifest: Manifest, case: Case) -> Item:
    raters = [a.rater for a in case.annotations]
    if len(set(raters)) < len(raters):
        twice = next(r for r in raters if raters.count(r) > 1)
        raise ManifestError(f"the case '{case.name}' has two annotations of the rater '{twice}'", path=manifest.path)
    reading = {
        "labels": dict(manifest.labels),
        "closed": True,
        "missing": manifest.ignore_index,
        "channel": "all" if manifest.channels > 1 else None,
        "partial": tuple(pair for a in case.annotations for pair in _not_looked_for(manifest, a)),
    }
    labels = tuple(manifest.resolve(a.label) for a in case.annotations)
    return Item(case.name, manifest.images(case), labels, tuple(raters), reading)


def _not_looked_for(manifest: Manifest, annotation: Annotation) -> Iterator[tuple[str, str]]:
    if annotation.classes is None:
        return
    listed = {str(c) for c in annotation.classes}
    for value, name in manifest.labels.items():
        if value and not {str(value), name} & listed:
            yield annotation.rater, name


def of_studies(folder: Path, tags: Sequence[str]) -> list[Item]:
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
    there = sorted(p.name for p in labels.iterdir() if p.is_dir())
    unknown = sorted(set(tags) - set(there))
    if unknown:
        raise DataError(f"has no tag {', '.join(unknown)}; there are {', '.join(there)}", path=labels)
    chosen = list(tags) or [tag for tag in there if tag not in NOT_RATERS]
    items = []
    for image in files_in(folder):
        case = stem(image.name)
        found = [(file, tag) for tag in chosen for file in found_in(labels / tag, case)[:1]]
        if found:
            files, names = zip(*found, strict=True)
            items.append(Item(case, (image,), files, names))
    if not items:
        raise DataError(
            f"has no image with labels of raters; tags are {', '.join(there) or 'none'}", path=folder,
            hint=f"{' and '.join(NOT_RATERS)} count only if named by --tag",
        )  # fmt: skip
    return items
