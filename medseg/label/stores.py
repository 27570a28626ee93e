"""Datastores that take no label of another geometry than its image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.datastore import Datastore

from medseg.errors import DataError
from medseg.portable.grids import along, times
from medseg.portable.reading import SUFFIXES, VolumeError, read_header

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
    _, off, _ = along(grid, drawn, np.broadcast_to(np.uint8(0), drawn.shape))  # no voxels are needed to compare grids
    if np.isinf(off):
        found, wanted = times(drawn.shape), times(grid.shape)
        raise DataError(f"the label has {found} voxels, its image {image.name} has {wanted}", hint=hint)
    if off > LARGEST_SHIFT:
        raise DataError(f"the label lies up to {off:.3g} voxels off its image {image.name}", hint=hint)


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
