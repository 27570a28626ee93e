"""One rater's annotation from DICOM: a segmentation or a set of contours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.consensus.io.annotations.files import FileAnnotation, suffix_of
from medseg.consensus.io.annotations.segment_table import Segment
from medseg.dicom.annotation import read_annotation
from medseg.errors import DataError
from medseg.portable.io.header import Header


@dataclass(frozen=True)
class AnnotatedImage:
    """The image that raters annotated, as far as their files need it to be understood.

    Attributes:
        grid: of the image.
        frame: its DICOM frame of reference; "" where it is no DICOM.
        is_image: False where there is no image, and the grid is a rater's.
    """

    grid: Header
    frame: str = ""
    is_image: bool = True


def read_dicom_annotation(path: Path, known: Sequence[Segment], image: AnnotatedImage) -> FileAnnotation:
    """Read what one rater annotated.

    Args:
        path: a DICOM SEG or an RTSTRUCT.
        known: classes; of a file with many structures those with their names are taken. None: all.
        image: that was annotated.

    Raises:
        ConfigError: the extra `dicom` is not installed.
        DataError: it is neither, damaged, or of another image.
    """
    if not image.is_image:
        raise DataError("is DICOM and refers to images", path=path, hint="give the series as --image FOLDER")
    wanted = [segment.name for segment in known if segment.name]
    found = read_annotation(path, image.grid, image.frame, wanted)
    segments = []
    for place, (name, color) in enumerate(zip(found.names, found.colors, strict=True), start=1):
        segments.append(Segment(place, name, color, has_value=False))
    return FileAnnotation(
        array=found.labels,
        header=found.header,
        segments=tuple(segments),
        suffix=suffix_of(path),
        flat=False,
        dtype=np.dtype(np.uint8),
        cropped=True,
        notes=found.notes,
    )
