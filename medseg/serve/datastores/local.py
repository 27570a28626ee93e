"""Datastores that take no label of another geometry than its image."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.datastore import local as local_datastore
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.datastore import Datastore

from medseg.atomic import replacing
from medseg.errors import DataError
from medseg.portable.geometry import along, times
from medseg.portable.io.read import SUFFIXES, VolumeError, read_header, read_volume
from medseg.serve.datastores.following import FollowedFolder
from medseg.serve.models import Model

RAW = ".bin"
NOT_ANNOTATED = 255
LONGEST_NAME = 100  # letters of a study's or a tag's name, of which MONAI Label makes names of files
LARGEST_SHIFT = 0.5
"""Voxels by which a label's corners may lie off those of its image."""
SAME_PLACE = 1e-3
"""Voxels by which the corners of an image that was written anew may lie off those of the first."""


def check_geometry(image: Path, label: Path) -> None:
    """Refuse a label that does not lie on its image's grid.

    Raises:
        DataError: a file that cannot be read, another size, or another place.
    """
    try:
        grid, own = read_header(image), read_header(label)
    except VolumeError as error:
        which = "image" if error.path == image else "label"
        raise DataError(f"the {which} cannot be read: {error.reason}") from error
    hint = "resample the label to its image, or save it from the viewer that showed the image"
    _, off, _ = along(grid, own, np.broadcast_to(np.uint8(0), own.shape))  # no voxels are needed to compare grids
    if np.isinf(off):
        found, wanted = times(own.shape), times(grid.shape)
        raise DataError(f"the label has {found} voxels, its image {image.name} has {wanted}", hint=hint)
    if off > LARGEST_SHIFT:
        raise DataError(f"the label lies up to {off:.3g} voxels off its image {image.name}", hint=hint)


def check_name(text: str, what: str) -> None:
    """Refuse what would become a path to somewhere else.

    Raises:
        DataError: it has other characters than names have.
    """
    if not re.fullmatch(r"\w[\w .()+-]*", text):
        raise DataError(f"the {what} {text[:100]!r} is no name", hint="use letters, digits, '-', '_' and '.'")
    if len(text) > LONGEST_NAME:
        raise DataError(f"the {what} has {len(text)} letters; accepted are up to {LONGEST_NAME}")


def check_voxels(label: Path, known: Collection[int]) -> None:
    """Refuse a label map that is damaged, or holds what is no label.

    Args:
        label: its file.
        known: values that mean something; none: all whole numbers do.

    Raises:
        DataError: it is cut off or changed, has NaN or fractions, or a value that is not known.
    """
    try:
        array, _ = read_volume(label)
    except VolumeError as error:
        raise DataError(f"the label cannot be read: {error.reason}") from error
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and np.array_equal(array, np.round(array))):
        raise DataError("the label has NaN or fractions; a label map has whole numbers", hint="save it as a label map")
    strange = [int(value) for value in np.unique(array) if known and int(value) not in known]
    if strange:
        values = ", ".join(map(str, sorted(known)))
        raise DataError(f"the label has the value {strange[0]}, which no model has; accepted are {values}")


def check_label(store: Datastore, image_id: str, label: str, tag: str, known: Collection[int] = ()) -> None:
    """Refuse a label that cannot be used; see `check_geometry` and `check_voxels`. Raw voxels of OHIF are counted only.

    Raises:
        DataError: no such study, no label map, not of its image, or a tag that is no name.
    """
    check_name(tag, "tag")
    image = store.get_image_uri(image_id)
    if not image or not Path(image).exists():
        raise DataError(f"there is no study {image_id!r}", hint="ask for the list of studies again")
    raw = label.lower().endswith(RAW) and isinstance(store, DICOMWebDatastore)
    if raw:
        wanted, found = prod(read_header(image).shape), Path(label).stat().st_size
        if found != wanted:
            raise DataError(f"the label has {found} voxels of one byte, its image {wanted}")
    elif label.lower().endswith(SUFFIXES):
        check_geometry(Path(image), Path(label))
        check_voxels(Path(label), known)
    else:
        raise DataError(f"the label is no {', '.join(SUFFIXES)}", hint="save it in one of these formats")


def has_study(store: Datastore, study: str) -> bool:
    """Whether a store has a study; an archive is asked for it when its images are, by a name that is none of a file."""
    return isinstance(store, DICOMWebDatastore) or study in store.list_images()


def has_label(store: Datastore, study: str, tag: str) -> bool:
    """Whether a store has a label of a study; its list is behind the files for a moment when one is removed."""
    return tag in store.get_labels_by_image_id(study) and Path(store.get_label_uri(study, tag)).is_file()


def is_there(store: LocalDatastore, study: str, image: Path) -> bool:
    """Whether a new study is in the store already, as when a viewer opened its file and saves a label of it.

    Raises:
        DataError: its name is none, it is no image, or another study has its name: that one would be gone.
    """
    check_name(study, "study")
    endings = [ending for ending in SUFFIXES if f"*{ending}" in store._extensions]
    if not image.name.endswith(tuple(endings)):
        raise DataError(f"the image is no {', '.join(endings)}", hint="save it in one of these formats")
    try:
        read_header(image)
    except VolumeError as error:
        raise DataError(f"the image cannot be read: {error.reason}") from error
    folder = Path(store._datastore.image_path())
    possible = [folder / f"{study}{ending}" for ending in endings]
    there = [path for path in possible if path.exists()]
    if there and not all(_same_volume(old, image) for old in there):
        raise DataError(
            f"there is another study {study!r} already", hint="open it from the server, or give yours another name"
        )
    return bool(there)


def _same_volume(one: Path, other: Path) -> bool:
    try:
        first, grid = read_volume(one)
        second, other_grid = read_volume(other)
    except VolumeError:
        return False
    turned, off, _ = along(grid, other_grid, np.moveaxis(second, 0, -1))
    if off >= SAME_PLACE:
        return False
    is_floating = first.dtype.kind == "f"
    return np.array_equal(np.moveaxis(first, 0, -1), turned, equal_nan=is_floating)


class _WholeCopies:
    """The module `shutil` as MONAI Label's datastore uses it, but for copies, which appear whole."""

    def __getattr__(self, name: str) -> Any:
        return getattr(shutil, name)

    @staticmethod
    def copy(source: str, target: str) -> str:
        """Copy a file, whole or not at all.

        Raises:
            OutputError: it cannot be written; what was there before is untouched.
        """
        with Path(source).open("rb") as read, replacing(Path(target)) as written:
            shutil.copyfileobj(read, written)
        return target


local_datastore.shutil = _WholeCopies()  # it copies labels and images with nothing but `shutil.copy`


class CheckedLocal(FollowedFolder):
    """A folder of studies.

    Attributes:
        known: values that a label may have; none: any.
    """

    known: frozenset[int] = frozenset()

    def serve(self, models: Iterable[Model]) -> None:
        """Take labels with the values of these models, the background and what is not annotated."""
        values = {value for model in models for value in model.labels.values()}
        self.known = frozenset({0, NOT_ANNOTATED, *values})

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Save a label that fits its image; see `check_label`."""
        check_label(self, image_id, label_filename, label_tag, self.known)
        return super().save_label(image_id, label_filename, label_tag, label_info)

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Add a study; its name becomes that of its file. See `is_there`."""
        if is_there(self, image_id, Path(image_filename)):
            return image_id
        return super().add_image(image_id, image_filename, image_info)
