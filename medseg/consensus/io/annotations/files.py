"""One rater's annotation from its files: a label map, layers of segments, one mask per class, or probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name everyone knows

from medseg.consensus.io.annotations.segment_table import MOST, Segment, read_segments
from medseg.consensus.io.file_names import DICOM, is_dicom, is_series
from medseg.consensus.study import MISSING
from medseg.dicom.overlaps import StackedStructures
from medseg.errors import DataError
from medseg.manifest.fields import stem
from medseg.portable.geometry import along, check_offset, values_in
from medseg.portable.io.header import Header
from medseg.portable.io.labels import refuse_grey_levels, refuse_lossy, whole_numbers
from medseg.portable.io.nifti.header import count_dimensions
from medseg.portable.io.read import read_volume

LARGEST = 65535


@dataclass(eq=False)
class FileAnnotation:
    """One rater's annotation as its files hold it.

    Attributes:
        array: `(X, Y, Z)` uint8: 0, the place of a segment (from 1), or `MISSING`; or `(C, X, Y, Z)` float32
            probabilities.
        header: of the (first) file.
        segments: of the labels.
        suffix: of the file, `.nii.gz` for any NIfTI.
        flat: whether it is a 2D image and not a volume of one slice.
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


def read_annotation_files(
    files: Sequence[Path], missing: int | None, *, known: Sequence[Segment] = (), probabilities: bool = False,
    closed: bool = False,
) -> FileAnnotation:  # fmt: skip
    """Read what one rater annotated.

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
        return _read_masks(files, missing)
    (path,) = files
    array, header = _read(path)
    table = read_segments(path) if suffix_of(path) == ".seg.nrrd" else ()
    if table:
        labels, notes = _merge_layers(array, table, missing, path)
        return _annotation(labels, header, table, (*header.warnings, *notes), cropped=True)
    array, note, broken = _as_whole(array)
    header = replace(header, warnings=(*header.warnings, *note))
    if probabilities and (len(array) > 1 or broken):
        return _annotation(np.ascontiguousarray(array, np.float32), header, (), header.warnings)
    if len(array) > 1:
        raise DataError(
            f"has {len(array)} channels; a label map has one", path=path,
            hint="--probabilities if they are class probabilities",
        )  # fmt: skip
    if broken:
        raise DataError(broken, path=path, hint="--probabilities if it holds the probability of the structure")
    values = _list_values(array[0], missing, path)
    if closed:
        _refuse_unknown(values, known, path)
    segments = [Segment(value) for value in values]
    return _annotation(_number_values(array[0], values, missing), header, segments, header.warnings)


def _refuse_unknown(values: Sequence[int], known: Sequence[Segment], path: Path) -> None:
    known_values = {segment.value for segment in known}
    unknown = [value for value in values if value not in known_values]
    if unknown:
        raise DataError(f"holds {unknown[0]}, which is no label of the manifest", path=path)


def suffix_of(path: Path, image: Path | None = None) -> str:
    """Ending of results in the format of a rater's file, or of DICOM SEG where the image is DICOM."""
    if image is not None and is_series(image):
        return DICOM
    if is_dicom(path):
        return ".seg.nrrd"  # keeps names and colours, and needs no images to refer to
    name = path.name.lower()
    for ending in (".seg.nrrd", ".nrrd", ".mha", ".mhd", ".png", ".tif", ".tiff"):
        if name.endswith(ending):
            return {".mhd": ".mha", ".tiff": ".tif"}.get(ending, ending)
    return ".nii.gz"


def _annotation(
    array: np.ndarray, header: Header, segments: Sequence[Segment], notes: Sequence[str], *, cropped: bool = False
) -> FileAnnotation:
    suffix = suffix_of(header.path)
    dtype = header.dtype if header.dtype.kind in "iu" else np.dtype(np.uint8)
    return FileAnnotation(array, header, tuple(segments), suffix, _is_flat(header), dtype, cropped, tuple(notes))


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
    """Colours of a 2D image with a palette that was read before, else None."""
    if suffix_of(path) not in (".png", ".tif"):
        return None
    from PIL import Image

    with Image.open(path) as image:
        if image.mode != "P":
            return None
        return bytes(image.getpalette() or ())


def _read(path: Path) -> tuple[np.ndarray, Header]:
    refuse_lossy(path)
    return read_volume(path, indices=True)


def _as_whole(array: np.ndarray) -> tuple[np.ndarray, tuple[str, ...], str]:
    """The array with rounded label values, a note on the rounding, and why it holds no label values (else empty)."""
    try:
        labels, note = whole_numbers(array)
    except DataError as error:
        return array, (), error.reason
    return labels, (note,) if note else (), ""


