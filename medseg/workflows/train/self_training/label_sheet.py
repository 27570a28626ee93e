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
from medseg.workflows.train.self_training.pseudo_labels import PseudoLabeller

SHEET = "overview.png"
SHOWN = 12
COLUMNS = 3
LEFT_OUT = (0.45, 0.45, 0.45, 0.6)
"""Colour over voxels of which nothing is learnt."""


def write_label_sheet(manifest: Manifest, labeller: PseudoLabeller) -> Path | None:
    """Draw some labelled cases, evenly chosen, of volumes the slice with most of their structures.

    Args:
        manifest: of the images.
        labeller: knows what was made of each case, and where.

    Returns:
        The file, beside the pseudo-labels; None where no case has a label.
    """
    cases = [case for case in labeller.cases if labeller.file(case).exists()]
    if not cases:
        return None
    places = np.linspace(0, len(cases) - 1, min(SHOWN, len(cases))).round().astype(int)
    names = find_rule(labeller.rule.name).makes
    wide, rows = 2 + len(names), -(-len(places) // COLUMNS)
    figure = Figure(figsize=(1.6 * wide * COLUMNS, 1.8 * rows + 0.4), dpi=80, layout="constrained")
    figure.set_facecolor(BACKGROUND)
    axes = figure.subplots(rows, wide * COLUMNS, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for number, place in enumerate(places):
        row, column = divmod(number, COLUMNS)
        _draw_case(axes[row, wide * column : wide * (column + 1)], manifest, cases[place], labeller, names)
    _add_legend(figure, list(manifest.structures.values()))
    return write_whole(labeller.folder / SHEET, encode_png(figure))


def _draw_case(
    axes: np.ndarray, manifest: Manifest, case: Case, labeller: PseudoLabeller, names: Sequence[str]
) -> None:
    """One case: the image, the label over it, and each map."""
    images = manifest.images(case)
    grid = read_header(images[0])
    channels = np.concatenate([read_volume(path)[0] for path in images]).astype(np.float32)
    label = _on_grid(labeller.file(case), grid)
    structures = np.isin(label, list(manifest.structures))
    place = int(structures.sum((0, 1)).argmax())
    picture = _as_picture(channels[..., place])
    show_stored(axes[0], picture)
    axes[0].set_title(case.name[:20], fontsize=6, color=FOREGROUND)
    show_stored(axes[1], picture)
    show_stored(axes[1], _colour(label[..., place].T, manifest))
    for ax, name in zip(axes[2:], names, strict=True):
        show_stored(ax, _on_grid(labeller.made_map(case, name), grid)[..., place].T, heat=True)
        ax.set_title(name, fontsize=6, color=FOREGROUND)


def _on_grid(file: Path, grid: Header) -> np.ndarray:
    stored, header = read_volume(file)
    return along(grid, header, stored[0])[0]


def _as_picture(image: np.ndarray) -> np.ndarray:
    """A slice `(C, X, Y)` as rows of a picture, in colour if it has three channels."""
    picture = image.transpose(2, 1, 0)
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


def _add_legend(figure: Figure, structures: Sequence[str]) -> None:
    colors = class_colors(len(structures))
    patches = [Patch(color=color, label=name) for name, color in zip(structures, colors, strict=True)]
    patches.append(Patch(color=LEFT_OUT, label="nothing is learnt"))
    figure.legend(
        handles=patches, loc="outside lower center", ncols=8, frameon=False, fontsize=7, labelcolor=FOREGROUND
    )
