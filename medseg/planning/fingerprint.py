"""The fingerprint of a data set: spacing and size of its images, from their headers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from medseg.errors import ManifestError
from medseg.manifest.manifest import Manifest
from medseg.portable.io.read import Header, read_header


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
