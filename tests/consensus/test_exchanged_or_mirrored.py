"""Values in another order and annotations that are mirrored: which of the two, by whom, and in few words."""

from __future__ import annotations

import numpy as np
from small_studies import grid, oddities

LUNGS = ("background", "right lung", "left lung")


def test_unequal_lungs_are_mirrored_and_not_exchanged():
    # mirrored the third is the first; exchanged its lungs have Dice 2 * 2 / 7 with hers, left and right
    anna, bob = grid("0111102220", "0111102220"), grid("0111102220", "0111102200")
    (found,) = oddities(anna, bob, np.flip(anna, 1), classes=LUNGS)
    assert (found["kind"], found["raters"]) == ("mirrored", ["cleo"])
    assert "exchanged:" in found["text"]
    assert "right lung" not in found["text"]


def test_lungs_alike_may_be_mirrored_or_exchanged():
    anna, bob = grid("0111002220", "0111002220"), grid("0111002220", "0111002200")
    # of the others' left lungs 6 and 5 voxels are the third's right lung, in either reading
    mean = (1 + (1 + 10 / 11) / 2) / 2
    (found,) = oddities(anna, bob, np.flip(anna, 1), classes=LUNGS)
    assert (found["kind"], found["raters"]) == ("mirrored", ["cleo"])
    assert ", or right lung and left lung look exchanged: the mean Dice" in found["text"]
    assert found["text"].endswith(f"; {mean:.2f} mirrored, {mean:.2f} with the values exchanged.")


def test_what_is_exchanged_only_is_not_called_mirrored():
    anna, bob = grid("0111100220", "0111100000"), grid("0111000220", "0111100000")
    (found,) = oddities(anna, bob, np.uint8([0, 2, 1])[anna], classes=LUNGS)
    assert found["kind"] == "exchanged"
    assert "mirrored" not in found["text"]


def test_two_against_two_are_one_sentence():
    anna, bob = grid("0111100220", "0111100220"), grid("0111000220", "0111100220")
    cleo, dora = grid("0111100220", "0111100200"), grid("0111100220", "0011100220")
    table = np.uint8([0, 2, 1])
    (found,) = oddities(anna, table[bob], cleo, table[dora])
    assert (found["kind"], found["raters"]) == ("exchanged", ["anna", "cleo", "bob", "dora"])
    told = (
        "anna and cleo against bob and dora: liver and spleen are the other way round; the mean Dice is 0.00 as given"
    )
    assert found["text"].startswith(told)


def test_many_values_moved_on_by_one_are_few_words():
    classes = ("background", "a", "b", "c", "d", "e", "f")
    anna, bob = grid("1122334455660"), grid("1122334455600")
    (found,) = oddities(anna, bob, np.uint8([0, 2, 3, 4, 5, 6, 1])[anna], classes=classes)
    assert "cleo: all values are moved on by one (a looks like f, and so on); with anna and bob" in found["text"]
    (found,) = oddities(anna, bob, np.uint8([0, 3, 5, 2, 6, 4, 1])[anna], classes=classes)
    assert "a looks like f, b looks like c, c looks like a, d looks like e and 2 more are exchanged" in found["text"]
    (found,) = oddities(anna, bob, np.uint8([0, 1, 3, 4, 5, 6, 2])[anna], classes=classes)
    assert "the values of b to f are moved on by one" in found["text"]
