"""Images of nibabel, SimpleITK and Pillow as the arrays of a study, and its answer as an image of their kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medseg.data.given_images import ARRAY, Given, given_image, kind_of
from medseg.errors import ConfigError
from medseg.portable.geometry import along, check_offset


@dataclass(frozen=True, eq=False)
class StudyInMemory:
    """What `medseg.fuse` was given, as arrays on one grid.

    Attributes:
        image: `(X, Y, Z)`, or `(C, X, Y, Z)` of several channels; None: there is none.
        annotations: `(X, Y, Z)` labels or `(K, X, Y, Z)` probabilities of each rater.
        spacing_mm: of the grid.
        restore: makes an image of the given kind of an array `(X, Y, Z)` on the grid.
    """

    image: np.ndarray | None
    annotations: list[np.ndarray]
    spacing_mm: tuple[float, float, float]
    restore: Callable[[np.ndarray], Any]


def are_images(image: Any, annotations: Sequence[Any]) -> bool:
    """Whether annotations are images in memory and no arrays.

    Raises:
        ConfigError: some are and others are not.
    """
    kinds = {kind_of(annotation) for annotation in annotations}
    if not kinds - {None, ARRAY}:
        return False
    if image is not None:
        kinds.add(kind_of(image))
    if len(kinds) > 1:
        found = " and ".join(sorted(kind or "something else" for kind in kinds))
        raise ConfigError(f"image and annotations are {found}; give all in one way")
    return True


def study_in_memory(image: Any, annotations: Sequence[Any], names: Sequence[str] | None) -> StudyInMemory:
    """Images as arrays on the grid of the image, or of the first annotation where there is none.

    Args:
        image: of the same kind as the annotations; None: there is none.
        annotations: one per rater; those that are stored along other axes are turned, which changes no voxel.
        names: of the raters, for messages.

    Raises:
        DataError: an annotation lies on another grid.
    """
    called = list(names or ()) if len(names or ()) == len(annotations) else []
    labels: list[Given] = []
    for number, annotation in enumerate(annotations):
        name = str(called[number]) if called else f"rater{number + 1}"
        labels.append(given_image(annotation, name, None))
    pixels = None if image is None else given_image(image, "the image", None)
    grid = pixels or labels[0]
    arrays = []
    for each in labels:
        check_offset(grid.header, each.header, "the grid of")
        turned, _, _ = along(grid.header, each.header, np.moveaxis(each.voxels, 0, -1))
        array = np.moveaxis(turned, -1, 0)
        arrays.append(array[0] if len(array) == 1 else array)
    voxels = None
    if pixels is not None:
        voxels = pixels.voxels[0] if len(pixels.voxels) == 1 else pixels.voxels
    return StudyInMemory(voxels, arrays, grid.header.spacing_mm, grid.restore)
