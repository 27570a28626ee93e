"""Results in the likeness of the raters' files: same format, grid, label values, names and colours."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name everyone knows

from medseg import __version__
from medseg.consensus.io.formats import Form
from medseg.consensus.statistics.uncertainty_maps import STEPS, as_bytes
from medseg.consensus.study import MISSING
from medseg.dicom.series import Series
from medseg.errors import OutputError
from medseg.portable.io.write import replacing, write_nifti

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary file that takes the place of `path`; see `replacing`.

    Raises:
        OutputError: it cannot be written.
    """
    with replacing(path) as new:
        yield new


def write_bytes(path: Path, content: str | bytes) -> Path:
    """A text (UTF-8) or bytes by way of `whole`."""
    with whole(path) as new:
        new.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def write_labels(folder: Path, name: str, labels: np.ndarray, form: Form, method: str = "") -> Path:
    """Write class indices `(X, Y, Z)` as label values in the raters' format, or as DICOM SEG.

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
    """
    if form.series is not None:
        return _write_dicom(folder / f"{name}{form.suffix}", labels, form, form.series, method)
    values = np.zeros(256, np.int64)
    values[1 : len(form.segments) + 1] = [s.value for s in form.segments]
    values[MISSING] = form.missing if (labels == MISSING).any() else 0
    stored = values.astype(_smallest(values, form))[labels]
    path = folder / f"{name}{form.suffix}"
    if form.suffix in (".png", ".tif"):
        return _write_picture(path, stored[..., 0], form.palette)
    if form.suffix == ".nii.gz":
        return _write_nifti(path, _as_stored(stored, form), form, intent="label")
    fields = _segment_fields(labels, form) if form.suffix == ".seg.nrrd" else {}
    return _write_itk(path, stored, form, fields)


def _write_dicom(path: Path, labels: np.ndarray, form: Form, series: Series, method: str) -> Path:
    """A segmentation on the series; what stayed undecided is a segment, since a DICOM SEG has no value for it."""
    from medseg.dicom.write_seg import Author, Marked, write_segmentation

    marks = [Marked(segment.title, segment.color) for segment in form.segments]
    if (labels == MISSING).any() or not marks:
        marks.append(Marked("undecided"))
    title = " ".join(("medseg consensus", method)).strip()
    author = Author(title, title, {"method": method, "raters": str(len(form.sources))})
    places = np.where(labels == MISSING, np.uint8(len(marks)), labels)
    write_segmentation(path, places, series, marks, author)
    return path


def _smallest(values: np.ndarray, form: Form) -> np.dtype:
    """The raters' type if it holds all values, which it does unless values had to change."""
    fitting = [form.dtype, np.dtype(np.uint8), np.dtype(np.int16), np.dtype(np.uint16), np.dtype(np.int32)]
    if form.suffix in (".png", ".tif"):
        fitting = [d for d in fitting if d in (np.uint8, np.uint16)]
    low, high = int(values.min()), int(values.max())
    return next((d for d in fitting if np.iinfo(d).min <= low and high <= np.iinfo(d).max), np.dtype(np.int32))


def map_suffix(suffix: str) -> str:
    """Ending of maps of numbers beside label maps of another."""
    return ".nii.gz" if suffix == ".dcm" else suffix.replace(".seg", "")


def write_map(folder: Path, name: str, numbers: np.ndarray, form: Form) -> Path:
    """Write one number per voxel: bytes as they are, floats in [0, 1] as float32; in pictures 255 means 1.

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
    if suffix in (".png", ".tif"):
        return _write_picture(path, (numbers if numbers.dtype == np.uint8 else as_bytes(numbers))[..., 0])
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
        with whole(path) as new, new.open("wb") as stream:
            np.save(stream, shares)
        return path
    return _write_nifti(folder / "soft.nii.gz", shares.transpose(1, 2, 3, 0), form, slope=1 / STEPS)


def _by() -> str:
    return f"medseg {__version__} consensus; not for diagnostic use"


def _as_stored(array: np.ndarray, form: Form) -> np.ndarray:
    """An array `(X, Y, Z)` with its first axis contiguous, as NIfTI stores it; of a picture `(X, Y)`."""
    return np.asfortranarray(array[..., 0] if form.flat else array)


def _write_nifti(path: Path, array: np.ndarray, form: Form, *, slope: float = 1.0, intent: str = "none") -> Path:
    """An array `(X, Y, Z)` or `(X, Y, Z, K)` on the study's grid."""
    grid = form.grid
    write_nifti(path, array, grid.affine, source=grid.nifti, slope=slope, intent=intent, description=_by())
    return path


def _write_picture(path: Path, array: np.ndarray, palette: bytes | None = None) -> Path:
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(array.T))
    if palette is not None and array.dtype == np.uint8:
        picture.putpalette(palette)
    stream = io.BytesIO()
    picture.save(stream, format="PNG" if path.suffix == ".png" else "TIFF")
    return write_bytes(path, stream.getvalue())


def itk_image(array: np.ndarray, affine: np.ndarray, *, flat: bool = False) -> Any:
    """An array `(X, Y, Z)` as SimpleITK's image.

    Args:
        array: the voxels.
        affine: (4, 4), RAS mm.
        flat: make an image of two dimensions.
    """
    image: Any = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    placed = RAS_TO_LPS @ affine
    if flat:
        image, placed = image[:, :, 0], placed[np.ix_([0, 1, 3], [0, 1, 3])]
    axes = len(placed) - 1
    spacing = np.linalg.norm(placed[:axes, :axes], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(placed[:axes, axes].tolist())
    image.SetDirection((placed[:axes, :axes] / spacing).ravel().tolist())
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
    extent = " ".join(f"0 {n - 1}" for n in labels.shape)
    for number, segment in enumerate(form.segments):
        own = {"ID": f"Segment_{number + 1}", "NameAutoGenerated": "0", "ColorAutoGenerated": "0", **segment.extra}
        own |= {"Name": segment.title, "LabelValue": str(segment.value), "Layer": "0", "Extent": extent}
        if segment.color is not None:
            own["Color"] = " ".join(f"{c:.6g}" for c in segment.color)
        fields |= {f"Segment{number}_{key}": value for key, value in own.items()}
    return {**fields, **form.fields}
