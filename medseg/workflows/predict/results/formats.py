"""Results of prediction as NIfTI, as PNG, as a segmentation of 3D Slicer with names, as DICOM SEG, or as RTSTRUCT."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medseg.atomic import write_whole
from medseg.config.pipeline import DataSpec
from medseg.errors import ConfigError
from medseg.portable.io.header import Header, checked_spacing
from medseg.portable.io.record import description
from medseg.portable.io.write import is_flat, source_of, write_labels
from medseg.workflows.predict.collect_cases import Item

if TYPE_CHECKING:
    from medseg.dicom.writing.write_seg import Author, SegmentDescription

AUTO = "auto"
"""What `--format` is unless something is asked for: each result as its image, PNG of a photograph."""

FORMATS = {"nifti": ".nii.gz", "png": ".png", "nrrd": ".seg.nrrd", "dicom-seg": ".dcm", "rtstruct": ".rtstruct.dcm"}
"""What `--format` takes besides, and the ending of each."""

RECORD = "medseg"  # field of a NRRD, text of a PNG, and parameter of a DICOM algorithm, that keeps the record


@dataclass(frozen=True)
class Model:
    """What a result tells of the model.

    Attributes:
        name: of the bundle.
        data: what the plan decided about the data: the names of label values.
    """

    name: str
    data: DataSpec

    @property
    def places(self) -> np.ndarray:
        """The place of each label value in a file that describes classes one by one, from 1; `(256,)` uint8."""
        places = np.zeros(256, np.uint8)
        values = list(self.data.painted_values)
        places[values] = np.arange(1, len(values) + 1)
        return places


def suffix_of(kind: str) -> str | None:
    """Ending of a format's files; None: that of each image's usual one.

    Raises:
        ConfigError: there is no such format.
    """
    if kind == AUTO:
        return None
    if kind not in FORMATS:
        raise ConfigError(f"--format {kind}: accepted are {AUTO}, {', '.join(FORMATS)}")
    return FORMATS[kind]


def write_result(path: Path, labels: np.ndarray, item: Item, affine: np.ndarray, line: str, model: Model) -> None:
    """Write a label map in the format that the item wants.

    Args:
        path: where.
        labels: `(X, Y, Z)` uint8 label values on the image's grid.
        item: the case.
        affine: of the image, RAS mm.
        line: the record of image, model and settings.
        model: what the values mean, and who decided.

    Raises:
        SaveError, OutputError: it cannot be written.
        FormatError: a DICOM format cannot hold it.
    """
    if item.suffix == FORMATS["nifti"]:
        flat = not item.dicom and is_flat(item.images[0], labels.shape)
        write_labels(path, labels, affine, source=source_of_item(item), flat=flat, description=line)
        return
    if item.suffix == FORMATS["png"]:
        _write_png(path, labels, line)
        return
    places = model.places
    if item.suffix == FORMATS["nrrd"]:
        spacing = checked_spacing(affine)
        header = Header(item.images[0], labels.shape, 1, affine, spacing, np.dtype(np.uint8))
        names = {value: model.data.value_names[value] for value in model.data.painted_values}
        _write_nrrd(path, places[labels], header, line, names)
        return
    from medseg.dicom.writing.write_labels import write_dicom_labels

    write_dicom_labels(path, places[labels], item.series, *_segments_and_author(model, line))


def check_dicom(item: Item, line: str, model: Model) -> None:
    """See that a result in DICOM can be written, before the network runs; arguments as of `write_result`.

    Raises:
        DataError: the headers of its series cannot be referred to.
    """
    from medseg.dicom.writing.write_seg import check_referable

    check_referable(item.series, *_segments_and_author(model, line))


def _segments_and_author(model: Model, line: str) -> tuple[list[SegmentDescription], Author]:
    from medseg.dicom.writing.write_seg import Author, SegmentDescription

    author = Author(f"medseg {model.name}", f"medseg {model.name}", {RECORD: line})
    segments = []
    for value in model.data.painted_values:
        places = model.places[list(model.data.members[value])].tolist()
        segments.append(SegmentDescription(model.data.labels[value], places=tuple(places)))
    return segments, author


def source_of_item(item: Item) -> bytes:
    """The NIfTI header of a case's first file; empty for other formats."""
    return b"" if item.dicom else source_of(item.images[0])


def uncoded(names: Iterable[str]) -> list[str]:
    """Which names of labels DICOM SEG gets no code of their own for."""
    from medseg.dicom.writing.snomed import code_of

    return [name for name in names if not code_of(name).known]


def _write_png(path: Path, labels: np.ndarray, line: str) -> None:
    """Label values `(X, Y, 1)` as a grey image of rows and columns."""
    write_whole(path, encode_png(labels[..., 0].T, line))


def encode_png(rows: np.ndarray, line: str) -> bytes:
    """Pixels `(rows, columns)` or `(rows, columns, 3)`, uint8, as a PNG file that keeps a record."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    texts = PngInfo()
    texts.add_text(RECORD, line)
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rows)).save(stream, format="PNG", pnginfo=texts)
    return stream.getvalue()


def _recorded_in_png(path: Path) -> str | None:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.info.get(RECORD)
    except (OSError, SyntaxError, ValueError):  # what Pillow raises for a file that is none, or damaged
        return None


def _write_nrrd(path: Path, places: np.ndarray, header: Header, line: str, names: Mapping[int, str]) -> None:
    from medseg.consensus.io.annotations.segment_table import Segment
    from medseg.consensus.io.formats import Form
    from medseg.consensus.io.write_results import write_labels as write_segments

    suffix = FORMATS["nrrd"]
    form = Form(
        grid=header, suffix=suffix, flat=False, dtype=np.dtype(np.uint8),
        segments=tuple(Segment(value, name) for value, name in names.items()), missing=255, palette=None,
        sources=(), notes=(), fields={RECORD: line},
    )  # fmt: skip
    write_segments(path.parent, path.name.removesuffix(suffix), places, form)


def recorded(path: Path) -> str | None:
    """The record of an earlier result; None if there is none or it is no result of ours."""
    if not path.is_file():
        return None
    if path.name.endswith(FORMATS["rtstruct"]):
        from medseg.dicom.writing.write_rtstruct import recorded_description

        return (recorded_description(path) or "").removeprefix(f"{RECORD}=") or None
    if path.name.endswith(FORMATS["dicom-seg"]):
        from medseg.dicom.writing.write_seg import recorded_parameters

        return (recorded_parameters(path) or "").removeprefix(f"{RECORD}=") or None
    if path.name.endswith(FORMATS["png"]):
        return _recorded_in_png(path)
    if path.name.endswith(FORMATS["nrrd"]):
        return _recorded_in_nrrd(path)
    return description(path)


def _recorded_in_nrrd(path: Path) -> str | None:
    import SimpleITK as sitk  # noqa: N813 - the name everyone knows

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None
    return reader.GetMetaData(RECORD) if reader.HasMetaDataKey(RECORD) else None
