"""What of a study is shown: turned to the patient's axes, cropped, and the slices on which raters disagree most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from nibabel import orientations
from scipy import ndimage

from medseg.consensus.study import MISSING
from medseg.workflows.consensus.result import Result
from medseg.workflows.reports.overlay import AXIAL, VIEWS, View

MOST_SLICES = 3
MARGIN = 0.35
"""Of the labelled box that is shown around it."""

LEAST_MARGIN_MM = 10.0
SMALLEST_ENLARGED = 32
"""Voxels along the sides of the part of a slice that is enlarged."""

PHOTOGRAPH = View("axial", 0, 1, ("", "", "", ""), mirrored=False)
ROWS_COUNT_DOWN = np.array([[0, 1], [1, -1], [2, 1]])
"""Orientation of a photograph, as nibabel has it: its second axis is turned, so that up is up."""


@dataclass(frozen=True, eq=False)
class Scene:
    """A study as it is shown: along RAS+ axes, cropped to what anybody labelled and a margin.

    Attributes:
        image: `(C, X, Y, Z)`, or None.
        raters: labels `(X, Y, Z)` of each.
        consensus: labels.
        confidence: in [0, 1].
        disagreement: in [0, 1].
        spacing_mm: along the turned axes.
        affine: of the crop, voxels to millimetres.
        stored: for each axis the slice's number in the file, from 1, of every slice of the crop.
        photograph: whether it has no patient's axes.
    """

    image: np.ndarray | None
    raters: tuple[np.ndarray, ...]
    consensus: np.ndarray
    confidence: np.ndarray
    disagreement: np.ndarray
    spacing_mm: tuple[float, ...]
    affine: np.ndarray
    stored: tuple[np.ndarray, ...]
    photograph: bool

    @property
    def size_mm(self) -> np.ndarray:
        """Of the crop along each axis."""
        return np.array(self.consensus.shape) * self.spacing_mm


def is_photograph(result: Result) -> bool:
    """Whether the annotated image has no patient's axes and no millimetres, such as PNG, whatever is written."""
    return result.form.without_spacing


def scene_of(result: Result) -> Scene:
    """Turn and crop a study for showing."""
    grid, study = result.form.grid, result.study
    photograph = is_photograph(result)
    turns = ROWS_COUNT_DOWN if photograph else orientations.io_orientation(grid.affine)

    def turned(array: np.ndarray) -> np.ndarray:
        return orientations.apply_orientation(array, turns)

    raters = [turned(rater.labels) for rater in study.raters]
    consensus = turned(result.fused.labels)
    source_axes = np.argsort(turns[:, 0])
    spacing_mm = tuple(float(study.spacing_mm[source]) for source in source_axes)
    box = _labelled_box([consensus, *raters], spacing_mm)
    image = None
    if study.image is not None:
        image = np.stack([turned(channel)[box] for channel in study.image])
    affine = grid.affine @ orientations.inv_ornt_aff(turns, grid.shape)
    affine[:3, 3] += affine[:3, :3] @ [span.start for span in box]
    stored = []
    for source, span in zip(source_axes, box, strict=True):
        numbers = np.arange(1, study.shape[source] + 1)
        direction = int(turns[source, 1])
        stored.append(numbers[::direction][span])
    return Scene(
        image=image,
        raters=tuple(labels[box] for labels in raters),
        consensus=consensus[box],
        confidence=turned(result.fused.confidence)[box],
        disagreement=turned(result.disagreement)[box],
        spacing_mm=spacing_mm,
        affine=affine,
        stored=tuple(stored),
        photograph=photograph,
    )


def _labelled_box(labels: Sequence[np.ndarray], spacing_mm: Sequence[float]) -> tuple[slice, ...]:
    """Box round everything labelled, with a margin; the whole volume if nothing is."""
    shape = labels[0].shape
    labelled = np.zeros(shape, bool)
    for array in labels:
        labelled |= (array > 0) & (array < MISSING)
    if not labelled.any():
        return tuple(slice(0, n) for n in shape)
    box = []
    for axis, mm in enumerate(spacing_mm):
        others = tuple(a for a in range(3) if a != axis)
        places = np.flatnonzero(labelled.any(axis=others))
        first, last = int(places[0]), int(places[-1]) + 1
        margin = int(np.ceil(max(MARGIN * (last - first), LEAST_MARGIN_MM / mm)))
        box.append(slice(max(first - margin, 0), min(last + margin, shape[axis])))
    return tuple(box)


def choose_view(scene: Scene) -> View:
    """The plane that was scanned: across the axis with the thickest voxels, axial if they are alike."""
    if scene.photograph:
        return PHOTOGRAPH
    if scene.consensus.shape[2] == 1:
        return AXIAL
    thickest = int(np.argmax(np.array(scene.spacing_mm) * (1, 1, 1.01)))
    return next(view for view in VIEWS if view.axis == thickest)


def find_worst_slices(scene: Scene, view: View) -> list[int]:
    """Up to three slices of largest disagreement that are not neighbours, in rising order."""
    total = scene.disagreement.sum(axis=(view.across, view.up))
    least_distance = max(2, round(np.count_nonzero(total) / 6))
    chosen: list[int] = []
    for place in np.argsort(-total, kind="stable"):
        where = int(place)
        distances = [abs(where - other) for other in chosen]
        if total[where] > 0 and min(distances, default=least_distance) >= least_distance:
            chosen.append(where)
        if len(chosen) == MOST_SLICES:
            break
    return sorted(chosen)


def enlarge(scene: Scene, view: View, where: int) -> Scene | None:
    """A quarter of a slice, round where the disagreement is densest; None where there is nothing to enlarge."""
    disagreement = np.take(scene.disagreement, where, view.axis)
    if min(disagreement.shape) < 4 * SMALLEST_ENLARGED:
        return None
    sides = [n // 4 for n in disagreement.shape]
    density = ndimage.uniform_filter(disagreement, sides, mode="constant")
    centre = np.unravel_index(int(density.argmax()), density.shape)
    box = [slice(None)] * 3
    for axis, middle, side, n in zip(sorted((view.across, view.up)), centre, sides, disagreement.shape, strict=True):
        start = int(np.clip(middle - side // 2, 0, n - side))
        box[axis] = slice(start, start + side)
    inside = tuple(box)
    return replace(
        scene,
        image=None if scene.image is None else scene.image[(slice(None), *inside)],
        raters=tuple(labels[inside] for labels in scene.raters),
        consensus=scene.consensus[inside],
        confidence=scene.confidence[inside],
        disagreement=scene.disagreement[inside],
    )
