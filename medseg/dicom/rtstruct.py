"""RTSTRUCT as an annotation: closed planar contours, filled on the image's slices.

A voxel belongs to a structure when its centre lies inside an odd number of the structure's contours on its slice, so
that a contour within another one is a hole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from skimage.draw import polygon

from medseg.dicom.overlaps import StackedStructures
from medseg.dicom.scan.stacking import LPS_TO_RAS
from medseg.dicom.structures import Annotation, Color, choose_structures
from medseg.errors import DataError
from medseg.portable.io.header import Header

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")

OFF_SLICES = 0.1
"""How far a contour may lie off a slice: coordinates are often rounded to tenths of a millimetre."""

OF_THIS_SERIES = "give the series that it annotates; --label takes some of its structures only"


def read_contours(data: Any, path: Path, grid: Header, only: Sequence[str]) -> Annotation:
    """The structures of a file.

    Args:
        data: the parsed file.
        path: for messages.
        grid: of the image.
        only: names of the structures to take; none: all.

    Raises:
        DataError: contours lie between or across the image's slices, or outside of the image.
    """
    structures = list(data.get("StructureSetROISequence") or ())
    names = [str(item.get("ROIName") or f"structure {item.get('ROINumber')}") for item in structures]
    if not names:
        raise DataError("is an RTSTRUCT without structures", path=path)
    taken, notes = choose_structures(names, only, path)
    outlines = {int(item.ReferencedROINumber): item for item in data.get("ROIContourSequence") or ()}
    stacked = StackedStructures(grid.shape, [names[n] for n in taken])
    colors: list[Color | None] = []
    for n in taken:
        outline = outlines.get(int(structures[n].ROINumber))
        mask, of_structure = _fill(outline, names[n], path, grid)
        notes += of_structure
        colors.append(_color(outline))
        stacked.add(mask)
    notes += stacked.notes()
    header = Header(path, grid.shape, 1, grid.affine, grid.spacing_mm, np.dtype(np.uint8))
    return Annotation(stacked.labels, header, tuple(names[n] for n in taken), tuple(colors), tuple(notes))


def _fill(outline: Any | None, name: str, path: Path, grid: Header) -> tuple[np.ndarray, list[str]]:
    """Voxels `(X, Y, Z)` of one structure, and notes.

    Args:
        outline: the structure's item of the ROI contour sequence; None if it has none.
        name: of the structure.
        path: for messages.
        grid: of the image.
    """
    mask = np.zeros(grid.shape, bool)
    contours = [] if outline is None else list(outline.get("ContourSequence") or ())
    closed, notes = _closed_contours(contours, name)
    axis: int | None = None
    slices: set[int] = set()
    cut = 0
    for number, contour in enumerate(closed, start=1):
        title = f"contour {number} of '{name}'"
        points = _to_voxels(contour, title, path, grid)
        if len(points) < 3:  # encloses nothing
            notes.append(f"{title} has {len(points)} points: left out")
            continue
        if axis is None:
            axis = int(np.ptp(points, axis=0).argmin())
        at = _find_slice(points, axis, title, path, grid)
        slices.add(at)
        plane = np.moveaxis(mask, axis, 0)[at]
        in_plane = np.delete(points, axis, axis=1)
        cut += _reaches_beyond(in_plane, plane.shape, title, path, grid)
        first, second = in_plane.T
        inside = polygon(first, second, plane.shape)
        plane[inside] = ~plane[inside]  # a contour within another one is a hole
    if cut:
        notes.append(f"'{name}' reaches beyond {grid.path} in {cut} of its {len(closed)} contours: cut off at the edge")
    if slices:
        between = max(slices) - min(slices) + 1
        if len(slices) < between:
            notes.append(f"'{name}' has contours on {len(slices)} of the {between} slices between its ends: no others")
    return mask, notes


def _closed_contours(contours: Sequence[Any], name: str) -> tuple[list[Any], list[str]]:
    """The contours that enclose voxels, and notes on the others."""
    closed, others = [], Counter[str]()
    for contour in contours:
        kind = str(contour.get("ContourGeometricType"))
        if kind in CLOSED:
            closed.append(contour)
        else:
            others[kind] += 1
    notes = [f"'{name}' has {count} contours of the type {kind}: left out" for kind, count in others.items()]
    if not closed:
        notes.append(f"'{name}' has no closed contours and counts as empty")
    return closed, notes


def _to_voxels(contour: Any, title: str, path: Path, grid: Header) -> np.ndarray:
    """(n, 3) points in voxels of the grid."""
    try:
        points = np.asarray(contour.get("ContourData"), float).reshape(-1, 3)
    except (TypeError, ValueError) as error:
        raise DataError(f"{title} has broken coordinates", path=path) from error
    if not np.isfinite(points).all():
        raise DataError(f"{title} has coordinates that are no numbers", path=path)
    world = np.c_[points, np.ones(len(points))] @ LPS_TO_RAS.T
    return np.linalg.solve(grid.affine, world.T)[:3].T


def _find_slice(points: np.ndarray, axis: int, title: str, path: Path, grid: Header) -> int:
    """The slice that a contour lies on."""
    along = points[:, axis]
    if np.ptp(along) > 2 * OFF_SLICES:
        raise DataError(
            f"{title} does not lie on a slice of {grid.path}, it crosses {np.ptp(along):.1f} of them", path=path,
            hint="give the series that it annotates",
        )  # fmt: skip
    at = round(float(along.mean()))
    off = float(np.abs(along - at).max())
    if off > OFF_SLICES:
        raise DataError(
            f"{title} lies between slices of {grid.path}, {off * grid.spacing_mm[axis]:.2g} mm off the nearest; slices "
            f"are {grid.spacing_mm[axis]:.3g} mm apart", path=path, hint="give the series that it annotates",
        )  # fmt: skip
    if not 0 <= at < grid.shape[axis]:
        raise DataError(f"{title} lies outside {grid.path}", path=path, hint=OF_THIS_SERIES)
    return at


def _reaches_beyond(points: np.ndarray, shape: Sequence[int], title: str, path: Path, grid: Header) -> bool:
    """Whether part of a contour lies beyond the edge of its slice, where a table or a wide body may.

    Args:
        points: `(n, 2)` of the contour, in voxels of the slice.
        shape: of the slice.
        title: of the contour, for messages.
        path: of the file, for messages.
        grid: of the image.

    Raises:
        DataError: all of it lies more than a voxel beyond the edge.
    """
    last = np.array(shape) - 1
    lowest, highest = points.min(axis=0), points.max(axis=0)
    # a voxel reaches half a voxel beyond its centre
    if (highest < -1.5).any() or (lowest > last + 1.5).any():
        raise DataError(f"{title} lies outside {grid.path}", path=path, hint=OF_THIS_SERIES)
    return bool((lowest < -1).any() or (highest > last + 1).any())


def _color(outline: Mapping[str, Any] | None) -> Color | None:
    """The colour to show a structure in; None where the file has none, or something else there."""
    try:
        value = None if outline is None else outline.get("ROIDisplayColor")
        if value is None or len(value) != 3:
            return None
        red, green, blue = (min(max(float(part) / 255, 0), 1) for part in value)
    except (TypeError, ValueError):  # a colour never stops a label
        return None
    return red, green, blue
