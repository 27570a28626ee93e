"""A study from files: an image and one drawing per rater, brought to one grid and one list of classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medseg.consensus.io.align import Placed, place
from medseg.consensus.io.annotation_dicom import Where, read_dicom_drawing
from medseg.consensus.io.annotation_files import Drawing, palette_of, read_drawing
from medseg.consensus.io.file_names import DICOM, files_of, is_dicom, is_series, rater_names
from medseg.consensus.io.formats import Form, Reading
from medseg.consensus.io.partial_annotations import limit_to_region, tidy_probabilities, unsay
from medseg.consensus.io.read_image import read_image
from medseg.consensus.io.segment_table import Segment, union
from medseg.consensus.study import MISSING, Rater, Study
from medseg.dicom.series import Series, open_series
from medseg.errors import ConfigError, DataError
from medseg.portable.io.header import Header
from medseg.portable.io.read import read_header

Paths = Path | str | Sequence[Path | str]


def read_study(
    image: Paths | None, annotations: Sequence[Path | str], *, names: Sequence[str] | None = None, **reading: Any
) -> tuple[Study, Form]:
    """Read an image and its raters.

    Args:
        image: one file, or one per channel, or the folder of a DICOM series; None: there is none.
        annotations: for each rater a label map, a file of probabilities, a DICOM SEG or RTSTRUCT, or a folder with
            the study's file or with one mask per class.
        names: of the raters; default from the files' names.
        reading: fields of `Reading`.

    Raises:
        DataError: a file that cannot be used, or one that lies on another grid.
        ConfigError: a rater or a class that does not exist.
    """
    chosen = Reading(**reading)
    if not annotations:
        raise ConfigError("no annotation is given; at least one is needed")
    images = [Path(p) for p in ([image] if isinstance(image, str | Path) else image or ())]
    sources = [files_of(Path(a), images[0] if images else None) for a in annotations]
    titles = rater_names([Path(a) for a in annotations], names)
    notes: list[str] = []
    series = _series(images, chosen)
    grid = series.header if series else _header(images[0] if images else sources[0][0])
    where = Where(grid, series.frame_of_reference if series else "", bool(images))
    raters, segments, drawings = _raters(sources, titles, where, chosen, notes)
    voxels = read_image(images, grid, chosen, notes, series) if images else None
    classes = ("background", *(s.title for s in segments))
    study = Study(tuple(raters), classes, grid.spacing_mm, voxels)
    first = drawings[0]
    missing = _free_value(segments) if chosen.missing is None else chosen.missing
    return study, Form(
        grid=grid,
        suffix=DICOM if series else first.suffix,
        flat=first.flat,
        dtype=first.dtype,
        segments=segments,
        missing=missing,
        palette=palette_of(sources[0][0]),
        sources=tuple(map(tuple, sources)),
        notes=tuple(notes),
        series=series,
    )


def _series(images: Sequence[Path], chosen: Reading) -> Series | None:
    """The image, if it is DICOM."""
    if not images or not is_series(images[0]):
        if chosen.series is not None:
            raise ConfigError(f"--series {chosen.series} needs an image that is DICOM")
        return None
    if len(images) > 1:
        raise ConfigError(f"{images[0]} is DICOM, one series for an image; {len(images)} channels are given")
    return open_series(images[0], chosen.series)


def _header(path: Path) -> Header:
    if is_dicom(path):
        raise DataError("is DICOM and refers to images", path=path, hint="give the series as --image FOLDER")
    return read_header(path)


def _free_value(segments: Sequence[Segment]) -> int:
    used = {s.value for s in segments}
    return next(v for v in range(MISSING, 2**16) if v not in used)


def _raters(
    sources: Sequence[Sequence[Path]], names: Sequence[str], where: Where, chosen: Reading, notes: list[str]
) -> tuple[list[Rater], tuple[Segment, ...], list[Drawing]]:
    """Every rater on the grid in common classes, and the drawings without their voxels."""
    known = tuple(Segment(value, name) for value, name in chosen.labels.items() if value)
    drawings = [_drawing(s, known, chosen, where) for s in sources]
    if not known and not any(d.segments for d in drawings):  # probabilities alone: their channels are the classes
        known = tuple(Segment(n) for n in range(1, max(max(d.channels, 2) if d.channels else 1 for d in drawings)))
    segments, (_, *indices), changed = union([known, *(d.segments for d in drawings)])
    notes += changed
    raters = []
    for name, drawing, own in zip(names, drawings, indices, strict=True):
        notes += [f"{name}: {text}" for text in drawing.notes]
        placed = Placed(drawing.take(), drawing.header, 0 if drawing.cropped else MISSING)
        array, said = place(placed, where.grid, chosen.resample)
        notes += [f"{name}: {text}" for text in said]
        raters.append(_rater(name, array, own, segments, drawing, notes))
    if not segments and any((e.labels == MISSING).any() for e in raters):
        raise DataError(
            f"holds nothing but 0 and {chosen.missing}, like the others, and {chosen.missing} means 'not annotated'",
            path=drawings[0].header.path,
            hint=f"if {chosen.missing} is the structure, say --missing-value none",
        )
    _apply_protocols(raters, segments, where.grid, chosen, notes)
    return raters, segments, drawings


def _drawing(files: Sequence[Path], known: Sequence[Segment], chosen: Reading, where: Where) -> Drawing:
    if len(files) == 1 and is_dicom(files[0]):
        return read_dicom_drawing(files[0], known, where)
    return read_drawing(
        files, chosen.missing, known=known, probabilities=chosen.probabilities, closed=chosen.closed
    )  # fmt: skip


def _rater(
    name: str, array: np.ndarray, own: Sequence[int], segments: Sequence[Segment], drawing: Drawing, notes: list[str]
) -> Rater:
    classes = len(segments) + 1
    if array.ndim == 4:
        if len(array) == 1:  # of the foreground alone
            array = np.concatenate([1 - array, array])
        if len(array) != max(classes, 2):
            raise DataError(
                f"has {len(array)} channels of probabilities, there are {classes} classes with the background",
                path=drawing.header.path, hint="one channel per class, background first; name them with --label",
            )  # fmt: skip
        probabilities, said = tidy_probabilities(array, drawing.header.path)
        notes += [f"{name}: {text}" for text in said]
        labels = probabilities.argmax(0).astype(np.uint8)
        labels[probabilities.sum(0) == 0] = MISSING
        return Rater(name, labels, probabilities)
    table = np.zeros(256, np.uint8)
    table[1 : len(own) + 1], table[MISSING] = own, MISSING
    same = list(own) == list(range(1, len(own) + 1))
    return Rater(name, np.ascontiguousarray(array if same else table[array]))


def _apply_protocols(
    raters: list[Rater], segments: Sequence[Segment], grid: Header, chosen: Reading, notes: list[str]
) -> None:
    """Regions and partial protocols."""
    names = [e.name for e in raters]
    strangers = sorted({n for n in [*chosen.regions, *(n for n, _ in chosen.partial)] if n not in names})
    if strangers:
        raise ConfigError(f"there is no rater called {', '.join(strangers)}; there are {', '.join(names)}")
    for name, file in chosen.regions.items():
        raters[names.index(name)], said = limit_to_region(raters[names.index(name)], Path(file), grid, chosen.resample)
        notes += said
    before = [e.labels for e in raters]
    for name, wanted in chosen.partial:
        at = names.index(name)
        raters[at], said = unsay(raters[at], [b for n, b in enumerate(before) if n != at], wanted, segments)
        notes += said
