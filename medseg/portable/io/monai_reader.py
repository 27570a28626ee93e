"""The verified reader for MONAI: `LoadImaged(keys, reader=VerifiedReader, ensure_channel_first=True)`."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.config import PathLike
from monai.data import ImageReader
from monai.utils import ensure_tuple
from monai.utils.enums import MetaKeys, SpaceKeys

from ..geometry import offset, same_order
from .read import SUFFIXES, Header, VolumeError, read_volume

# LoadImage makes every reader it knows, and where pydicom is installed one of them complains of a decoder for GPUs
logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")


class VerifiedReader(ImageReader):
    """Reads with `read_volume`; several files are the channels of one image.

    Args:
        as_closest_canonical: turn the axes to RAS on the way, in the same pass over memory that puts the voxels into
            MONAI's order; the affine follows, `original_affine` and `spatial_shape` stay those of the file.

    Raises:
        VolumeError: from `get_data`, for files that cannot be used and for NaN or infinite voxels.
    """

    def __init__(self, as_closest_canonical: bool = False) -> None:
        super().__init__()
        self.as_closest_canonical = as_closest_canonical

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Whether every file has an ending that is known."""
        return all(str(f).lower().endswith(SUFFIXES) for f in ensure_tuple(filename))

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> tuple[Path, ...]:
        """Only the paths: LoadImage answers an error here with the next, less careful reader."""
        return tuple(Path(f) for f in ensure_tuple(data))

    def volume(self, path: Path) -> tuple[np.ndarray, Header]:
        """Voxels and header of one file; see `read_volume`."""
        return read_volume(path)

    def get_data(self, img: tuple[Path, ...]) -> tuple[np.ndarray, dict]:
        """The voxels `(C, X, Y, Z)`, at least as precise as stored, and what MONAI wants to know of them."""
        volumes = [self.volume(path) for path in img]
        arrays = [array for array, _ in volumes]
        first = volumes[0][1]
        for array, header in volumes:
            _refuse_non_finite(array, header)
            _refuse_other_grid(header, first)
        affine = first.affine.copy()
        if self.as_closest_canonical:
            turns = nib.io_orientation(affine)
            affine = affine @ nib.orientations.inv_ornt_aff(turns, first.shape)
            arrays = [_turn(array, turns) for array in arrays]
        meta = {
            MetaKeys.AFFINE: affine,
            MetaKeys.ORIGINAL_AFFINE: first.affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.asarray(first.shape),
            MetaKeys.ORIGINAL_CHANNEL_DIM: 0,
            MetaKeys.SPACE: SpaceKeys.RAS,
        }
        channels = [_to_c_order(array) for array in arrays]
        image = channels[0] if len(channels) == 1 else np.concatenate(channels)
        return image, meta


def _turn(array: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """A view of `(C, X, Y, Z)` with its spatial axes permuted and flipped."""
    turned = nib.apply_orientation(np.moveaxis(array, 0, -1), turns)
    return np.moveaxis(turned, -1, 0)


def _to_c_order(array: np.ndarray) -> np.ndarray:
    """C order in one pass, which MONAI asks for next; as float32, its default, where that loses nothing.

    Plane by plane along the axis that runs fastest neither before nor after: a volume at once would miss the cache
    at every voxel, and take two to three times as long.
    """
    exact = array.dtype.itemsize <= 2 or array.dtype == np.float32
    out = np.empty(array.shape, np.float32 if exact else array.dtype)
    fastest = min((1, 2, 3), key=lambda axis: abs(array.strides[axis]))
    axis = 1 if fastest == 2 else 2
    planes = np.moveaxis(out, axis, 1)
    stored = np.moveaxis(array, axis, 1)
    for channel in range(len(array)):
        for plane in range(stored.shape[1]):
            planes[channel, plane] = stored[channel, plane]
    return out


def _refuse_non_finite(array: np.ndarray, header: Header) -> None:
    if array.dtype.kind != "f":
        return
    if np.isfinite(array.min()) and np.isfinite(array.max()):
        return
    bad = array.size - np.count_nonzero(np.isfinite(array))
    raise VolumeError(
        f"{bad} of {array.size} voxels are NaN or infinite",
        path=header.path,
        hint="replace them on purpose, by the value of air for instance",
    )


def _refuse_other_grid(header: Header, first: Header) -> None:
    """Channels of one image lie on one grid."""
    other = f"the first channel ({first.path.name})"
    hint = "resample the channels to one grid"
    if header.shape != first.shape:
        found = f"has the shape {header.shape}, {other} has {first.shape}"
        raise VolumeError(found, path=header.path, hint=hint)
    if not same_order(first, header):
        raise VolumeError(f"is stored in another order than {other}", path=header.path, hint=hint)
    moved = offset(first, header)
    if not moved.is_taken:
        raise VolumeError(f"lies up to {moved} off {other}", path=header.path, hint=hint)
