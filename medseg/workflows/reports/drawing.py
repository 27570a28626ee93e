"""From medseg/workflows/montage.py."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps, patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medseg.portable.planes import PLANES

CT_WINDOW = (-160.0, 240.0)


INK, PAPER, QUIET = "#f4f4f2", "#111315", "#9aa0a6"


COLORS = (
    "#56b4e9", "#f59e42", "#5fd068", "#ff5d6c", "#c08cff",
    "#ffe14d", "#ff8ad1", "#2fe0d0", "#b8c4ff", "#d7a86e",
)  # fmt: skip


@dataclass(frozen=True)
class View:
    """How a plane of a RAS+ volume is shown: radiological, the patient's right on the left."""

    name: str
    across: int
    up: int
    letters: tuple[str, str, str, str]  # left, right, bottom, top

    @property
    def axis(self) -> int:
        """Along which slices follow one another."""
        return PLANES.index(self.name)


VIEWS = (
    View("axial", 0, 1, ("R", "L", "P", "A")),
    View("coronal", 0, 2, ("R", "L", "I", "S")),
    View("sagittal", 1, 2, ("A", "P", "I", "S")),
)


def plane(volume: np.ndarray, view: View, where: int) -> np.ndarray:
    """`(up, across)`: rows from bottom to top, columns as a radiologist looks at them."""
    plane = np.moveaxis(volume, (view.up, view.across, view.axis), (0, 1, 2))[:, :, where]
    return plane[:, ::-1]


def contour(ax: Axes, mask: np.ndarray, size: tuple[float, float], color: Any, **style: Any) -> None:
    """The outline of a mask `(up, across)` that is drawn `size` mm wide and high, to the very edge of its voxels."""
    if not mask.any():
        return
    # a rim of background, so that what touches the edge of the image is closed
    rows, columns = mask.shape
    x = (np.arange(columns + 2) - 0.5) * size[0] / columns
    y = (np.arange(rows + 2) - 0.5) * size[1] / rows
    ax.contour(x, y, np.pad(mask, 1).astype(float), levels=[0.5], colors=[color], **style)


def letters(ax: Axes, view: View) -> None:
    """Which way the patient lies: R, L, A, P, S, I at the edges, and the name of the plane."""
    places = ((0.015, 0.5), (0.985, 0.5), (0.5, 0.015), (0.5, 0.985))
    sides = (("left", "center"), ("right", "center"), ("center", "bottom"), ("center", "top"))
    for letter, (x, y), (h, v) in zip(view.letters, places, sides, strict=True):
        _text(ax, x, y, letter, ha=h, va=v, weight="bold")
    _text(ax, 0.985, 0.985, view.name, ha="right", va="top")


def _text(ax: Axes, x: float, y: float, text: str, **style: Any) -> None:
    outline = [patheffects.withStroke(linewidth=2.5, foreground=PAPER)]
    ax.text(x, y, text, transform=ax.transAxes, color=INK, fontsize=9, path_effects=outline, **style)


def colors(count: int) -> list[Any]:
    """Colours of the classes, apart from each other and visible on grey."""
    if count <= len(COLORS):
        return list(COLORS[:count])
    return [colormaps["hsv"](k / count) for k in range(count)]


def encode_png(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()
