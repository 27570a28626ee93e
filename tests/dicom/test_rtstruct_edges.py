"""Contours of RTSTRUCT at the edge of the image and beyond it."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from dicoms import STRAIGHT, affine_of, contour, turned, write_contours, write_series

from medseg.consensus.io.read_study import read_study
from medseg.errors import DataError

SHAPE = (24, 20, 12)


def series_of(folder, axes):
    write_series(folder, np.ones(SHAPE, np.uint16), axes=axes)
    return folder


def drawn(path, axes, *rectangles: tuple[float, float, float, float], name: str = "body"):
    """Rectangles (x from, x to, y from, y to), in voxels of slice 7."""
    affine = affine_of(axes)
    write_contours(path, {name: np.zeros(SHAPE, np.uint8)}, affine)
    data, contours = pydicom.dcmread(path), []
    for low, high, first, last in rectangles:
        corners = [(low, first, 7), (high, first, 7), (high, last, 7), (low, last, 7)]
        contours.append(contour(np.array(corners, float), affine))
    data.ROIContourSequence[0].ContourSequence = contours
    data.save_as(path)
    return path


@pytest.mark.parametrize("axes", [STRAIGHT, turned()])
@pytest.mark.parametrize("beside", [(30, 40, 3, 9), (-14, -4, 3, 9), (3, 9, 21.6, 30), (3, 9, -9, -1.6)])
def test_a_contour_beside_the_image_is_refused(axes, beside, tmp_path):
    series = series_of(tmp_path / "ct", axes)
    path = drawn(tmp_path / "a.dcm", axes, (3, 9, 3, 9), beside)
    with pytest.raises(DataError) as caught:
        read_study(series, [path])
    assert str(caught.value) == (
        f"{path}: contour 2 of 'body' lies outside {series}; give the series that it annotates; --label takes some of "
        "its structures only"
    )


def test_a_contour_partly_beside_the_image_is_cut_off_with_a_note(tmp_path):
    series = series_of(tmp_path / "ct", turned())
    path = drawn(tmp_path / "a.dcm", turned(), (-7.5, 9.5, 2.5, 9.5), (20.5, 26.5, 15.5, 23.5), (12.5, 14.5, 2.5, 4.5))
    study, form = read_study(series, [path])
    wanted = np.zeros(SHAPE, np.uint8)
    wanted[:10, 3:10, 7] = 1
    wanted[21:, 16:, 7] = 1
    wanted[13:15, 3:5, 7] = 1
    np.testing.assert_array_equal(study.raters[0].labels, wanted)
    assert form.notes == (f"a: 'body' reaches beyond {series} in 2 of its 3 contours: cut off at the edge",)


def test_outlines_of_voxels_at_the_edge_are_not_beyond_it(tmp_path):
    series = series_of(tmp_path / "ct", turned())
    study, form = read_study(series, [drawn(tmp_path / "a.dcm", turned(), (-0.6, 23.6, -0.6, 19.6))])
    assert study.raters[0].labels[..., 7].all()
    assert form.notes == ()


def test_structures_that_are_not_taken_may_lie_anywhere(tmp_path):
    """A treatment table below the image does not matter to who takes the liver."""
    series = series_of(tmp_path / "ct", turned())
    affine = affine_of(turned())
    path = write_contours(tmp_path / "a.dcm", {"liver": np.ones(SHAPE), "table": np.zeros(SHAPE)}, affine)
    data = pydicom.dcmread(path)
    corners = np.array([(3, 40, 7), (9, 40, 7), (9, 50, 7), (3, 50, 7)], float)
    data.ROIContourSequence[1].ContourSequence = [contour(corners, affine)]
    data.save_as(path)
    with pytest.raises(DataError, match="contour 1 of 'table' lies outside"):
        read_study(series, [path])
    study, form = read_study(series, [path], labels={1: "liver"})
    assert study.raters[0].labels.all()
    assert form.notes == ("a: left out: table",)


def test_structures_are_taken_by_names_with_blanks_or_underscores(tmp_path):
    series = series_of(tmp_path / "ct", turned())
    left, right = np.zeros(SHAPE), np.zeros(SHAPE)
    left[3:6, 3:6, 7], right[9:12, 3:6, 7] = 1, 1
    one = write_contours(tmp_path / "a.dcm", {"Left_Kidney": left}, affine_of(turned()))
    study, _ = read_study(series, [one], labels={4: "left kidney"})
    assert study.classes == ("background", "left kidney")
    np.testing.assert_array_equal(study.raters[0].labels, left)
    both = write_contours(tmp_path / "b.dcm", {"PTV_1": left, "PTV 1": right}, affine_of(turned()))
    assert read_study(series, [both])[0].classes == ("background", "PTV_1", "PTV 1")
    study, form = read_study(series, [both], labels={1: "ptv 1"})
    np.testing.assert_array_equal(study.raters[0].labels, right)
    assert form.notes == ("b: left out: PTV_1",)
