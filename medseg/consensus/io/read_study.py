"""A study from files: an image and an annotation of each rater, on one grid and with one list of classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medseg.consensus.io.align import Placed, bring_to_grid
from medseg.consensus.io.annotations.dicom import AnnotatedImage, read_dicom_annotation
from medseg.consensus.io.annotations.files import FileAnnotation, palette_of, read_annotation_files
from medseg.consensus.io.annotations.left_out import ask_for_structures
from medseg.consensus.io.annotations.match_values import Labelled, match_values
from medseg.consensus.io.annotations.partial import limit_to_protocol, limit_to_region, tidy_probabilities
from medseg.consensus.io.annotations.segment_table import Segment, merge_segments
from medseg.consensus.io.annotations.surroundings import leave_out_surroundings
from medseg.consensus.io.file_names import DICOM, files_of, is_dicom, is_series, resolve_rater_names
from medseg.consensus.io.formats import Form, Reading
from medseg.consensus.io.read_image import read_image
from medseg.consensus.statistics.never_drawn import classes_not_looked_for
from medseg.consensus.study import MISSING, Rater, Study
from medseg.dicom.scan.series import Series, open_series
from medseg.errors import ConfigError, DataError
from medseg.portable.io.header import Header
from medseg.portable.io.read import read_header

Paths = Path | str | Sequence[Path | str]


def read_study(
    image: Paths | None,
    annotations: Sequence[Path | str],
    *,
    names: Sequence[str] | None = None,
    references: int = 0,
    **reading: Any,
) -> tuple[Study, Form]:
    """Read an image and its raters.

    Args:
        image: one file, or one per channel, or the folder of a DICOM series; None: there is none.
        annotations: for each rater a label map, a file of probabilities, a DICOM SEG or RTSTRUCT, or a folder with
            the study's file or with one mask per class.
        names: of the raters; default from the files' names.
        references: how many annotations at the end are what the answer will be compared with: they are read like the
            others, and say nothing of what these looked for or what surrounds them.
        reading: fields of `Reading`.

    Raises:
        DataError: a file that cannot be used, or one that lies on another grid.
        ConfigError: a rater or a class that does not exist.
    """
    options = Reading(**reading)
    if not annotations:
        raise ConfigError("no annotation is given; at least one is needed")
    images = _as_paths(image)
    sources = [files_of(Path(annotation), images[0] if images else None) for annotation in annotations]
    rater_names = resolve_rater_names([Path(annotation) for annotation in annotations], names)
    notes: list[str] = []
    series = _open_series(images, options)
    if series is not None:
        annotated = AnnotatedImage(series.header, series.frame_of_reference)
    else:
        first_file = images[0] if images else sources[0][0]
        annotated = AnnotatedImage(_read_header(first_file), is_image=bool(images))
    everybody, segments, files = _read_raters(sources, rater_names, annotated, options, notes)
    count = len(everybody) - references
    raters, compared = everybody[:count], everybody[count:]
    _apply_protocols(raters, segments, annotated.grid, options, notes)
    classes = ("background", *(segment.title for segment in segments))
    raters, left_out = leave_out_surroundings(raters, classes)
    notes += left_out
    voxels = read_image(images, annotated.grid, options, notes, series) if images else None
    study = Study((*raters, *compared), classes, annotated.grid.spacing_mm, voxels)
    first = files[0]
    return study, Form(
        grid=annotated.grid,
        suffix=DICOM if series else first.suffix,
        flat=first.flat,
        dtype=first.dtype,
        segments=segments,
        missing=_find_free_value(segments) if options.missing is None else options.missing,
        palette=palette_of(sources[0][0]),
        sources=tuple(map(tuple, sources)),
        notes=tuple(notes),
        series=series,
    )


def _as_paths(image: Paths | None) -> list[Path]:
    if image is None:
        return []
    if isinstance(image, str | Path):
        return [Path(image)]
    return [Path(path) for path in image]


def _open_series(images: Sequence[Path], options: Reading) -> Series | None:
    """The series of the image if it is DICOM, else None."""
    if not images or not is_series(images[0]):
        if options.series is not None:
            raise ConfigError(f"--series {options.series} needs an image that is DICOM")
        return None
    if len(images) > 1:
        raise ConfigError(f"{images[0]} is DICOM, one series for an image; {len(images)} channels are given")
    return open_series(images[0], options.series)


def _read_header(path: Path) -> Header:
    if is_dicom(path):
        raise DataError("is DICOM and refers to images", path=path, hint="give the series as --image FOLDER")
    return read_header(path)


def _find_free_value(segments: Sequence[Segment]) -> int:
    """A label value that no class has."""
    used = {segment.value for segment in segments}
    return next(value for value in range(MISSING, 2**16) if value not in used)


def _read_raters(
    sources: Sequence[Sequence[Path]],
    names: Sequence[str],
    image: AnnotatedImage,
    options: Reading,
    notes: list[str],
) -> tuple[list[Rater], tuple[Segment, ...], list[FileAnnotation]]:
    """Every rater on the grid in common classes, and their annotations without the voxels."""
    known = tuple(Segment(value, name) for value, name in options.labels.items() if value)
    annotations = [_read_annotation(files, known, options, image) for files in sources]
    if not known and not any(annotation.segments for annotation in annotations):
        known = _classes_of_channels(annotations)
    of_files: list[str] = []
    arrays = []
    for name, annotation in zip(names, annotations, strict=True):
        placed = Placed(annotation.take(), annotation.header, 0 if annotation.cropped else MISSING)
        array, of_grid = bring_to_grid(placed, image.grid, options.resample)
        of_files += [f"{name}: {note}" for note in (*annotation.notes, *of_grid)]
        arrays.append(array)
    segments, indices = _merge_classes(arrays, annotations, known, notes)
    notes += of_files
    raters = []
    for name, annotation, own_indices in zip(names, annotations, indices, strict=True):
        array = arrays.pop(0)  # needed once, so that not all raters lie in memory twice
        if array.ndim == 4:
            rater = _soft_rater(name, array, len(segments) + 1, annotation.header.path, notes)
        else:
            rater = _hard_rater(name, array, own_indices)
        raters.append(rater)
    _refuse_nothing_but_missing(raters, segments, annotations[0].header.path, options.missing)
    remedy = "another ignore_index in the manifest" if options.closed else "--missing-value none"
    notes[:0] = ask_for_structures(raters, options.missing, remedy)
    return raters, segments, annotations


def _merge_classes(
    arrays: Sequence[np.ndarray], annotations: Sequence[FileAnnotation], known: Sequence[Segment], notes: list[str]
) -> tuple[tuple[Segment, ...], list[list[int]]]:
    """The classes of all files, and for each file the class index of each of its segments.

    Args:
        arrays: of each rater on the grid.
        annotations: their files.
        known: classes that are known beforehand.
        notes: to be added to.
    """
    labelled = []
    for array, annotation in zip(arrays, annotations, strict=True):
        if array.ndim == 3:
            labelled.append(Labelled(array, annotation.segments, annotation.header.path))
    named, of_places = match_values(labelled, known)
    tables = [(*known, *named), *(annotation.segments for annotation in annotations)]
    segments, (_, *indices), of_values = merge_segments(tables)
    notes += [*of_places, *of_values]
    return segments, indices


def _read_annotation(
    files: Sequence[Path], known: Sequence[Segment], options: Reading, image: AnnotatedImage
) -> FileAnnotation:
    if len(files) == 1 and is_dicom(files[0]):
        return read_dicom_annotation(files[0], known, image)
    return read_annotation_files(
        files, options.missing, known=known, probabilities=options.probabilities, closed=options.closed
    )


def _classes_of_channels(annotations: Sequence[FileAnnotation]) -> tuple[Segment, ...]:
    """The classes of probabilities alone, which are their channels; a single channel is that of a foreground."""
    classes = 1
    for annotation in annotations:
        if annotation.channels:
            classes = max(classes, annotation.channels, 2)
    return tuple(Segment(value) for value in range(1, classes))


def _soft_rater(name: str, array: np.ndarray, classes: int, path: Path, notes: list[str]) -> Rater:
    """A rater of probabilities `(K, X, Y, Z)`, or `(1, X, Y, Z)` of the foreground alone."""
    if len(array) == 1:
        array = np.concatenate([1 - array, array])
    if len(array) != max(classes, 2):
        raise DataError(
            f"has {len(array)} channels of probabilities, there are {classes} classes with the background", path=path,
            hint="one channel per class, background first; name them with --label",
        )  # fmt: skip
    probabilities, of_sums = tidy_probabilities(array, path)
    notes += [f"{name}: {note}" for note in of_sums]
    labels = probabilities.argmax(0).astype(np.uint8)
    labels[probabilities.sum(0) == 0] = MISSING
    return Rater(name, labels, probabilities)


def _hard_rater(name: str, array: np.ndarray, own_indices: Sequence[int]) -> Rater:
    """A rater of labels.

    Args:
        name: of the rater.
        array: `(X, Y, Z)` uint8: 0, the place of one of the file's segments from 1, or `MISSING`.
        own_indices: class index of each of the file's segments.
    """
    if list(own_indices) == list(range(1, len(own_indices) + 1)):
        return Rater(name, np.ascontiguousarray(array))
    table = np.zeros(256, np.uint8)
    table[1 : len(own_indices) + 1] = own_indices
    table[MISSING] = MISSING
    return Rater(name, np.ascontiguousarray(table[array]))


def _refuse_nothing_but_missing(
    raters: Sequence[Rater], segments: Sequence[Segment], path: Path, missing: int | None
) -> None:
    """Refuse a structure that is stored as the value of what is missing: it would silently become a gap."""
    if segments or not any((rater.labels == MISSING).any() for rater in raters):
        return
    raise DataError(
        f"holds nothing but 0 and {missing}, like the others, and {missing} means 'not annotated'",
        path=path,
        hint=f"if {missing} is the structure, say --missing-value none",
    )


def _apply_protocols(
    raters: list[Rater], segments: Sequence[Segment], grid: Header, options: Reading, notes: list[str]
) -> None:
    """Limit raters to their regions and partial protocols, in place."""
    place = {rater.name: n for n, rater in enumerate(raters)}
    named = [*options.regions, *(name for name, _ in options.partial)]
    strangers = sorted({name for name in named if name not in place})
    if strangers:
        raise ConfigError(f"there is no rater called {', '.join(strangers)}; there are {', '.join(place)}")
    for name, file in options.regions.items():
        rater, of_region = limit_to_region(raters[place[name]], Path(file), grid, options.resample)
        raters[place[name]] = rater
        notes += of_region
    labels_before = [rater.labels for rater in raters]
    for name, wanted in options.partial:
        others = [labels for n, labels in enumerate(labels_before) if n != place[name]]
        rater, of_protocol = limit_to_protocol(raters[place[name]], others, wanted, segments)
        raters[place[name]] = rater
        notes += of_protocol
    if options.find_partial:
        _find_protocols(raters, segments, grid, notes)


def _find_protocols(raters: list[Rater], segments: Sequence[Segment], grid: Header, notes: list[str]) -> None:
    """Limit raters to what they seem to have looked for, in place."""
    classes = ("background", *(segment.title for segment in segments))
    found = classes_not_looked_for(Study(tuple(raters), classes, grid.spacing_mm))
    place = {rater.name: n for n, rater in enumerate(raters)}
    labels_before = [rater.labels for rater in raters]
    for name, wanted in found:
        others = [labels for n, labels in enumerate(labels_before) if n != place[name]]
        raters[place[name]], of_protocol = limit_to_protocol(raters[place[name]], others, wanted, segments)
        notes += of_protocol
