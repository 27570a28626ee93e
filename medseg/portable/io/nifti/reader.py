"""NIfTI-1 and NIfTI-2 from single files, with every number checked before it is believed.

Neither nibabel (no CRC, no end of stream) nor ITK (NaN becomes 0, a truncated file becomes zeros) is a safe
reader of voxels. nibabel's classes decode the header; size, datatype, offset and affine are checked here, and
the voxels are read to the very end of the stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, isnan, prod
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.spatialimages import HeaderDataError

from ..byte_stream import Stream, gunzip
from ..header import COPY_AGAIN, DAMAGED, Header, VolumeError, check_memory, checked_spacing
from .affine import best_affine
from .header import decode_header

VERSIONS: dict[int, tuple[bytes, int]] = {348: (b"n+1", 352), 540: (b"n+2", 544)}
"""Length of the header -> its magic in single files, the first byte where voxels may lie."""


@dataclass(frozen=True)
class Layout:
    """Where the voxels lie and how they become intensities: `stored * slope + inter`."""

    offset: int
    extents: tuple[int, ...]
    dtype: np.dtype
    slope: float
    inter: float

    @property
    def nbytes(self) -> int:
        """Bytes of all voxels, as a number that cannot overflow."""
        return prod(self.extents) * self.dtype.itemsize

    @property
    def scaled(self) -> bool:
        """Whether the stored numbers are not yet the intensities."""
        return (self.slope, self.inter) != (1.0, 0.0)


def read(path: Path, *, voxels: bool) -> tuple[np.ndarray | None, Header]:
    """Read a NIfTI file.

    Args:
        path: a single file, gzip or not.
        voxels: False stops after the header.

    Returns:
        array `(C, X, Y, Z)` in native byte order (None without voxels), and the header.

    Raises:
        VolumeError: for a file that is not what it says.
    """
    with Stream(path) as stream:
        stored = _stored_header(stream)
        header = decode_header(stored)
        layout = _layout(header, len(stored))
        _check_size(layout, stream)
        affine, warnings = best_affine(header)
        spacing = checked_spacing(affine)
        *shape, channels = layout.extents
        dtype = layout.dtype.newbyteorder("=")
        info = Header(path, tuple(shape), channels, affine, spacing, dtype, warnings, stored)
        if not voxels:
            return None, info
        flat = _read_at_once(stream, layout)
        if flat is None:
            stream.skip(layout.offset - len(stored))
            flat = _read_by_pieces(stream, layout)
    return _intensities(flat, layout), info


def _stored_header(stream: Stream) -> bytes:
    """The 348 bytes of a NIfTI-1 header, or the 540 of a NIfTI-2 header, of a single file."""
    raw = stream.upto(4)
    in_either_order = (int.from_bytes(raw, "little"), int.from_bytes(raw, "big"))
    length = next((version for version in VERSIONS if version in in_either_order), None)
    if length is None:
        hint = "convert it, or give it the suffix of its format"
        raise VolumeError(f"is no NIfTI file: it begins with {raw!r}", hint=hint)
    magic, _ = VERSIONS[length]
    raw += stream.upto(length - 4)
    if len(raw) < length:
        raise VolumeError(f"is cut off: {len(raw)} of the {length} bytes of its header", hint=COPY_AGAIN)
    found = decode_header(raw)["magic"].item()[:3]
    if found in (b"ni1", b"ni2"):
        raise VolumeError("is one half of a header/image pair", hint="convert it to a single .nii.gz")
    if found != magic:
        hint = "Analyze files must be converted to .nii.gz"
        raise VolumeError(f"is no NIfTI file: its magic is {found!r}, not {magic!r}", hint=hint)
    return raw


def _layout(header: Any, start: int) -> Layout:
    lowest = VERSIONS[start][1]
    offset = float(header["vox_offset"]) or float(lowest)
    if not (offset.is_integer() and lowest <= offset < 2**62):
        found = f"its voxels are said to begin at byte {offset:g}"
        raise VolumeError(f"{found}; accepted is {lowest} or later", hint=DAMAGED)
    slope = float(header["scl_slope"])
    inter = float(header["scl_inter"])
    if slope == 0 or isnan(slope):
        slope, inter = 1.0, 0.0  # the standard's way to say "not scaled"
    if not (isfinite(slope) and isfinite(inter)):
        raise VolumeError(f"its intensities are scaled by {slope:g} x + {inter:g}", hint=DAMAGED)
    return Layout(int(offset), _extents(header), _dtype(header), slope, inter)


def _extents(header: Any) -> tuple[int, ...]:
    """(X, Y, Z, C): trailing axes of 1 do not count, one longer axis beyond the third is channels."""
    count, *extents = (int(number) for number in header["dim"])
    if not 2 <= count <= 7:
        raise VolumeError(f"has {count} dimensions; accepted is 2, 3, or 4 with channels last")
    used = extents[:count]
    if min(used) < 1:
        raise VolumeError(f"its dimensions are {used}; each must be at least 1", hint=DAMAGED)
    used += [1] * (3 - count)
    further = [n for n in used[3:] if n > 1]
    if len(further) > 1:
        hint = "accepted is 3, or 4 with channels last: split it into volumes"
        raise VolumeError(f"its dimensions are {used}", hint=hint)
    return (*used[:3], further[0] if further else 1)


def _dtype(header: Any) -> np.dtype:
    code = int(header["datatype"])
    bits = int(header["bitpix"])
    try:
        dtype = np.dtype(header.get_data_dtype())
    except (HeaderDataError, KeyError) as e:
        raise VolumeError(f"its datatype code {code} is unknown", hint=DAMAGED) from e
    if dtype.names or dtype.kind == "c":
        what = "colours (RGB)" if dtype.names else "complex numbers"
        raise VolumeError(f"holds {what}", hint="save channels as a 4th dimension of plain numbers")
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        name = header.get_value_label("datatype")
        hint = "save it as integers of 8 to 64 bits or as floating point of 32 or 64"
        raise VolumeError(f"its datatype ({name}) is not accepted", hint=hint)
    if bits not in (0, 8 * dtype.itemsize):  # believing either one may read every voxel wrongly
        raise VolumeError(f"contradicts itself: {dtype.name} voxels of {bits} bits", hint=DAMAGED)
    return dtype


def _check_size(layout: Layout, stream: Stream) -> None:
    """Compare the size that the header asks for with the file, before anything is allocated."""
    need = layout.offset + layout.nbytes
    if need > stream.most:
        there = f"{stream.size} bytes"
        if stream.compressed:
            there += f", which cannot inflate to more than {stream.most}"
        raise VolumeError(f"is cut off: its header asks for {need} bytes, it has {there}", hint=COPY_AGAIN)
    if not stream.compressed and need < stream.size:
        raise _surplus(f"{stream.size - need} bytes")
    copies = 2 if layout.scaled else 1
    check_memory(copies * layout.nbytes)


def _surplus(what: str) -> VolumeError:
    return VolumeError(f"contradicts itself: {what} follow the last voxel", hint=DAMAGED)


def _read_at_once(stream: Stream, layout: Layout) -> np.ndarray | None:
    """All voxels as they are stored, if the file is of the common kind that can be inflated in one go."""
    if not stream.compressed or layout.offset % layout.dtype.itemsize:  # torch takes no unaligned arrays
        return None
    found = gunzip(stream.path, layout.offset + layout.nbytes)
    if found is None:
        return None
    return np.frombuffer(found, layout.dtype, offset=layout.offset)


def _read_by_pieces(stream: Stream, layout: Layout) -> np.ndarray:
    """The same from any file, or what is wrong with it."""
    flat = np.empty(prod(layout.extents), layout.dtype)
    found = stream.into(flat.view(np.uint8).data)
    if found < layout.nbytes:
        raise VolumeError(f"is cut off: {found} of {layout.nbytes} bytes of voxels", hint=COPY_AGAIN)
    if stream.upto(1):  # at its end the stream verifies CRC and length
        raise _surplus("more bytes")
    return flat


def _intensities(flat: np.ndarray, layout: Layout) -> np.ndarray:
    if not flat.dtype.isnative:
        flat = flat.byteswap(inplace=True).view(flat.dtype.newbyteorder("="))
    if layout.scaled:
        flat = _scale(flat, layout)
    return np.moveaxis(flat.reshape(layout.extents, order="F"), 3, 0)


def _scale(flat: np.ndarray, layout: Layout) -> np.ndarray:
    exact = flat.dtype.itemsize <= 2 or flat.dtype == np.float32  # float32 holds these, others need float64
    scaled: np.ndarray = flat.astype(np.float32 if exact else np.float64)
    with np.errstate(all="ignore"):  # an overflow becomes Inf, which the callers count
        np.multiply(scaled, layout.slope, out=scaled)
        np.add(scaled, layout.inter, out=scaled)
    return scaled
