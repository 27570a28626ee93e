"""Labels as a DICOM SEG or RTSTRUCT, by the ending of the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medseg.dicom.scan.series import Series
from medseg.dicom.writing.write_rtstruct import SUFFIX as RTSTRUCT
from medseg.dicom.writing.write_rtstruct import write_rtstruct
from medseg.dicom.writing.write_seg import Author, SegmentDescription, write_segmentation
from medseg.errors import FormatError, OutputError


def write_dicom_labels(
    path: Path, places: np.ndarray, series: Series, segments: Sequence[SegmentDescription], author: Author
) -> None:
    """Write labels as RTSTRUCT where the name of the file ends in `.rtstruct.dcm`, else as SEG.

    Args:
        path: of the file.
        places: `(X, Y, Z)` uint8 on the grid of the series: 0, or the place of a segment from 1.
        series: that the labels are of.
        segments: names and colours.
        author: who or what made the labels.

    Raises:
        OutputError: the file cannot be written.
        FormatError: there is no such file of these labels and this series.
    """
    is_rtstruct = path.name.endswith(RTSTRUCT)
    write = write_rtstruct if is_rtstruct else write_segmentation
    try:
        write(path, places, series, segments, author)
    except (OutputError, OSError, MemoryError):
        raise
    except Exception as error:  # pydicom and highdicom raise whatever an odd header of a source leads to
        kind = "rtstruct" if is_rtstruct else "dicom-seg"
        raise FormatError(f"no {kind} can be written ({error})", path=series.header.path) from error
