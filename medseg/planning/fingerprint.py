"""What the headers of a data set say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from medseg.errors import ManifestError
from medseg.manifest.manifest import Manifest
from medseg.portable.io.read import Header, read_header


@dataclass(frozen=True)
class Survey:
    """What the headers say, along RAS axes.

    Args:
        spacing_mm: `(N, 3)`.
        shape: `(N, 3)` voxels.
        paths: N first images.
    """

    spacing_mm: np.ndarray
    shape: np.ndarray
    paths: tuple[Path, ...]


def survey(manifest: Manifest) -> Survey:
    """Read the header of every image that training would use.

    Raises:
        DataError: an image that cannot be read.
        ManifestError: no image at all.
    """
    cases = [*manifest.training, *manifest.unlabeled]
    if not cases:
        raise ManifestError("no training case", path=manifest.path, hint="list some under 'training'")
    rows = [_ras(read_header(manifest.images(case)[0])) for case in cases]
    paths = tuple(manifest.images(case)[0] for case in cases)
    return Survey(np.array([r[0] for r in rows]), np.array([r[1] for r in rows]), paths)


def _ras(header: Header) -> tuple[list[float], list[int]]:
    """Spacing and shape along the RAS axes nearest to the stored ones."""
    axes = nib.orientations.io_orientation(header.affine)[:, 0].astype(int)
    spacing, shape = [0.0] * 3, [0] * 3
    for stored, axis in enumerate(axes):
        spacing[axis], shape[axis] = float(header.spacing_mm[stored]), int(header.shape[stored])
    return spacing, shape
