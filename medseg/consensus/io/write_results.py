"""Results written as the raters' files are: in their format, grid, label values, names and colours."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name everyone knows

from medseg import __version__
from medseg.consensus.io.formats import Form
from medseg.consensus.statistics.uncertainty_maps import STEPS, as_bytes
from medseg.consensus.study import MISSING
from medseg.dicom.scan.series import Series
from medseg.errors import OutputError
from medseg.portable.io.write import replacing, write_nifti

if TYPE_CHECKING:
    from medseg.dicom.writing.write_seg import Author, SegmentDescription

SUFFIXES_2D = (".png", ".tif")

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """A temporary file that takes the place of `path` when it is written.

    Raises:
        OutputError: it cannot be written.
    """
    with replacing(path) as new:
        yield new


def write_bytes(path: Path, content: str | bytes) -> Path:
    """Write a text (UTF-8) or bytes, whole or not at all."""
    with write_atomically(path) as new:
        new.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def write_labels(folder: Path, name: str, labels: np.ndarray, form: Form, method: str = "") -> Path:
    """Write class indices `(X, Y, Z)` as label values in the raters' format, as DICOM SEG or RTSTRUCT.

    Args:
        folder: that exists.
        name: without ending.
        labels: class indices, `MISSING` where undecided.
        form: of the raters' files.
        method: that made them, for DICOM.

    Returns:
        The file.

    Raises:
        OutputError: it cannot be written.
        FormatError: a DICOM format cannot hold them.
    """
    if form.series is not None:
        return _write_dicom(folder / f"{name}{form.suffix}", labels, form, form.series, method)
    values = np.zeros(256, np.int64)
    values[1 : len(form.segments) + 1] = [segment.value for segment in form.segments]
    values[MISSING] = form.missing if (labels == MISSING).any() else 0
    stored = values.astype(_choose_type(values, form))[labels]
    path = folder / f"{name}{form.suffix}"
    if form.suffix in SUFFIXES_2D:
        return _write_2d_image(path, stored[..., 0], form.palette)
    if form.suffix == ".nii.gz":
        return _write_nifti(path, _as_stored(stored, form), form, intent="label")
    fields = _segment_fields(labels, form) if form.suffix == ".seg.nrrd" else {}
    return _write_itk(path, stored, form, fields)


def check_dicom_seg(form: Form, method: str) -> None:
    """See that the results can be written where they are to be DICOM SEG, before anything is fused.

    Args:
        form: of the results.
        method: that will make them.

    Raises:
        DataError: the headers of the series cannot be referred to.
    """
    if form.series is None:
        return
    from medseg.dicom.writing.write_seg import SegmentDescription, check_referable

    marks = [*_descriptions(form), SegmentDescription("undecided")]
    check_referable(form.series, marks, _author(form, method))


def _write_dicom(path: Path, labels: np.ndarray, form: Form, series: Series, method: str) -> Path:
    """A segmentation on the series; what stayed undecided is a segment, since a DICOM SEG has no value for it."""
    from medseg.dicom.writing.write_labels import write_dicom_labels
    from medseg.dicom.writing.write_seg import SegmentDescription

    marks = _descriptions(form)
    if (labels == MISSING).any() or not marks:
        marks.append(SegmentDescription("undecided"))
    places = np.where(labels == MISSING, np.uint8(len(marks)), labels)
    write_dicom_labels(path, places, series, marks, _author(form, method))
    return path


def _descriptions(form: Form) -> list[SegmentDescription]:
    from medseg.dicom.writing.write_seg import SegmentDescription

    return [SegmentDescription(segment.title, segment.color) for segment in form.segments]


def _author(form: Form, method: str) -> Author:
    from medseg.dicom.writing.write_seg import Author

    title = " ".join(("medseg consensus", method)).strip()
    return Author(title, title, {"method": method, "raters": str(len(form.sources))})


def _choose_type(values: np.ndarray, form: Form) -> np.dtype:
    """The raters' type if it holds all values, which it does unless values had to change; or the smallest that does."""
    candidates = [form.dtype, np.dtype(np.uint8), np.dtype(np.int16), np.dtype(np.uint16), np.dtype(np.int32)]
    low, high = int(values.min()), int(values.max())
    for dtype in candidates:
        if form.suffix in SUFFIXES_2D and dtype not in (np.uint8, np.uint16):
            continue
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return dtype
    return np.dtype(np.int32)


def map_suffix(suffix: str) -> str:
    """Ending of maps of numbers, such as confidences, beside label maps with an ending."""
    return ".nii.gz" if suffix.endswith(".dcm") else suffix.replace(".seg", "")


