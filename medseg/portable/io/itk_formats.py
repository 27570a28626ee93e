"""NRRD and MetaImage (MHA, MHD) through ITK, after a check that the data are all there.

ITK reports a truncated file of these formats, but takes surplus bytes, a missing gzip trailer and a damaged
zlib stream; so the data of a NRRD are run through once before ITK gets to see them. Those of a MetaImage are read
here: where its header does not say how long the packed voxels are, or says it wrongly, ITK gives other ones.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import itk_formats
from .byte_stream import MAX_RATIO, Stream, regular_size
from .header import COPY_AGAIN, DAMAGED, Header, VolumeError, check_memory, checked_spacing, naming
from .itk_headers import Payload, meta_payload, nrrd_payload

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read(path: Path, *, voxels: bool) -> tuple[np.ndarray | None, Header]:
    """Read a NRRD or MetaImage file.

    Args:
        path: a .nrrd, .mha or .mhd file.
        voxels: False stops after the header.

    Returns:
        array `(C, X, Y, Z)` (None without voxels), and the header with its affine turned from LPS to RAS.

    Raises:
        VolumeError: for a file that is not what it says, and when neither SimpleITK nor itk is installed.
    """
    payload = nrrd_payload(path) if path.name.lower().endswith(".nrrd") else meta_payload(path)
    try:
        opened = itk_formats.open_file(path)
        header = _header(opened, path)
        _check_size(payload, header)
        if not voxels:
            return None, header
        if payload.order is None:
            _check_data(payload, _nbytes(header))
            array = opened.array()
        else:
            array = _stored(payload, header)
    except RuntimeError as e:
        reason = str(e).strip().splitlines()[-1].replace(str(path), path.name)
        raise VolumeError(f"cannot be read: {reason}", hint="convert it to .nii.gz") from e
    shape = (*header.shape[::-1], header.channels)
    return array.reshape(shape).transpose(3, 2, 1, 0), header


def files_of_image(path: Path) -> tuple[Path, ...]:
    """The files that an image consists of: the file itself, with the file of its voxels that a `.mhd` header names.

    Raises:
        VolumeError: a header that names none, or one that is not there.
    """
    if path.suffix.lower() != ".mhd":
        return (path,)
    with naming(path):
        return tuple(dict.fromkeys((path, meta_payload(path).path)))


def _header(opened: itk_formats.Opened, path: Path) -> Header:
    count = len(opened.size)
    if count not in (2, 3):
        raise VolumeError(f"has {count} dimensions; accepted is 2 or 3", hint="split it into volumes")
    if opened.dtype is None:
        raise VolumeError(f"holds voxels of the type '{opened.kind}'", hint="save plain numbers")
    affine = np.eye(4)
    affine[:count, :count] = opened.direction * np.asarray(opened.spacing, float)
    affine[:count, 3] = opened.origin
    affine = LPS_TO_RAS @ affine
    spacing = checked_spacing(affine)
    extents = [int(length) for length in opened.size]
    shape = (*extents, 1)[:3]
    return Header(path, shape, opened.components, affine, spacing, opened.dtype)


def _nbytes(header: Header) -> int:
    return prod(header.shape) * header.channels * header.dtype.itemsize


def _check_size(payload: Payload, header: Header) -> None:
    """Compare the size that the header asks for with the file, before anything is allocated."""
    need = _nbytes(header)
    there = regular_size(payload.path) - payload.offset
    if payload.packing == "raw" and need != there:
        raise VolumeError(f"its header asks for {need} bytes of voxels, the file has {there}", hint=COPY_AGAIN)
    if need > there * MAX_RATIO + 1024:
        raise VolumeError(f"its header asks for {need} bytes, {there} cannot inflate to that", hint=DAMAGED)
    check_memory(2 * need)


def _check_data(payload: Payload, need: int) -> None:
    """Inflate compressed voxels once, with their checksum, and count them."""
    if payload.packing == "raw":
        return
    with Stream(payload.path, payload.offset, payload.packing) as stream:
        _check_count(stream, stream.skip(need), need)


def _check_count(stream: Stream, found: int, need: int) -> None:
    """See that a stream of voxels had as many bytes as it should, and ends there."""
    if found < need:
        raise VolumeError(f"is cut off: {found} of {need} bytes of voxels", hint=COPY_AGAIN)
    if stream.upto(1):
        raise VolumeError("contradicts itself: more bytes follow the last voxel", hint=DAMAGED)


def _stored(payload: Payload, header: Header) -> np.ndarray:
    """The voxels of a MetaImage, flat."""
    stored = bytearray(_nbytes(header))
    with Stream(payload.path, payload.offset, payload.packing) as stream:
        _check_count(stream, stream.into(memoryview(stored)), len(stored))
    return np.frombuffer(stored, header.dtype.newbyteorder(payload.order or "little")).astype(header.dtype, copy=False)


DTYPES = {
    "char": "int8",
    "short": "int16",
    "int": "int32",
    "long": "int64",
    "long_long": "int64",
    "float": "float32",
    "double": "float64",
}
"""itk's names of signed types."""


