"""Pictures of the slices on which raters disagree most: their outlines, the consensus, and how sure it is."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from medseg.consensus.study import MISSING
from medseg.workflows.consensus.report.crop import Scene, closeup, scanned_view, worst_slices
from medseg.workflows.consensus.result import Result
from medseg.workflows.reports.drawing import INK, PAPER, QUIET, View, colors, contour, encode_png, letters, plane

CERTAIN = 0.999
DASHES = ("solid", "dashed", "dashdot")


def draw(result: Result, scene: Scene) -> tuple[bytes, list[str]] | None:
    """PNG of up to three slices, and what each shows in words.

    Returns:
        None where the raters nowhere disagree.
    """
    view = scanned_view(scene)
    places = worst_slices(scene, view)
    if not places:
        return None
    shots = [(scene, where) for where in places]
    if len(places) == 1 and (closer := closeup(scene, view, places[0])) is not None:
        shots.append((closer, places[0]))
    width, height = scene.size_mm[view.across], scene.size_mm[view.up]
    each = min(max(4.3 * height / width, 1.6), 7.0)
    figure = Figure(figsize=(13.5, tall := each * len(shots) + 1.0), dpi=110, facecolor=PAPER)
    figure.set_layout_engine("constrained", rect=(0, 0.5 / tall, 1, 1 - 0.5 / tall))
    rows = figure.subplots(len(shots), 3, squeeze=False)
    shown: Any = None
    words = []
    for axes, (shot, where) in zip(rows, shots, strict=True):
        title, text = _words(shot, view, where) if shot is scene else ("the same, closer", "")
        words += [text] if text else []
        shown = _row(axes, result, shot, view, where)
        axes[0].set_title(title, color=INK, loc="left", fontsize=10)
    for ax, title in zip(rows[0][1:], ("consensus", "confidence: share of the votes that won"), strict=True):
        ax.set_title(title, color=INK, loc="left", fontsize=10)
    bar = figure.colorbar(shown, ax=rows[:, 2], shrink=0.8)
    bar.ax.tick_params(colors=INK)
    _legend(figure, result)
    return encode_png(figure), words


def _words(scene: Scene, view: View, where: int) -> tuple[str, str]:
    area = scene.spacing_mm[view.across] * scene.spacing_mm[view.up] / 100
    apart = float((np.moveaxis(scene.disagreement, view.axis, 0)[where] > 0).sum()) * area
    if scene.picture:
        return "raters", f"They contradict one another on {round(apart * 100)} pixels."
    number = int(scene.stored[view.axis][where])
    title = f"{view.name} slice {number}: raters"
    return title, f"{view.name.capitalize()} slice {number}: they contradict one another on {apart:.2g} cm²."


def _row(axes: Any, result: Result, scene: Scene, view: View, where: int) -> Any:
    size = float(scene.size_mm[view.across]), float(scene.size_mm[view.up])

    def flat(volume: np.ndarray) -> np.ndarray:
        cut = plane(volume, view, where)
        return cut[:, ::-1] if scene.picture else cut

    for ax in axes:
        ax.set_axis_off()
        if scene.image is not None:
            # colours of a photograph would be taken for those of the confidence
            _background(ax, np.stack([flat(c) for c in scene.image]), size, grey=ax is axes[2])
        ax.set(xlim=(0, size[0]), ylim=(0, size[1]), aspect="equal")
    for color, dash, labels in zip(rater_colors(result), dashes(result), scene.raters, strict=True):
        cut = flat(labels)
        for label in range(1, len(result.study.classes)):
            contour(axes[0], cut == label, size, color, linewidths=1.5, linestyles=dash)
        if (cut == MISSING).any():
            contour(axes[0], cut == MISSING, size, color, linewidths=0.9, linestyles="dotted")
    cut = flat(scene.consensus)
    for label, color in enumerate(class_colors(result), start=1):
        axes[1].contourf(
            *_corners(cut, size), (cut == label).astype(float), levels=[0.5, 1.5], colors=[color], alpha=0.3
        )
        contour(axes[1], cut == label, size, color, linewidths=1.6)
    confidence = flat(scene.confidence)
    # where all agree the image stays visible
    unsure = np.ma.masked_where(confidence >= CERTAIN, confidence)
    shown = axes[2].imshow(unsure, cmap=colormaps["YlOrRd_r"], vmin=0, vmax=1, origin="lower",
                           extent=(0, size[0], 0, size[1]), interpolation="nearest")  # fmt: skip
    contour(axes[2], cut > 0, size, INK, linewidths=0.8)
    if not scene.picture:
        for ax in axes:
            letters(ax, view)
        _scale_bar(axes[0], size)
    return shown


def _corners(cut: np.ndarray, size: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = cut.shape
    return (np.arange(columns) + 0.5) * size[0] / columns, (np.arange(rows) + 0.5) * size[1] / rows


def _background(ax: Axes, channels: np.ndarray, size: tuple[float, float], *, grey: bool) -> None:
    """The image: colours as they are, else the first channel from its 1st to its 99.5th percentile."""
    extent = (0, size[0], 0, size[1])
    if grey and len(channels) == 3:
        channels = channels.mean(0, keepdims=True)
    if len(channels) == 3:
        low, high = float(channels.min()), float(channels.max())
        shown = (np.moveaxis(channels, 0, -1) - low) / max(high - low, 1e-6)
        ax.imshow(shown, origin="lower", extent=extent, interpolation="nearest")
        return
    low, high = (float(v) for v in np.percentile(channels[0], (1, 99.5)))
    ax.imshow(channels[0], cmap="gray", vmin=low, vmax=max(high, low + 1e-6), origin="lower", extent=extent,
              interpolation="bilinear")  # fmt: skip


def _scale_bar(ax: Axes, size: tuple[float, float]) -> None:
    length = next((mm for mm in (100, 50, 20, 10, 5, 2, 1) if mm <= size[0] / 3), None)
    if length is None:
        return
    x, y = 0.04 * size[0], 0.05 * size[1]
    ax.plot([x, x + length], [y, y], color=INK, lw=2.5, solid_capstyle="butt")
    ax.text(x + length / 2, y + 0.015 * size[1], f"{length} mm", color=INK, fontsize=8, ha="center", va="bottom")


def rater_colors(result: Result) -> list[Any]:
    """A colour for each rater."""
    return colors(len(result.study.raters))


def class_colors(result: Result) -> list[Any]:
    """A colour for each class: the file's own, else one that no rater has as long as there are enough."""
    raters, segments = len(result.study.raters), result.form.segments
    free = colors(raters + len(segments))[raters:]
    return [s.color if s.color is not None else color for s, color in zip(segments, free, strict=True)]


def dashes(result: Result) -> list[str]:
    """A kind of line for each rater, so that no one has to tell them by colour alone."""
    return [DASHES[n % len(DASHES)] for n in range(len(result.study.raters))]


def _legend(figure: Figure, result: Result) -> None:
    lines = [
        Line2D([], [], color=color, ls=dash, lw=2, label=rater.name)
        for color, dash, rater in zip(rater_colors(result), dashes(result), result.study.raters, strict=True)
    ]
    if any((e.labels == MISSING).any() for e in result.study.raters):
        lines.append(Line2D([], [], color=QUIET, ls="dotted", lw=1, label="limit of what the rater annotated"))
    shown = [
        pair
        for pair in zip(class_colors(result), result.study.classes[1:], strict=True)
        if pair[1] in result.structures
    ]
    lines += [Line2D([], [], color=color, lw=6, alpha=0.5, label=name) for color, name in shown]
    figure.legend(
        handles=lines, loc="lower center", ncols=min(len(lines), 8), frameon=False, fontsize=9, labelcolor=INK
    )
