"""Raters simulated from real labels: boundaries moved, structures overlooked, other things drawn.

They work on each structure's signed distance, in mm (for vessels in half pixels):

    jitter    the boundary moved by a smooth field of deviation 1.2
    over      1.2 too wide, jitter 0.4              under     1.2 too narrow, jitter 0.4
    smooth    corners rounded (the distance blurred by 2 voxels), jitter 0.4
    slices    each slice drawn for itself: its corners rounded in the plane, and the whole outline wider or narrower
              by a deviation of 0.8 from slice to slice
    polygon   jitter 0.4, and each slice a polygon that lies within 1.5 voxels of the outline
    part      jitter 0.8, and the lower third of the slices not annotated
    lapse     jitter 0.8, every seventh slice overlooked (drawn empty) and, of several structures, one forgotten
    ends      jitter 0.8, and a tenth of the slices (at least one) overlooked at either end
    third     jitter 0.8, and only every third slice annotated
    set       jitter 0.8, and a random half of the structures not looked for (drawn as background); of one, none
    swapped   jitter 0.8, and the two largest structures exchanged
    outlier   everything shifted by a tenth of the box of all labels, and 1.6 too wide
"""

from __future__ import annotations

from collections.abc import Iterator

import edt
import numpy as np
from scipy.ndimage import find_objects, gaussian_filter
from skimage.draw import polygon2mask
from skimage.measure import approximate_polygon, find_contours

from medseg.consensus.boxes import enlarge_box
from medseg.consensus.study import MISSING

PANELS = {
    "mixed": ("jitter", "over", "under", "part", "outlier"),
    "careful": ("jitter", "smooth", "under", "lapse", "part"),
    "three": ("jitter", "over", "lapse"),
    "biased": ("over", "over", "over", "jitter", "under"),
    "outlier": ("over", "over", "jitter", "under", "outlier"),
    "ends": ("jitter", "ends", "ends", "smooth", "ends"),
    "third": ("third", "third", "third", "jitter", "under"),
    "sets": ("set", "set", "set", "set", "jitter"),
    "slices": ("slices", "slices", "slices", "jitter", "under"),
    "polygons": ("polygon", "polygon", "polygon", "jitter", "under"),
    "swapped": ("jitter", "smooth", "swapped", "under", "over"),
}
LESS_JITTER = ("part", "lapse", "ends", "third", "set", "swapped")
BETWEEN_SLICES = 0.8
"""Deviation of the outline from slice to slice."""
OFF_THE_OUTLINE = 1.5
"""Voxels by which the sides of a polygon may lie off the outline."""
REACH = 12
"""Voxels round a structure in which raters may draw it."""


def smooth_field(shape: tuple[int, ...], random: np.random.Generator, sigma: float = 4.0) -> np.ndarray:
    wide = [sigma if n > 1 else 0.0 for n in shape]
    field = gaussian_filter(random.standard_normal(shape, np.float32), wide, mode="wrap", truncate=3)
    return field / max(float(field.std()), 1e-6)


def distances(truth: np.ndarray, spacing: tuple[float, ...]) -> Iterator[tuple[int, tuple[slice, ...], np.ndarray]]:
    """Each structure, its surroundings and its signed distance there in mm, negative inside."""
    half = 0.5 * min(spacing)
    for c, box in enumerate(find_objects(truth), start=1):
        if box is not None:
            box = enlarge_box(box, (REACH,) * 3, truth.shape)
            mask = truth[box] == c
            out, inside = (edt.edt(m, anisotropy=spacing, parallel=1) for m in (~mask, mask))
            yield c, box, np.maximum(out - half, 0) - np.maximum(inside - half, 0)


def slice_by_slice(distance: np.ndarray, unit: float, random: np.random.Generator) -> np.ndarray:
    """The distance with corners rounded within each slice, and each slice's outline wider or narrower as a whole."""
    rounded = gaussian_filter(distance, [2, 2, 0])
    return rounded + unit * BETWEEN_SLICES * random.standard_normal((1, 1, distance.shape[2])).astype(np.float32)


