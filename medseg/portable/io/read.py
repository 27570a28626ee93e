"""Medical volumes and 2D images from files, with no silent damage.

`read_header` gives what a file says of itself, bounded by the file's size; `read_volume` the voxels too, with
every byte verified as far as the format allows.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from . import image_files, itk_formats
from .byte_stream import CONVERT, regular_size
from .header import Header, VolumeError, naming
from .nifti import reader as nifti

__all__ = ["SUFFIXES", "Header", "VolumeError", "read_header", "read_volume"]

Reader = Callable[..., tuple["np.ndarray | None", Header]]

READERS: dict[str, Reader] = {
    **dict.fromkeys((".nii", ".nii.gz"), nifti.read),
    **dict.fromkeys((".nrrd", ".mha", ".mhd"), itk_formats.read),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".tif", ".tiff"), image_files.read),
}

SUFFIXES = tuple(READERS)
"""Endings of the files that can be read."""

HALVES = (".hdr", ".img", ".hdr.gz", ".img.gz")


def read_header(path: str | Path, *, indices: bool = False) -> Header:
    """Shape, spacing, placement and type of a file without its voxels.

    Args:
        path: a file of one of `SUFFIXES`.
        indices: as in `read_volume`.

    Raises:
        VolumeError: when the file is missing, is not what its suffix says, or contradicts itself.
    """
    return _read(Path(path), voxels=False, indices=indices)[1]


def read_volume(path: str | Path, *, indices: bool = False) -> tuple[np.ndarray, Header]:
    """Voxels and header of a file.

    Args:
        path: a file of one of `SUFFIXES`.
        indices: of a picture with a palette, the entry of each pixel and not its colour; label maps mean that.

    Returns:
        array `(C, X, Y, Z)` along the stored axes (Z = 1 for a 2D image), in the stored type, or
        float32/float64 where the header scales; NaN and infinities are kept for the caller to count. And the
        header.

    Raises:
        VolumeError: as `read_header`, and for voxels that are missing, superfluous or fail their checksum.
    """
    array, header = _read(Path(path), voxels=True, indices=indices)
    assert array is not None
    return array, header


def _read(path: Path, *, voxels: bool, indices: bool) -> tuple[np.ndarray | None, Header]:
    try:
        with naming(path):
            reader = _reader(path)
            if reader is image_files.read:
                return reader(path, voxels=voxels, indices=indices)
            return reader(path, voxels=voxels)
    except MemoryError as e:
        raise VolumeError("does not fit into memory", path=path, hint="use a larger machine") from e


def _reader(path: Path) -> Reader:
    regular_size(path)  # first: for a missing file or a folder the suffix does not matter
    name = path.name.lower()
    if name.endswith(HALVES):
        raise VolumeError("is one half of a header/image pair", hint="convert it to a single .nii.gz")
    for suffix in sorted(READERS, key=len, reverse=True):
        if name.endswith(suffix):
            return READERS[suffix]
    if name.endswith((".dcm", ".ima")):
        raise VolumeError("is DICOM, an image file is needed", hint=CONVERT)
    raise VolumeError(f"has an unknown suffix; accepted are {', '.join(SUFFIXES)}")
