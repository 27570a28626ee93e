"""Structure sets that medseg writes: every voxel comes back, in any orientation; points and colours by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicoms import STRAIGHT, enhanced, turned, write_series

from medseg.dicom.annotation import read_annotation
from medseg.dicom.scan.series import Series, open_series
from medseg.dicom.writing.display_colors import color_of
from medseg.dicom.writing.write_rtstruct import outlines, write_rtstruct
from medseg.dicom.writing.write_seg import Author, SegmentDescription
from medseg.errors import DataError

AUTHOR = Author("net", "net of three", {"medseg": "medseg 0.1 image=1 model=2"})
SEGMENTS = (SegmentDescription("liver"), SegmentDescription("lesion", (1.0, 0.0, 0.2)), SegmentDescription("spleen"))


def labels_with_holes_and_slivers(shape: tuple[int, int, int]) -> np.ndarray:
    """A body with a hole, in which lies an island; single voxels, at a corner and touching by their corners."""
    labels = np.zeros(shape, np.uint8)
    labels[3:20, 4:18, 2:9] = 1
    labels[6:15, 7:15, 3:8] = 0
    labels[9:12, 9:12, 4:7] = 1
    labels[0, 0, 0] = 2
    labels[22, 20, 5] = labels[23, 21, 5] = labels[24, 20, 5] = 2
    return labels


def series_of(kind: str, folder: Path) -> Series:
    voxels = np.arange(30 * 26 * 14, dtype=np.uint16).reshape(30, 26, 14)
    if kind == "multiframe":
        folder.mkdir()
        enhanced(folder / "ct.dcm", voxels, axes=turned(), order=np.random.default_rng(2).permutation(14).tolist())
    else:
        axes = turned() if kind == "oblique" else STRAIGHT
        write_series(folder, voxels, axes=axes, backwards=kind == "backwards")
    return open_series(folder)


@pytest.mark.parametrize("kind", ["straight", "oblique", "backwards", "multiframe"])
def test_every_voxel_comes_back(kind, tmp_path):
    series = series_of(kind, tmp_path / "in")
    labels = labels_with_holes_and_slivers(series.header.shape)
    path = tmp_path / "out.rtstruct.dcm"
    write_rtstruct(path, labels, series, SEGMENTS, AUTHOR)
    found = read_annotation(path, series.header)
    assert found.names == ("liver", "lesion", "spleen")
    np.testing.assert_array_equal(found.labels, labels)
    data = pydicom.dcmread(path)
    assert data.StudyInstanceUID == pydicom.dcmread(series.files[0]).StudyInstanceUID
    assert data.StructureSetDescription == "medseg=medseg 0.1 image=1 model=2"
    assert [len(item.ContourSequence) for item in data.ROIContourSequence] == [7 + 5 + 3, 1 + 3, 0]
    known = {item.ReferencedSOPInstanceUID for item in images_of(data)}
    drawn = {
        item.ContourImageSequence[0].ReferencedSOPInstanceUID for item in data.ROIContourSequence[0].ContourSequence
    }
    assert drawn <= known
    assert {str(header.SOPInstanceUID) for header in map(pydicom.dcmread, series.files)} == known


def images_of(data: pydicom.Dataset) -> list[pydicom.Dataset]:
    study = data.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    return list(study.RTReferencedSeriesSequence[0].ContourImageSequence)


def test_points_of_a_voxel_by_hand(tmp_path):
    series = series_of("straight", tmp_path / "in")  # 0.7 x 1.3 x 2.5 mm from (20, -11, -40) on, LPS
    labels = np.zeros(series.header.shape, np.uint8)
    labels[2, 3, 4] = 1
    write_rtstruct(tmp_path / "out.rtstruct.dcm", labels, series, SEGMENTS[:1], AUTHOR)
    contour = pydicom.dcmread(tmp_path / "out.rtstruct.dcm").ROIContourSequence[0].ContourSequence[0]
    points = np.array(contour.ContourData, float).reshape(-1, 3)
    assert contour.NumberOfContourPoints == len(points) == 4
    center = (series.header.affine @ [2, 3, 4, 1])[:3] * [-1, -1, 1]
    np.testing.assert_allclose(points.mean(0), center, atol=1e-4)
    np.testing.assert_allclose(np.ptp(points, axis=0), [0.7, 1.3, 0.0], atol=1e-4)
    position = np.array(pydicom.dcmread(series.slices[4].path).ImagePositionPatient, float)
    assert points[0, 2] == pytest.approx(position[2], abs=1e-4)


def test_a_ring_has_two_outlines_and_nothing_has_none():
    ring = np.ones((5, 5), bool)
    ring[2, 2] = False
    areas = sorted(abs(area_of(points)) for points in outlines(ring))
    assert areas == pytest.approx([0.5, 25 - 0.5])  # a diamond, and a square without its four corners of 1/8
    assert list(outlines(np.zeros((5, 5), bool))) == []


def area_of(points: np.ndarray) -> float:
    """By the shoelace formula."""
    x, y = points.T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def test_colors_by_name_by_place_and_as_given(tmp_path):
    series = series_of("straight", tmp_path / "in")
    write_rtstruct(tmp_path / "o.rtstruct.dcm", np.zeros(series.header.shape, np.uint8), series, SEGMENTS, AUTHOR)
    data = pydicom.dcmread(tmp_path / "o.rtstruct.dcm")
    assert [list(item.ROIDisplayColor) for item in data.ROIContourSequence] == [
        [221, 130, 101], [255, 0, 51], [157, 108, 162],
    ]  # fmt: skip
    assert color_of("left lungs", 0) == color_of("lung", 5)
    assert color_of("x", 0) != color_of("x", 1)
    assert color_of("x", 0) == color_of("x", 10)


def test_an_image_without_its_uid_is_named(tmp_path):
    series = series_of("straight", tmp_path / "in")
    first = pydicom.dcmread(series.files[0])
    del first.SOPInstanceUID
    del first.file_meta.MediaStorageSOPInstanceUID
    first.save_as(series.files[0], enforce_file_format=False)
    with pytest.raises(DataError, match="has no SOPInstanceUID"):
        write_rtstruct(tmp_path / "o.dcm", np.zeros(series.header.shape, np.uint8), series, SEGMENTS, AUTHOR)
