"""A sheet of what a rule made for the next stage: images, their pseudo-labels, and the maps beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from medseg.atomic import write_whole
from medseg.manifest.manifest import Case, Manifest
from medseg.methods import find_rule
from medseg.portable.geometry import along
from medseg.portable.io.read import Header, read_header, read_volume
from medseg.workflows.reports.overlay import BACKGROUND, FOREGROUND, class_colors, encode_png, show_stored
from medseg.workflows.train.self_training.labelling.pseudo_labels import PseudoLabeller
from medseg.workflows.train.self_training.report.map_slices import (
    SHOWN,
    colour_maps,
    evenly_chosen,
    fullest_place,
    read_map_slice,
)

SHEET = "overview.png"
MAPS_TITLE = "maps"
COLUMNS = 3
LEFT_OUT = (0.45, 0.45, 0.45, 0.6)
"""Colour over voxels of which nothing is learnt."""


def write_label_sheet(manifest: Manifest, labeller: PseudoLabeller) -> Path | None:
    """Draw some labelled cases, evenly chosen, of volumes the slice with most of their structures.

    Where the rule works on maps of the method, such as class-activation maps, they are shown in the colours of the
    classes, for the cases of which a slice was kept.

    Args:
        manifest: of the images.
        labeller: knows what was made of each case, and where.

    Returns:
        The file, beside the pseudo-labels; None where no case has a label.
    """
    cases = [case for case in labeller.cases if labeller.file(case).exists()]
    if not cases:
        return None
    with_maps = [case for case in cases if labeller.map_slice(case).exists()]
    chosen = evenly_chosen(with_maps or cases, SHOWN)
    names = find_rule(labeller.rule.name).makes
    wide = 2 + len(names) + bool(with_maps)
    rows = -(-len(chosen) // COLUMNS)
    figure = Figure(figsize=(1.6 * wide * COLUMNS, 1.8 * rows + 0.4), dpi=80, layout="constrained")
    figure.set_facecolor(BACKGROUND)
    axes = figure.subplots(rows, wide * COLUMNS, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for number, case in enumerate(chosen):
        row, column = divmod(number, COLUMNS)
        _draw_case(axes[row, wide * column : wide * (column + 1)], manifest, case, labeller, names)
    add_legend(figure, list(manifest.structures.values()))
    return write_whole(labeller.folder / SHEET, encode_png(figure))


def _draw_case(
    axes: np.ndarray, manifest: Manifest, case: Case, labeller: PseudoLabeller, names: Sequence[str]
) -> None:
    """One case: the image, the label over it, each map that was made, and the maps of the classes over the image."""
    images = manifest.images(case)
    grid = read_header(images[0])
    label = _on_grid(labeller.file(case), grid)
    place = fullest_place(label, list(manifest.structures))
    picture = picture_of(images, place)
    show_stored(axes[0], picture)
    axes[0].set_title(case.name[:20], fontsize=6, color=FOREGROUND)
    show_stored(axes[1], picture)
    show_stored(axes[1], _colour(label[..., place].T, manifest))
    for ax, name in zip(axes[2 : 2 + len(names)], names, strict=True):
        show_stored(ax, _on_grid(labeller.made_map(case, name), grid)[..., place].T, heat=True)
        ax.set_title(name, fontsize=6, color=FOREGROUND)
    if len(axes) > 2 + len(names):
        ax = axes[-1]
        show_stored(ax, picture)
        shown = read_map_slice(labeller.map_slice(case))
        show_stored(ax, colour_maps(shown, class_colors(len(manifest.structures))))
        ax.set_title(MAPS_TITLE, fontsize=6, color=FOREGROUND)


def _on_grid(file: Path, grid: Header) -> np.ndarray:
    stored, header = read_volume(file)
    return along(grid, header, stored[0])[0]


def picture_of(images: Sequence[Path], place: int) -> np.ndarray:
    """A slice along the last axis of an image's files as rows of a picture, in colour if it has three channels."""
    channels = np.concatenate([read_volume(path)[0] for path in images]).astype(np.float32)
    picture = channels[..., place].transpose(2, 1, 0)
    picture = picture if picture.shape[2] == 3 else picture[..., 0]
    low, high = np.percentile(picture, (0.5, 99.5))
    return np.clip((picture - low) / max(high - low, 1e-6), 0, 1)


def _colour(label: np.ndarray, manifest: Manifest) -> np.ndarray:
    """A label map as colours over an image, `(rows, columns, 4)`."""
    shown = np.zeros((*label.shape, 4), np.float32)
    for value, color in zip(manifest.structures, class_colors(len(manifest.structures)), strict=True):
        shown[label == value] = to_rgba(color, 0.6)
    shown[label == manifest.ignore_index] = LEFT_OUT
    return shown


def add_legend(figure: Figure, structures: Sequence[str], *, left_out: bool = True) -> None:
    """The colours of the structures, and that of voxels of which nothing is learnt where there are such."""
    colors = class_colors(len(structures))
    patches = [Patch(color=color, label=name) for name, color in zip(structures, colors, strict=True)]
    if left_out:
        patches.append(Patch(color=LEFT_OUT, label="nothing is learnt"))
    figure.legend(
        handles=patches, loc="outside lower center", ncols=8, frameon=False, fontsize=7, labelcolor=FOREGROUND
    )
