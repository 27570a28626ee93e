"""Slices of scans in figures: the image in grey, label overlays or outlines over it, and the patient's directions."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps, patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from nibabel import orientations

from medseg.portable.io.header import Header
from medseg.portable.planes import PLANES

CT_WINDOW = (-160.0, 240.0)
"""Soft tissue, in Hounsfield units."""

LEAST_HU = -200.0
"""A CT whose smallest value is above this is not in Hounsfield units, or a narrow part of them."""

FOREGROUND, BACKGROUND, MUTED = "#f4f4f2", "#111315", "#9aa0a6"
"""Colours of text, of dark backgrounds, and of what should not stand out."""

CLASS_COLORS = (
    "#56b4e9", "#f59e42", "#5fd068", "#ff5d6c", "#c08cff",
    "#ffe14d", "#ff8ad1", "#2fe0d0", "#b8c4ff", "#d7a86e",
)  # fmt: skip

SCALE_BARS_MM = (100, 50, 20, 10, 5, 2, 1)


@dataclass(frozen=True)
class View:
    """How slices of a RAS+ volume are shown.

    Args:
        name: of the plane.
        across: axis of the volume from the left to the right of the slice.
        up: axis of the volume from the bottom to the top of the slice.
        letters: the patient's directions at the left, right, bottom and top edge.
        mirrored: whether the axis `across` falls from left to right, so that the patient's right is on the left.
        downwards: whether the axis `up` runs down, as the rows of photographs do.
    """

    name: str
    across: int
    up: int
    letters: tuple[str, str, str, str]
    mirrored: bool = True
    downwards: bool = False

    @property
    def axis(self) -> int:
        """Axis of the volume along which slices follow one another."""
        return PLANES.index(self.name)

    def size_mm(self, volume_mm: Sequence[float] | np.ndarray) -> tuple[float, float]:
        """Width and height of a slice, from the lengths of the volume's three axes."""
        return float(volume_mm[self.across]), float(volume_mm[self.up])


AXIAL = View("axial", 0, 1, ("R", "L", "P", "A"))
CORONAL = View("coronal", 0, 2, ("R", "L", "I", "S"))
SAGITTAL = View("sagittal", 1, 2, ("A", "P", "I", "S"))
VIEWS = (AXIAL, CORONAL, SAGITTAL)
PICTURE = View("axial", 0, 1, ("", "", "", ""), mirrored=False, downwards=True)
"""A photograph as it is: nobody's left and right."""


