"""An interactive viewer inside the report: the cropped image in 8 bit with every label map, and NiiVue to show them.

NiiVue (BSD 2-Clause) is vendored, so that a report opens without a network. It needs WebGL 2; where a browser has
none, the page says so and its pictures remain.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb

from medseg import consensus
from medseg.consensus.study import MISSING
from medseg.portable.io.nifti.header import new_header
from medseg.portable.io.write import nifti_pieces
from medseg.workflows.consensus.report.crop import Scene
from medseg.workflows.consensus.report.figures import hues, tints
from medseg.workflows.consensus.result import Result

NIIVUE = Path(consensus.__file__).parent / "vendor" / "niivue.umd.js"
MOST_VOXELS = 4_000_000
"""Of the cropped volume; from here on voxels are left out, since a report is to be sent and opened on a laptop."""


def viewer(result: Result, scene: Scene) -> str:
    """HTML of the viewer with its data; nothing is started before the reader asks for it."""
    step = max(1, ceil((scene.consensus.size / MOST_VOXELS) ** (1 / 3)))
    words = "Click to move the crosshair, scroll for other slices, right button for the contrast."
    if step > 1:
        words += f" To keep this file small every {_ordinal(step)} voxel along each axis is shown."
    data = {"layers": _layers(result, scene, step), "words": words}
    own = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
    return f"""<section class="viewer"><h2>Look around</h2>
<p class="soft">Consensus and annotations on the image, cropped to the labelled region; the patient's right is on the
left. The viewer runs inside this page and sends nothing anywhere.</p>
<p><button id="viewer-start" hidden>Start the viewer</button>
<span id="viewer-state" class="soft" data-state="waiting"></span></p>
<noscript><p class="soft">The viewer needs JavaScript. The pictures above show the same.</p></noscript>
<div id="viewer-controls"></div><div class="stage"><canvas id="viewer-canvas" height="640" hidden></canvas></div>
<script type="application/json" id="viewer-data">{_inert(json.dumps(data))}</script>
<script>{_inert(NIIVUE.read_text(encoding="utf-8"))}</script>
<script>{_inert(own)}</script></section>"""


def _inert(text: str) -> str:
    """Text that cannot end the script element which it stands in."""
    return re.sub(r"<(?=/script|!--)", r"\\u003c", text, flags=re.IGNORECASE)


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third", 4: "fourth"}.get(number, f"{number}th")


def _layers(result: Result, scene: Scene, step: int) -> list[dict[str, Any]]:
    affine = scene.affine @ np.diag([step, step, step, 1.0])
    layers = []
    if scene.image is not None:
        low, high = (float(v) for v in np.percentile(scene.image[0], (1, 99.5)))
        grey = np.clip((scene.image[0] - low) / max(high - low, 1e-6), 0, 1) * 255
        layers.append(_layer("image", grey.astype(np.uint8), affine, [], step=step))
    several = [_bytes(color) for color in tints(result)]
    layers.append(_layer("consensus", scene.consensus, affine, several, step=step, shown=True))
    for rater, labels, hue in zip(result.study.raters, scene.raters, hues(result), strict=True):
        layers.append(_layer(rater.name, labels, affine, [_bytes(hue)] * len(several), step=step))
    return layers


def _layer(
    name: str, array: np.ndarray, affine: np.ndarray, colors: list[list[int]], *, step: int, shown: bool = False
) -> dict[str, Any]:
    """One volume as NiiVue takes it; of label maps what is missing is not shown."""
    kept = array[::step, ::step, ::step]
    kept = np.where(kept == MISSING, 0, kept).astype(np.uint8) if colors else kept
    header = new_header(kept.shape, kept.dtype, affine)
    header.set_intent("label" if colors else "none")
    packed = gzip.compress(b"".join(nifti_pieces(header, kept)), 6, mtime=0)
    return {
        "name": name,
        "file": base64.b64encode(packed).decode("ascii"),
        "colors": colors,
        "range": [0, len(colors) if colors else 255],
        "opacity": 0.5 if colors else 1.0,
        "shown": shown or not colors,
    }


def _bytes(color: Any) -> list[int]:
    return [round(255 * c) for c in to_rgb(color)]
