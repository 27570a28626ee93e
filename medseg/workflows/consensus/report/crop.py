"""What of a study is shown: turned to the patient's axes, cropped, and cut where raters disagree most."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from nibabel import orientations
from scipy import ndimage

from medseg.consensus.study import MISSING
from medseg.workflows.consensus.result import Result
from medseg.workflows.reports.drawing import VIEWS, View

SLICES = 3
MARGIN = 0.35
"""Of the labelled box that is shown around it."""

LEAST_MM = 10.0
SMALLEST = 32
"""Voxels along the sides of a picture that is enlarged."""

PICTURE = View("axial", 0, 1, ("", "", "", ""))


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
        picture: whether it is a photograph without a patient's axes.
    """

    image: np.ndarray | None
    raters: tuple[np.ndarray, ...]
    consensus: np.ndarray
    confidence: np.ndarray
    disagreement: np.ndarray
    spacing_mm: tuple[float, ...]
    affine: np.ndarray
    stored: tuple[np.ndarray, ...]
    picture: bool

    @property
    def size_mm(self) -> np.ndarray:
        """Of the crop along each axis."""
        return np.array(self.consensus.shape) * self.spacing_mm


def scene_of(result: Result) -> Scene:
    """Turn and crop a study for showing."""
    grid, study = result.form.grid, result.study
    picture = result.form.suffix in (".png", ".tif")
    # of a picture rows count downwards: turned so that up is up
    turns = np.array([[0, 1], [1, -1], [2, 1]]) if picture else orientations.io_orientation(grid.affine)

    def turned(array: np.ndarray) -> np.ndarray:
        return orientations.apply_orientation(array, turns)

    raters = [turned(e.labels) for e in study.raters]
    consensus = turned(result.fused.labels)
    spacing = tuple(float(s) for s, _ in sorted(zip(study.spacing_mm, turns[:, 0], strict=True), key=lambda p: p[1]))
    box = _box([consensus, *raters], spacing)
    affine = grid.affine @ orientations.inv_ornt_aff(turns, grid.shape)
    affine[:3, 3] += affine[:3, :3] @ [b.start for b in box]
    stored = []
    for axis, span in enumerate(box):
        source = int(np.flatnonzero(turns[:, 0] == axis)[0])
        numbers = np.arange(1, study.shape[source] + 1)
        stored.append(numbers[:: int(turns[source, 1])][span])
    return Scene(
        image=None if study.image is None else np.stack([turned(c)[box] for c in study.image]),
        raters=tuple(e[box] for e in raters),
        consensus=consensus[box],
        confidence=turned(result.fused.confidence)[box],
        disagreement=turned(result.disagreement)[box],
        spacing_mm=spacing,
        affine=affine,
        stored=tuple(stored),
        picture=picture,
    )


def _box(labels: list[np.ndarray], spacing: tuple[float, ...]) -> tuple[slice, ...]:
    """Round everything labelled, with a margin; the whole volume if nothing is."""
    box = []
    for axis, mm in enumerate(spacing):
        others = tuple(a for a in range(3) if a != axis)
        found = np.zeros(labels[0].shape[axis], bool)
        for array in labels:
            found |= ((array > 0) & (array < MISSING)).any(axis=others)
        places = np.flatnonzero(found)
        if not places.size:
            return tuple(slice(0, n) for n in labels[0].shape)
        first, last = int(places[0]), int(places[-1]) + 1
        rim = int(np.ceil(max(MARGIN * (last - first), LEAST_MM / mm)))
        box.append(slice(max(first - rim, 0), min(last + rim, len(found))))
    return tuple(box)


def scanned_view(scene: Scene) -> View:
    """The plane that was scanned: across the axis with the thickest voxels, axial if they are alike."""
    if scene.picture or scene.consensus.shape[2] == 1:
        return PICTURE if scene.picture else VIEWS[0]
    thickest = int(np.argmax(np.array(scene.spacing_mm) * (1, 1, 1.01)))
    return next(v for v in VIEWS if v.axis == thickest)


def worst_slices(scene: Scene, view: View) -> list[int]:
    """Up to three slices of largest disagreement that are not neighbours, in rising order."""
    total = scene.disagreement.sum(axis=(view.across, view.up))
    apart = max(2, round(np.count_nonzero(total) / 6))
    chosen: list[int] = []
    for where in np.argsort(-total, kind="stable"):
        if total[where] > 0 and all(abs(int(where) - other) >= apart for other in chosen):
            chosen.append(int(where))
        if len(chosen) == SLICES:
            break
    return sorted(chosen)


def closeup(scene: Scene, view: View, where: int) -> Scene | None:
    """A quarter of a picture, round where the disagreement is densest; None where there is nothing to enlarge."""
    cut = np.moveaxis(scene.disagreement, view.axis, 0)[where]
    if min(cut.shape) < 4 * SMALLEST:
        return None
    sides = [n // 4 for n in cut.shape]
    dense = ndimage.uniform_filter(cut, sides, mode="constant")
    centre = np.unravel_index(int(dense.argmax()), dense.shape)
    box = [slice(None)] * 3
    for axis, c, side, n in zip(sorted((view.across, view.up)), centre, sides, cut.shape, strict=True):
        start = int(np.clip(c - side // 2, 0, n - side))
        box[axis] = slice(start, start + side)
    inside = tuple(box)
    return replace(
        scene,
        image=None if scene.image is None else scene.image[(slice(None), *inside)],
        raters=tuple(e[inside] for e in scene.raters),
        **{name: getattr(scene, name)[inside] for name in ("consensus", "confidence", "disagreement")},
    )