def turn_to_ras(header: Header, *volumes: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Volumes along the patient's axes.

    Args:
        header: of the file whose grid they are on.
        volumes: `(X, Y, Z)` along the file's axes.

    Returns:
        The volumes along RAS+ axes, and the spacing along these axes in mm.
    """
    turns = orientations.io_orientation(header.affine)
    turned = [orientations.apply_orientation(volume, turns) for volume in volumes]
    spacing_mm = np.array(header.spacing_mm)[np.argsort(turns[:, 0])]
    return turned, spacing_mm


def cut_slice(volume: np.ndarray, view: View, where: int) -> np.ndarray:
    """A slice `(up, across)` of a volume: rows from bottom to top, columns from left to right as they are shown."""
    found = np.moveaxis(volume, (view.up, view.across, view.axis), (0, 1, 2))[:, :, where]
    found = found[::-1] if view.downwards else found
    return found[:, ::-1] if view.mirrored else found


def find_fullest_slice(counts: np.ndarray, view: View) -> int:
    """The first slice with the largest sum of a volume, such as a mask."""
    return int(counts.sum(axis=(view.across, view.up)).argmax())


def grey_window(image: np.ndarray, *, ct: bool = False) -> tuple[float, float]:
    """Values that are shown black and white: soft tissue for CT in Hounsfield units, else nearly the whole range."""
    if ct and float(image.min()) < LEAST_HU:
        return CT_WINDOW
    low, high = (float(value) for value in np.percentile(image, (1, 99.5)))
    return low, max(high, low + 1e-6)


def class_colors(count: int) -> list[Any]:
    """Colours of classes or raters, apart from each other and visible on grey."""
    if count <= len(CLASS_COLORS):
        return list(CLASS_COLORS[:count])
    return [colormaps["hsv"](k / count) for k in range(count)]


def blend_labels(image: np.ndarray, labels: np.ndarray, colors: Sequence[Any], alpha: float = 0.4) -> np.ndarray:
    """A photograph with its labels in colour, pixel by pixel, each with a full outline inside its edge.

    Args:
        image: `(rows, columns, 3)` uint8.
        labels: `(rows, columns)`: 0 is not coloured, 1 is in the first colour and so on.
        colors: of the classes.
        alpha: share of the colour.

    Returns:
        `(rows, columns, 3)` uint8.
    """
    table = np.array([to_rgb(color) for color in colors]) * 255
    padded = np.pad(labels, 1, mode="edge")
    inner = padded[1:-1, 1:-1]
    differs = [padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
    edge = np.any([other != inner for other in differs], axis=0)
    share = np.where(edge, 1.0, alpha)[..., None]
    colored = image * (1 - share) + table[np.maximum(labels, 1) - 1] * share
    return np.where((labels > 0)[..., None], colored, image).round().astype(np.uint8)


class SliceAxes:
    """One slice in its physical aspect ratio; all arrays are `(up, across)` as `cut_slice` gives them.

    Args:
        ax: where it is shown.
        size_mm: width and height of the slice.
    """

    def __init__(self, ax: Axes, size_mm: tuple[float, float]) -> None:
        self.ax = ax
        self.width, self.height = size_mm
        self.extent = (0.0, self.width, 0.0, self.height)
        ax.set_axis_off()
        ax.set(xlim=(0, self.width), ylim=(0, self.height), aspect="equal")

    def show_image(self, image: np.ndarray, window: tuple[float, float]) -> None:
        """An image in grey, from black to white in a window."""
        self._imshow(image, cmap="gray", vmin=window[0], vmax=window[1], interpolation="bilinear")

    def show_photograph(self, image: np.ndarray) -> None:
        """An image `(up, across, 3)` in its own colours, of any range."""
        low, high = float(image.min()), float(image.max())
        self._imshow((image - low) / max(high - low, 1e-6), interpolation="nearest")

    def show_labels(self, labels: np.ndarray, colors: Sequence[Any], *, alpha: float = 0.6) -> None:
        """A label overlay: class 1 in the first colour and so on; class 0 is not shown."""
        shown = np.ma.masked_equal(labels, 0)
        palette = ListedColormap(list(colors))
        limits = {"vmin": 0.5, "vmax": len(colors) + 0.5}
        self._imshow(shown, cmap=palette, alpha=alpha, interpolation="nearest", **limits)

    def show_map(self, values: np.ndarray, colormap: Colormap) -> AxesImage:
        """Values in [0, 1] in the colours of a map; masked ones are not shown. Returns what a colour bar needs."""
        return self._imshow(values, cmap=colormap, vmin=0, vmax=1, interpolation="nearest")

    def outline(self, mask: np.ndarray, color: Any, **style: Any) -> None:
        """The outline of a mask, along the edges of its voxels."""
        if not mask.any():
            return
        # a rim of background, so that what touches the edge of the image is closed
        rows, columns = mask.shape
        x = (np.arange(columns + 2) - 0.5) * self.width / columns
        y = (np.arange(rows + 2) - 0.5) * self.height / rows
        padded = np.pad(mask, 1).astype(float)
        self.ax.contour(x, y, padded, levels=[0.5], colors=[color], **style)

    def write_directions(self, view: View) -> None:
        """The patient's directions at the edges, and the name of the plane; nothing on a photograph."""
        if view is PICTURE:
            return
        left, right, bottom, top = view.letters
        self._write(0.015, 0.5, left, ha="left", va="center", weight="bold")
        self._write(0.985, 0.5, right, ha="right", va="center", weight="bold")
        self._write(0.5, 0.015, bottom, ha="center", va="bottom", weight="bold")
        self._write(0.5, 0.985, top, ha="center", va="top", weight="bold")
        self._write(0.985, 0.985, view.name, ha="right", va="top")

    def write_name(self, text: str) -> None:
        """A name, such as the case's, in the upper left corner."""
        self._write(0.015, 0.985, text, ha="left", va="top")

    def draw_scale_bar(self) -> None:
        """A bar of a round length in mm, where the slice is wide enough for one."""
        fitting = [mm for mm in SCALE_BARS_MM if mm <= self.width / 3]
        if not fitting:
            return
        length = fitting[0]
        x, y = 0.04 * self.width, 0.05 * self.height
        middle, above = x + length / 2, y + 0.015 * self.height
        self.ax.plot([x, x + length], [y, y], color=FOREGROUND, lw=2.5, solid_capstyle="butt")
        self.ax.text(middle, above, f"{length} mm", color=FOREGROUND, fontsize=8, ha="center", va="bottom")

    def _imshow(self, image: np.ndarray, **style: Any) -> AxesImage:
        return self.ax.imshow(image, origin="lower", extent=self.extent, **style)

    def _write(self, x: float, y: float, text: str, **style: Any) -> None:
        rim = [patheffects.withStroke(linewidth=2.5, foreground=BACKGROUND)]
        self.ax.text(x, y, text, transform=self.ax.transAxes, color=FOREGROUND, fontsize=9, path_effects=rim, **style)


def show_stored(ax: Axes, rows: np.ndarray, *, heat: bool = False) -> None:
    """Show pixels as they are stored, without the patient's directions.

    Args:
        ax: a panel of a sheet.
        rows: `(rows, columns)`, or `(rows, columns, 3 or 4)` in colour.
        heat: of a map from 0 to 1, on black.
    """
    if heat:
        ax.imshow(rows, cmap="inferno", vmin=0, vmax=1)
    else:
        ax.imshow(rows, cmap="gray")


def draw_pixels(figure: Figure) -> np.ndarray:
    """A figure as pixels `(rows, columns, 3)` uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def encode_png(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()
