"""The worst, the median and the best case in one figure: image, reference and prediction in three planes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from medseg.atomic import write_whole
from medseg.errors import DataError
from medseg.manifest.fields import is_picture
from medseg.portable.io.header import Header
from medseg.portable.io.read import read_volume
from medseg.workflows.evaluate.compare_case import IGNORE, Compared, Pairing, Scale, onto, read_labels
from medseg.workflows.reports.overlay import (
    BACKGROUND,
    FOREGROUND,
    MUTED,
    PICTURE,
    VIEWS,
    SliceAxes,
    View,
    class_colors,
    cut_slice,
    encode_png,
    find_fullest_slice,
    grey_window,
    turn_to_ras,
)


@dataclass(frozen=True, eq=False)
class ShownCase:
    """A case along RAS+ axes.

    Args:
        image: `(X, Y, Z)`, or `(X, Y, 1, 3)` of a photograph in colour; None where no image fits the reference.
        reference: labels `(X, Y, Z)`.
        prediction: labels `(X, Y, Z)`.
        size_mm: length of each axis.
        window: values of the image that are shown black and white.
        views: the slices that are shown.
    """

    image: np.ndarray | None
    reference: np.ndarray
    prediction: np.ndarray
    size_mm: np.ndarray
    window: tuple[float, float]
    views: tuple[View, ...] = VIEWS


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
    compared = [case for case in cases if case.status == "compared" and case.mean_dice is not None]
    chosen = _choose_cases(compared)
    if not chosen:
        return None
    shown = {}
    for title, case in chosen.items():
        text = f"{title}: {case.pairing.name}    mean Dice {case.mean_dice:.3f}"
        shown[text] = _read_case(case.pairing, scale)
    return write_whole(path, draw_cases(shown, scale))


def draw_case(case: Compared, scale: Scale) -> bytes:
    """PNG of one compared case."""
    return draw_cases({case.pairing.name: _read_case(case.pairing, scale)}, scale)


def draw_cases(cases: Mapping[str, ShownCase], scale: Scale, *, compared: bool = True) -> bytes:
    """PNG with a row for each case: three planes, the reference in broad and the prediction in thin outlines.

    Args:
        cases: title -> case; at least one.
        scale: names of the classes.
        compared: whether there is a reference, which the legend names.
    """
    figure = _make_figure(list(cases.values()))
    columns = max(len(case.views) for case in cases.values())
    grid = figure.subplots(len(cases), columns, squeeze=False)
    for axes, (title, case) in zip(grid, cases.items(), strict=True):
        for ax in axes[len(case.views) :]:
            ax.set_axis_off()
        for ax, view in zip(axes, case.views, strict=False):
            _draw_slice(ax, case, view, scale)
        axes[0].set_title(title, color=FOREGROUND, loc="left", fontsize=10)
    _add_legend(figure, scale, compared=compared)
    return encode_png(figure)


def _choose_cases(cases: Sequence[Compared]) -> dict[str, Compared]:
    """Title -> case, from the worst to the best."""
    ranked = sorted(cases, key=lambda case: case.mean_dice or 0.0)
    if not ranked:
        return {}
    if len(ranked) == 1:
        return {"worst": ranked[0]}
    chosen = {"worst": ranked[0]}
    if len(ranked) > 2:
        chosen["median"] = ranked[len(ranked) // 2]
    chosen["best"] = ranked[-1]
    return chosen


def _read_case(pairing: Pairing, scale: Scale) -> ShownCase:
    assert pairing.prediction is not None
    reference, grid = read_labels(pairing.reference, scale, may_ignore=True)
    labels, header = read_labels(pairing.prediction, scale, may_ignore=scale.pseudo_labels)
    prediction, _ = onto(grid, labels, header)
    return show_case(pairing.images, reference, prediction, grid, ct=pairing.ct)


def show_case(
    images: Sequence[Path], reference: np.ndarray, prediction: np.ndarray, grid: Header, *, ct: bool
) -> ShownCase:
    """A case as it is drawn.

    Args:
        images: files of its image; the first channel is shown.
        reference: labels `(X, Y, Z)` on the grid.
        prediction: likewise.
        grid: of both.
        ct: whether the image is CT, which has a window of its own.
    """
    if is_picture(grid.path):
        return _show_picture(images, reference, prediction)
    return show_volume(_read_image(images, grid), reference, prediction, grid, ct=ct)


def show_volume(
    image: np.ndarray | None, reference: np.ndarray, prediction: np.ndarray, grid: Header, *, ct: bool
) -> ShownCase:
    """A volume as it is drawn; arguments as of `show_case`, the image `(X, Y, Z)` on the same grid."""
    (reference, prediction), spacing_mm = turn_to_ras(grid, reference, prediction)
    size_mm = spacing_mm * reference.shape
    if image is None:
        return ShownCase(None, reference, prediction, size_mm, (0.0, 1.0))
    (image,), _ = turn_to_ras(grid, image)
    return ShownCase(image, reference, prediction, size_mm, grey_window(image, ct=ct))


def _show_picture(images: Sequence[Path], reference: np.ndarray, prediction: np.ndarray) -> ShownCase:
    """A case whose image is a photograph: one view, a pixel as long as another, in colour where it has any."""
    size = np.array(reference.shape, float)
    image = None
    if images:
        with suppress(DataError):  # which is no error here
            channels = [read_volume(path)[0] for path in images]
            image = np.concatenate(channels)
    if image is None or image.shape[1:] != reference.shape:
        return ShownCase(None, reference, prediction, size, (0.0, 1.0), (PICTURE,))
    shown = np.moveaxis(image, 0, -1) if len(image) == 3 else image[0]
    return ShownCase(shown, reference, prediction, size, grey_window(image), (PICTURE,))


def _read_image(images: Sequence[Path], grid: Header) -> np.ndarray | None:
    """First channel on the reference's grid; None where there is none that fits, which is no error here."""
    if not images:
        return None
    try:
        array, header = read_volume(images[0])
        return onto(grid, array[0], header)[0]
    except DataError:
        return None


