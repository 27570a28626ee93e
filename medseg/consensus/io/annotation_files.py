"""One rater's drawing from its files: a label map, layers of segments, one mask per class, or probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name everyone knows

from medseg.consensus.io.align import SAME_VOXELS
from medseg.consensus.io.file_names import DICOM, is_dicom, is_series
from medseg.consensus.io.segment_table import MOST, Segment, read_segments
from medseg.consensus.study import MISSING
from medseg.errors import DataError
from medseg.manifest.fields import stem
from medseg.portable.geometry import along, times, values_in
from medseg.portable.io.header import Header
from medseg.portable.io.nifti.header import count_dimensions
from medseg.portable.io.read import VolumeError, read_volume

WHOLE = 1e-6
"""How far a floating-point label may lie from a whole number."""

LARGEST = 65535
LOSSY = (".jpg", ".jpeg")


@dataclass(eq=False)
class Drawing:
    """What one rater drew.

    Attributes:
        array: `(X, Y, Z)` uint8: 0, the place of a segment (from 1), or `MISSING`; or `(C, X, Y, Z)` float32
            probabilities.
        header: of the (first) file.
        segments: of the labels.
        suffix: of the file, `.nii.gz` for any NIfTI.
        flat: whether it is a picture and not a volume of one slice.
        dtype: of the stored values.
        cropped: whether the file may show less than the image, and what lies outside is background.
        notes: what is strange about it.
    """

    array: np.ndarray
    header: Header
    segments: tuple[Segment, ...]
    suffix: str
    flat: bool
    dtype: np.dtype
    cropped: bool = False
    notes: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """Of probabilities; 0 for labels."""
        return len(self.array) if self.array.ndim == 4 else 0

    def take(self) -> np.ndarray:
        """The voxels, which are needed once, so that not all raters lie in memory twice."""
        array, self.array = self.array, np.empty(0, np.uint8)
        return array


def read_drawing(
    files: Sequence[Path], missing: int | None, *, known: Sequence[Segment] = (), probabilities: bool = False,
    closed: bool = False,
) -> Drawing:  # fmt: skip
    """Read what one rater drew.

    Args:
        files: one label map or file of probabilities; or several masks, one per class, named like it.
        missing: value of what was not annotated; None: there is none.
        known: classes that files without names may hold.
        probabilities: whether floating-point numbers or several channels are probabilities.
        closed: whether other values than those of `known` are mistakes.

    Raises:
        DataError: a file that is none of these, or contradicts itself.
    """
    if len(files) > 1:
        return _masks(files, missing)
    array, header = _read(files[0])
    table = read_segments(files[0]) if suffix_of(files[0]) == ".seg.nrrd" else ()
    notes = header.warnings
    if table:
        labels, more = _layers(array, table, missing, files[0])
        return _drawing(labels, header, table, (*notes, *more), cropped=True)
    whole = _is_whole(array)
    if probabilities and (len(array) > 1 or not whole):
        return _drawing(np.ascontiguousarray(array, np.float32), header, (), notes)
    if len(array) > 1:
        raise DataError(
            f"has {len(array)} channels; a label map has one", path=files[0],
            hint="--probabilities if they are class probabilities",
        )  # fmt: skip
    if not whole:
        broken = array[np.abs(array - np.round(array)) > WHOLE] if np.isfinite(array).all() else [np.nan]
        raise DataError(
            f"holds {float(broken[0]):g}; a label map holds whole numbers", path=files[0],
            hint="--probabilities if it holds the probability of the structure",
        )  # fmt: skip
    values = _values(array[0], missing, files[0])
    if closed and (unknown := [v for v in values if v not in {s.value for s in known}]):
        raise DataError(f"holds {unknown[0]}, which is no label of the manifest", path=files[0])
    segments = tuple(Segment(v) for v in values)
    return _drawing(_numbered(array[0], [s.value for s in segments], missing), header, segments, notes)


def suffix_of(path: Path, image: Path | None = None) -> str:
    """Ending of what is written in the likeness of a rater's file, or as DICOM SEG where the image is DICOM."""
    if image is not None and is_series(image):
        return DICOM
    if is_dicom(path):
        return ".seg.nrrd"  # keeps names and colours, and needs no images to refer to
    name = path.name.lower()
    for ending in (".seg.nrrd", ".nrrd", ".mha", ".mhd", ".png", ".tif", ".tiff"):
        if name.endswith(ending):
            return {".mhd": ".mha", ".tiff": ".tif"}.get(ending, ending)
    return ".nii.gz"


def _drawing(
    array: np.ndarray, header: Header, segments: Sequence[Segment], notes: Sequence[str], *, cropped: bool = False
) -> Drawing:
    suffix = suffix_of(header.path)
    dtype = header.dtype if header.dtype.kind in "iu" else np.dtype(np.uint8)
    return Drawing(array, header, tuple(segments), suffix, _is_flat(header), dtype, cropped, tuple(notes))


