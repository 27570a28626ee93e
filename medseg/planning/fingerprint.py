"""The fingerprint of a data set: spacing and size of its images, from their headers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from medseg.errors import ManifestError
from medseg.manifest.manifest import Manifest
from medseg.ops.pretext.rotations import SPACING_TOLERANCE
from medseg.portable.io.read import Header, read_header

FEW_FILES = 0.05
"""Share of the files that may be otherwise."""


@dataclass(frozen=True)
class Fingerprint:
    """Spacing and size of the images that training uses, along RAS axes.

    Args:
        spacing_mm: `(N, 3)`.
        shape: `(N, 3)` voxels.
        paths: N first images.
    """

    spacing_mm: np.ndarray
    shape: np.ndarray
    paths: tuple[Path, ...]


def read_fingerprint(manifest: Manifest) -> Fingerprint:
    """Read the header of every image that training would use.

    Raises:
        DataError: an image that cannot be read.
        ManifestError: no image at all.
    """
    cases = [*manifest.training, *manifest.unlabeled]
    if not cases:
        raise ManifestError("no training case", path=manifest.path, hint="list some under 'training'")
    spacings, shapes, paths = [], [], []
    for case in cases:
        spacing, shape = along_ras_axes(read_header(manifest.images(case)[0]))
        spacings.append(spacing)
        shapes.append(shape)
        paths.append(manifest.images(case)[0])
    return Fingerprint(np.array(spacings), np.array(shapes), tuple(paths))


def along_ras_axes(header: Header) -> tuple[list[float], list[int]]:
    """Spacing and shape along the RAS axes nearest to the stored ones."""
    axes = nib.orientations.io_orientation(header.affine)[:, 0].astype(int)
    spacing = [0.0] * 3
    shape = [0] * 3
    for stored, axis in enumerate(axes):
        spacing[axis] = float(header.spacing_mm[stored])
        shape[axis] = int(header.shape[stored])
    return spacing, shape


def native_spacing(fingerprint: Fingerprint, spacing_mm: np.ndarray) -> tuple[float, float, float] | None:
    """The median spacing of the files; None where the images are not resampled to another one.

    Two axes that the median has alike and more than `FEW_FILES` of the files have not are made unlike: of images with
    thin and with thick slices some are blurred across, whatever the median says.
    """
    files = fingerprint.spacing_mm
    native = np.median(files, axis=0)
    earlier: list[int] = []
    for group in _alike_axes(files):
        while any(_unevenness(native, a, b) <= 1 + SPACING_TOLERANCE for a in group for b in earlier):
            native[group] *= max(_unevenness(files, a, b).max() for a in group for b in earlier)
        earlier += group
    x, y, z = native.round(4).tolist()
    return None if np.allclose((x, y, z), spacing_mm, rtol=0.01) else (x, y, z)


def _alike_axes(spacing_mm: np.ndarray) -> list[list[int]]:
    """Groups of axes along which nearly all files `(N, 3)` have voxels of one length."""
    groups: list[list[int]] = []
    for axis in range(3):
        for group in groups:
            uneven = [_unevenness(spacing_mm, axis, other) > 1 + SPACING_TOLERANCE for other in group]
            if np.mean(uneven, axis=1).max() <= FEW_FILES:
                group.append(axis)
                break
        else:
            groups.append([axis])
    return groups


def _unevenness(spacing_mm: np.ndarray, first: int, second: int) -> np.ndarray:
    """How many times as long voxels `(..., 3)` are along one of two axes as along the other."""
    ratio = spacing_mm[..., first] / spacing_mm[..., second]
    return np.maximum(ratio, 1 / ratio)
