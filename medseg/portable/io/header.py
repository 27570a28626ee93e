"""What a read volume is, and the checks of its geometry that every file format shares."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError

SHEAR_TOLERANCE = 1e-3
"""Largest cosine between two axes of a grid that still counts as a right angle: at that angle a line of 512
voxels ends half a voxel from where a right-angled grid would put it. Rounded numbers stay far below it."""

SPACING_RANGE_MM = (1e-5, 1e4)
"""From a light microscope to beyond a whole body; what lies outside is damage and would overflow later."""

FARTHEST_MM = 1e7

DAMAGED = "the header is damaged, write it anew"
COPY_AGAIN = "copy it again"


class VolumeError(DataError):
    """An image file that cannot be used; who opens a file gives the error its path (`naming`)."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the block are told of this file."""
    try:
        yield
    except VolumeError as error:
        error.path = path
        raise


@dataclass(frozen=True, eq=False)
class Header:
    """What a file says of its image beside the voxels.

    Attributes:
        path: the file.
        shape: voxels along the three stored axes; a 2D image has 1 along the last.
        channels: values per voxel.
        affine: (4, 4), voxel indices to millimetres in RAS+ axes.
        spacing_mm: distance of neighbouring voxels along each stored axis.
        dtype: of the stored numbers, before any scaling.
        warnings: what was contradictory in the file, and what was made of it.
        nifti: a NIfTI file's own header as stored, for what is written on its grid; empty for other formats.
    """

    path: Path
    shape: tuple[int, ...]
    channels: int
    affine: np.ndarray
    spacing_mm: tuple[float, float, float]
    dtype: np.dtype
    warnings: tuple[str, ...] = ()
    nifti: bytes = b""

    @property
    def corners_mm(self) -> np.ndarray:
        """(8, 3): where the centres of the eight corner voxels lie, in millimetres."""
        return corners_mm(self.affine, self.shape)


def corners_mm(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(8, 3): world positions of the corner voxels of a grid, the last axis changing fastest."""
    ends = [(0, length - 1) for length in shape]
    corners = np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(8, 3)
    return corners @ affine[:3, :3].T + affine[:3, 3]


def checked_spacing(affine: np.ndarray) -> tuple[float, float, float]:
    """Spacing of a grid that is usable: finite, invertible, right-angled.

    Args:
        affine: (4, 4), voxels to millimetres.

    Raises:
        VolumeError: otherwise, with the numbers.
    """
    if not np.isfinite(affine).all():
        raise VolumeError("its affine holds NaN or infinite numbers", hint=DAMAGED)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    low, high = SPACING_RANGE_MM
    if spacing.min() < low or spacing.max() > high:
        found = " x ".join(f"{s:.4g}" for s in spacing)
        raise VolumeError(f"its spacing is {found} mm; accepted is {low:g} to {high:g} mm", hint=DAMAGED)
    farthest = np.abs(affine[:3, 3]).max()
    if farthest > FARTHEST_MM:
        raise VolumeError(f"its origin lies {farthest:.3g} mm away", hint=DAMAGED)
    directions = affine[:3, :3] / spacing
    cosine = np.abs(directions.T @ directions - np.eye(3)).max()
    if cosine > SHEAR_TOLERANCE:
        singular = abs(np.linalg.det(directions)) < SHEAR_TOLERANCE
        what = "singular" if singular else "sheared"
        raise VolumeError(
            f"its affine is {what}: two axes have a cosine of {cosine:.3g}, accepted is {SHEAR_TOLERANCE:g}",
            hint="resample it to a right-angled grid first",
        )
    x, y, z = spacing.tolist()
    return x, y, z


def check_memory(nbytes: int) -> None:
    """Refuse what this machine cannot hold, before anything is allocated."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not every system tells
        return
    if nbytes > memory:
        needed, there = nbytes / 2**30, memory / 2**30
        raise VolumeError(
            f"its header asks for {needed:.1f} GiB, this machine has {there:.1f} GiB",
            hint="crop it, use a larger machine, or mend the header if it is wrong",
        )
