"""The numbers of slices: decoded by pydicom, or by the GDCM inside SimpleITK, and rescaled slice by slice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medseg.dicom.availability import quietly, reason_of
from medseg.dicom.slice_headers import Slice
from medseg.errors import DataError
from medseg.portable.io.header import COPY_AGAIN


def rescaled(slices: Sequence[Slice]) -> Iterator[np.ndarray]:
    """`(rows, columns)` of each slice with its own slope and offset applied.

    Raises:
        DataError: the pixels of a file are damaged, or in an encoding that nothing here decodes.
    """
    multi, frames = Path(), np.empty(0)
    for piece in slices:
        if piece.frame is None:
            stored, done = _decoded(piece.path)
        else:
            if piece.path != multi:  # opened once
                multi, frames = piece.path, _decoded(piece.path, frames=True)[0]
            stored, done = frames[piece.frame], False
        if stored.shape != piece.size[::-1]:
            raise DataError(f"holds {stored.shape} pixels, its header says {piece.size[::-1]}", path=piece.path)
        slope, offset = (1.0, 0.0) if done else piece.scale
        yield stored if (slope, offset) == (1, 0) else stored.astype(np.float64) * slope + offset


def _decoded(path: Path, *, frames: bool = False) -> tuple[np.ndarray, bool]:
    """Numbers of one slice, or of all `frames`, and whether they are rescaled already."""
    import pydicom
    from pydicom.pixels import pixel_array

    try:
        with quietly():
            data = pydicom.dcmread(path, force=True)
            syntax = _syntax(data)
            if not _has_decoder(syntax):
                return _by_gdcm(path, syntax, frames=frames), True
            array = pixel_array(data, raw=True)
            return (array[None] if frames and array.ndim == 2 else array), False
    except DataError:
        raise
    except Exception as error:  # decoders raise whatever a damaged byte leads to
        raise DataError(f"its pixels cannot be read ({reason_of(error)})", path=path, hint=COPY_AGAIN) from error


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


def _by_gdcm(path: Path, syntax: Any, *, frames: bool) -> np.ndarray:
    """JPEG Lossless, which many scanners' archives use, is known to GDCM and not to pydicom alone."""
    import SimpleITK as sitk  # noqa: N813 - the name everyone knows

    told = f"its pixels are encoded as {syntax.name} ({syntax}), which cannot be decoded here"
    if not frames:
        try:
            return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[0]
        except RuntimeError as error:
            raise DataError(told, path=path, hint="decompress it first, as gdcmconv --raw does") from error
    raise DataError(told, path=path, hint="decompress it first, as gdcmconv --raw does")
