"""A sheet of a method's maps that no rule works on: images, and where the method looks for each class."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from math import prod
from pathlib import Path

from matplotlib.figure import Figure

from medseg.atomic import write_whole
from medseg.manifest.manifest import Case, Manifest
from medseg.portable.io.read import read_header
from medseg.workflows.reports.overlay import BACKGROUND, FOREGROUND, class_colors, encode_png, show_stored
from medseg.workflows.train.self_training.labelling.predict_maps import MapPredictor
from medseg.workflows.train.self_training.report.label_sheet import add_legend, picture_of
from medseg.workflows.train.self_training.report.map_slices import SHOWN, colour_maps, evenly_chosen, map_slice

MAP_SHEET = "maps.png"
COLUMNS = 4
MOST_VOXELS = 4_000_000
"""In all images of a sheet together, but one is shown however large it is: a sheet must not cost a training's time."""


def write_map_sheet(
    manifest: Manifest, cases: Sequence[Case], predictor: MapPredictor, path: Path
) -> Path | None:  # fmt: skip
    """Draw images, and over each the maps of the classes that its tags do not rule out.

    Args:
        manifest: of the cases.
        cases: to choose from; of volumes the slice is shown in which the maps are largest.
        predictor: of the method's maps.
        path: to write.

    Returns:
        The file; None where there is no case, or the maps are not those of the structures.

    Raises:
        DataError: an image cannot be read, or its maps are not finite.
    """
    chosen = _affordable(manifest, evenly_chosen(cases, SHOWN))
    rows = -(-len(chosen) // COLUMNS)
    if not chosen:
        return None
    figure = Figure(figsize=(3.2 * COLUMNS, 1.8 * rows + 0.4), dpi=80, layout="constrained")
    figure.set_facecolor(BACKGROUND)
    axes = figure.subplots(rows, 2 * COLUMNS, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    structures = list(manifest.structures.values())
    colors = class_colors(len(structures))
    for number, case in enumerate(chosen):
        row, column = divmod(number, COLUMNS)
        images = manifest.images(case)
        with tempfile.TemporaryDirectory(prefix="medseg-") as scratch:
            maps = predictor(images, Path(scratch), case.name)[0].clone()
        place = int(maps.float().amax((0, 1, 2)).argmax())
        shown = map_slice(maps, len(manifest.labels), place, manifest.presence(case))
        if shown is None:
            return None
        picture = picture_of(images, place)
        image_ax, maps_ax = axes[row, 2 * column], axes[row, 2 * column + 1]
        show_stored(image_ax, picture)
        image_ax.set_title(case.name[:20], fontsize=6, color=FOREGROUND)
        show_stored(maps_ax, picture)
        show_stored(maps_ax, colour_maps(shown, colors))
    add_legend(figure, structures, left_out=False)
    return write_whole(path, encode_png(figure))


def _affordable(manifest: Manifest, cases: Sequence[Case]) -> list[Case]:
    """The first cases, as long as their images have no more than `MOST_VOXELS` together."""
    chosen: list[Case] = []
    voxels = 0
    for case in cases:
        voxels += prod(read_header(manifest.images(case)[0]).shape)
        if chosen and voxels > MOST_VOXELS:
            break
        chosen.append(case)
    return chosen
