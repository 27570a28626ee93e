"""Slices to a right-angled grid, or clear words why they are none: order, gaps, repetitions, tilt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medseg.dicom.slice_headers import MOMENTS, Slice
from medseg.errors import DataError
from medseg.portable.geometry import times
from medseg.portable.io.header import SHEAR_TOLERANCE

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

SAME = 1e-3
"""Direction cosines, and millimetres, that differ by less are the same, written by rounding hands."""

OFF_VOXELS = 0.1
"""How far a slice may lie off an even grid: scanners round their positions."""


def stack(slices: Sequence[Slice], place: Path) -> tuple[list[Slice], np.ndarray, list[str]]:
    """Sort slices along their normal, by where they lie and by nothing else.

    Args:
        slices: of one series.
        place: for messages.

    Returns:
        the slices in rising order along the normal (row x column), the affine (4, 4) of `(column, row, slice)` in
        RAS mm, and notes.

    Raises:
        DataError: they are no single right-angled and evenly spaced volume.
    """
    _refuse_mixed(slices, place)
    axes = slices[0].axes
    normal = np.cross(*axes)
    if abs(float(axes[0] @ axes[1])) > SHEAR_TOLERANCE:
        raise DataError("has rows and columns that are not at right angles", path=place)
    normal /= np.linalg.norm(normal)
    along = np.array([piece.position @ normal for piece in slices])
    order = np.argsort(along, kind="stable")
    ordered, kept, notes = _once([slices[n] for n in order], along[order], place)
    step = _step(ordered, kept, place, notes)
    _refuse_tilt(ordered, normal, place)
    affine = np.eye(4)
    affine[:3, 0] = axes[0] * slices[0].spacing_mm[0]
    affine[:3, 1] = axes[1] * slices[0].spacing_mm[1]
    affine[:3, 2] = normal * step
    affine[:3, 3] = ordered[0].position
    return ordered, LPS_TO_RAS @ affine, notes


def _refuse_mixed(slices: Sequence[Slice], place: Path) -> None:
    first = slices[0]
    for other in slices[1:]:
        if other.size != first.size:
            found = f"{times(first.size)} voxels ({first}) and {times(other.size)} ({other})"
            raise DataError(f"mixes slices of {found}", path=place, hint="keep those of one volume only")
        if np.abs(np.subtract(other.spacing_mm, first.spacing_mm)).max() > SAME * min(first.spacing_mm):
            found = f"{times(first.spacing_mm)} mm ({first}) and {times(other.spacing_mm)} mm ({other})"
            raise DataError(f"mixes pixel spacings: {found}", path=place, hint="keep those of one volume only")
    turned = [piece for piece in slices if np.abs(piece.axes - first.axes).max() > SAME]
    if turned:
        raise DataError(
            f"mixes orientations: {len(turned)} of {len(slices)} slices do not lie like {first}, such as {turned[0]}",
            path=place, hint="keep those of one volume only",
        )  # fmt: skip


def _once(ordered: Sequence[Slice], along: np.ndarray, place: Path) -> tuple[list[Slice], np.ndarray, list[str]]:
    """One slice per position; copies of one instance are left out."""
    again = [int(n) + 1 for n in np.flatnonzero(np.diff(along) < SAME)]
    copies = [n for n in again if (ordered[n].uid, ordered[n].frame) == (ordered[n - 1].uid, ordered[n - 1].frame)]
    if len(copies) < len(again):
        raise DataError(_several(ordered, along, place), path=place, hint="export one of them as a series of its own")
    keep = [n for n in range(len(ordered)) if n not in set(copies)]
    notes = [f"{len(copies)} files are copies of others, such as {ordered[copies[0]]}: left out"] if copies else []
    return [ordered[n] for n in keep], along[keep], notes


def _several(ordered: Sequence[Slice], along: np.ndarray, place: Path) -> str:
    """Why several images share a position."""
    positions = 1 + int(np.count_nonzero(np.diff(along) >= SAME))
    why = ""
    for name in MOMENTS:
        values = Counter(piece.moments.get(name) for piece in ordered)
        if len(values) > 1 and max(values.values()) <= positions:
            why = f" ({name} {', '.join(sorted(str(value) for value in list(values)[:4]))})"
            break
    return f"holds several images at one position: {len(ordered)} images at {positions} positions{why}"


def _step(ordered: Sequence[Slice], along: np.ndarray, place: Path, notes: list[str]) -> float:
    """Distance of neighbouring slices in mm."""
    if len(ordered) == 1:
        thickness = ordered[0].thickness_mm
        notes.append(f"is a single slice: {f'{thickness:g}' if thickness else 'with an unknown thickness, 1'} mm thick")
        return thickness or 1.0
    steps = np.diff(along)
    step = float(np.median(steps))
    multiple = np.round(steps / step)
    gaps = np.flatnonzero((multiple > 1) & (np.abs(steps / step - multiple) <= OFF_VOXELS))
    if len(gaps) and np.abs(steps / step - multiple).max() <= OFF_VOXELS:
        told = [_gap(ordered, along, int(n), int(multiple[n]) - 1) for n in gaps[:3]]
        more = f" and at {len(gaps) - 3} more places" if len(gaps) > 3 else ""
        missing = int(sum(multiple[gaps] - 1))
        raise DataError(
            f"{missing} slice{'s are' if missing > 1 else ' is'} missing: {', '.join(told)}{more}", path=place,
            hint="copy the whole series again",
        )  # fmt: skip
    even = np.linspace(along[0], along[-1], len(along))
    step = float((along[-1] - along[0]) / (len(along) - 1))
    off = np.abs(along - even).max() / step
    if off > OFF_VOXELS:
        raise DataError(
            f"has slices {steps.min():.4g} to {steps.max():.4g} mm apart; accepted is one distance throughout",
            path=place, hint="resample it to an even spacing first, or use a reconstruction with one",
        )  # fmt: skip
    return step


def _gap(ordered: Sequence[Slice], along: np.ndarray, at: int, count: int) -> str:
    upright = abs(np.cross(*ordered[0].axes)[2]) > 1 - SAME
    one, other = (ordered[n].position[2] if upright else along[n] for n in (at, at + 1))
    axis = "z" if upright else "the slice axis"
    return f"{count} between {axis} = {one:.4g} mm ({ordered[at]}) and {other:.4g} mm ({ordered[at + 1]})"


def _refuse_tilt(ordered: Sequence[Slice], normal: np.ndarray, place: Path) -> None:
    """The line through the first voxels has to stand upright on the slices."""
    shifts = np.array([piece.position - ordered[0].position for piece in ordered])
    sideways = shifts - np.outer(shifts @ normal, normal)
    height = float(shifts[-1] @ normal)
    if len(ordered) > 1 and np.linalg.norm(sideways[-1]) > SHEAR_TOLERANCE * height:
        angle = np.degrees(np.arctan2(np.linalg.norm(sideways[-1]), height))
        raise DataError(
            f"was scanned with a tilted gantry: each slice is shifted against the next, the volume is sheared by "
            f"{angle:.3g} degrees; accepted is a right-angled one", path=place,
            hint="straighten it first, as dcm2niix does, and give the result",
        )  # fmt: skip
    line = np.linspace(0, 1, len(ordered))[:, None] * sideways[-1]
    off = np.linalg.norm(sideways - line, axis=1).max() / min(ordered[0].spacing_mm)
    if off > OFF_VOXELS:
        raise DataError(f"has slices that are shifted sideways by up to {off:.2g} voxels", path=place)
