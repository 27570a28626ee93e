"""Copies of labels whose numbers cannot be used as they are: masks of 0 and 255, JPEG, values beyond a byte."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medseg.atomic import make_folder, write_whole
from medseg.errors import DataError
from medseg.manifest.fields import stem
from medseg.portable.io.labels import BRIGHT, DARK, LOSSY, is_smeared, whole_numbers
from medseg.portable.io.read import read_volume
from medseg.portable.io.write import is_flat, source_of, write_labels
from medseg.workflows.data.labels.colors import SamePalette, check_colors, needs_table, values_of
from medseg.workflows.data.labels.palettes import Palette
from medseg.workflows.data.voxel_statistics import values

MIDDLE = 128
"""From here on a grey level of a mask is the structure."""

PICTURES = (".png", ".tif", ".tiff", *LOSSY)
MOST = 254


@dataclass
class FoundValues:
    """What label files hold together.

    Attributes:
        counts: value -> voxels.
        masks: whether every file is a mask of 0 and 255, as it was or grey.
        same_channels: whether a file repeats its one channel, as pictures do that were saved in colour.
        is_grey: whether a file has grey levels of a mask.
        palettes: of the files that have one.
    """

    counts: dict[int, int] = field(default_factory=dict)
    masks: bool = True
    same_channels: bool = False
    is_grey: bool = False
    palettes: SamePalette = field(default_factory=SamePalette)

    def add(self, path: Path) -> None:
        """Look at one more file.

        Raises:
            DataError: it cannot be read, or holds no labels.
        """
        array, _ = read_volume(path, indices=True)
        if is_colored(array, path):
            raise needs_table(path)
        self.palettes.check(path)
        labels = one_channel(array, path)
        self.same_channels |= len(array) > 1
        there = values(labels)
        if there.fractional:
            raise DataError(
                f"is no label: it holds {there.example:.7g}", path=path, hint="accepted are 0 to 254 and 255"
            )
        counts = there.counts
        is_lossy = path.name.lower().endswith(LOSSY)
        is_grey = is_smeared(counts) or (is_lossy and all(not DARK < value < BRIGHT for value in counts))
        if is_lossy and not is_grey:
            raise DataError("is a JPEG, and no mask of 0 and 255", path=path, hint="give labels as PNG or NIfTI")
        self.is_grey |= is_grey
        self.masks &= is_grey or set(counts) <= {0, 255}
        for value, number in counts.items():
            self.counts[value] = self.counts.get(value, 0) + number


def is_colored(array: np.ndarray, path: Path) -> bool:
    """Whether a mask `(C, X, Y, Z)` is a picture in colour, of a format that keeps its colours."""
    is_picture = path.name.lower().endswith(PICTURES) and not path.name.lower().endswith(LOSSY)
    return is_picture and len(array) == 3 and bool((array != array[:1]).any())


def one_channel(array: np.ndarray, path: Path) -> np.ndarray:
    """`(X, Y, Z)` of a label `(C, X, Y, Z)` whose channels are alike.

    Raises:
        DataError: they differ.
    """
    first = array[0]
    slack = BRIGHT if path.name.lower().endswith(LOSSY) else 0
    if any(np.abs(other.astype(np.int32) - first).max() > slack for other in array[1:]):
        raise DataError(f"has {len(array)} channels that differ; a label has one", path=path)
    return first


def codes_of(found: FoundValues) -> dict[int, int] | None:
    """Value in the files -> value in the copies; None where the files can be used as they are.

    Raises:
        DataError: there are too many values, or negative ones.
    """
    there = sorted(found.counts)
    if found.masks and 255 in there:
        return {value: int(value >= MIDDLE) for value in range(256)}
    if there[0] < 0 or len(there) > MOST:
        raise DataError(f"the labels hold {len(there)} values from {there[0]} to {there[-1]}; accepted are 0 to 254")
    if there[-1] > 255:
        return {value: place for place, value in enumerate(sorted({0, *there}))}
    return {value: value for value in there} if found.same_channels else None


def write_copies(files: Sequence[Path], codes: dict[int, int], source: Path, folder: Path) -> dict[Path, Path]:
    """Write label files with other values: pictures as PNG, others as NIfTI on their own grid.

    Args:
        files: whose names are told apart by their folders below `source`.
        codes: value in the files -> value in the copies.
        source: folder of the data set.
        folder: of the copies.

    Returns:
        File -> its copy.

    Raises:
        DataError: a file that cannot be read.
        OutputError: a copy that cannot be written.
    """
    copies = {}
    for file, name in names_of_copies(files, source).items():
        array, header = read_volume(file, indices=True)
        whole, _ = whole_numbers(one_channel(array, file), file)
        there = np.unique(whole)
        coded = np.array([codes[int(value)] for value in there], np.uint8)
        labels = coded[np.searchsorted(there, whole)]
        if file.name.lower().endswith(PICTURES):
            copies[file] = write_picture(make_folder(folder) / f"{name}.png", labels[..., 0])
        else:
            copies[file] = make_folder(folder) / f"{name}.nii.gz"
            flat = is_flat(file, header.shape)
            write_labels(copies[file], labels, header.affine, source=source_of(file), flat=flat)
    return copies


def write_colored(files: Sequence[Path], palette: Palette, source: Path, folder: Path) -> dict[Path, Path]:
    """Write the values of masks in colour as PNG; as `write_copies`.

    Raises:
        DataError: a file with a colour that the palette does not have, before anything is written.
        OutputError: a copy that cannot be written.
    """
    check_colors(files, palette)
    copies = {}
    for file, name in names_of_copies(files, source).items():
        copies[file] = write_picture(make_folder(folder) / f"{name}.png", values_of(file, palette))
    return copies


def write_picture(path: Path, labels: np.ndarray) -> Path:
    """Write `(X, Y)` uint8 as a grey PNG."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(labels.T)).save(stream, format="PNG")
    return write_whole(path, stream.getvalue())


def names_of_copies(files: Sequence[Path], source: Path) -> dict[Path, str]:
    """What the copy of each file is called, without ending: the folders and the name of the file, told apart."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for file in files:
        inside = file.relative_to(source) if file.is_relative_to(source) else Path(*file.parts[-2:])
        name = "_".join((*inside.parts[:-1], stem(file.name)))
        number = 2
        free = name
        while free.casefold() in taken:
            free = f"{name}_{number}"
            number += 1
        taken.add(free.casefold())
        names[file] = free
    return names
