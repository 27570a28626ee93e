"""Figure of the slices on which raters disagree most: their outlines, the consensus, and its confidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D

from medseg.consensus.study import MISSING
from medseg.workflows.consensus.report.crop import Scene, choose_view, enlarge, find_worst_slices
from medseg.workflows.consensus.result import Result
from medseg.workflows.reports.overlay import (
    BACKGROUND,
    FOREGROUND,
    MUTED,
    SliceAxes,
    View,
    class_colors,
    cut_slice,
    encode_png,
    grey_window,
)

UNANIMOUS = 0.999
"""Confidence from which on all raters agree."""

LINE_STYLES = ("solid", "dashed", "dashdot")
TITLES = ("consensus", "confidence: share of the votes that won")
"""Of the columns after the raters'."""


def draw_worst_slices(result: Result, scene: Scene) -> tuple[bytes, list[str]] | None:
    """PNG of up to three slices, and a sentence on each.

    Returns:
        None where the raters nowhere disagree.
    """
    view = choose_view(scene)
    places = find_worst_slices(scene, view)
    if not places:
        return None
    rows = [(scene, where, _slice_title(scene, view, where)) for where in places]
    closer = enlarge(scene, view, places[0]) if len(places) == 1 else None
    if closer is not None:
        rows.append((closer, places[0], "the same, closer"))
    figure, grid = _make_grid(view.size_mm(scene.size_mm), len(rows))
    confidence = None
    for axes, (shown, where, title) in zip(grid, rows, strict=True):
        confidence = _draw_row(axes, result, shown, view, where)
        axes[0].set_title(title, color=FOREGROUND, loc="left", fontsize=10)
    for ax, title in zip(grid[0][1:], TITLES, strict=True):
        ax.set_title(title, color=FOREGROUND, loc="left", fontsize=10)
    assert confidence is not None
    bar = figure.colorbar(confidence, ax=grid[:, 2], shrink=0.8)
    bar.ax.tick_params(colors=FOREGROUND)
    _add_legend(figure, result)
    return encode_png(figure), [_describe_slice(scene, view, where) for where in places]


def _slice_title(scene: Scene, view: View, where: int) -> str:
    if scene.photograph:
        return "raters"
    return f"{view.name} slice {_stored_number(scene, view, where)}: raters"


def _describe_slice(scene: Scene, view: View, where: int) -> str:
    pixels = int(np.count_nonzero(cut_slice(scene.disagreement, view, where)))
    if scene.photograph:
        return f"They contradict one another on {pixels} pixels."
    area_cm2 = pixels * scene.spacing_mm[view.across] * scene.spacing_mm[view.up] / 100
    number = _stored_number(scene, view, where)
    return f"{view.name.capitalize()} slice {number}: they contradict one another on {area_cm2:.2g} cm²."


def _stored_number(scene: Scene, view: View, where: int) -> int:
    return int(scene.stored[view.axis][where])


def _make_grid(size_mm: tuple[float, float], rows: int) -> tuple[Figure, np.ndarray]:
    """A dark figure with three columns of slices, and room for the legend below."""
    width, height = size_mm
    row_height = min(max(4.3 * height / width, 1.6), 7.0)
    figure_height = row_height * rows + 1.0
    figure = Figure(figsize=(13.5, figure_height), dpi=110, facecolor=BACKGROUND)
    figure.set_layout_engine("constrained", rect=(0, 0.5 / figure_height, 1, 1 - 0.5 / figure_height))
    return figure, figure.subplots(rows, 3, squeeze=False)


