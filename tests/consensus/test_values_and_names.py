"""Which values and names of several files are one structure, and which value is no structure but a gap."""

from __future__ import annotations

import numpy as np
import pytest
from raters import ball, fields_of, save, seg_nrrd

from medseg.consensus.fuse import fuse
from medseg.consensus.io.annotations.segment_table import Segment, merge_segments
from medseg.consensus.io.read_study import read_study
from medseg.errors import DataError
from medseg.structure_names import find_named

SHAPE = (20, 12, 6)
RED = "1 0 0"


def cube(start: int, width: int = 4) -> np.ndarray:
    """`width` times 4 times 4 voxels from x = start on."""
    array = np.zeros(SHAPE, np.uint8)
    array[start : start + width, 4:8, 1:5] = 1
    return array


def two_cubes(first: int, second: int, shift: int = 0) -> np.ndarray:
    return first * cube(2 + shift) + second * cube(12 + shift)


def layers(path, *names: str):
    """Cubes at 2 and 12, each in a layer of its own with the value 1."""
    table = fields_of(*((name, 1, layer, RED) for layer, name in enumerate(names)))
    return seg_nrrd(path, np.stack([cube(2), cube(12)])[: len(names)], table)


# ---- values and names


def test_layers_beside_label_maps_are_matched_by_place(tmp_path):
    """Moved by one voxel, of two cubes 4 wide 3/4 are shared: Dice 0.75."""
    named = layers(tmp_path / "a.seg.nrrd", "liver", "spleen")
    maps = [save(tmp_path / f"{n}.nii.gz", two_cubes(2, 1, shift)) for n, shift in (("b", 0), ("c", 1))]
    study, form = read_study(None, [named, *maps])
    assert study.classes == ("background", "spleen", "liver")
    assert [segment.value for segment in form.segments] == [1, 2]
    for rater, shift in zip(study.raters, (0, 0, 1), strict=True):
        np.testing.assert_array_equal(rater.labels, two_cubes(2, 1, shift))
    assert form.notes == (
        "values without names are taken for the structures that they coincide with: "
        "1 for spleen, 2 for liver (lowest Dice 0.88); --label says otherwise",
    )


def test_names_that_are_given_are_not_looked_for(tmp_path):
    named = layers(tmp_path / "a.seg.nrrd", "liver", "spleen")
    plain = save(tmp_path / "b.nii.gz", two_cubes(2, 1))
    study, form = read_study(None, [named, plain], labels={1: "liver", 2: "spleen"})
    np.testing.assert_array_equal(study.raters[0].labels, two_cubes(1, 2))
    np.testing.assert_array_equal(study.raters[1].labels, two_cubes(2, 1))
    assert form.notes == ()


def test_what_coincides_with_nothing_is_asked_for_unless_nothing_is_left(tmp_path):
    named = layers(tmp_path / "a.seg.nrrd", "liver", "spleen")
    moved = save(tmp_path / "b.nii.gz", cube(2) + 7 * cube(8, width=3))  # the spleen begins at 12
    with pytest.raises(DataError) as caught:
        read_study(None, [named, moved])
    assert str(caught.value) == (
        f"{moved}: holds the value 7 without a name, and there is no value for spleen; their places do not tell which "
        "is which; say so, such as --label 7='spleen'"
    )
    assert read_study(None, [named, moved], labels={7: "spleen"})[0].classes == ("background", "liver", "spleen")
    more = save(tmp_path / "c.nii.gz", two_cubes(1, 2) + 7 * cube(8, width=3))
    assert read_study(None, [named, more])[0].classes == ("background", "liver", "spleen", "label 7")
    fewer = save(tmp_path / "d.nii.gz", 5 * cube(12))
    assert read_study(None, [named, fewer])[0].classes == ("background", "liver", "spleen")


def test_one_name_over_two_values_is_no_match(tmp_path):
    """Each half of 2 x 4 x 4 voxels has a Dice of 2 x 32 / (64 + 32) = 0.67 with the whole."""
    named = layers(tmp_path / "a.seg.nrrd", "lungs", "spleen")
    halves = save(tmp_path / "b.nii.gz", 1 * cube(2, width=2) + 2 * cube(4, width=2) + 3 * cube(12))
    with pytest.raises(DataError, match="holds the value 1 without a name, and there is no value for lungs"):
        read_study(None, [named, halves])


def test_a_folder_of_masks_beside_a_label_map(tmp_path):
    """Masks are read by the alphabet, which says nothing of the values of another file."""
    save(tmp_path / "anna" / "left_kidney.nii.gz", cube(12))
    save(tmp_path / "anna" / "liver.nii.gz", cube(2))
    plain = save(tmp_path / "b.nii.gz", two_cubes(1, 2))
    study, _ = read_study(None, [tmp_path / "anna", plain])
    assert study.classes == ("background", "liver", "left_kidney")
    np.testing.assert_array_equal(study.raters[0].labels, study.raters[1].labels)


def test_layers_of_one_value_are_no_conflict(tmp_path):
    files = [layers(tmp_path / f"{n}.seg.nrrd", "liver", "spleen") for n in "ab"]
    study, form = read_study(None, files)
    assert form.notes == ()
    assert [(segment.value, segment.name) for segment in form.segments] == [(1, "liver"), (2, "spleen")]
    np.testing.assert_array_equal(study.raters[1].labels, two_cubes(1, 2))