def _is_flat(header: Header) -> bool:
    """Whether a file has two dimensions, which its array of three does not tell."""
    if header.shape[2] != 1:
        return False
    if suffix_of(header.path) in (".png", ".tif"):
        return True
    if header.nifti:
        return count_dimensions(header.nifti) == 2
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(header.path))
    reader.ReadImageInformation()
    return bool(reader.GetDimension() == 2)


def palette_of(path: Path) -> bytes | None:
    """Colours of a palette picture that was read before, else None."""
    if suffix_of(path) not in (".png", ".tif"):
        return None
    from PIL import Image

    with Image.open(path) as picture:
        return bytes(picture.getpalette() or ()) if picture.mode == "P" else None


def _read(path: Path) -> tuple[np.ndarray, Header]:
    if path.name.lower().endswith(LOSSY):
        raise DataError("is a JPEG, which does not keep label values", path=path, hint="save it as PNG")
    try:
        return read_volume(path)
    except VolumeError as error:
        raise DataError(str(error), path=error.path or path) from error


def _is_whole(array: np.ndarray) -> bool:
    if array.dtype.kind in "iu":
        return True
    return all(bool(np.isfinite(p).all() and (np.abs(p - np.round(p)) <= WHOLE).all()) for p in array)


def _values(plane: np.ndarray, missing: int | None, path: Path) -> list[int]:
    """The values of structures in a label map."""
    found = sorted({round(float(v)) for v in values_in(plane)} - {0, missing})
    if found and not 0 < found[0] <= found[-1] <= LARGEST:
        wrong = found[0] if found[0] < 0 else found[-1]
        raise DataError(f"holds {wrong}; accepted are labels from 0 to {LARGEST}", path=path)
    if len(found) > MOST:
        raise DataError(
            f"holds {len(found)} values; accepted are up to {MOST} classes", path=path,
            hint="is it the image, and not an annotation?",
        )  # fmt: skip
    return found


def _numbered(labels: np.ndarray, values: Sequence[int], missing: int | None) -> np.ndarray:
    """Values to places in the list of segments."""
    if labels.dtype.kind == "f" or labels.dtype.itemsize > 2:
        labels = np.round(labels).astype(np.int64)
    offset = -min(int(labels.min()), 0)
    table = np.zeros(int(labels.max()) + offset + 1, np.uint8)
    for place, value in [*enumerate(values, start=1), (MISSING, missing)]:
        if value is not None and 0 <= value + offset < len(table):
            table[value + offset] = place
    return table[labels.astype(np.int64) + offset if offset else labels]


def _layers(
    array: np.ndarray, table: Sequence[Segment], missing: int | None, path: Path
) -> tuple[np.ndarray, list[str]]:
    """Segments of all layers in one label map; where two overlap the later one in the table stands."""
    if any(s.value == missing for s in table):
        name = next(s.title for s in table if s.value == missing)
        raise DataError(
            f"its segment '{name}' has the value {missing}, which means 'not annotated'", path=path,
            hint="choose another --missing-value, or none",
        )  # fmt: skip
    outside = [s.layer for s in table if s.layer >= len(array)]
    if outside:
        raise DataError(f"its segment table names layer {outside[0]}, it has {len(array)}", path=path)
    for number, layer in enumerate(array):
        known = {0, missing, *(s.value for s in table if s.layer == number)}
        unknown = [int(v) for v in values_in(layer) if int(v) not in known]
        if unknown:
            raise DataError(f"holds {unknown[0]} in layer {number}, which its segment table lacks", path=path)
    labels, twice = np.zeros(array.shape[1:], np.uint8), 0
    for place, segment in enumerate(table, start=1):
        mask = array[segment.layer] == segment.value
        twice += int(np.count_nonzero(labels[mask]))
        labels[mask] = place
    if missing is not None:
        labels[(array == missing).any(0)] = MISSING
    return labels, _overlap(twice)


def _overlap(voxels: int) -> list[str]:
    return [f"its structures overlap in {voxels} voxels, which count for the later one"] if voxels else []


def _masks(files: Sequence[Path], missing: int | None) -> Drawing:
    """One mask per class, called like its file."""
    grid: Header | None = None
    labels, twice, notes = np.empty(0, np.uint8), 0, list[str]()
    for place, path in enumerate(files, start=1):
        array, header = _read(path)
        values = _values(array[0], missing, path) if len(array) == 1 and _is_whole(array) else [0, 1, 2]
        if len(values) > 1:
            raise DataError("is no mask: of one file per class, each holds 0 and one value", path=path)
        if grid is None:
            grid, labels = header, np.zeros(header.shape, np.uint8)
        moved, off, _ = along(grid, header, _numbered(array[0], values, missing))
        if off > SAME_VOXELS:
            raise DataError(
                f"has {times(header.shape)} voxels and not the grid of {grid.path} ({times(grid.shape)})", path=path
            )
        twice += int(np.count_nonzero(labels[moved == 1]))
        labels[(moved == 1) & (labels != MISSING)] = place
        labels[moved == MISSING] = MISSING
    assert grid is not None
    segments = [Segment(n, stem(p.name)) for n, p in enumerate(files, start=1)]
    return _drawing(labels, grid, segments, (*notes, *_overlap(twice)))