def _draw_row(axes: Sequence[Axes], result: Result, scene: Scene, view: View, where: int) -> AxesImage:
    """A slice three times; returns the map of confidence, for the colour bar."""
    slices = [SliceAxes(ax, view.size_mm(scene.size_mm)) for ax in axes]
    raters, consensus, confidence = slices
    if scene.image is not None:
        channels = np.stack([cut_slice(channel, view, where) for channel in scene.image])
        _show_image(raters, channels)
        _show_image(consensus, channels)
        _show_image(confidence, channels, in_grey=True)
    _draw_raters(raters, result, [cut_slice(labels, view, where) for labels in scene.raters])
    fused = cut_slice(scene.consensus, view, where)
    _draw_consensus(consensus, result, fused)
    shown = _draw_confidence(confidence, cut_slice(scene.confidence, view, where), fused)
    if not scene.photograph:
        for each in slices:
            each.write_directions(view)
        raters.draw_scale_bar()
    return shown


def _show_image(ax: SliceAxes, channels: np.ndarray, *, in_grey: bool = False) -> None:
    """A photograph in its colours or in grey, of everything else the first channel; `channels` is `(C, up, across)`."""
    if len(channels) != 3:
        ax.show_image(channels[0], grey_window(channels[0]))
    elif in_grey:  # its colours would be taken for those of the confidence
        mean = channels.mean(0)
        ax.show_image(mean, grey_window(mean))
    else:
        ax.show_photograph(np.moveaxis(channels, 0, -1))


def _draw_raters(ax: SliceAxes, result: Result, raters: Sequence[np.ndarray]) -> None:
    """Each rater's outlines, and dotted the limit of what the rater annotated."""
    for color, style, labels in zip(rater_colors(result), line_styles(result), raters, strict=True):
        for label in range(1, len(result.study.classes)):
            ax.outline(labels == label, color, linewidths=1.5, linestyles=style)
        ax.outline(labels == MISSING, color, linewidths=0.9, linestyles="dotted")


def _draw_consensus(ax: SliceAxes, result: Result, fused: np.ndarray) -> None:
    colors = structure_colors(result)
    ax.show_labels(fused, colors, alpha=0.3)
    for label, color in enumerate(colors, start=1):
        ax.outline(fused == label, color, linewidths=1.6)


def _draw_confidence(ax: SliceAxes, confidence: np.ndarray, fused: np.ndarray) -> AxesImage:
    # where all agree the image stays visible
    contradicted = np.ma.masked_where(confidence >= UNANIMOUS, confidence)
    shown = ax.show_map(contradicted, colormaps["YlOrRd_r"])
    ax.outline(fused > 0, FOREGROUND, linewidths=0.8)
    return shown


def rater_colors(result: Result) -> list[Any]:
    """A colour for each rater."""
    return class_colors(len(result.study.raters))


def structure_colors(result: Result) -> list[Any]:
    """A colour for each structure: the file's own, else one that no rater has as long as there are enough."""
    raters, segments = len(result.study.raters), result.form.segments
    free = class_colors(raters + len(segments))[raters:]
    colors = []
    for segment, color in zip(segments, free, strict=True):
        colors.append(color if segment.color is None else segment.color)
    return colors


def line_styles(result: Result) -> list[str]:
    """A line style for each rater, so that no one has to tell them by colour alone."""
    return [LINE_STYLES[n % len(LINE_STYLES)] for n in range(len(result.study.raters))]


def _add_legend(figure: Figure, result: Result) -> None:
    lines = []
    for color, style, rater in zip(rater_colors(result), line_styles(result), result.study.raters, strict=True):
        lines.append(Line2D([], [], color=color, ls=style, lw=2, label=rater.name))
    if any((rater.labels == MISSING).any() for rater in result.study.raters):
        lines.append(Line2D([], [], color=MUTED, ls="dotted", lw=1, label="limit of what the rater annotated"))
    for color, name in zip(structure_colors(result), result.study.classes[1:], strict=True):
        if name in result.structures:
            lines.append(Line2D([], [], color=color, lw=6, alpha=0.5, label=name))
    figure.legend(
        handles=lines, loc="lower center", ncols=min(len(lines), 8), frameon=False, fontsize=9, labelcolor=FOREGROUND
    )
