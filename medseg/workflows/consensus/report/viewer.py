"""An interactive viewer inside the report: the cropped image in 8 bit with every label map, and NiiVue to show them.

NiiVue (BSD 2-Clause) is vendored, so that a report opens without a network. It needs WebGL 2; where a browser has
none, the page says so and its figures remain.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.colors import to_rgb

from medseg import consensus
from medseg.consensus.study import MISSING
from medseg.portable.io.nifti.header import new_header
from medseg.portable.io.write import nifti_pieces
from medseg.workflows.consensus.report.crop import Scene
from medseg.workflows.consensus.report.figures import rater_colors, structure_colors
from medseg.workflows.consensus.result import Result

NIIVUE = Path(consensus.__file__).parent / "vendor" / "niivue.umd.js"
MOST_VOXELS = 4_000_000
"""Of the cropped volume; from here on voxels are left out, since a report is to be sent and opened on a laptop."""


@dataclass(frozen=True)
class Viewer:
    """What the page needs to start the viewer, ready to stand in script elements.

    Args:
        data: JSON of the volumes, and of what the viewer says when it is ready.
        niivue: source of NiiVue.
    """

    data: Markup
    niivue: Markup


def make_viewer(result: Result, scene: Scene) -> Viewer:
    """The viewer with its data; the page starts nothing before the reader asks for it."""
    step = max(1, ceil((scene.consensus.size / MOST_VOXELS) ** (1 / 3)))
    words = "Click to move the crosshair, scroll for other slices, right button for the contrast."
    if step > 1:
        words += f" To keep this file small every {_ordinal(step)} voxel along each axis is shown."
    data = {"layers": _make_layers(result, scene, step), "words": words}
    return Viewer(_inert(json.dumps(data)), _inert(NIIVUE.read_text(encoding="utf-8")))


def _inert(text: str) -> Markup:
    """Text that cannot end the script element which it stands in; entities would be no escape there."""
    return Markup(re.sub(r"<(?=/script|!--)", r"\\u003c", text, flags=re.IGNORECASE))  # noqa: S704 - escaped by hand


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third", 4: "fourth"}.get(number, f"{number}th")


def _make_layers(result: Result, scene: Scene, step: int) -> list[dict[str, Any]]:
    """The volumes of the viewer: the image, the consensus, and each rater's labels."""
    affine = scene.affine @ np.diag([step, step, step, 1.0])

    def add(name: str, volume: np.ndarray, colors: list[list[int]], *, shown: bool) -> None:
        layers.append(_make_layer(name, volume[::step, ::step, ::step], affine, colors, shown=shown))

    layers: list[dict[str, Any]] = []
    if scene.image is not None:
        add("image", _to_bytes(scene.image[0]), [], shown=True)
    structures = [_rgb_bytes(color) for color in structure_colors(result)]
    add("consensus", scene.consensus, structures, shown=True)
    for rater, labels, color in zip(result.study.raters, scene.raters, rater_colors(result), strict=True):
        add(rater.name, labels, [_rgb_bytes(color)] * len(structures), shown=False)
    return layers


def _to_bytes(image: np.ndarray) -> np.ndarray:
    """An image from its 1st to its 99.5th percentile in 8 bit."""
    low, high = (float(value) for value in np.percentile(image, (1, 99.5)))
    grey = np.clip((image - low) / max(high - low, 1e-6), 0, 1) * 255
    return grey.astype(np.uint8)


def _make_layer(
    name: str, volume: np.ndarray, affine: np.ndarray, colors: list[list[int]], *, shown: bool
) -> dict[str, Any]:
    """One volume as NiiVue takes it: labels with the colours of the classes, or an image without any."""
    if colors:
        volume = np.where(volume == MISSING, 0, volume).astype(np.uint8)  # what is missing is not shown
    header = new_header(volume.shape, volume.dtype, affine)
    header.set_intent("label" if colors else "none")
    packed = gzip.compress(b"".join(nifti_pieces(header, volume)), 6, mtime=0)
    return {
        "name": name,
        "file": base64.b64encode(packed).decode("ascii"),
        "colors": colors,
        "range": [0, len(colors) if colors else 255],
        "opacity": 0.5 if colors else 1.0,
        "shown": shown,
    }


def _rgb_bytes(color: Any) -> list[int]:
    return [round(255 * part) for part in to_rgb(color)]