def as_polygons(distance: np.ndarray) -> np.ndarray:
    """-1 inside of the polygons that are drawn along the outline of each slice, 1 outside; holes are holes."""
    drawn = np.zeros(distance.shape, bool)
    for z in range(distance.shape[2]):
        padded = np.pad(distance[:, :, z], 1, constant_values=1.0)
        for contour in find_contours(padded, 0.0):
            corners = approximate_polygon(contour, OFF_THE_OUTLINE)
            drawn[:, :, z] ^= polygon2mask(padded.shape, corners)[1:-1, 1:-1]
    return np.where(drawn, np.float32(-1), np.float32(1))


def leave_slices_out(kind: str, labels: np.ndarray, everything: tuple[slice, ...], random: np.random.Generator) -> None:
    """Slices, or columns of a picture, that a rater did not annotate or overlooked; changes `labels`."""
    axis = 2 if labels.shape[2] > 1 else 1
    slices, along = everything[axis], np.moveaxis(labels, axis, 0)
    length = slices.stop - slices.start
    if kind == "part":
        along[: slices.start + length // 3] = MISSING
    if kind == "ends":
        missed = max(1, length // 10)
        along[: slices.start + missed] = 0
        along[slices.stop - missed :] = 0
    if kind == "third":
        annotated = np.zeros(len(along), bool)
        annotated[int(random.integers(3)) :: 3] = True
        along[~annotated] = MISSING
    if kind == "lapse":
        along[slices.start + int(random.integers(7)) : slices.stop : 7] = 0


def mistake_structures(kind: str, labels: np.ndarray, truth: np.ndarray, random: np.random.Generator) -> None:
    """Structures that a rater forgot, did not look for, or exchanged; changes `labels`."""
    present = np.unique(truth[truth > 0])
    if kind == "lapse" and present.size > 1:
        labels[labels == random.choice(present)] = 0
    if kind == "set":
        labels[np.isin(labels, random.choice(present, present.size // 2, replace=False))] = 0
    if kind == "swapped" and present.size > 1:
        second, first = np.argsort(np.bincount(truth[truth > 0]), kind="stable")[-2:]
        is_first, is_second = labels == first, labels == second
        labels[is_first], labels[is_second] = second, first


def rater(kind: str, truth: np.ndarray, spacing: tuple[float, ...], random: np.random.Generator) -> np.ndarray:
    """One rater's labels."""
    unit = 0.5 if truth.shape[2] == 1 else 1.0
    deviation = unit * {"jitter": 1.2, "outlier": 0.0, **dict.fromkeys(LESS_JITTER, 0.8)}.get(kind, 0.4)
    wider = unit * {"over": 1.2, "under": -1.2, "outlier": 1.6}.get(kind, 0.0)
    labels, depth = np.zeros(truth.shape, np.uint8), np.zeros(truth.shape, np.float32)
    for c, box, distance in distances(truth, spacing):
        if kind == "smooth":
            distance = gaussian_filter(distance, [2 if n > 1 else 0 for n in distance.shape])
        if kind == "slices":
            distance = slice_by_slice(distance, unit, random)
        moved = distance - wider + deviation * smooth_field(distance.shape, random)
        if kind == "polygon":
            moved = as_polygons(moved)
        deeper = moved < depth[box]
        labels[box][deeper], depth[box][deeper] = c, moved[deeper]
    everything = find_objects((truth > 0).astype(np.uint8))[0]
    if kind == "outlier":
        aside = [round(0.1 * (s.stop - s.start)) if n > 1 else 0 for s, n in zip(everything, truth.shape, strict=True)]
        labels = np.roll(labels, aside, (0, 1, 2))
    leave_slices_out(kind, labels, everything, random)
    mistake_structures(kind, labels, truth, random)
    return labels
