"""The header of a NIfTI file that is written: placed by both forms of its image, with their codes and the unit.

A NIfTI header places its voxels twice, by sform and qform. Programs choose differently between the two, so a label
map lies on its image in all of them only where it repeats both.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header

from ..header import corners_mm
from .affine import best_affine

SCANNER = 1
"""Code of a form in the scanner's axes, for images of formats that have no codes."""

LARGEST_NIFTI1 = 32767
"""Voxels along an axis that a NIfTI-1 header can count."""

SAME_GRID_VOXELS = 1e-3
"""Two grids whose corners agree to this part of a voxel are the same one."""

SPATIAL_UNIT = 7
"""Bits of `xyzt_units` that hold the spatial unit; the others are of time."""

FORM_FIELDS = (
    "qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "sform_code", "srow_x", "srow_y", "srow_z",
)  # fmt: skip


def decode_header(stored: bytes) -> Any:
    """A header as stored, as nibabel's object: 348 bytes of NIfTI-1 or 540 of NIfTI-2, in either byte order."""
    kind = Nifti2Header if len(stored) == Nifti2Header.sizeof_hdr else Nifti1Header
    return kind(stored, check=False)


def count_dimensions(stored: bytes) -> int:
    """How many dimensions a stored header counts: 2 of a 2D image."""
    return int(decode_header(stored)["dim"][0])


def new_header(shape: tuple[int, ...], dtype: np.dtype, affine: np.ndarray, source: bytes = b"") -> Any:
    """The header of a single file, without an intent, a description or a scale.

    It is NIfTI-2 where the source is, and where NIfTI-1 cannot count the voxels.

    Args:
        shape: `(X, Y)`, `(X, Y, Z)` or `(X, Y, Z, K)`.
        dtype: of the voxels.
        affine: (4, 4), where they lie, RAS mm.
        source: stored NIfTI header of the image on whose grid they lie. Both of its forms, their codes and its unit
            are taken as they are, unless `shape` or `affine` say that this is another grid; then, and without a
            source, both forms are the affine, in millimetres.
    """
    stored = decode_header(source) if source else None
    needs_nifti2 = max(shape) > LARGEST_NIFTI1 or isinstance(stored, Nifti2Header)
    header = Nifti2Header() if needs_nifti2 else Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header["vox_offset"] = header.single_vox_offset
    if stored is None:
        _place_by_affine(header, affine, SCANNER)
    elif _is_grid_of(decode_header(source), shape, affine):
        _place_as(header, stored)
    else:
        code = int(stored["sform_code"]) or int(stored["qform_code"]) or SCANNER
        _place_by_affine(header, affine, code)
    return header


def _is_grid_of(stored: Any, shape: tuple[int, ...], affine: np.ndarray) -> bool:
    """Whether a source's voxels are those of an array; mends the voxel sizes of `stored`."""
    count = int(stored["dim"][0])
    extents = [int(n) for n in stored["dim"][1 : min(count, 3) + 1]]
    wanted = [*shape[:3], 1][:3]
    if [*extents, 1][:3] != wanted:
        return False
    own_affine, _ = best_affine(stored)
    shift = corners_mm(own_affine, tuple(wanted)) - corners_mm(affine, tuple(wanted))
    apart = np.linalg.norm(shift, axis=1).max()
    smallest = np.linalg.norm(own_affine[:3, :3], axis=0).min()
    return bool(apart <= SAME_GRID_VOXELS * smallest)


def _place_as(header: Any, stored: Any) -> None:
    for field in FORM_FIELDS:
        header[field] = stored[field]
    header["pixdim"][0] = -1 if stored["pixdim"][0] < 0 else 1  # 0, which some programs write, means 1
    for axis in (1, 2, 3):
        size = float(stored["pixdim"][axis])
        exists = axis <= int(stored["dim"][0])
        usable = np.isfinite(size) and size > 0
        if exists or usable:  # of axes that it lacks a 2D image may say anything
            header["pixdim"][axis] = size
    units = int(stored["xyzt_units"])
    channels_last = int(header["dim"][0]) > 3
    header["xyzt_units"] = units & SPATIAL_UNIT if channels_last else units


def _place_by_affine(header: Any, affine: np.ndarray, code: int) -> None:
    header.set_xyzt_units("mm")
    header.set_sform(affine, code=code)
    header.set_qform(affine, code=code, strip_shears=True)
