"""Pictures of rounds: two planes of a few cases, with the pseudo-label and where the views disagree."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from nibabel import orientations

from medseg.atomic import write_whole
from medseg.method import IGNORE
from medseg.portable.io.read import read_volume
from medseg.workflows.reports.drawing import CT_WINDOW, colors, encode_png

AXES = (2, 1)  # axial and coronal
DISAGREE = ("#ffd43b", "#e03131")
TITLES = ("some views differ", "no two views agree")
IGNORED = "#9aa0a6"


def keep_slices(path: Path, image: Path, labels: Sequence[np.ndarray], fused: np.ndarray, like: Path | None) -> Path:
    """Write what the picture of a case needs, a few hundred kilobytes, as `.npz`.

    Args:
        path: to write.
        image: file of the case; its first channel is shown.
        labels: for each view `(X, Y, Z)` uint8 class indices, along the file's axes.
        fused: `(X, Y, Z)` uint8, the pseudo-label.
        like: the same of an earlier round, whose planes are taken again; None: where most of the structures is.
    """
    array, header = read_volume(image)
    turns = orientations.io_orientation(header.affine)
    scan, label, *views = (orientations.apply_orientation(a, turns) for a in (array[0], fused, *labels))
    sides = np.array(header.spacing_mm)[np.argsort(turns[:, 0])]
    content: dict[str, np.ndarray] = {}
    for axis in AXES:
        others = tuple(a for a in range(3) if a != axis)
        where = _where(like, axis) if like else int(((label > 0) & (label != IGNORE)).sum(axis=others).argmax())
        if where == 0 and not like:
            where = scan.shape[axis] // 2  # nothing was found
        each = np.stack([np.take(view, where, axis) for view in views])
        apart = (each != each[0]).any(0).astype(np.uint8)
        if len(each) > 2:
            apart += np.all([each[i] != each[j] for i in range(len(each)) for j in range(i)], axis=0)
        content |= {f"scan{axis}": np.take(scan, where, axis).astype(np.float32), f"apart{axis}": apart,
                    f"fused{axis}": np.take(label, where, axis), f"where{axis}": np.array(where),
                    f"size{axis}": np.array([sides[a] * scan.shape[a] for a in others])}  # fmt: skip
    stream = io.BytesIO()
    np.savez_compressed(stream, **content)  # type: ignore[arg-type]  # mypy takes the names for its options
    return write_whole(path, stream.getvalue())


def _where(like: Path, axis: int) -> int:
    with np.load(like) as kept:
        return int(kept[f"where{axis}"])


def draw_pseudo_labels(
    rounds: Mapping[int, Sequence[Path]], names: Sequence[str], structures: Sequence[str], *, ct: bool
) -> bytes:
    """PNG: two rows per case; the scan, then for each round the pseudo-label and the disagreement of the views.

    Args:
        rounds: number of a round -> one file of `keep_slices` per case.
        names: of the cases.
        structures: names of the foreground classes.
        ct: whether the scans are shown in a soft-tissue window.
    """
    planes = [(case, axis) for case in range(len(names)) for axis in AXES]
    first = next(iter(rounds.values()))
    heights = [_ratio(first[case], axis) for case, axis in planes]
    figure = Figure(figsize=(3 * (1 + 2 * len(rounds)), 3.1 * sum(heights) + 0.9), dpi=80, layout="constrained")
    grid = figure.subplots(len(planes), 1 + 2 * len(rounds), squeeze=False, height_ratios=heights)
    palette = [*colors(len(structures))]
    for row, (case, axis) in zip(grid, planes, strict=True):
        _scan(row[0], first[case], axis, ct)
        row[0].text(0.01, 0.98, names[case], transform=row[0].transAxes, color="white", va="top", fontsize=11)
        for column, files in enumerate(rounds.values()):
            label, apart = row[1 + 2 * column : 3 + 2 * column]
            _over(label, files[case], axis, "fused", palette, ct)
            _over(apart, files[case], axis, "apart", list(DISAGREE), ct)
    grid[0][0].set_title("scan", weight="bold")
    for column, number in enumerate(rounds):
        grid[0][1 + 2 * column].set_title(f"round {number}: pseudo-label", weight="bold")
        grid[0][2 + 2 * column].set_title("disagreement", weight="bold")
    patches = [Patch(color=c, label=n) for c, n in zip([*palette, *DISAGREE], [*structures, *TITLES], strict=True)]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(len(patches), 8), frameon=False)
    return encode_png(figure)


def _ratio(path: Path, axis: int) -> float:
    with np.load(path) as kept:
        width, height = kept[f"size{axis}"]
    return float(height / width)


def _scan(ax: Axes, path: Path, axis: int, ct: bool) -> tuple[float, float, float, float]:
    """The scan in grey, the patient's right on the left; returns where it lies in the axes."""
    with np.load(path) as kept:
        scan, (width, height) = kept[f"scan{axis}"], kept[f"size{axis}"]
    low, high = CT_WINDOW if ct else np.percentile(scan, (1, 99.5)).tolist()
    extent = (0.0, float(width), 0.0, float(height))
    ax.imshow(scan.T[:, ::-1], cmap="gray", vmin=low, vmax=max(high, low + 1e-6), origin="lower", extent=extent)
    ax.set_axis_off()
    return extent


def _over(ax: Axes, path: Path, axis: int, key: str, palette: Sequence[Any], ct: bool) -> None:
    """A map of classes over the scan."""
    extent = _scan(ax, path, axis, ct)
    with np.load(path) as kept:
        values = kept[f"{key}{axis}"].T[:, ::-1]
    shades = ListedColormap([*palette, IGNORED])  # the last for what is left out
    shown = np.ma.masked_equal(np.where(values == IGNORE, len(palette) + 1, values), 0)
    ax.imshow(shown, cmap=shades, vmin=0.5, vmax=len(palette) + 1.5, alpha=0.6, origin="lower", extent=extent,
              interpolation="nearest")  # fmt: skip
