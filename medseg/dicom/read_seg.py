"""DICOM SEG as an annotation; highdicom puts its frames together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medseg.dicom.overlaps import StackedStructures
from medseg.dicom.scan.stacking import LPS_TO_RAS
from medseg.dicom.structures import Annotation, Color, choose_structures
from medseg.portable.io.header import Header, checked_spacing

HALF = 0.5  # from which share on a voxel of a FRACTIONAL segmentation counts


def read_segmentation(data: Any, path: Path, grid: Header, only: Sequence[str]) -> Annotation:
    """The segments of a file, on the slices that it has, which may be fewer than the image's.

    Args:
        data: the parsed file.
        path: for messages.
        grid: of the image; tells the distance of slices where the file does not.
        only: names of the segments to take; none: all.

    Raises:
        DataError: none of the segments is wanted.
        VolumeError: its grid is unusable.
        Exception: whatever highdicom finds wrong with a damaged file, or one whose frames are no volume.
    """
    import highdicom as hd

    _give_spacing(data, grid)
    seg = hd.seg.Segmentation.from_dataset(data, copy=False)
    described = [seg.get_segment_description(n) for n in seg.segment_numbers]
    names = [str(item.segment_label) for item in described]
    taken, notes = choose_structures(names, only, path)
    labels, affine, of_volume = _read_volume(seg, {int(seg.segment_numbers[n]): names[n] for n in taken})
    header = Header(path, labels.shape, 1, affine, checked_spacing(affine), np.dtype(np.uint8))
    colors = tuple(_color(described[n]) for n in taken)
    return Annotation(labels, header, tuple(names[n] for n in taken), colors, (*notes, *of_volume))


def _give_spacing(data: Any, grid: Header) -> None:
    """State the distance of slices where a file does not: it tells which frames, all empty, were left out."""
    for shared in data.get("SharedFunctionalGroupsSequence") or ():
        for measures in shared.get("PixelMeasuresSequence") or ():
            for name in ("SpacingBetweenSlices", "SliceThickness"):
                if not measures.get(name):
                    setattr(measures, name, float(grid.spacing_mm[2]))


def _read_volume(seg: Any, chosen: Mapping[int, str]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Labels `(X, Y, Z)`, affine (RAS, of columns, rows, slices), notes.

    Args:
        seg: highdicom's segmentation.
        chosen: number -> name of each segment to take; they become the labels 1, 2, ...
    """
    stacked: StackedStructures | None = None
    affine = np.eye(4)
    for number in chosen:
        volume = seg.get_volume(segment_numbers=[number], combine_segments=False)
        mask = volume.array[..., 0] >= HALF
        if stacked is None:
            stacked, affine = StackedStructures(mask.shape, list(chosen.values())), volume.affine
        stacked.add(mask)
    assert stacked is not None  # some segment was chosen
    notes = stacked.notes()
    if str(seg.SegmentationType) == "FRACTIONAL":
        notes = ["it holds fractions: voxels of one half or more count", *notes]
    columns_first = affine[:, [2, 1, 0, 3]]  # highdicom's axes are slices, rows, columns
    return stacked.labels.transpose(2, 1, 0), LPS_TO_RAS @ columns_first, notes


def _color(described: Any) -> Color | None:
    """The colour to show a segment in, the nearest that a screen has; None where the file has none or an odd value."""
    import highdicom as hd

    try:
        value = described.get("RecommendedDisplayCIELabValue")
        if not value:
            return None
        red, green, blue = hd.color.CIELabColor.from_dicom_value(list(value)).to_rgb(clip=True)
    except (TypeError, ValueError):  # a colour never stops a label
        return None
    return red / 255, green / 255, blue / 255