class Opened(NamedTuple):
    """What the header says, LPS as in ITK, and how to get the voxels.

    Attributes:
        size: voxels along each axis.
        spacing: mm.
        origin: mm.
        direction: columns are the axes.
        components: numbers per voxel.
        dtype: stored, or None for voxels that are no plain numbers.
        kind: in words.
        array: reads the voxels, axes reversed, components last.
    """

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: np.ndarray
    components: int
    dtype: np.dtype | None
    kind: str
    array: Callable[[], np.ndarray]


def open_file(path: Path) -> Opened:
    """Read the header.

    Raises:
        VolumeError: neither package is installed.
        RuntimeError: whatever ITK finds wrong.
    """
    for way in (by_simpleitk, by_itk):
        try:
            return way(path)
        except ImportError:
            continue
    raise VolumeError("needs SimpleITK or itk to be read", hint="pip install SimpleITK")


def by_simpleitk(path: Path) -> Opened:
    """With SimpleITK."""
    import SimpleITK as sitk  # noqa: N813 - the name everyone knows

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    count = reader.GetDimension()
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())  # "vector of 16-bit unsigned integer", "64-bit float"
    bits, _, name = kind.removeprefix("vector of ").partition("-bit ")
    base = {"signed integer": "int", "unsigned integer": "uint", "float": "float"}.get(name)
    plain = base is not None and "label" not in kind
    return Opened(
        tuple(reader.GetSize()),
        tuple(reader.GetSpacing()),
        tuple(reader.GetOrigin()),
        np.asarray(reader.GetDirection(), float).reshape(count, count),
        reader.GetNumberOfComponents(),
        np.dtype(f"{base}{bits}") if plain else None,
        kind,
        lambda: sitk.GetArrayFromImage(reader.Execute()),
    )


def by_itk(path: Path) -> Opened:
    """With itk."""
    import itk

    reader = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
    if reader is None:
        raise RuntimeError("itk has no reader for it")
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    axes = range(reader.GetNumberOfDimensions())
    component = reader.GetComponentTypeAsString(reader.GetComponentType())
    pixel = reader.GetPixelTypeAsString(reader.GetPixelType())
    return Opened(
        tuple(reader.GetDimensions(i) for i in axes),
        tuple(reader.GetSpacing(i) for i in axes),
        tuple(reader.GetOrigin(i) for i in axes),
        np.array([reader.GetDirection(i) for i in axes], float).T,
        reader.GetNumberOfComponents(),
        None if pixel == "complex" else _dtype_of(component),
        f"{pixel} of {component}",
        lambda: _itk_array(path),
    )


def _dtype_of(component: str) -> np.dtype | None:
    """The type that itk calls so ("unsigned_short"); None for what is no plain number."""
    name = component.removeprefix("unsigned_")
    dtype = DTYPES.get(name)
    if dtype is None:
        return None
    return np.dtype(dtype if component == name else f"u{dtype}")


def _itk_array(path: Path) -> np.ndarray:
    import itk

    try:
        return itk.array_from_image(itk.imread(str(path)))
    except TypeError as e:  # its Python side is built for some voxel types only, not for signed bytes
        raise RuntimeError("itk cannot read voxels of this type, SimpleITK can") from e
