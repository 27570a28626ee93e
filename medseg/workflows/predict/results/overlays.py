"""Predicted labels drawn over their image: a photograph in its own pixels, a volume in three planes."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from medseg.config.pipeline import DataSpec
from medseg.portable.io.header import Header
from medseg.workflows.predict.collect_cases import Item
from medseg.workflows.reports.overlay import (
    BACKGROUND,
    FOREGROUND,
    VIEWS,
    SliceAxes,
    blend_labels,
    class_colors,
    cut_slice,
    draw_pixels,
    find_fullest_slice,
    grey_window,
    turn_to_ras,
)


def draw_overlay(voxels: np.ndarray, header: Header, labels: np.ndarray, data: DataSpec, item: Item) -> np.ndarray:
    """The overlay of one case: `(rows, columns, 3)` uint8.

    Args:
        voxels: `(C, X, Y, Z)` of the image.
        header: where they lie.
        labels: `(X, Y, Z)` label values on the same grid.
        data: names the values.
        item: the case.
    """
    places = np.zeros(256, np.uint8)
    places[list(data.structures)] = np.arange(1, len(data.structures) + 1)
    classes = places[labels]
    if item.is_picture:
        return _photograph(voxels[..., 0], classes[..., 0], len(data.structures))
    return _planes(voxels[0], header, classes, data, item.name)


def _photograph(pixels: np.ndarray, classes: np.ndarray, count: int) -> np.ndarray:
    """`(C, X, Y)` with classes `(X, Y)`, in as many pixels as the image has."""
    shown = pixels if len(pixels) == 3 else np.repeat(pixels[:1], 3, axis=0)
    if shown.dtype != np.uint8:
        low, high = grey_window(shown)
        shown = (np.clip((shown - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    return blend_labels(shown.transpose(2, 1, 0), classes.T, class_colors(count))


def _planes(image: np.ndarray, header: Header, classes: np.ndarray, data: DataSpec, name: str) -> np.ndarray:
    """The axial, coronal and sagittal slice with most of the structures."""
    (image, classes), spacing_mm = turn_to_ras(header, image, classes)
    size_mm = spacing_mm * image.shape
    window = grey_window(image, ct=data.modality[0].upper().startswith("CT"))
    colors = class_colors(len(data.structures))
    views = [view for view in VIEWS if image.shape[view.across] > 1 and image.shape[view.up] > 1] or [VIEWS[0]]
    figure = Figure(figsize=(4.5 * len(views), 5), dpi=100, facecolor=BACKGROUND, layout="constrained")
    for ax, view in zip(figure.subplots(1, len(views), squeeze=False)[0], views, strict=True):
        where = find_fullest_slice(classes > 0, view)
        shown = SliceAxes(ax, view.size_mm(size_mm))
        shown.show_image(cut_slice(image, view, where), window)
        shown.show_labels(cut_slice(classes, view, where), colors, alpha=0.45)
        shown.write_directions(view)
    figure.suptitle(name, color=FOREGROUND, fontsize=10)
    handles = [
        Patch(color=color, label=structure) for color, structure in zip(colors, data.value_names.values(), strict=True)
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(len(handles), 6), frameon=False, fontsize=8,
        labelcolor=FOREGROUND,
    )  # fmt: skip
    return draw_pixels(figure)