def _make_figure(cases: Sequence[ShownCase]) -> Figure:
    """A dark figure in which a millimetre is as long in every slice."""
    sizes = [[view.size_mm(case.size_mm) for view in case.views] for case in cases]
    widths_mm = [sum(width for width, _ in row) for row in sizes]
    heights_mm = [max(height for _, height in row) for row in sizes]
    width = 14 if len(sizes[0]) > 1 else 7
    inch_per_mm = (width - 0.5) / max(widths_mm)
    height = sum(mm * inch_per_mm + 0.35 for mm in heights_mm) + 0.7
    height = min(max(height, 3.0), 24.0)
    figure = Figure(figsize=(width, height), dpi=100, facecolor=BACKGROUND)
    rim = (0.005, 0.5 / height, 0.99, 1 - 0.6 / height)  # room for the legend
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.03, rect=rim)
    return figure


def _draw_slice(ax: Axes, case: ShownCase, view: View, scale: Scale) -> None:
    """The slice with most of the classes, the reference in broad and the prediction in thin outlines."""
    shape = case.reference.shape
    if shape[view.across] == 1 or shape[view.up] == 1:
        ax.set_axis_off()
        return
    values = list(scale.labels)
    counts = np.isin(case.reference, values).astype(np.int32) + np.isin(case.prediction, values)
    where = find_fullest_slice(counts, view)
    shown = SliceAxes(ax, view.size_mm(case.size_mm))
    if case.image is not None and case.image.ndim == 4:
        shown.show_photograph(cut_slice(case.image, view, where))
    elif case.image is not None:
        shown.show_image(cut_slice(case.image, view, where), case.window)
    reference = cut_slice(case.reference, view, where)
    prediction = cut_slice(case.prediction, view, where)
    for color, value in zip(class_colors(len(values)), values, strict=True):
        shown.outline(scale.mask_of(reference, value), color, linewidths=3.4, alpha=0.55)
        shown.outline(scale.mask_of(prediction, value), color, linewidths=1.0)
    shown.outline(reference == IGNORE, MUTED, linewidths=0.8, linestyles="dotted")
    shown.write_directions(view)


def _add_legend(figure: Figure, scale: Scale, *, compared: bool) -> None:
    lines = []
    if compared:
        lines.append(Line2D([], [], color=MUTED, lw=4, alpha=0.6, label="reference"))
        lines.append(Line2D([], [], color=FOREGROUND, lw=1, label="prediction"))
    for color, name in zip(class_colors(len(scale.labels)), scale.labels.values(), strict=True):
        lines.append(Line2D([], [], color=color, lw=4, label=name))
    columns = 9 if figure.get_figwidth() > 7 else 5
    figure.legend(
        handles=lines,
        loc="lower center",
        ncols=min(len(lines), columns),
        frameon=False,
        fontsize=9,
        labelcolor=FOREGROUND,
    )