def _list_values(labels: np.ndarray, missing: int | None, path: Path) -> list[int]:
    """The values of structures in a label map."""
    refuse_grey_levels(labels, path)
    found = sorted({round(float(value)) for value in values_in(labels)} - {0, missing})
    if found and not 0 < found[0] <= found[-1] <= LARGEST:
        wrong = found[0] if found[0] < 0 else found[-1]
        raise DataError(f"holds {wrong}; accepted are labels from 0 to {LARGEST}", path=path)
    if len(found) > MOST:
        raise DataError(
            f"holds {len(found)} values; accepted are up to {MOST} classes", path=path,
            hint="is it the image, and not an annotation?",
        )  # fmt: skip
    return found


def _number_values(labels: np.ndarray, values: Sequence[int], missing: int | None) -> np.ndarray:
    """Replace label values by their places in the list of segments, counted from 1."""
    if labels.dtype.kind == "f" or labels.dtype.itemsize > 2:
        labels = np.round(labels).astype(np.int64)
    offset = -min(int(labels.min()), 0)
    table = np.zeros(int(labels.max()) + offset + 1, np.uint8)
    places = {value: place for place, value in enumerate(values, start=1)}
    if missing is not None:
        places[missing] = MISSING
    for value, place in places.items():
        if 0 <= value + offset < len(table):
            table[value + offset] = place
    if offset:
        labels = labels.astype(np.int64) + offset
    return table[labels]


def _merge_layers(
    array: np.ndarray, table: Sequence[Segment], missing: int | None, path: Path
) -> tuple[np.ndarray, list[str]]:
    """Segments of all layers in one label map, and notes, see `StackedStructures`."""
    _check_layers(array, table, missing, path)
    stacked = StackedStructures(array.shape[1:], [segment.title for segment in table])
    for segment in table:
        stacked.add(array[segment.layer] == segment.value)
    if missing is not None:
        stacked.labels[(array == missing).any(0)] = MISSING
    return stacked.labels, stacked.notes()


def _check_layers(array: np.ndarray, table: Sequence[Segment], missing: int | None, path: Path) -> None:
    """See that a segment table and the layers `(L, X, Y, Z)` that it describes belong together."""
    for segment in table:
        if segment.value == missing:
            raise DataError(
                f"its segment '{segment.title}' has the value {missing}, which means 'not annotated'", path=path,
                hint="choose another --missing-value, or none",
            )  # fmt: skip
    for segment in table:
        if segment.layer >= len(array):
            raise DataError(f"its segment table names layer {segment.layer}, it has {len(array)}", path=path)
    for number, layer in enumerate(array):
        known = {0, missing, *(segment.value for segment in table if segment.layer == number)}
        unknown = [int(value) for value in values_in(layer) if int(value) not in known]
        if unknown:
            raise DataError(f"holds {unknown[0]} in layer {number}, which its segment table lacks", path=path)


def _read_masks(files: Sequence[Path], missing: int | None) -> FileAnnotation:
    """Read one mask per class, of which each class is called as its file."""
    grid: Header | None = None
    names = [stem(path.name) for path in files]
    unknown: list[np.ndarray] = []
    notes: list[str] = []
    for path in files:
        mask, header = _read_mask(path, missing)
        notes += header.warnings
        if grid is None:
            grid, stacked = header, StackedStructures(header.shape, names)
        note = check_offset(grid, header, "the first mask")
        if note:
            notes.append(f"{path.name} {note}")
        moved = along(grid, header, mask)[0]
        stacked.add(moved == 1)
        unknown.append(np.flatnonzero(moved == MISSING))
    assert grid is not None
    for voxels in unknown:
        stacked.labels.ravel()[voxels] = MISSING
    segments = [Segment(place, name, has_value=False) for place, name in enumerate(names, start=1)]
    return _annotation(stacked.labels, grid, segments, [*notes, *stacked.notes()])


def _read_mask(path: Path, missing: int | None) -> tuple[np.ndarray, Header]:
    """A file of one structure: 1 inside, `MISSING` where nothing was annotated."""
    stored, header = _read(path)
    array, note, broken = _as_whole(stored)
    header = replace(header, warnings=(*header.warnings, *note))
    is_label_map = len(array) == 1 and not broken
    values = _list_values(array[0], missing, path) if is_label_map else []
    if not is_label_map or len(values) > 1:
        raise DataError("is no mask: of one file per class, each holds 0 and one value", path=path)
    return _number_values(array[0], values, missing), header
