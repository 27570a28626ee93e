"""One rater's drawing from DICOM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.consensus.io.annotation_files import Drawing, suffix_of
from medseg.consensus.io.segment_table import Segment
from medseg.dicom.annotation import read_annotation
from medseg.errors import DataError
from medseg.portable.io.header import Header


@dataclass(frozen=True)
class Where:
    """The image that raters drew on, as far as their files need it to be understood.

    Attributes:
        grid: of the image.
        frame: its DICOM frame of reference; "" where it is no DICOM.
        is_image: False where there is no image, and the grid is a rater's.
    """

    grid: Header
    frame: str = ""
    is_image: bool = True


def read_dicom_drawing(path: Path, known: Sequence[Segment], where: Where) -> Drawing:
    """Read what one rater drew.

    Args:
        path: a DICOM SEG or an RTSTRUCT.
        known: classes; of a file with many structures those with their names are taken. None: all.
        where: the image.

    Raises:
        ConfigError: the extra `dicom` is not installed.
        DataError: it is neither, damaged, or was drawn on another image.
    """
    if not where.is_image:
        raise DataError("is DICOM and refers to images", path=path, hint="give the series as --image FOLDER")
    spelled = {segment.name.casefold(): segment.name for segment in known if segment.name}
    found = read_annotation(path, where.grid, where.frame, list(spelled.values()))
    named = zip((spelled.get(name.casefold(), name) for name in found.names), found.colors, strict=True)
    segments = [Segment(place, name, color) for place, (name, color) in enumerate(named, start=1)]
    return Drawing(
        found.labels, found.header, tuple(segments), suffix_of(path), False, np.dtype(np.uint8), True, found.notes
    )  # fmt: skip
