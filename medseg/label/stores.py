"""Datastores that take no label of another geometry than its image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.datastore import Datastore

from medseg.errors import DataError
from medseg.portable.reading import SUFFIXES, VolumeError, read_header
from medseg.portable.volume import corners_mm

LARGEST_SHIFT = 0.5
"""Voxels by which a label's corners may lie off those of its image."""


def check_geometry(image: Path, label: Path) -> None:
    """Refuse a label that does not lie on its image's grid.

    Raises:
        DataError: a file that cannot be read, another size, or another place.
    """
    try:
        grid, drawn = read_header(image), read_header(label)
    except VolumeError as error:
        which = "image" if error.path == image else "label"
        raise DataError(f"the {which} cannot be read: {error}") from error
    hint = "resample the label to its image, or save it from the viewer that showed the image"
    if sorted(grid.shape) != sorted(drawn.shape):
        raise DataError(
            f"the label has {_by(drawn.shape)} voxels, its image {image.name} has {_by(grid.shape)}", hint=hint
        )
    ours, theirs = corners_mm(grid.affine, grid.shape), corners_mm(drawn.affine, drawn.shape)
    # axes may be stored in another order and direction: the corners are the same points then
    apart = np.linalg.norm(ours[:, None] - theirs[None], axis=-1).min(axis=1).max() / min(grid.spacing_mm)
    if apart > LARGEST_SHIFT:
        raise DataError(f"the label lies up to {apart:.3g} voxels off its image {image.name}", hint=hint)


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


class CheckedLocal(LocalDatastore):
    """A folder of studies."""

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Save a label that fits its image; see `check_geometry`."""
        _check(self, image_id, label_filename)
        return super().save_label(image_id, label_filename, label_tag, label_info)


class CheckedDicomWeb(DICOMWebDatastore):
    """Studies of a DICOMweb server."""

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any], label_id: str = ""
    ) -> str:
        """Save a label that fits its image; see `check_geometry`."""
        _check(self, image_id, label_filename)
        return super().save_label(image_id, label_filename, label_tag, label_info, label_id)


def _check(store: Datastore, image_id: str, label: str) -> None:
    """Check what can be: raw voxels of OHIF have no geometry of their own."""
    image = store.get_image_uri(image_id)
    if not image or not Path(image).exists():
        raise DataError(f"there is no study {image_id!r}", hint="ask for the list of studies again")
    if label.lower().endswith(SUFFIXES):
        check_geometry(Path(image), Path(label))
