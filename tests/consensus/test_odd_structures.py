"""Structures that one rater drew elsewhere, much smaller, much larger or not on all slices: counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from small_studies import grid, kinds, oddities

from medseg.consensus.study import MISSING

ORGANS = ("background", "liver", "spleen", "kidney", "colon")
ANNA = grid("112200000000000", "112200000000000", "000000000000000", "334400000000000", "334400000000000")
BOB = grid("112200000000000", "112200000000000", "000000000000000", "334400000000000", "334000000000000")
ONE = ("background", "liver")


def moved(labels: np.ndarray, number: int, columns: int) -> np.ndarray:
    """One structure some columns further to the right."""
    place = np.roll(labels == number, columns, 1)
    left = np.where(labels == number, 0, labels)
    return np.where(place, number, left).astype(np.uint8)


def square(side: int) -> np.ndarray:
    labels = np.zeros((9, 9, 1), np.uint8)
    labels[1 : 1 + side, 1 : 1 + side] = 1
    return labels


def stack(slices: range, shape: tuple[int, int, int] = (2, 2, 12)) -> np.ndarray:
    labels = np.zeros(shape, np.uint8)
    labels[:, :, list(slices)] = 1
    return labels


def one_voxel_less(labels: np.ndarray) -> np.ndarray:
    fewer = labels.copy()
    fewer[tuple(np.argwhere(labels)[0])] = 0
    return fewer


def test_one_structure_of_several_elsewhere():
    # the other three are alike, so that the mean Dice of the third is (1 + 0 + 1 + 6 / 7) / 4 with the second
    (found,) = oddities(ANNA, BOB, moved(ANNA, 2, 9), classes=ORGANS)
    assert (found["kind"], found["raters"], found["classes"]) == ("elsewhere", ["cleo"], ["spleen"])
    assert found["text"] == "cleo drew spleen elsewhere: Dice 0.00 with the others, who have 1.00."
    (found,) = oddities(ANNA, BOB, moved(ANNA, 4, 9), classes=ORGANS)
    # the others' colons have 4 and 3 voxels
    assert found["text"] == "cleo drew colon elsewhere: Dice 0.00 with the others, who have 0.86."


def test_two_structures_elsewhere_are_named_even_where_the_mean_is_low():
    (found,) = oddities(ANNA, BOB, moved(moved(ANNA, 4, 9), 2, 9), classes=ORGANS)
    assert found["text"].startswith("cleo drew spleen and colon elsewhere: Dice 0.00 and 0.00 with the others")


def test_a_small_structure_near_the_others_is_not_elsewhere():
    # four voxels, two columns on: Dice 0, but a matter of outlines
    assert oddities(ANNA, BOB, moved(ANNA, 4, 2), classes=ORGANS) == []


def test_nobody_is_odd_about_what_all_disagree():
    # colons of four voxels with two in common: Dice 0.5 among the others, who know no better
    shifted = moved(ANNA, 4, 1)
    assert oddities(ANNA, shifted, moved(ANNA, 4, 9), classes=ORGANS) == []


def test_the_same_structure_smaller_or_larger():
    (found,) = oddities(square(6), one_voxel_less(square(6)), square(3), classes=ONE)
    assert (found["kind"], found["raters"]) == ("much less", ["cleo"])
    # 9 voxels of 36 and 35
    assert found["text"] == "cleo drew much less than the others: 25 % of their volume."
    (found,) = oddities(square(3), one_voxel_less(square(3)), square(6), classes=ONE)
    # 36 voxels, the others 9 and 8
    assert found["text"] == "cleo drew much more than the others: 424 % of their volume."


def test_somewhat_smaller_is_not_odd():
    # Dice 2 * 25 / 61, above 0.7
    assert oddities(square(6), one_voxel_less(square(6)), square(5), classes=ONE) == []


def test_every_third_slice():
    whole, third = stack(range(12)), stack(range(0, 12, 3))
    # with background about them: what is left out of a structure that fills the grid could as well be inverted
    raters = [np.pad(labels, ((1, 1), (1, 1), (0, 0))) for labels in (whole, one_voxel_less(whole), third)]
    (found,) = oddities(*raters, classes=ONE)
    # 16 voxels of 48 and 47
    assert found["text"] == "cleo drew much less than the others: 34 % of their volume, on 4 of 12 slices."


def test_slices_at_an_end_that_were_left_out():
    careful = stack(range(12)), one_voxel_less(stack(range(12)))
    (found,) = oddities(*careful, stack(range(8)), classes=ONE)
    assert (found["kind"], found["raters"], found["classes"]) == ("slices left out", ["cleo"], ["liver"])
    assert found["text"] == "cleo drew liver on 8 of the 12 slices on which all others have it."
    assert oddities(*careful, stack(range(9)), classes=ONE) == [], "three slices fewer are ordinary"
    without = stack(range(8))
    without[..., 8:] = MISSING
    assert kinds(*careful, without, classes=ONE) == [], "what was not annotated was not left out"


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_lie_across_the_widest_spacing(axis):
    from medseg.consensus.statistics.odd_raters import find_oddities
    from medseg.consensus.study import Rater, Study

    spacing = tuple(5.0 if a == axis else 1.0 for a in range(3))
    labels = [stack(range(12)), one_voxel_less(stack(range(12))), stack(range(8))]
    raters = tuple(Rater(name, np.moveaxis(each, 2, axis)) for name, each in zip("abc", labels, strict=True))
    (found,) = find_oddities(Study(raters, ONE, spacing))
    assert found["text"] == "c drew liver on 8 of the 12 slices on which all others have it."


def test_exchanged_values_do_not_hide_another_structure_elsewhere():
    exchanged = np.array([0, 3, 2, 1, 4], np.uint8)[moved(ANNA, 2, 9)]
    found = oddities(ANNA, BOB, exchanged, classes=ORGANS)
    assert [entry["kind"] for entry in found] == ["exchanged", "elsewhere"]
    assert found[1]["classes"] == ["spleen"]
