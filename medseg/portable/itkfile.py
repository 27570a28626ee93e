"""One file through ITK: SimpleITK where it is installed, else the `itk` package that MONAI environments have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .volume import VolumeError

NAMES = {"char": "int8", "short": "int16", "int": "int32", "long": "int64", "long_long": "int64"}


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
    return Opened(
        tuple(reader.GetSize()),
        tuple(reader.GetSpacing()),
        tuple(reader.GetOrigin()),
        np.asarray(reader.GetDirection(), float).reshape(count, count),
        reader.GetNumberOfComponents(),
        np.dtype(base + bits) if base and "label" not in kind else None,
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
    name = component.removeprefix("unsigned_")
    stored = NAMES.get(name, name if name in ("float", "double") else None)
    if stored and component != name:
        stored = "u" + stored
    return Opened(
        tuple(reader.GetDimensions(i) for i in axes),
        tuple(reader.GetSpacing(i) for i in axes),
        tuple(reader.GetOrigin(i) for i in axes),
        np.array([reader.GetDirection(i) for i in axes], float).T,
        reader.GetNumberOfComponents(),
        np.dtype("float32" if stored == "float" else stored) if stored and pixel != "complex" else None,
        f"{pixel} of {component}",
        lambda: _itk_array(path),
    )


def _itk_array(path: Path) -> np.ndarray:
    import itk

    try:
        return itk.array_from_image(itk.imread(str(path)))
    except TypeError as e:  # its Python side is built for some voxel types only, not for signed bytes
        raise RuntimeError("itk cannot read voxels of this type, SimpleITK can") from e
