"""DICOM SEG that other programs stored: label maps on the grid of their images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from medseg.consensus.io.align import extend_to_grid
from medseg.dicom.annotation import read_annotation
from medseg.errors import DataError
from medseg.portable.geometry import LARGEST_VOXELS
from medseg.portable.io.read import read_header
from medseg.portable.io.write import write_nifti
from medseg.serve.models import Model
from medseg.structure_names import structure_key


def find_known_names(models: Iterable[Model]) -> dict[str, int]:
    """Name of a structure (see `medseg.structure_names`) -> its value in labels.

    Left out is what models number differently, a name with two values or a value with two names: a label map is one
    for all of them, and would teach one of the models another structure.
    """
    pairs: set[tuple[str, int]] = set()
    for model in models:
        pairs.update((structure_key(name), value) for name, value in model.labels.items())
    names = Counter(name for name, _ in pairs)
    values = Counter(value for _, value in pairs)
    return {name: value for name, value in sorted(pairs) if names[name] == 1 and values[value] == 1}


def label_map(segmentation: Path, image: Path, known: Mapping[str, int], result: Path) -> None:
    """Write a segmentation as a label map of the whole image.

    Frames without a voxel may be left out of a file, so that what has no frame is background.

    Args:
        segmentation: DICOM SEG.
        image: file of the image that it refers to.
        known: name of a structure, as `find_known_names` gives it -> value.
        result: `.nii.gz` to write.

    Raises:
        DataError: it cannot be read, has a structure that no model knows, or does not lie on voxels of the image.
        OutputError: the result cannot be written.
    """
    grid = read_header(image)
    found = read_annotation(segmentation, grid)
    values = np.array([0, *_values(found.names, known, segmentation)], np.uint8)
    placed = extend_to_grid(values[found.labels], found.header, grid, tolerance=LARGEST_VOXELS)
    if placed is None:
        raise DataError(
            "has voxels between those of its image (spacing, axes or origin differ)", path=segmentation,
            hint="resample it to the image and store it again",
        )  # fmt: skip
    write_nifti(result, placed[0], grid.affine, source=grid.nifti, intent="label")


def _values(names: Sequence[str], known: Mapping[str, int], segmentation: Path) -> list[int]:
    unknown = [name for name in names if structure_key(name) not in known]
    if unknown:
        raise DataError(
            f"has segments of no known value: {', '.join(unknown)}; known are {', '.join(known)}", path=segmentation,
            hint="name segments as the models' labels; models of one server must number structures alike",
        )  # fmt: skip
    return [known[structure_key(name)] for name in names]
