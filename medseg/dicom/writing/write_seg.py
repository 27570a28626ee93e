"""Label maps as DICOM SEG on the slices of the series that they were made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medseg import __version__
from medseg.dicom.availability import reason_of, without_pydicom_warnings
from medseg.dicom.scan.series import Series
from medseg.dicom.scan.source_headers import mended_headers
from medseg.dicom.writing.display_colors import color_of
from medseg.dicom.writing.snomed import code_of
from medseg.errors import DataError, MedsegError
from medseg.portable.io.write import replacing
from medseg.portable.structure_masks import mask_of

SUFFIX = ".dcm"
SERIES_NUMBER = 300  # far from those of scanners, which count from 1
LONGEST = 64  # letters of a description or a label


@dataclass(frozen=True)
class Author:
    """What made a segmentation.

    Attributes:
        name: of the algorithm.
        description: of the series.
        parameters: of the run; short values, they are what tells results apart.
        kind: AUTOMATIC; SEMIAUTOMATIC, a person went on from what the algorithm made; MANUAL, there is no algorithm.
    """

    name: str
    description: str
    parameters: dict[str, str] = field(default_factory=dict)
    kind: Literal["AUTOMATIC", "SEMIAUTOMATIC", "MANUAL"] = "AUTOMATIC"


@dataclass(frozen=True)
class SegmentDescription:
    """One segment of a segmentation: its name and colour.

    Attributes:
        name: its label, coded by `medseg.dicom.writing.snomed`.
        color: red, green, blue in [0, 1]; None: see `medseg.dicom.writing.display_colors`.
        places: those of labels that belong to it, where segments overlap; none: its own.
    """

    name: str
    color: tuple[float, float, float] | None = None
    places: tuple[int, ...] = ()

    def mask_in(self, labels: np.ndarray, number: int) -> np.ndarray:
        """Its voxels, bool of the shape of the labels.

        Args:
            labels: 0, or the place of a segment counted from 1.
            number: its own place.
        """
        return mask_of(labels, self.places or (number,))


def write_segmentation(
    path: Path, labels: np.ndarray, series: Series, segments: Sequence[SegmentDescription], author: Author
) -> None:
    """Write a BINARY segmentation, atomically.

    Args:
        path: where; replaced if it exists.
        labels: `(X, Y, Z)` uint8 on the grid of the series: 0, or the place of a segment counted from 1.
        series: the source.
        segments: at least one; those that no voxel has are described too.
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
        >>> from medseg.dicom.writing.write_seg import Author, SegmentDescription, write_segmentation
        >>> series = open_series(Path("series"))
        >>> labels = np.zeros(series.header.shape, np.uint8)
        >>> labels[10:20, 10:20, 5:15] = 1
        >>> author = Author("threshold", "Liver by threshold")
        >>> write_segmentation(Path("liver.dcm"), labels, series, [SegmentDescription("liver")], author)
        >>> found = read_annotation(Path("liver.dcm"), series.header)
        >>> found.names, int(found.labels.sum())
        (('liver',), 1000)
    """
    made = _make(labels, series, segments, author)
    with without_pydicom_warnings(), replacing(path) as new:
        made.save_as(new)


def check_referable(series: Series, segments: Sequence[SegmentDescription], author: Author) -> None:
    """See, before any work is done, that a segmentation of a series can be written: one of a single voxel is made.

    Raises:
        DataError: a source file cannot be read, or has a header that cannot be referred to.
    """
    labels = np.zeros(series.header.shape, np.uint8)
    labels[0, 0, 0] = 1
    _make(labels, series, segments, author)


def _make(labels: np.ndarray, series: Series, segments: Sequence[SegmentDescription], author: Author) -> Any:
    """The data set of a segmentation; arguments and errors as of `write_segmentation`."""
    try:
        with without_pydicom_warnings():
            return _segmentation(labels, series, segments, author)
    except (MedsegError, MemoryError):
        raise
    except Exception as error:  # highdicom raises whatever an odd header of a source leads to
        problem = f"cannot be referred to by a DICOM SEG ({reason_of(error)})"
        raise DataError(problem, path=series.header.path, hint="mend that, or --format nifti") from error


def _segmentation(labels: np.ndarray, series: Series, segments: Sequence[SegmentDescription], author: Author) -> Any:
    import highdicom as hd

    frames = np.ascontiguousarray(labels.transpose(2, 1, 0))
    if series.slices[0].frame is not None:  # of a multi-frame file in the order of its frames
        frames = frames[np.argsort([one.frame or 0 for one in series.slices])]
    empty = not frames.any()
    if any(segment.places not in ((), (number,)) for number, segment in enumerate(segments, start=1)):
        masks = [segment.mask_in(frames, number) for number, segment in enumerate(segments, start=1)]
        frames = np.stack(masks, axis=-1).astype(np.uint8)
    texts = [author.name, author.description, *(segment.name for segment in segments)]
    return hd.seg.Segmentation(
        source_images=mended_headers(series, texts),
        pixel_array=frames,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_describe(n, segment, author) for n, segment in enumerate(segments, start=1)],
        series_instance_uid=hd.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="medseg",
        manufacturer_model_name="medseg",
        software_versions=__version__,
        device_serial_number="none",
        series_description=shorten(author.description),
        content_label="SEGMENTATION",
        content_creator_name="medseg^",
        content_description=shorten(author.description),
        omit_empty_frames=not empty,  # an empty result has to have a frame nevertheless
    )


def shorten(text: str) -> str:
    """A text as a DICOM value: short, and without the mark between values."""
    return text.replace("\\", "/")[:LONGEST].strip()


def _describe(number: int, segment: SegmentDescription, author: Author) -> Any:
    import highdicom as hd

    coded = code_of(segment.name)
    red, green, blue = (round(255 * part) for part in segment.color or color_of(segment.name, number - 1))
    described = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=shorten(segment.name),
        segmented_property_category=coded.category,
        segmented_property_type=coded.kind,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues[author.kind],
        algorithm_identification=_algorithm(author) if author.kind != "MANUAL" else None,
        tracking_uid=hd.UID(),
        tracking_id=shorten(f"medseg {segment.name}"),
        anatomic_regions=[coded.region] if coded.region is not None else None,
        display_color=hd.color.CIELabColor.from_rgb(red, green, blue),
    )
    if coded.side is not None:
        kind = described.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [hd.sr.CodedConcept.from_code(coded.side)]
    return described


def _algorithm(author: Author) -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    return hd.AlgorithmIdentificationSequence(
        name=shorten(author.name),
        family=codes.cid7162.ArtificialIntelligence,
        version=__version__,
        source="medseg",
        parameters=author.parameters or None,
    )


def recorded_parameters(path: Path) -> str | None:
    """Parameters that an earlier segmentation was made with, as they are written; None if there is none of ours."""
    import pydicom

    try:
        data = pydicom.dcmread(path, stop_before_pixels=True)
        return str(data.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters)
    except (OSError, pydicom.errors.InvalidDicomError, AttributeError, IndexError):
        return None