def write_map(folder: Path, name: str, numbers: np.ndarray, form: Form) -> Path:
    """Write one number per voxel: bytes as they are, floats in [0, 1] as float32; in 2D images 255 means 1.

    Args:
        folder: that exists.
        name: without ending.
        numbers: `(X, Y, Z)` uint8 or float32.
        form: of the raters' files.

    Returns:
        The file.

    Raises:
        OutputError: it cannot be written.
    """
    suffix = map_suffix(form.suffix)
    path = folder / f"{name}{suffix}"
    if suffix in SUFFIXES_2D:
        as_stored = numbers if numbers.dtype == np.uint8 else as_bytes(numbers)
        return _write_2d_image(path, as_stored[..., 0])
    if suffix == ".nii.gz":
        return _write_nifti(path, _as_stored(numbers, form), form)
    return _write_itk(path, numbers, form, {})


def write_soft(folder: Path, shares: np.ndarray, form: Form, kind: str) -> Path:
    """Write each class's share of the votes, for training on soft labels.

    Args:
        folder: that exists.
        shares: `(K, X, Y, Z)` float16 or uint8 in steps of 1/255.
        form: of the raters' files.
        kind: "uint8": NIfTI or NRRD with classes as the last axis; "float16": `soft.npy`, `(K, X, Y, Z)`, since no
            medical format knows that type.

    Returns:
        The file.

    Raises:
        OutputError: it cannot be written.
    """
    if kind == "float16":
        path = folder / "soft.npy"
        with write_atomically(path) as new, new.open("wb") as stream:
            np.save(stream, shares)
        return path
    return _write_nifti(folder / "soft.nii.gz", shares.transpose(1, 2, 3, 0), form, slope=1 / STEPS)


def _description() -> str:
    """What wrote a file, for its header."""
    return f"medseg {__version__} consensus; not for diagnostic use"


def _as_stored(array: np.ndarray, form: Form) -> np.ndarray:
    """An array `(X, Y, Z)` with its first axis contiguous, as NIfTI stores it; of a 2D image `(X, Y)`."""
    return np.asfortranarray(array[..., 0] if form.flat else array)


def _write_nifti(path: Path, array: np.ndarray, form: Form, *, slope: float = 1.0, intent: str = "none") -> Path:
    """An array `(X, Y, Z)` or `(X, Y, Z, K)` on the study's grid."""
    grid = form.grid
    description = _description()
    write_nifti(path, array, grid.affine, source=grid.nifti, slope=slope, intent=intent, description=description)
    return path


def _write_2d_image(path: Path, array: np.ndarray, palette: bytes | None = None) -> Path:
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(array.T))
    if palette is not None and array.dtype == np.uint8:
        image.putpalette(palette)
    stream = io.BytesIO()
    image.save(stream, format="PNG" if path.suffix == ".png" else "TIFF")
    return write_bytes(path, stream.getvalue())


def itk_image(array: np.ndarray, affine: np.ndarray, *, flat: bool = False) -> Any:
    """An array `(X, Y, Z)` as SimpleITK's image.

    Args:
        array: the voxels.
        affine: (4, 4), RAS mm.
        flat: make an image of two dimensions.
    """
    image: Any = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    axes = 2 if flat else 3
    if flat:
        image = image[:, :, 0]
    lps = RAS_TO_LPS @ affine
    directions, origin = lps[:axes, :axes], lps[:axes, 3]
    spacing = np.linalg.norm(directions, axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(origin.tolist())
    image.SetDirection((directions / spacing).ravel().tolist())
    return image


def _write_itk(path: Path, array: np.ndarray, form: Form, fields: dict[str, str]) -> Path:
    """NRRD or MetaImage: written elsewhere, since ITK goes by the ending, and put in place whole."""
    image = itk_image(array, form.grid.affine, flat=form.flat)
    for key, value in fields.items():
        image.SetMetaData(key, value)
    try:
        with TemporaryDirectory() as place:
            file = Path(place) / f"x{path.suffix}"
            sitk.WriteImage(image, str(file), True, compressionLevel=1)
            content = file.read_bytes()
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise OutputError(f"cannot be written ({reason})", path=path) from error
    return write_bytes(path, content)


def _segment_fields(labels: np.ndarray, form: Form) -> dict[str, str]:
    """The table of a `.seg.nrrd`; fields of the raters' file that are not ours are kept."""
    fields = {
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    extent = " ".join(f"0 {length - 1}" for length in labels.shape)
    for number, segment in enumerate(form.segments):
        of_segment = {"ID": f"Segment_{number + 1}", "NameAutoGenerated": "0", "ColorAutoGenerated": "0"}
        of_segment |= segment.extra
        of_segment |= {"Name": segment.title, "LabelValue": str(segment.value), "Layer": "0", "Extent": extent}
        if segment.color is not None:
            of_segment["Color"] = " ".join(f"{part:.6g}" for part in segment.color)
        for key, value in of_segment.items():
            fields[f"Segment{number}_{key}"] = value
    return {**fields, **form.fields}
