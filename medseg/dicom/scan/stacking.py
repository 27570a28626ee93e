"""Slices of a series as one right-angled volume, or why they are none: order, gaps, repetitions, tilt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medseg.dicom.scan.slice_headers import MOMENTS, Slice
from medseg.errors import DataError
from medseg.portable.geometry import times
from medseg.portable.io.header import SHEAR_TOLERANCE

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

SAME = 1e-3
"""Direction cosines, and millimetres, that differ by less are the same, written by rounding hands."""

OFF_VOXELS = 0.1
"""How far a slice may lie off an even grid: scanners round their positions."""


def stack_slices(slices: Sequence[Slice], place: Path) -> tuple[list[Slice], np.ndarray, list[str]]:
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
    row, column = slices[0].axes
    normal = np.cross(row, column)
    if abs(float(row @ column)) > SHEAR_TOLERANCE:
        raise DataError("has rows and columns that are not at right angles", path=place)
    normal /= np.linalg.norm(normal)
    heights = np.array([one.position @ normal for one in slices])
    order = np.argsort(heights, kind="stable")
    ordered, heights, notes = _remove_copies([slices[n] for n in order], heights[order], place)
    distance, of_distance = _slice_distance(ordered, heights, place)
    _refuse_tilt(ordered, normal, place)
    affine = np.eye(4)
    affine[:3, 0] = row * slices[0].spacing_mm[0]
    affine[:3, 1] = column * slices[0].spacing_mm[1]
    affine[:3, 2] = normal * distance
    affine[:3, 3] = ordered[0].position
    return ordered, LPS_TO_RAS @ affine, [*notes, *of_distance]


def _refuse_mixed(slices: Sequence[Slice], place: Path) -> None:
    first = slices[0]
    hint = "keep those of one volume only"
    for other in slices[1:]:
        if other.size != first.size:
            found = f"{times(first.size)} voxels ({first}) and {times(other.size)} ({other})"
            raise DataError(f"mixes slices of {found}", path=place, hint=hint)
        difference = np.abs(np.subtract(other.spacing_mm, first.spacing_mm)).max()
        if difference > SAME * min(first.spacing_mm):
            found = f"{times(first.spacing_mm)} mm ({first}) and {times(other.spacing_mm)} mm ({other})"
            raise DataError(f"mixes pixel spacings: {found}", path=place, hint=hint)
    turned = [one for one in slices if np.abs(one.axes - first.axes).max() > SAME]
    if turned:
        found = f"{len(turned)} of {len(slices)} slices do not lie like {first}, such as {turned[0]}"
        raise DataError(f"mixes orientations: {found}", path=place, hint=hint)


def _remove_copies(
    ordered: Sequence[Slice], heights: np.ndarray, place: Path
) -> tuple[list[Slice], np.ndarray, list[str]]:
    """One slice per position, their heights, and notes; copies of one instance are left out.

    Args:
        ordered: the slices along their normal.
        heights: (n,) of each, mm.
        place: for messages.

    Raises:
        DataError: several images share a position.
    """
    same_place = np.flatnonzero(np.diff(heights) < SAME) + 1
    copies = set()
    for n in same_place.tolist():
        one, before = ordered[n], ordered[n - 1]
        if (one.uid, one.frame) != (before.uid, before.frame):
            problem = _shared_positions(ordered, heights)
            raise DataError(problem, path=place, hint="export one of them as a series of its own")
        copies.add(n)
    if not copies:
        return list(ordered), heights, []
    kept = [n for n in range(len(ordered)) if n not in copies]
    note = f"{len(copies)} files are copies of others, such as {ordered[min(copies)]}: left out"
    return [ordered[n] for n in kept], heights[kept], [note]


def _shared_positions(ordered: Sequence[Slice], heights: np.ndarray) -> str:
    """The problem that several images share a position, with the attribute that tells them apart."""
    positions = 1 + int(np.count_nonzero(np.diff(heights) >= SAME))
    problem = f"holds several images at one position: {len(ordered)} images at {positions} positions"
    for name in MOMENTS:
        counts = Counter(one.moments.get(name) for one in ordered)
        if len(counts) > 1 and max(counts.values()) <= positions:
            some = sorted(str(value) for value in list(counts)[:4])
            return f"{problem} ({name} {', '.join(some)})"
    return problem


def _slice_distance(ordered: Sequence[Slice], heights: np.ndarray, place: Path) -> tuple[float, list[str]]:
    """Distance of neighbouring slices in mm, and notes.

    Raises:
        DataError: slices are missing, or not evenly spaced.
    """
    if len(ordered) == 1:
        thickness = ordered[0].thickness_mm
        if thickness:
            return thickness, [f"is a single slice: {thickness:g} mm thick"]
        return 1.0, ["is a single slice: with an unknown thickness, 1 mm thick"]
    distances = np.diff(heights)
    _refuse_gaps(ordered, heights, place)
    mean_distance = float((heights[-1] - heights[0]) / (len(heights) - 1))
    evenly = np.linspace(heights[0], heights[-1], len(heights))
    if np.abs(heights - evenly).max() / mean_distance > OFF_VOXELS:
        found = f"has slices {distances.min():.4g} to {distances.max():.4g} mm apart"
        raise DataError(
            f"{found}; accepted is one distance throughout", path=place,
            hint="resample it to an even spacing first, or use a reconstruction with one",
        )  # fmt: skip
    return mean_distance, []


def _refuse_gaps(ordered: Sequence[Slice], heights: np.ndarray, place: Path) -> None:
    """Refuse slices that are evenly spaced but for some that are missing."""
    distances = np.diff(heights)
    in_steps = distances / float(np.median(distances))
    whole_steps = np.round(in_steps)
    gaps = np.flatnonzero(whole_steps > 1)
    if not len(gaps) or np.abs(in_steps - whole_steps).max() > OFF_VOXELS:
        return
    described = [_describe_gap(ordered, heights, int(n), int(whole_steps[n]) - 1) for n in gaps[:3]]
    more = f" and at {len(gaps) - 3} more places" if len(gaps) > 3 else ""
    missing = int(sum(whole_steps[gaps] - 1))
    verb = "slices are" if missing > 1 else "slice is"
    raise DataError(
        f"{missing} {verb} missing: {', '.join(described)}{more}", path=place, hint="copy the whole series again"
    )


def _describe_gap(ordered: Sequence[Slice], heights: np.ndarray, n: int, count: int) -> str:
    """Where slices are missing between slice `n` and the next one."""
    before, after = ordered[n], ordered[n + 1]
    if abs(np.cross(*ordered[0].axes)[2]) > 1 - SAME:
        axis, low, high = "z", before.position[2], after.position[2]
    else:
        axis, low, high = "the slice axis", heights[n], heights[n + 1]
    return f"{count} between {axis} = {low:.4g} mm ({before}) and {high:.4g} mm ({after})"


def _refuse_tilt(ordered: Sequence[Slice], normal: np.ndarray, place: Path) -> None:
    """Refuse slices whose first voxels do not lie on one line upright on them: a tilted gantry, or shifts."""
    shifts = np.array([one.position - ordered[0].position for one in ordered])
    sideways = shifts - np.outer(shifts @ normal, normal)
    height = float(shifts[-1] @ normal)
    tilt = float(np.linalg.norm(sideways[-1]))
    if len(ordered) > 1 and tilt > SHEAR_TOLERANCE * height:
        angle = np.degrees(np.arctan2(tilt, height))
        raise DataError(
            f"was scanned with a tilted gantry: each slice is shifted against the next, the volume is sheared by "
            f"{angle:.3g} degrees; accepted is a right-angled one", path=place,
            hint="straighten it first, as dcm2niix does, and give the result",
        )  # fmt: skip
    line = np.linspace(0, 1, len(ordered))[:, None] * sideways[-1]
    off_mm = np.linalg.norm(sideways - line, axis=1).max()
    off_voxels = off_mm / min(ordered[0].spacing_mm)
    if off_voxels > OFF_VOXELS:
        raise DataError(f"has slices that are shifted sideways by up to {off_voxels:.2g} voxels", path=place)
