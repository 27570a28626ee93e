"""What raters never drew, in words: everything, a structure that most have, or one that few have."""

from __future__ import annotations

import numpy as np
from small_studies import grid, kinds, oddities, study_of

from medseg.consensus.fuse import fuse
from medseg.consensus.fusers.pair_dice import dice_of_pairs
from medseg.consensus.fusers.vote_patterns import find_patterns
from medseg.consensus.statistics.never_drawn import classes_not_looked_for
from medseg.consensus.statistics.rater_vs_consensus import rater_table
from medseg.consensus.study import MISSING, Fused

ANNA = grid("0111100220", "0111100220")
BOB = grid("0111000220", "0111100220")
CLEO = grid("0111100220", "0111100200")
NOTHING = np.zeros_like(ANNA)


def without(labels: np.ndarray, number: int, instead: int = 0) -> np.ndarray:
    return np.where(labels == number, instead, labels).astype(np.uint8)


def warnings(*labels: np.ndarray) -> list[str]:
    report = fuse(None, [each[..., 0] for each in labels], method="majority").report
    return [line for line in report["warnings"] if "drew" in line or "draw" in line]


def test_who_drew_nothing():
    (found,) = oddities(ANNA, BOB, NOTHING)
    assert (found["kind"], found["raters"]) == ("empty", ["cleo"])
    assert found["text"] == "cleo drew nothing; anna and bob did."
    (found,) = oddities(NOTHING, BOB, NOTHING)
    assert found["text"] == "anna and cleo drew nothing; bob did."
    assert oddities(NOTHING, NOTHING) == []


def test_nothing_annotated_is_not_nothing_drawn():
    assert oddities(ANNA, BOB, np.full_like(ANNA, MISSING)) == []
    half = NOTHING.copy()
    half[:, 1:9] = MISSING
    assert oddities(ANNA, BOB, half) == []


def test_a_structure_of_a_minority_is_asked_of_nobody():
    livers = [without(ANNA, 2)] * 2 + [without(BOB, 2)] * 3
    study = study_of(ANNA, BOB, *livers)
    assert classes_not_looked_for(study) == []
    assert not [kind for kind, _ in kinds(ANNA, BOB, *livers) if kind == "not looked for"]
    told = "5 of 7 did not draw 2, which rater1 and rater2 did; it is not in the consensus"
    assert warnings(ANNA, BOB, *livers) == [told]
    # two of the four others did
    assert classes_not_looked_for(study_of(ANNA, BOB, *livers[1:4])) == [
        ("cleo", "spleen"),
        ("dora", "spleen"),
        ("emil", "spleen"),
    ]


def test_a_structure_of_one_rater_does_not_vanish_without_a_word():
    livers = [without(ANNA, 2), without(BOB, 2)]
    assert oddities(ANNA, *livers) == []
    assert warnings(ANNA, *livers) == ["only rater1 drew 2; it is not in the consensus"]
    # the others were not asked for it: nothing is odd, and it is in the consensus
    unasked = [without(labels, 0, MISSING) for labels in livers]
    assert warnings(ANNA, *unasked) == []
    # who drew nothing at all has a sentence already
    assert warnings(ANNA, BOB, CLEO, NOTHING) == []


def test_two_structures_that_were_not_looked_for_are_no_votes():
    classes = ("background", "liver", "spleen", "kidney")
    drawn, other = grid("0111100220", "0111133200"), grid("0111100220", "0111033200")
    (found,) = oddities(drawn, other, without(without(drawn, 2), 3), classes=classes)
    assert found["text"].endswith("(or auto), so that they are no votes.")


def test_what_a_rater_left_out_is_no_disagreement_where_little_of_it_is_left():
    # the third left out three of four voxels of the spleen, and never drew it
    third = without(CLEO, 2, MISSING)
    dice = dice_of_pairs(find_patterns(study_of(ANNA, BOB, third)))
    assert dice[1, 0, 1] == 1
    assert np.isnan(dice[1, [0, 1, 2, 2], [2, 2, 0, 1]]).all()
    # liver: 8 voxels of the first and the third, who are alike there
    assert dice[0, 0, 2] == 1
    study = study_of(ANNA, BOB, third)
    row = rater_table(study, Fused(ANNA, np.ones(ANNA.shape, np.float32)))[2]
    assert row["classes"]["spleen"]["dice"] is None
    assert row["overall"]["dice"] == 1
    # where he annotated it all the same he disagrees
    dice = dice_of_pairs(find_patterns(study_of(ANNA, BOB, without(CLEO, 2))))
    assert dice[1, 0, 2] == 0
