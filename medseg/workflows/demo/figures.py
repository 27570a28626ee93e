"""The figure of the demonstration: both models on the same test cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from medseg.manifest.manifest import Case, Manifest
from medseg.portable.io.read import read_volume
from medseg.workflows.evaluate.compare_case import Scale, onto, read_labels
from medseg.workflows.reports.overlay import (
    AXIAL,
    CORONAL,
    CT_WINDOW,
    SliceAxes,
    View,
    class_colors,
    cut_slice,
    encode_png,
    find_fullest_slice,
    turn_to_ras,
)

TITLES = {"supervised": "supervised planes", "dmpct": "DMPCT"}


@dataclass(frozen=True, eq=False)
class ShownCase:
    """A test case along RAS+ axes.

    Args:
        name: of the case.
        image: `(X, Y, Z)`.
        label_maps: `(X, Y, Z)` each: the truth, then one prediction for each method.
        size_mm: length of each axis.
    """

    name: str
    image: np.ndarray
    label_maps: list[np.ndarray]
    size_mm: np.ndarray


def side_by_side(manifest: Manifest, predictions: Mapping[str, Path], cases: Sequence[str]) -> bytes:
    """PNG: for each case an axial and a coronal row with the scan, the truth, and each method's prediction.

    Args:
        manifest: whose test cases have labels; values 1, 2, ... .
        predictions: method -> folder of its label files.
        cases: names of test cases.
    """
    by_name = {case.name: case for case in manifest.test}
    rows: list[tuple[ShownCase, View]] = []
    for name in cases:
        case = _read_case(manifest, by_name[name], predictions)
        rows += [(case, AXIAL), (case, CORONAL)]
    titles = ["scan", "truth", *(TITLES[method] for method in predictions)]
    structures = [name for value, name in manifest.labels.items() if value]
    figure, grid = _make_grid(rows, titles)
    for axes, (case, view) in zip(grid, rows, strict=True):
        _draw_row(axes, case, view, class_colors(len(structures)))
    _add_legend(figure, structures)
    return encode_png(figure)


def _read_case(manifest: Manifest, case: Case, predictions: Mapping[str, Path]) -> ShownCase:
    image, header = read_volume(manifest.images(case)[0])
    files = [manifest.resolve(case.label or "")]
    files += [folder / f"{case.name}.nii.gz" for folder in predictions.values()]
    scale = Scale({value: name for value, name in manifest.labels.items() if value})
    volumes = [image[0]]
    for file in files:
        labels, labels_header = read_labels(file, scale, may_ignore=True)
        on_image, _ = onto(header, labels, labels_header)
        volumes.append(on_image)
    (scan, *label_maps), spacing_mm = turn_to_ras(header, *volumes)
    return ShownCase(case.name, scan, label_maps, spacing_mm * scan.shape)


def _make_grid(rows: Sequence[tuple[ShownCase, View]], titles: Sequence[str]) -> tuple[Figure, np.ndarray]:
    heights = []
    for case, view in rows:
        width, height = view.size_mm(case.size_mm)
        heights.append(height / width)
    figure = Figure(figsize=(3 * len(titles), 3.1 * sum(heights) + 0.8), dpi=100, layout="constrained")
    grid = figure.subplots(len(rows), len(titles), squeeze=False, height_ratios=heights)
    for ax, title in zip(grid[0], titles, strict=True):
        ax.set_title(title, fontsize=12, weight="bold")
    return figure, grid


def _draw_row(axes: Sequence[Axes], case: ShownCase, view: View, colors: Sequence[str]) -> None:
    """The scan, and each label map over it, in the slice where the truth has most."""
    where = find_fullest_slice(case.label_maps[0] > 0, view)
    slices = [SliceAxes(ax, view.size_mm(case.size_mm)) for ax in axes]
    for shown in slices:
        shown.show_image(cut_slice(case.image, view, where), CT_WINDOW)
    for shown, labels in zip(slices[1:], case.label_maps, strict=True):
        shown.show_labels(cut_slice(labels, view, where), colors)
    slices[0].write_directions(view)
    if view is AXIAL:
        slices[0].write_name(case.name)


def _add_legend(figure: Figure, structures: Sequence[str]) -> None:
    colors = class_colors(len(structures))
    patches = [Patch(color=color, label=name) for color, name in zip(colors, structures, strict=True)]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False)
