"""How good saliency is: its recall where labels are known, and a sheet to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from medseg.manifest.manifest import Case, Manifest
from medseg.portable.geometry import along
from medseg.portable.io.labels import read_labels
from medseg.portable.io.read import read_header, read_volume
from medseg.workflows.reports.overlay import encode_png, show_stored

SALIENT = 0.06
"""Above it something may be an object: AuxSegNet's threshold."""

CERTAIN = 0.5
"""Above it AuxSegNet teaches that something is salient."""

LEAST_RECALL = 0.9
SHOWN = 20
COLUMNS = 5

Counts = dict[str, Any]


def measure(manifest: Manifest, case: Case, file: Path, known: tuple[Manifest, Case] | None) -> Counts:
    """Count the voxels of one case.

    Args:
        manifest: of the case.
        case: whose saliency it is.
        file: of its saliency.
        known: manifest and case that have its label.

    Returns:
        `voxels`, those `salient`, and with a label those of structures `true`, of these `found`, and by a saliency
        above `CERTAIN` `both` and `either`; voxels of the ignore value are left out of what is compared.
    """
    stored, header = read_volume(file)
    saliency = stored[0].astype(np.float32) / 255 if stored.max() > 1 else stored[0].astype(np.float32)
    counts: Counts = {"voxels": int(saliency.size), "salient": int(np.count_nonzero(saliency > SALIENT))}
    if known is None:
        return counts
    of, labelled = known
    path = of.label(labelled)
    assert path is not None
    label, grid = read_labels(path)
    saliency = along(grid, header, saliency)[0]
    valid = label[0] != of.ignore_index
    true = valid & (label[0] != 0) if of.has_background else valid
    certain = valid & (saliency > CERTAIN)
    counts |= {
        "true": int(np.count_nonzero(true)),
        "found": int(np.count_nonzero(true & (saliency > SALIENT))),
        "both": int(np.count_nonzero(true & certain)),
        "certain": int(np.count_nonzero(certain)),
        "either": int(np.count_nonzero(true | certain)),
    }
    return counts


def summarize_saliency(measured: Sequence[Counts]) -> dict[str, Any]:
    """Shares over all cases.

    Returns:
        `cases`; `empty`, the share of maps without a salient voxel; `salient`, the share of salient voxels; `labelled`;
        `recall`, the share of the labelled structures' voxels that are salient; `precision` and `iou` of a saliency
        above 0.5. None where nothing is known.
    """
    labelled = [counts for counts in measured if "true" in counts]
    sums = {name: sum(counts[name] for counts in labelled) for name in ("true", "found", "both", "certain", "either")}
    voxels = sum(counts["voxels"] for counts in measured)
    return {
        "cases": len(measured),
        "empty": _share(sum(not counts["salient"] for counts in measured), len(measured)),
        "salient": _share(sum(counts["salient"] for counts in measured), voxels),
        "labelled": len(labelled),
        "recall": _share(sums["found"], sums["true"]),
        "precision": _share(sums["both"], sums["certain"]),
        "iou": _share(sums["both"], sums["either"]),
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def draw_sheet(manifest: Manifest, cases: Sequence[Case], folder: Path) -> bytes:
    """Images, evenly chosen, beside their saliency, of volumes the slice with most of it, as a PNG."""
    chosen = [cases[place] for place in np.linspace(0, len(cases) - 1, min(SHOWN, len(cases))).round().astype(int)]
    rows = max(1, -(-len(chosen) // COLUMNS))
    figure = Figure(figsize=(3.2 * COLUMNS, 1.9 * rows), dpi=80, layout="constrained")
    axes = figure.subplots(rows, 2 * COLUMNS, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for number, case in enumerate(chosen):
        row, column = divmod(number, COLUMNS)
        image, saliency = _slice_of(manifest, case, folder)
        show_stored(axes[row, 2 * column], image)
        axes[row, 2 * column].set_title(case.name[:18], fontsize=6)
        show_stored(axes[row, 2 * column + 1], saliency, heat=True)
    return encode_png(figure)


def _slice_of(manifest: Manifest, case: Case, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """A slice of an image and its saliency as pictures, rows first."""
    images = manifest.images(case)
    channels = np.concatenate([read_volume(path)[0] for path in images]).astype(np.float32)
    grid = read_header(images[0])
    stored, header = read_volume(folder / f"{case.name}.nii.gz")
    saliency = along(grid, header, stored[0].astype(np.float32))[0]
    saliency = saliency / 255 if saliency.max() > 1 else saliency
    place = int(saliency.sum((0, 1)).argmax())
    picture = channels[..., place].transpose(2, 1, 0)
    if picture.shape[2] != 3:
        picture = picture[..., 0]
    spread = np.ptp(picture)
    picture = (picture - picture.min()) / spread if spread else np.zeros_like(picture)
    return picture, saliency[..., place].T
