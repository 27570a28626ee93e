"""The picture of the demonstration: both models on the same test cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from nibabel import orientations

from medseg.manifest.manifest import Case, Manifest
from medseg.portable.io.read import read_volume
from medseg.workflows.evaluate.compare_case import Scale, onto, read_labels
from medseg.workflows.reports.drawing import CT_WINDOW, colors, encode_png

TITLES = {"supervised": "supervised planes", "dmpct": "DMPCT"}


class Row(NamedTuple):
    """One case: image, label maps `(X, Y, Z)` along RAS+ axes, and how many mm they are long."""

    image: np.ndarray
    maps: list[np.ndarray]
    size_mm: np.ndarray


def side_by_side(manifest: Manifest, predictions: Mapping[str, Path], cases: Sequence[str]) -> bytes:
    """PNG: two rows per case, axial and coronal: the scan, the truth, and what each method made of it.

    Args:
        manifest: whose test cases have labels; values 1, 2, ... .
        predictions: method -> folder of its label files.
        cases: names of test cases.
    """
    named = {case.name: case for case in manifest.test}
    rows = [_read(manifest, named[name], predictions) for name in cases]
    titles = ["scan", "truth", *(TITLES[method] for method in predictions)]
    planes = [(name, row, axis) for name, row in zip(cases, rows, strict=True) for axis in (2, 1)]
    heights = [row.size_mm[1 if axis == 2 else 2] / row.size_mm[0] for _, row, axis in planes]
    figure = Figure(figsize=(3 * len(titles), 3.1 * sum(heights) + 0.8), dpi=100, layout="constrained")
    grid = figure.subplots(len(planes), len(titles), squeeze=False, height_ratios=heights)
    names = [name for value, name in manifest.labels.items() if value]
    palette = ListedColormap(colors(len(names)))
    for axes, (name, row, axis) in zip(grid, planes, strict=True):
        where = int((row.maps[0] > 0).sum(axis=tuple(a for a in range(3) if a != axis)).argmax())
        for ax, drawn in zip(axes, [None, *row.maps], strict=True):
            _slice(ax, row, drawn, axis, where, palette)
        if axis == 2:
            _note(axes[0], name)
    for ax, title in zip(grid[0], titles, strict=True):
        ax.set_title(title, fontsize=12, weight="bold")
    patches = [Patch(color=palette(k), label=name) for k, name in enumerate(names)]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False)
    return encode_png(figure)


def _note(ax: Axes, text: str) -> None:
    ax.text(0.01, 0.98, text, transform=ax.transAxes, color="white", va="top", fontsize=8)


def _read(manifest: Manifest, case: Case, predictions: Mapping[str, Path]) -> Row:
    """A case along RAS+ axes: reference and predictions in the order of `predictions`."""
    image, grid = read_volume(manifest.images(case)[0])
    files = [
        manifest.resolve(case.label or ""),
        *(folder / f"{case.name}.nii.gz" for folder in predictions.values()),
    ]
    scale = Scale({value: name for value, name in manifest.labels.items() if value})
    drawn = [onto(grid, *read_labels(file, scale, may_ignore=True))[0] for file in files]
    turns = orientations.io_orientation(grid.affine)
    scan, *maps = (orientations.apply_orientation(array, turns) for array in (image[0], *drawn))
    sides = np.array(grid.spacing_mm)[np.argsort(turns[:, 0])]
    return Row(scan, maps, sides * scan.shape)


def _slice(ax: Axes, row: Row, drawn: np.ndarray | None, axis: int, where: int, palette: ListedColormap) -> None:
    across, up = (a for a in range(3) if a != axis)
    extent = (0, row.size_mm[across], 0, row.size_mm[up])
    scan = np.take(row.image, where, axis).T[:, ::-1]
    ax.imshow(scan, cmap="gray", vmin=CT_WINDOW[0], vmax=CT_WINDOW[1], origin="lower", extent=extent)
    if drawn is not None:
        shown = np.ma.masked_equal(np.take(drawn, where, axis).T[:, ::-1], 0)
        ax.imshow(shown, cmap=palette, vmin=0.5, vmax=palette.N + 0.5, alpha=0.6, origin="lower",
                  extent=extent, interpolation="nearest")  # fmt: skip
    ax.set_axis_off()
