"""Images that a program has in memory: arrays, and images of nibabel, SimpleITK and Pillow.

Each becomes what the reader of its file would give, so that results are those of files, voxel by voxel; what is made of
it goes back into the same kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from medseg.errors import DataError
from medseg.portable.io.header import Header, checked_spacing, naming
from medseg.portable.io.nifti.affine import best_affine
from medseg.portable.io.nifti.header import new_header

ARRAY, NIBABEL, ITK, PILLOW = "an array", "an image of nibabel", "an image of SimpleITK", "an image of Pillow"
ACCEPTED = "accepted are NumPy arrays and images of nibabel, SimpleITK and Pillow"
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
PILLOW_MODES = {"L": 1, "RGB": 3, "I;16": 1, "I": 1, "F": 1}
"""Modes of Pillow that are read as their files are, and their channels."""


@dataclass(frozen=True, eq=False)
class Given:
    """An image in memory.

    Attributes:
        kind: one of `ARRAY`, `NIBABEL`, `ITK` and `PILLOW`.
        voxels: `(C, X, Y, Z)`.
        header: where they lie; its path is the name by which messages call the image.
        restore: makes an image of this kind of an array `(X, Y, Z)` on its grid.
    """

    kind: str
    voxels: np.ndarray
    header: Header
    restore: Callable[[np.ndarray], Any]


def kind_of(image: Any) -> str | None:
    """What an image is; None for anything that is not accepted."""
    if isinstance(image, np.ndarray):
        return ARRAY
    packages = {one.__module__.partition(".")[0] for one in type(image).__mro__}
    known = {"nibabel": NIBABEL, "SimpleITK": ITK, "PIL": PILLOW}
    return next((kind for package, kind in known.items() if package in packages), None)


def given_image(
    image: Any,
    name: str,
    channels: int | None = 1,
    *,
    spacing_mm: Sequence[float] | None = None,
    affine: np.ndarray | None = None,
) -> Given:
    """An image as voxels and where they lie.

    Args:
        image: an array `(X, Y)` or `(X, Y, Z)`, with channels in front where there are several; or an image of
            nibabel, SimpleITK or Pillow.
        name: by which messages call it.
        channels: that are wanted, by which axes of arrays are told apart; None: as many as there are.
        spacing_mm: of an array, one number for each axis of space; the axes are then taken to run to the right, to
            the front and to the head. Of a 2D array 1 mm where neither is given, as pictures are read from files.
        affine: `(4, 4)` of an array, voxels to millimetres in RAS+ axes, in place of `spacing_mm`.

    Raises:
        DataError: another kind, another shape, no spacing, or a placement that no file could have.
    """
    kind = kind_of(image)
    if kind is None:
        raise DataError(f"is a {type(image).__name__}", path=name, hint=ACCEPTED)
    if kind == ARRAY:
        return _of_array(image, name, channels, spacing_mm, affine)
    if spacing_mm is not None or affine is not None:
        raise DataError(f"is {kind}, which has its own spacing", path=name, hint="leave spacing_mm and affine out")
    readers = {NIBABEL: _of_nibabel, ITK: _of_itk, PILLOW: _of_pillow}
    return readers[kind](image, name)


def _header(name: str, voxels: np.ndarray, affine: np.ndarray) -> Header:
    path = Path(name)
    with naming(path):
        spacing = checked_spacing(affine)
    x, y, z = voxels.shape[1:]
    return Header(path, (x, y, z), len(voxels), affine, spacing, voxels.dtype)


def _of_array(
    array: np.ndarray,
    name: str,
    channels: int | None,
    spacing_mm: Sequence[float] | None,
    affine: np.ndarray | None,
) -> Given:
    if array.dtype.kind not in "iufb" or array.size == 0:
        what = f"is an array of {array.dtype} and shape {_shape(array)}"
        raise DataError(what, path=name, hint="accepted are integers and floating-point numbers")
    axes = _axes_of_space(array, name, channels)
    space = array.shape[array.ndim - axes :]
    voxels = array.reshape(-1, *space, *[1] * (3 - axes))
    voxels = voxels.astype(np.uint8) if voxels.dtype == bool else voxels
    header = _header(name, voxels, _affine_of_array(axes, name, spacing_mm, affine))

    def restore(labels: np.ndarray) -> np.ndarray:
        return labels.reshape(space)

    return Given(ARRAY, voxels, header, restore)


def _axes_of_space(array: np.ndarray, name: str, channels: int | None) -> int:
    """How many axes of an array are of space, 2 or 3; the others, in front, are channels."""
    if channels in (None, 1) and array.ndim in (2, 3):
        return array.ndim
    if channels is not None and array.ndim in (3, 4) and array.shape[0] == channels:
        return array.ndim - 1
    if channels is None and array.ndim == 4:
        return 3
    wanted = "(X, Y) or (X, Y, Z)" if channels in (None, 1) else f"({channels}, X, Y) or ({channels}, X, Y, Z)"
    hint = None
    if array.ndim == 3 and array.shape[2] == channels:
        hint = "give a photograph of rows, columns and colours as PIL.Image.fromarray(array)"
    raise DataError(f"is an array of shape {_shape(array)}; accepted is {wanted}", path=name, hint=hint)


def _affine_of_array(axes: int, name: str, spacing_mm: Sequence[float] | None, affine: np.ndarray | None) -> np.ndarray:
    if affine is not None:
        matrix = np.asarray(affine, float)
        if spacing_mm is not None:
            raise DataError("has spacing_mm and affine", path=name, hint="give one of them")
        if matrix.shape != (4, 4):
            raise DataError(f"has an affine of shape {_shape(matrix)}; accepted is (4, 4)", path=name)
        return matrix
    if spacing_mm is None:
        if axes == 3:
            what = "is a volume as an array, and its spacing is unknown"
            raise DataError(what, path=name, hint="give spacing_mm=(x, y, z) or affine")
        return np.eye(4)
    spacing = [float(mm) for mm in np.atleast_1d(np.asarray(spacing_mm, float))]
    if len(spacing) not in (axes, 3):
        raise DataError(f"has {axes} axes of space and spacing_mm has {len(spacing)} numbers", path=name)
    return np.diag([*spacing, *[1.0] * (3 - len(spacing)), 1.0])


def _of_nibabel(image: Any, name: str) -> Given:
    if not isinstance(image, nib.Nifti1Pair):
        hint = "accepted is NIfTI: nibabel.Nifti1Image.from_image(image)"
        raise DataError(f"is a {type(image).__name__}", path=name, hint=hint)
    stored = image.header.binaryblock
    with naming(Path(name)):
        affine, _ = best_affine(image.header.copy())
    array = _scaled(image)
    further = [length for length in array.shape[3:] if length > 1]
    if array.ndim < 2 or len(further) > 1 or array.dtype.kind not in "iufb":
        what = f"is an array of {array.dtype} and shape {_shape(array)}"
        raise DataError(what, path=name, hint="accepted is (X, Y), (X, Y, Z), or (X, Y, Z, channels)")
    flat = array.ndim == 2
    space = (*array.shape[:3], 1)[:3]
    voxels = np.moveaxis(array.reshape(*space, -1), 3, 0)
    header = _header(name, voxels, affine)
    kind = nib.Nifti2Image if isinstance(image, nib.Nifti2Pair) else nib.Nifti1Image

    def restore(labels: np.ndarray) -> Any:
        stored_labels = labels[..., 0] if flat else labels
        made = new_header(stored_labels.shape, labels.dtype, affine, stored)
        return kind(stored_labels, made.get_best_affine(), made)

    return Given(NIBABEL, voxels, header, restore)


def _scaled(image: Any) -> np.ndarray:
    """The intensities as the reader of files computes them: in 32 bits where that holds the stored numbers."""
    data = image.dataobj
    if not nib.is_proxy(data) or (data.slope, data.inter) == (1, 0):
        return np.asarray(data)
    stored = np.asarray(data.get_unscaled())
    exact = stored.dtype.itemsize <= 2 or stored.dtype == np.float32
    scaled: np.ndarray = stored.astype(np.float32 if exact else np.float64)
    np.multiply(scaled, float(data.slope), out=scaled)
    np.add(scaled, float(data.inter), out=scaled)
    return scaled


def _of_itk(image: Any, name: str) -> Given:
    import SimpleITK as sitk  # noqa: N813 - the name everyone knows

    axes = image.GetDimension()
    if axes not in (2, 3):
        raise DataError(f"has {axes} dimensions; accepted is 2 or 3", path=name, hint="split it into volumes")
    array = sitk.GetArrayFromImage(image)  # Z, Y, X, channels
    if image.GetNumberOfComponentsPerPixel() == 1:
        array = array[..., None]
    if axes == 2:
        array = array[None]
    if array.dtype.kind not in "iuf":
        raise DataError(f"holds {image.GetPixelIDTypeAsString()}", path=name, hint="accepted are plain numbers")
    affine = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(axes, axes)
    affine[:axes, :axes] = direction * np.array(image.GetSpacing())
    affine[:axes, 3] = image.GetOrigin()
    voxels = array.transpose(3, 2, 1, 0)
    header = _header(name, voxels, LPS_TO_RAS @ affine)

    def restore(labels: np.ndarray) -> Any:
        planes_first = np.ascontiguousarray(labels.T)
        made = sitk.GetImageFromArray(planes_first[0] if axes == 2 else planes_first)
        made.CopyInformation(image)
        return made

    return Given(ITK, voxels, header, restore)


def _of_pillow(image: Any, name: str) -> Given:
    from PIL import Image

    if image.mode not in PILLOW_MODES:
        what = f"has the mode {image.mode}; accepted are {', '.join(PILLOW_MODES)}"
        raise DataError(what, path=name, hint="convert it, such as image.convert('RGB')")
    pixels = np.asarray(image).reshape(image.height, image.width, PILLOW_MODES[image.mode])
    voxels = pixels.transpose(2, 1, 0)[..., None]
    header = _header(name, voxels, np.eye(4))

    def restore(labels: np.ndarray) -> Any:
        return Image.fromarray(np.ascontiguousarray(labels[..., 0].T))

    return Given(PILLOW, voxels, header, restore)


def _shape(array: np.ndarray) -> str:
    return "x".join(map(str, array.shape)) or "()"