def test_a_value_of_its_own_is_kept_and_others_make_room():
    tables = [
        [Segment(1, "cyst", has_value=False), Segment(1, "liver", has_value=False)],
        [Segment(1, "spleen"), Segment(3, "Liver")],
        [Segment(3)],
    ]
    segments, indices, notes = merge_segments(tables)
    assert [(segment.value, segment.name) for segment in segments] == [(1, "spleen"), (2, "cyst"), (3, "liver")]
    assert indices == [[2, 3], [1, 3], [3]]
    assert notes == []
    assert merge_segments([[Segment(1, "spleen")], [Segment(1, "liver")]])[2] == [
        "the value 1 means several things: 'liver' is written as 2"
    ]


def test_underscores_are_blanks_unless_a_file_has_both():
    tables = [[Segment(3, "Right Kidney")], [Segment(3, "right_kidney")], [Segment(3, "right__KIDNEY ")]]
    segments, indices, notes = merge_segments(tables)
    assert [segment.name for segment in segments] == ["Right Kidney"]
    assert indices == [[1], [1], [1]]
    both = [[Segment(1, "PTV 1"), Segment(2, "PTV_1")], [Segment(2, "ptv_1"), Segment(1, "ptv 1")]]
    segments, indices, notes = merge_segments(both)
    assert [segment.name for segment in segments] == ["PTV 1", "PTV_1"]
    assert indices == [[1, 2], [2, 1]]
    assert notes == []
    assert find_named("ptv_1", ["PTV 1", "PTV_1"]) == [1]
    assert find_named("ptv_1", ["PTV 1", "CTV"]) == [0]


def test_a_class_is_named_with_blanks_or_underscores(tmp_path):
    files = [save(tmp_path / "a.nii.gz", cube(2)), save(tmp_path / "b.nii.gz", np.zeros(SHAPE, np.uint8))]
    notes = read_study(None, files, labels={1: "left_kidney"}, partial=(("b", "Left Kidney"),))[1].notes
    assert notes == ("b: did not look for left_kidney: 64 voxels that others call so count as not annotated",)


# ---- 255


def with_gap(inside: np.ndarray) -> np.ndarray:
    return np.where(inside, 255, cube(2)).astype(np.uint8)


QUESTION = "b and c have 255 in one place: is 255 a structure? Then --missing-value none"


def test_a_structure_stored_as_what_is_missing_is_asked_for(tmp_path):
    """Cubes that are 4 wide share 3/4 when one is moved by a voxel, and 1/4 when it is moved by three."""
    gaps = {"a": cube(8) == 2, "b": cube(12) == 1, "c": cube(13) == 1}
    files = [save(tmp_path / f"{name}.nii.gz", with_gap(gap)) for name, gap in gaps.items()]
    assert read_study(None, files)[1].notes == (QUESTION,)
    assert read_study(None, files, missing=None)[0].classes == ("background", "label 1", "label 255")
    assert read_study(None, files[:2])[1].notes == ()  # one alone
    save(files[2], with_gap(cube(15) == 1))
    assert read_study(None, files)[1].notes == ()
    save(files[2], np.where(cube(13), 2, cube(2)))
    assert read_study(None, files)[1].notes == ()


def test_a_structure_at_the_border_beside_missing_slices_is_asked_for(tmp_path):
    """The aorta runs through all slices; the last two were annotated by nobody."""
    gap = np.zeros(SHAPE, bool)
    gap[12:16, 4:8] = True
    gap[..., 4:] = True
    files = [save(tmp_path / f"{name}.nii.gz", with_gap(gap)) for name in "bc"]
    assert read_study(None, files)[1].notes == (QUESTION,)


def margins() -> dict[str, np.ndarray]:
    x, y, z = np.indices(SHAPE)
    return {
        "end slices": z >= 5,
        "every second slice": z % 2 == 1,
        "a half": x >= 12,
        "round a box": (x < 2) | (x > 15) | (y < 2) | (y > 9) | (z < 1),
        "round a cylinder": (x - 9.5) ** 2 / 100 + (y - 5.5) ** 2 / 36 > 1,
        "below a diagonal": x + 2 * y > 30,
        "all but a box in each slice": (x < z) | (y < z) | (x > 17),
        "everything": z >= 0,
    }


@pytest.mark.parametrize("kind", list(margins()))
def test_what_nobody_was_asked_to_annotate_is_no_structure(kind, tmp_path):
    gap = margins()[kind]
    first = save(tmp_path / "a.nii.gz", cube(2))
    files = [save(tmp_path / f"{name}.nii.gz", with_gap(gap)) for name in "bc"]
    assert not [note for note in read_study(None, [first, *files])[1].notes if "is 255 a structure" in note]


def test_arrays_are_asked_for_likewise():
    gap = cube(12) == 1
    fused = fuse(None, [with_gap(gap), with_gap(gap)], names=["b", "c"], method="majority")
    assert QUESTION.replace("--missing-value none", "missing=None") in fused.report["warnings"]
    regions = [gap == 0, gap == 0]
    fused = fuse(None, [cube(2), cube(2)], names=["b", "c"], method="majority", regions=regions)
    assert not [warning for warning in fused.report["warnings"] if "is 255 a structure" in warning]


def test_a_region_file_is_no_structure(tmp_path):
    region = save(tmp_path / "r.nii.gz", (1 - cube(12)).astype(np.uint8))
    files = [save(tmp_path / f"{name}.nii.gz", cube(2)) for name in "bc"]
    notes = read_study(None, files, regions={"b": region, "c": region})[1].notes
    assert not [note for note in notes if "is 255 a structure" in note]


def test_layers_without_names_stay_apart(tmp_path):
    table = {"Segment0_LabelValue": "1", "Segment0_Layer": "0", "Segment1_LabelValue": "1", "Segment1_Layer": "1"}
    path = seg_nrrd(tmp_path / "a.seg.nrrd", np.stack([ball(), ball(shift=(8, 0, 0)) * (1 - ball())]), table)
    assert read_study(None, [path])[0].classes == ("background", "layer 0", "layer 1")
