"""Slices in figures: the patient's directions, physical size, and colours, by hand."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from medseg.portable.io.read import read_header
from medseg.workflows.reports.overlay import (
    AXIAL,
    CLASS_COLORS,
    CORONAL,
    CT_WINDOW,
    SAGITTAL,
    SliceAxes,
    class_colors,
    cut_slice,
    find_fullest_slice,
    grey_window,
    turn_to_ras,
)
from medseg.workflows.train.self_training.report.figures import _disagreement

PACKAGE = Path(__file__).resolve().parents[3] / "medseg"


@pytest.fixture
def slice_axes() -> SliceAxes:
    """30 mm wide and 20 mm high."""
    return SliceAxes(Figure().subplots(), (30.0, 20.0))


def test_a_slice_has_the_patients_right_on_the_left_and_front_or_head_on_top():
    x, y, z = np.indices((2, 3, 4))
    axial = cut_slice(x + 10 * y, AXIAL, 0)
    assert axial.tolist() == [[1, 0], [11, 10], [21, 20]]  # bottom row first: the back, from right to left
    coronal = cut_slice(x + 10 * z, CORONAL, 0)
    assert coronal[-1].tolist() == [31, 30]
    sagittal = cut_slice(y + 10 * z, SAGITTAL, 1)
    assert sagittal[0].tolist() == [2, 1, 0]  # the front is on the left
    assert [view.letters for view in (AXIAL, CORONAL, SAGITTAL)] == [tuple("RLPA"), tuple("RLIS"), tuple("APIS")]
    assert cut_slice(z, AXIAL, 3)[0, 0] == 3


def test_volumes_are_turned_to_the_patients_axes_with_their_spacing(tmp_path):
    from raters import save

    # stored axes: to the back, to the left, to the head; 2, 3 and 4 mm
    affine = np.array([[0.0, -3, 0, 0], [-2, 0, 0, 0], [0, 0, 4, 0], [0, 0, 0, 1]])
    stored = np.zeros((5, 6, 7), np.uint8)
    stored[0, 5, 2] = 1
    header = read_header(save(tmp_path / "turned.nii.gz", stored, affine))
    (turned, twice), spacing_mm = turn_to_ras(header, stored, 2 * stored)
    assert turned.shape == (6, 5, 7)
    assert np.argwhere(turned).tolist() == [[0, 4, 2]]
    np.testing.assert_array_equal(twice, 2 * turned)
    np.testing.assert_allclose(spacing_mm, (3, 2, 4))
    assert AXIAL.size_mm(spacing_mm * turned.shape) == pytest.approx((18, 10))
    assert SAGITTAL.size_mm(spacing_mm * turned.shape) == pytest.approx((10, 28))


def test_the_fullest_slice_is_the_first_with_most():
    mask = np.zeros((4, 5, 6), bool)
    mask[1, 2, 3] = mask[1, 3, 3] = mask[2, 2, 4] = True
    assert [find_fullest_slice(mask, view) for view in (SAGITTAL, CORONAL, AXIAL)] == [1, 2, 3]


def test_windows():
    assert grey_window(np.arange(-1000, 10), ct=True) == CT_WINDOW
    assert grey_window(np.arange(1001.0), ct=True) == pytest.approx((10, 995))  # a CT that is not in Hounsfield units
    low, high = grey_window(np.arange(1001.0))
    assert (low, high) == pytest.approx((10, 995))
    low, high = grey_window(np.full(9, 7.0))
    assert low == 7
    assert high > low


def test_a_slice_is_in_millimetres_and_labels_have_their_colours(slice_axes):
    labels = np.array([[0, 1, 2], [3, 0, 0]])
    slice_axes.show_image(np.zeros((2, 3)), (-5.0, 5.0))
    slice_axes.show_labels(labels, class_colors(3))
    ax = slice_axes.ax
    assert ax.get_aspect() == 1
    assert (ax.get_xlim(), ax.get_ylim()) == ((0, 30), (0, 20))
    grey, overlay = ax.get_images()
    assert grey.get_clim() == (-5, 5)
    assert grey.get_extent() == overlay.get_extent() == [0, 30, 0, 20]
    assert overlay.origin == "lower"
    shown = overlay.to_rgba(overlay.get_array())
    assert shown[..., 3].tolist() == [[0, 1, 1], [1, 0, 0]]
    assert overlay.get_alpha() == 0.6
    for row, column, label in ((0, 1, 1), (0, 2, 2), (1, 0, 3)):
        assert tuple(shown[row, column, :3]) == pytest.approx(to_rgba(CLASS_COLORS[label - 1])[:3])


def test_an_outline_follows_the_edges_of_voxels_and_is_closed_at_the_edge_of_the_image(slice_axes):
    mask = np.zeros((2, 3), bool)
    mask[:, 0] = True  # the left column: 10 mm wide, the whole height
    slice_axes.outline(mask, "red")
    slice_axes.outline(~mask & mask, "blue")  # nothing
    (outline,) = slice_axes.ax.collections
    (path,) = outline.get_paths()
    box = path.get_extents()
    assert (box.x0, box.x1, box.y0, box.y1) == pytest.approx((0, 10, 0, 20))


@pytest.mark.parametrize(("width", "label"), [(400, "100 mm"), (59, "10 mm"), (60, "20 mm"), (2, None)])
def test_the_scale_bar_is_round_and_fits(width, label):
    shown = SliceAxes(Figure().subplots(), (float(width), 20.0))
    shown.draw_scale_bar()
    assert [text.get_text() for text in shown.ax.texts] == ([label] if label else [])
    for line in shown.ax.lines:
        start, end = line.get_xdata()
        assert f"{end - start:.0f} mm" == label


def test_directions_and_name(slice_axes):
    slice_axes.write_directions(AXIAL)
    slice_axes.write_name("case 1")
    found = {text.get_text(): text.get_position() for text in slice_axes.ax.texts}
    assert list(found) == ["R", "L", "P", "A", "axial", "case 1"]
    assert found["R"][0] < 0.1
    assert found["L"][0] > 0.9
    assert found["P"][1] < 0.1
    assert found["A"][1] > 0.9


def test_many_classes_have_different_colours():
    assert len(set(class_colors(25))) == 25


def test_disagreement_of_views():
    first, second, third = np.array([0, 1, 1, 1]), np.array([0, 1, 2, 2]), np.array([0, 1, 1, 3])
    assert _disagreement([first, second, third]).tolist() == [0, 0, 1, 2]
    assert _disagreement([first, second]).tolist() == [0, 0, 1, 1]
    assert _disagreement([first]).tolist() == [0, 0, 0, 0]


def test_slices_are_drawn_in_one_place():
    drawing = re.compile(r"\.(imshow|contour|contourf)\(")
    found = [path.name for path in PACKAGE.rglob("*.py") if drawing.search(path.read_text(encoding="utf-8"))]
    assert found == ["overlay.py"]
