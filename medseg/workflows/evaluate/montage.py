"""The worst, the median and the best case in one picture: image, reference and prediction in three planes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from nibabel import orientations

from medseg.atomic import write_whole
from medseg.errors import DataError
from medseg.portable.io.header import Header
from medseg.portable.io.read import read_volume
from medseg.workflows.evaluate.compare_case import IGNORE, Compared, Pairing, Scale, onto, read_labels
from medseg.workflows.reports.drawing import (
    CT_WINDOW,
    INK,
    PAPER,
    QUIET,
    VIEWS,
    View,
    colors,
    contour,
    letters,
    plane,
)


@dataclass(frozen=True, eq=False)
class Shown:
    """A case along RAS+ axes; `image` is None where none fits, `window` is shown as black to white."""

    image: np.ndarray | None
    reference: np.ndarray
    prediction: np.ndarray
    spacing_mm: tuple[float, ...]
    window: tuple[float, float]


def draw_montage(path: Path, cases: Sequence[Compared], scale: Scale) -> Path | None:
    """Draw the worst, the median and the best compared case by mean Dice.

    Args:
        path: PNG to write.
        cases: all cases; those without a Dice are left out.
        scale: names of the classes.

    Returns:
        The path, or None if there is nothing to draw.

    Raises:
        OutputError: it cannot be written.
    """
    chosen = _choose([case for case in cases if case.status == "compared" and case.mean_dice is not None])
    if not chosen:
        return None
    rows = [(title, case, _load(case.pairing, scale)) for title, case in chosen]
    figure = _figure([shown for *_, shown in rows])
    grid = figure.subplots(len(rows), len(VIEWS), squeeze=False)
    for axes, (title, case, shown) in zip(grid, rows, strict=True):
        for ax, view in zip(axes, VIEWS, strict=True):
            _draw(ax, shown, view, scale)
        text = f"{title}: {case.pairing.name}    mean Dice {case.mean_dice:.3f}"
        axes[0].set_title(text, color=INK, loc="left", fontsize=10)
    _legend(figure, scale)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", facecolor=PAPER)
    return write_whole(path, stream.getvalue())


def _choose(cases: Sequence[Compared]) -> list[tuple[str, Compared]]:
    ranked = sorted(cases, key=lambda case: case.mean_dice or 0.0)
    if len(ranked) < 3:
        return [("worst", ranked[0]), ("best", ranked[-1])][: len(ranked)]
    return [("worst", ranked[0]), ("median", ranked[len(ranked) // 2]), ("best", ranked[-1])]


def _load(pairing: Pairing, scale: Scale) -> Shown:
    assert pairing.prediction is not None
    reference, grid = read_labels(pairing.reference, scale, may_ignore=True)
    prediction, _ = onto(grid, *read_labels(pairing.prediction, scale, may_ignore=False))
    image = _image(pairing, grid)
    turns = orientations.io_orientation(grid.affine)
    reference, prediction = (orientations.apply_orientation(a, turns) for a in (reference, prediction))
    if image is not None:
        image = orientations.apply_orientation(image, turns)
    spacing = nib.affines.voxel_sizes(grid.affine @ orientations.inv_ornt_aff(turns, grid.shape))
    return Shown(image, reference, prediction, tuple(float(s) for s in spacing), _window(image, pairing.ct))


def _image(pairing: Pairing, grid: Header) -> np.ndarray | None:
    """First channel on the reference's grid; None where there is none that fits, which is no error here."""
    if not pairing.images:
        return None
    try:
        array, header = read_volume(pairing.images[0])
        return onto(grid, array[0], header)[0]
    except DataError:
        return None


def _window(image: np.ndarray | None, ct: bool) -> tuple[float, float]:
    """Soft tissue for CT in Hounsfield units, else nearly the whole range."""
    if image is None:
        return 0.0, 1.0
    if ct and image.min() < -200:
        return CT_WINDOW
    low, high = (float(v) for v in np.percentile(image, (1, 99.5)))
    return low, max(high, low + 1e-6)


def _figure(rows: Sequence[Shown]) -> Figure:
    """As wide and high as the millimetres to show ask for."""
    inch_per_mm = 13.5 / max(sum(_size(shown, view)[0] for view in VIEWS) for shown in rows)
    heights = [max(_size(shown, view)[1] for view in VIEWS) * inch_per_mm + 0.35 for shown in rows]
    height = min(max(sum(heights) + 0.7, 3.0), 24.0)
    figure = Figure(figsize=(14, height), dpi=100)
    rim = (0.005, 0.5 / height, 0.99, 1 - 0.6 / height)  # room for the legend
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.03, rect=rim)
    return figure


def _size(shown: Shown, view: View) -> tuple[float, float]:
    mm = np.array(shown.reference.shape) * shown.spacing_mm
    return float(mm[view.across]), float(mm[view.up])


def _draw(ax: Axes, shown: Shown, view: View, scale: Scale) -> None:
    ax.set_axis_off()
    shape = shown.reference.shape
    if shape[view.across] == 1 or shape[view.up] == 1:
        return
    values = list(scale.labels)
    both = np.isin(shown.reference, values).astype(np.int32) + np.isin(shown.prediction, values)
    where = int(both.sum(axis=(view.across, view.up)).argmax())
    width, height = _size(shown, view)
    if shown.image is not None:
        low, high = shown.window
        ax.imshow(plane(shown.image, view, where), cmap="gray", vmin=low, vmax=high, origin="lower",
                  extent=(0, width, 0, height), interpolation="bilinear")  # fmt: skip
    reference, prediction = (plane(a, view, where) for a in (shown.reference, shown.prediction))
    for color, value in zip(colors(len(values)), values, strict=True):
        contour(ax, reference == value, (width, height), color, linewidths=3.4, alpha=0.55)
        contour(ax, prediction == value, (width, height), color, linewidths=1.0)
    if (reference == IGNORE).any():
        contour(ax, reference == IGNORE, (width, height), QUIET, linewidths=0.8, linestyles="dotted")
    ax.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    letters(ax, view)


def _legend(figure: Figure, scale: Scale) -> None:
    lines = [Line2D([], [], color=QUIET, lw=4, alpha=0.6, label="reference")]
    lines.append(Line2D([], [], color=INK, lw=1, label="prediction"))
    for color, name in zip(colors(len(scale.labels)), scale.labels.values(), strict=True):
        lines.append(Line2D([], [], color=color, lw=4, label=name))
    figure.legend(handles=lines, loc="lower center", ncols=min(len(lines), 9), frameon=False, fontsize=9,
                  labelcolor=INK)  # fmt: skip
