"""Label maps as RTSTRUCT: closed planar contours on the slices of the series that they were made of.

DICOM PS3.3, A.19 (RT Structure Set), C.8.8.5 and C.8.8.6. A contour within another one of the same structure is a hole,
as planning systems and `medseg.dicom.rtstruct` read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from skimage.measure import find_contours

from medseg import __version__
from medseg.dicom.availability import reason_of, without_pydicom_warnings
from medseg.dicom.scan.series import Series
from medseg.dicom.scan.source_headers import mended_headers
from medseg.dicom.scan.stacking import LPS_TO_RAS
from medseg.dicom.writing.display_colors import color_of
from medseg.dicom.writing.write_seg import SERIES_NUMBER, Author, SegmentDescription, shorten
from medseg.errors import DataError, MedsegError
from medseg.portable.io.write import replacing

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

SUFFIX = ".rtstruct.dcm"

LONGEST_TEXT = 1024
"""Letters of a description."""

PATIENT_AND_STUDY = (
    "SpecificCharacterSet", "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID",
    "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
"""What the structure set repeats of its images."""


def write_rtstruct(
    path: Path, labels: np.ndarray, series: Series, segments: Sequence[SegmentDescription], author: Author
) -> None:
    """Write a structure set, atomically.

    Args:
        path: where; replaced if it exists.
        labels: `(X, Y, Z)` uint8 on the grid of the series: 0, or the place of a structure counted from 1.
        series: the source.
        segments: at least one; those that no voxel has are named without contours.
        author: of all of them.

    Raises:
        OutputError: it cannot be written.
        DataError: a source file cannot be read any more, or has a header that cannot be referred to.

    Examples:
        A cube as the liver of a series, and read again.

        >>> from pathlib import Path
        >>> import numpy as np
        >>> from medseg.dicom.annotation import read_annotation
        >>> from medseg.dicom.scan.series import open_series
        >>> from medseg.dicom.writing.write_rtstruct import write_rtstruct
        >>> from medseg.dicom.writing.write_seg import Author, SegmentDescription
        >>> series = open_series(Path("series"))
        >>> labels = np.zeros(series.header.shape, np.uint8)
        >>> labels[10:20, 10:20, 5:15] = 1
        >>> author = Author("threshold", "Liver by threshold")
        >>> write_rtstruct(Path("liver.rtstruct.dcm"), labels, series, [SegmentDescription("liver")], author)
        >>> found = read_annotation(Path("liver.rtstruct.dcm"), series.header)
        >>> found.names, bool((found.labels == labels).all())
        (('liver',), True)
    """
    try:
        with without_pydicom_warnings():
            made = _structure_set(labels, series, segments, author)
    except (MedsegError, MemoryError):
        raise
    except Exception as error:  # pydicom raises whatever an odd header of a source leads to
        problem = f"cannot be referred to by an RTSTRUCT ({reason_of(error)})"
        raise DataError(problem, path=series.header.path, hint="mend that, or --format nifti") from error
    with without_pydicom_warnings(), replacing(path) as new:
        made.save_as(new, enforce_file_format=True)


def recorded_description(path: Path) -> str | None:
    """Parameters that an earlier structure set was made with, as they are written; None if there is none of ours."""
    import pydicom

    try:
        return str(pydicom.dcmread(path, specific_tags=["StructureSetDescription"]).StructureSetDescription)
    except (OSError, pydicom.errors.InvalidDicomError, AttributeError):
        return None


def _structure_set(labels: np.ndarray, series: Series, segments: Sequence[SegmentDescription], author: Author) -> Any:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

    texts = [author.name, author.description, *(segment.name for segment in segments)]
    headers = mended_headers(series, texts)
    now = datetime.now(tz=UTC)
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = RTStructureSetStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = generate_uid()
    for name in PATIENT_AND_STUDY:
        if name in headers[0]:
            made[name] = headers[0][name]
        elif name != "SpecificCharacterSet":
            setattr(made, name, "")
    made.Modality, made.Manufacturer, made.ManufacturerModelName = "RTSTRUCT", "medseg", "medseg"
    made.SoftwareVersions = __version__
    made.SeriesInstanceUID, made.SeriesNumber = generate_uid(), SERIES_NUMBER
    made.SeriesDescription = shorten(author.description)
    made.StructureSetLabel = "SEGMENTATION"
    made.StructureSetDescription = ";".join(f"{key}={value}" for key, value in author.parameters.items())[:LONGEST_TEXT]
    made.StructureSetDate, made.StructureSetTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    made.InstanceCreationDate, made.InstanceCreationTime = made.StructureSetDate, made.StructureSetTime
    made.FrameOfReferenceUID, made.PositionReferenceIndicator = headers[0].FrameOfReferenceUID, ""
    made.ReferencedFrameOfReferenceSequence = [_frame_of_reference(headers)]
    made.StructureSetROISequence, made.ROIContourSequence, made.RTROIObservationsSequence = [], [], []
    images = _images_of_slices(series, headers)
    for number, segment in enumerate(segments, start=1):
        made.StructureSetROISequence.append(_structure(number, segment, author, made.FrameOfReferenceUID))
        made.ROIContourSequence.append(_contours(number, segment, segment.mask_in(labels, number), series, images))
        made.RTROIObservationsSequence.append(_observation(number))
    return made


def _frame_of_reference(headers: Sequence[Any]) -> Dataset:
    """The images that the contours are drawn on."""
    from pydicom.dataset import Dataset

    series = Dataset()
    series.SeriesInstanceUID = headers[0].SeriesInstanceUID
    series.ContourImageSequence = [_image(header) for header in headers]
    study = Dataset()
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"  # the retired study management, which readers expect here
    study.ReferencedSOPInstanceUID = headers[0].StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame = Dataset()
    frame.FrameOfReferenceUID = headers[0].FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    return frame


def _image(header: Any, frame: int | None = None) -> Dataset:
    from pydicom.dataset import Dataset

    image = Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    if frame is not None:
        image.ReferencedFrameNumber = frame
    return image


def _images_of_slices(series: Series, headers: Sequence[Any]) -> list[Dataset]:
    """Of each slice the image, and in a multi-frame file the frame, that it is; frames count from 1."""
    by_path = dict(zip(series.files, headers, strict=True))
    return [_image(by_path[one.path], None if one.frame is None else one.frame + 1) for one in series.slices]


def _structure(number: int, segment: SegmentDescription, author: Author, frame: str) -> Dataset:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ROINumber, item.ROIName = number, shorten(segment.name)
    item.ReferencedFrameOfReferenceUID = frame
    item.ROIGenerationAlgorithm = author.kind
    item.ROIDescription = shorten(author.name)
    return item


def _observation(number: int) -> Dataset:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ObservationNumber = item.ReferencedROINumber = number
    item.RTROIInterpretedType, item.ROIInterpreter = "", ""
    return item


def _contours(
    number: int, segment: SegmentDescription, mask: np.ndarray, series: Series, images: Sequence[Dataset]
) -> Dataset:
    """A structure's contours on all slices.

    Args:
        number: of the structure.
        segment: its name and colour.
        mask: `(X, Y, Z)`.
        series: the source.
        images: of each slice.
    """
    from pydicom.dataset import Dataset

    color = segment.color or color_of(segment.name, number - 1)
    drawn = Dataset()
    drawn.ReferencedROINumber = number
    drawn.ROIDisplayColor = [round(255 * part) for part in color]
    drawn.ContourSequence = []
    for at in np.flatnonzero(mask.any((0, 1))).tolist():
        for points in outlines(mask[:, :, at]):
            placed = np.c_[points, np.full(len(points), at)]
            contour = Dataset()
            contour.ContourImageSequence = [images[at]]
            contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
            contour.ContourData = [f"{value:.4f}" for value in _to_patient(placed, series).ravel()]
            drawn.ContourSequence.append(contour)
    return drawn


def outlines(mask: np.ndarray) -> Iterator[np.ndarray]:
    """The closed outlines of a mask, between its pixels and the others; of a hole another one.

    Args:
        mask: `(X, Y)`.

    Yields:
        `(n, 2)` points in pixels, the first one not repeated at the end.

    Examples:
        >>> [points.tolist() for points in outlines(np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]]) > 0)]
        [[[1.5, 1.0], [1.0, 0.5], [0.5, 1.0], [1.0, 1.5]]]
    """
    for points in find_contours(np.pad(mask, 1).astype(np.float32), 0.5):
        yield points[:-1] - 1


def _to_patient(points: np.ndarray, series: Series) -> np.ndarray:
    """Points `(n, 3)` in voxels as LPS millimetres."""
    world = np.c_[points, np.ones(len(points))] @ series.header.affine.T
    return (world @ np.linalg.inv(LPS_TO_RAS).T)[:, :3]
