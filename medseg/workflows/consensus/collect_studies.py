"""Which studies there are to fuse: one by its files, folders of raters, a manifest, a MONAI Label folder."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
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
from medseg.portable.io.find_cases import is_raw

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
    raters = resolve_rater_names(annotations, names or None)
    if len(images) == 1 and images[0].is_dir() and not is_series(images[0], annotations):
        return _of_folders(images[0], annotations, raters)
    name = case_of(images, annotations) if images else stem(annotations[0].name)
    return [Item(name, tuple(images), tuple(annotations), tuple(raters))]


def _of_folders(folder: Path, annotations: Sequence[Path], raters: Sequence[str]) -> list[Item]:
    files = [path for path in annotations if not path.is_dir()]
    if files:
        raise ConfigError(f"{folder} is a folder of images and {files[0]} no folder; give one folder per rater")
    items = []
    here = {path.name if path.is_dir() else stem(path.name) for path in folder.iterdir()}
    for case, images in _cases(folder, annotations).items():
        called = _called(case, images, here)
        drawn = [(_drawn(place, called), name) for place, name in zip(annotations, raters, strict=True)]
        found = [(file, name) for file, name in drawn if file is not None]
        if found:
            places, names = zip(*found, strict=True)
            items.append(Item(case, images, places, names))
    if not items:
        raise DataError("has no image of which a rater's folder has an annotation", path=folder)
    return items


def _cases(folder: Path, annotations: Sequence[Path]) -> dict[str, tuple[Path, ...]]:
    """The cases of a folder of images: name -> files of the channels, or the folder of a DICOM series.

    Raises:
        DataError: two have one name.
    """
    files = by_name(files_in(folder))
    labels = {path.name if path.is_dir() else stem(path.name) for place in annotations for path in place.iterdir()}
    counts = shown_by_labels(files, labels)
    groups = group_channels(files, counts, raw=is_raw(folder), labels=labels)
    cases = {case: tuple(files[name] for name in names) for case, names in groups.items()}
    for path in sorted(folder.iterdir()):
        if path.is_dir() and is_series(path):
            if path.name in cases:
                what = f"has {cases[path.name][0].name} and the series {path.name}, both of one name"
                raise DataError(what, path=folder, hint="rename or remove one of them")
            cases[path.name] = (path,)
    return cases


def _called(case: str, images: Sequence[Path], others: Collection[str]) -> list[str]:
    """What the raters' files of a case may be called; without the number only if no other image may be meant."""
    if len(images) > 1:
        return [case]
    name, *shorter = possible_names(images[0])
    free = [short for short in shorter if short not in others and alike(short, others) == [name]]
    return list(dict.fromkeys([case, name, *free]))


def _drawn(folder: Path, names: Sequence[str]) -> Path | None:
    """A rater's file of a case, or the folder of the case with a file per class; None if there is neither."""
    files = find_case_files(folder, names)
    if not files or files[0].parent != folder:
        return files[0].parent if files else None
    if len(files) > 1:
        raise DataError(f"has several files for {names[0]}: {', '.join(p.name for p in files)}", path=folder)
    return files[0]


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
    for case, image in by_name(files_in(folder)).items():
        found = [(file, tag) for tag in chosen for file in find_case_files(labels / tag, [case])[:1]]
        if found:
            files, names = zip(*found, strict=True)
            items.append(Item(case, (image,), files, names))
    if not items:
        raise DataError(
            f"has no image with labels of raters; tags are {', '.join(there) or 'none'}", path=folder,
            hint=f"{' and '.join(NOT_RATERS)} count only if named by --tag",
        )  # fmt: skip
    return items
