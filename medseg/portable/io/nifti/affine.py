"""Which of the three placements in a NIfTI header is used: sform over qform over pixdim."""

from __future__ import annotations

from typing import Any

import numpy as np
from nibabel.spatialimages import HeaderDataError

from ..header import DAMAGED, VolumeError, corners_mm

CONFLICT_VOXELS = 0.1
"""Two placements that agree to a tenth of a voxel at every corner are the same one, rounded differently."""

UNITS = {
    0: (1.0, "millimetre"),  # unknown: by convention
    1: (1000.0, "metre"),
    2: (1.0, "millimetre"),
    3: (0.001, "micrometre"),
}
"""Code of the spatial unit -> its length in millimetres and its name."""


def best_affine(header: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """Affine in millimetres and RAS+ axes, with what had to be decided.

    Args:
        header: nibabel's header object; its voxel sizes are mended in place.

    Raises:
        VolumeError: for voxel sizes of 0, for codes that do not exist, for a broken quaternion in use.
    """
    warnings = _mend_pixdim(header)
    sform, qform = _code(header, "sform_code"), _code(header, "qform_code")
    if sform:
        affine = np.asarray(header.get_sform(), float)
        if qform:
            warnings += _conflict(header, affine)
    elif qform:
        affine = _qform(header)
    else:
        affine = np.asarray(header.get_base_affine(), float)
        warnings.append("it has neither sform nor qform: its orientation is assumed from pixdim alone (LAS)")
    code = int(header["xyzt_units"]) & 7
    if code not in UNITS:
        warnings.append(f"its unit code {code} is unknown: taken as millimetres")
    length, name = UNITS.get(code, UNITS[0])
    if length != 1:
        affine[:3] *= length
        warnings.append(f"its unit is the {name}: converted to millimetres")
    return affine, tuple(warnings)


def _mend_pixdim(header: Any) -> list[str]:
    warnings = []
    pixdim = header["pixdim"]
    count = int(header["dim"][0])
    for axis in (1, 2, 3):
        if axis > count and not (np.isfinite(pixdim[axis]) and pixdim[axis] > 0):
            pixdim[axis] = 1  # nobody fills in what a 2D image does not have
        size = float(pixdim[axis])
        if not np.isfinite(size) or size == 0:
            raise VolumeError(f"its voxel size (pixdim) along axis {axis} is {size:g}", hint=DAMAGED)
        if size < 0:
            warnings.append(f"its voxel size along axis {axis} is {size:g}: taken as positive")
            pixdim[axis] = -size
    if pixdim[0] == 0:  # the standard: to be read as 1
        pixdim[0] = 1
    return warnings


def _code(header: Any, name: str) -> int:
    code = int(header[name])
    if not 0 <= code <= 5:
        raise VolumeError(f"its {name} is {code}; accepted is 0 to 5", hint=DAMAGED)
    return code


def _qform(header: Any) -> np.ndarray:
    try:
        with np.errstate(all="ignore"):  # NaN is refused by whoever checks the affine
            return np.asarray(header.get_qform(), float)
    except (HeaderDataError, ValueError) as e:
        raise VolumeError(f"its qform is broken: {e}", hint=DAMAGED) from e


def _conflict(header: Any, sform: np.ndarray) -> list[str]:
    """One line when the qform places the grid elsewhere than the sform that is used."""
    try:
        qform = _qform(header)
    except VolumeError as e:
        return [f"{e.reason}: the sform is used"]
    shape = tuple(max(int(n), 1) for n in header["dim"][1:4])
    with np.errstate(all="ignore"):
        apart = np.linalg.norm(corners_mm(sform, shape) - corners_mm(qform, shape), axis=1).max()
        voxel = np.linalg.norm(sform[:3, :3], axis=0).min()
    if apart <= CONFLICT_VOXELS * voxel:
        return []
    return [f"its sform and qform place it {apart:.3g} mm apart: the sform is used"]
