"""Figures of self-training: two slices of a few cases, with the pseudo-label and where the views disagree."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from medseg.atomic import write_whole
from medseg.manifest.fields import is_picture
from medseg.method import IGNORE
from medseg.portable.io.read import read_volume
from medseg.workflows.reports.overlay import (
    AXIAL,
    CORONAL,
    MUTED,
    PICTURE,
    SliceAxes,
    View,
    class_colors,
    encode_png,
    find_fullest_slice,
    grey_window,
    turn_to_ras,
)

SHOWN_VIEWS = (AXIAL, CORONAL)
DISAGREEMENT = {"some views differ": "#ffd43b", "no two views agree": "#e03131"}
"""Meaning and colour of the classes of a disagreement map, from 1."""


@dataclass(frozen=True, eq=False)
class KeptSlice:
    """One slice of a case, as `keep_slices` wrote it; arrays are `(up, across)`.

    Args:
        scan: first channel of the image; of a photograph its channels, `(up, across, 1 or 3)`.
        fused: the pseudo-label, class indices and 255 for what is ignored.
        apart: 1 where some views differ, 2 where no two agree.
        size_mm: width and height.
    """

    scan: np.ndarray
    fused: np.ndarray
    apart: np.ndarray
    size_mm: tuple[float, float]


def keep_slices(path: Path, image: Path, labels: Sequence[np.ndarray], fused: np.ndarray, like: Path | None) -> Path:
    """Write what the figure of a case needs, a few hundred kilobytes, as `.npz`.

    Args:
        path: to write.
        image: file of the case; its first channel is shown.
        labels: for each view `(X, Y, Z)` uint8 class indices, along the file's axes.
        fused: `(X, Y, Z)` uint8, the pseudo-label.
        like: the same of an earlier round, whose slices are taken again; None: the slices with most of the structures.
    """
    array, header = read_volume(image)
    (scan, label, *views), spacing_mm = turn_to_ras(header, array[0], fused, *labels)
    content: dict[str, np.ndarray] = {}
    for view in SHOWN_VIEWS:
        axis = view.axis
        where = _kept_place(like, axis) if like else _find_place(label, view)
        content[f"scan{axis}"] = np.take(scan, where, axis).astype(np.float32)
        content[f"apart{axis}"] = _disagreement([np.take(each, where, axis) for each in views])
        content[f"fused{axis}"] = np.take(label, where, axis)
        content[f"where{axis}"] = np.array(where)
        content[f"size{axis}"] = np.array(view.size_mm(spacing_mm * scan.shape))
    if is_picture(image):
        content["photograph"] = array[..., 0] if len(array) == 3 else array[:1, ..., 0]
    stream = io.BytesIO()
    np.savez_compressed(stream, **content)  # type: ignore[arg-type]  # mypy takes the names for its options
    return write_whole(path, stream.getvalue())


def _kept_place(like: Path, axis: int) -> int:
    with np.load(like) as kept:
        return int(kept[f"where{axis}"])


def _find_place(label: np.ndarray, view: View) -> int:
    """The slice with most of the structures; the middle one where the first has as much as any."""
    structures = (label > 0) & (label != IGNORE)
    return find_fullest_slice(structures, view) or label.shape[view.axis] // 2


def _disagreement(labels: Sequence[np.ndarray]) -> np.ndarray:
    """0 where all label maps agree, 1 where some differ, 2 where no two of at least three agree."""
    some_differ = np.zeros(labels[0].shape, bool)
    all_differ = np.ones(labels[0].shape, bool)
    for number, each in enumerate(labels):
        for other in labels[:number]:
            some_differ |= each != other
            all_differ &= each != other
    levels = some_differ.astype(np.uint8)
    if len(labels) > 2:
        levels += all_differ
    return levels


def draw_pseudo_labels(
    rounds: Mapping[int, Sequence[Path]], names: Sequence[str], structures: Sequence[str], *, ct: bool
) -> bytes:
    """PNG: two rows per case; the scan, then for each round the pseudo-label and the disagreement of the views.

    Args:
        rounds: number of a round -> one file of `keep_slices` per case.
        names: of the cases.
        structures: names of the foreground classes.
        ct: whether the scans are shown in a soft-tissue window.
    """
    titles = ["scan"]
    for number in rounds:
        titles += [f"round {number}: pseudo-label", "disagreement"]
    are_photographs = all(_is_photograph(path) for files in rounds.values() for path in files)
    places = list(product(range(len(names)), (PICTURE,) if are_photographs else SHOWN_VIEWS))
    rows = []
    for case, view in places:
        rows.append([_read_slice(files[case], view) for files in rounds.values()])
    figure, grid = _make_grid([row[0] for row in rows], titles)
    for axes, row, (case, view) in zip(grid, rows, places, strict=True):
        first = _draw_scan(axes[0], row[0], ct)
        first.write_directions(view)
        first.write_name(names[case])
        for column, kept in enumerate(row):
            _draw_pseudo_label(axes[1 + 2 * column], kept, class_colors(len(structures)), ct)
            _draw_disagreement(axes[2 + 2 * column], kept, ct)
    _add_legend(figure, structures)
    return encode_png(figure)


def _is_photograph(path: Path) -> bool:
    with np.load(path) as kept:
        return "photograph" in kept.files


def _read_slice(path: Path, view: View) -> KeptSlice:
    axis = view.axis
    with np.load(path) as kept:
        width, height = kept[f"size{axis}"].tolist()
        if view is PICTURE:  # as it is: columns from the left, rows from the top
            fused, apart = (kept[f"{name}{axis}"].T[::-1] for name in ("fused", "apart"))
            return KeptSlice(kept["photograph"].transpose(2, 1, 0)[::-1], fused, apart, (width, height))
        scan, fused, apart = (kept[f"{name}{axis}"].T[:, ::-1] for name in ("scan", "fused", "apart"))
    return KeptSlice(scan, fused, apart, (width, height))


def _make_grid(first_slices: Sequence[KeptSlice], titles: Sequence[str]) -> tuple[Figure, np.ndarray]:
    heights = []
    for kept in first_slices:
        width, height = kept.size_mm
        heights.append(height / width)
    figure = Figure(figsize=(3 * len(titles), 3.1 * sum(heights) + 0.9), dpi=80, layout="constrained")
    grid = figure.subplots(len(heights), len(titles), squeeze=False, height_ratios=heights)
    for ax, title in zip(grid[0], titles, strict=True):
        ax.set_title(title, weight="bold")
    return figure, grid


def _draw_scan(ax: Axes, kept: KeptSlice, ct: bool) -> SliceAxes:
    shown = SliceAxes(ax, kept.size_mm)
    if kept.scan.ndim == 3 and kept.scan.shape[2] == 3:
        shown.show_photograph(kept.scan)
    else:
        flat = kept.scan.reshape(kept.scan.shape[:2])
        shown.show_image(flat, grey_window(flat, ct=ct))
    return shown


def _draw_pseudo_label(ax: Axes, kept: KeptSlice, colors: Sequence[Any], ct: bool) -> None:
    """The pseudo-label over the scan, what is ignored in grey."""
    labels = np.where(kept.fused == IGNORE, len(colors) + 1, kept.fused)
    _draw_scan(ax, kept, ct).show_labels(labels, [*colors, MUTED])


def _draw_disagreement(ax: Axes, kept: KeptSlice, ct: bool) -> None:
    _draw_scan(ax, kept, ct).show_labels(kept.apart, list(DISAGREEMENT.values()))


def _add_legend(figure: Figure, structures: Sequence[str]) -> None:
    colors = class_colors(len(structures))
    patches = [Patch(color=color, label=name) for color, name in zip(colors, structures, strict=True)]
    patches += [Patch(color=color, label=meaning) for meaning, color in DISAGREEMENT.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(len(patches), 8), frameon=False)
