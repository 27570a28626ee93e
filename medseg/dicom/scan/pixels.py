"""The voxels of slices: decoded by pydicom, or by the GDCM inside SimpleITK, and rescaled slice by slice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medseg.dicom.availability import reason_of, without_pydicom_warnings
from medseg.dicom.scan.slice_headers import Slice
from medseg.errors import DataError
from medseg.portable.io.header import COPY_AGAIN


def read_rescaled(slices: Sequence[Slice]) -> Iterator[np.ndarray]:
    """`(rows, columns)` of each slice with its own slope and offset applied.

    Raises:
        DataError: the pixels of a file are damaged, or in an encoding that nothing here decodes.
    """
    multi_frame: Path | None = None
    frames = np.empty(0)
    for one in slices:
        if one.frame is None:
            stored, is_rescaled = _decode(one.path)
        else:
            if one.path != multi_frame:  # opened once
                multi_frame = one.path
                frames, _ = _decode(one.path, frames=True)
            stored, is_rescaled = frames[one.frame], False
        if stored.shape != one.size[::-1]:
            raise DataError(f"holds {stored.shape} pixels, its header says {one.size[::-1]}", path=one.path)
        slope, offset = one.scale
        if is_rescaled or (slope == 1 and offset == 0):
            yield stored
        else:
            yield stored.astype(np.float64) * slope + offset


def _decode(path: Path, *, frames: bool = False) -> tuple[np.ndarray, bool]:
    """Numbers of one slice, or of all `frames`, and whether they are rescaled already."""
    import pydicom
    from pydicom.pixels import pixel_array

    try:
        with without_pydicom_warnings():
            data = pydicom.dcmread(path, force=True)
            syntax = _syntax(data)
            if not _has_decoder(syntax):
                return _decode_by_gdcm(path, syntax, frames=frames), True
            array = pixel_array(data, raw=True)
    except DataError:
        raise
    except Exception as error:  # decoders raise whatever a damaged byte leads to
        raise DataError(f"its pixels cannot be read ({reason_of(error)})", path=path, hint=COPY_AGAIN) from error
    if frames and array.ndim == 2:  # a multi-frame file of one frame
        array = array[None]
    return array, False


def _syntax(data: Any) -> Any:
    """The transfer syntax; that of a file without a header is how pydicom could parse it."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if "TransferSyntaxUID" not in data.file_meta:
        implicit, little = data.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return data.file_meta.TransferSyntaxUID


def _has_decoder(syntax: Any) -> bool:
    from pydicom.pixels import get_decoder

    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:  # pydicom's answer for a syntax that it has no decoder for at all
        return False


def _decode_by_gdcm(path: Path, syntax: Any, *, frames: bool) -> np.ndarray:
    """Decode what pydicom alone does not, such as JPEG Lossless, which many scanners' archives use."""
    import SimpleITK as sitk  # noqa: N813 - the name everyone knows

    problem = DataError(
        f"its pixels are encoded as {syntax.name} ({syntax}), which cannot be decoded here",
        path=path, hint="decompress it first, as gdcmconv --raw does",
    )  # fmt: skip
    if frames:
        raise problem
    try:
        return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[0]
    except RuntimeError as error:
        raise problem from error
