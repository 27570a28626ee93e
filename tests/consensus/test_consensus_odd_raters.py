"""What is odd about raters, in words: on a grid small enough to count by hand, and on the page and the screen."""

from __future__ import annotations

import json

import numpy as np
from raters import ball, image_of, save
from small_studies import NAMES, grid, kinds, oddities

from medseg.consensus.fuse import fuse
from medseg.consensus.io.annotations.surroundings import leave_out_surroundings
from medseg.consensus.statistics.never_drawn import classes_not_looked_for
from medseg.consensus.study import MISSING, Rater, Study
from medseg.workflows.consensus.options import ConsensusOptions
from medseg.workflows.consensus.run import consensus

# three careful raters, no two alike
ANNA = grid("0000000000", "0111100220", "0111100220", "0000000000")
BOB = grid("0000000000", "0111000220", "0111100220", "0000000000")
CLEO = grid("0000000000", "0111100220", "0111100200", "0000000000")


def test_careful_raters_are_not_odd():
    assert oddities(ANNA, BOB, CLEO) == []
    assert oddities(ANNA) == []
    assert oddities(np.zeros_like(ANNA), np.zeros_like(ANNA)) == []


def test_exchanged_values():
    turned = np.array([0, 2, 1], np.uint8)[CLEO]
    (found,) = oddities(ANNA, BOB, turned)
    assert (found["kind"], found["raters"], found["classes"]) == ("exchanged", ["cleo"], ["liver", "spleen"])
    # with anna liver 1 and spleen 2 * 3 / 7, with bob liver 2 * 7 / 15 and spleen 6 / 7; nothing as given
    mean = (1 + 6 / 7 + 14 / 15 + 6 / 7) / 4
    assert f"0.00 as given and {mean:.2f} exchanged" in found["text"]
    # where two of three have it the other way round the third stands against both, and the sentence says so
    (found,) = oddities(ANNA, np.array([0, 2, 1], np.uint8)[BOB], turned)
    assert found["raters"] == ["anna"]
    assert "with bob and cleo" in found["text"]


def test_values_in_another_order():
    classes = ("background", "liver", "spleen", "kidney", "more")
    anna, bob = grid("1111022033"), grid("1111022033")
    bob[0, 0] = 0
    # what the others call 1, 2, 3 is 2, 3, 1 to the third: Dice 0, and with bob's liver 2 * 3 / 7 the other way
    (found,) = oddities(anna, bob, np.uint8([0, 2, 3, 1])[anna], classes=classes)
    assert (found["kind"], found["raters"], found["classes"]) == ("exchanged", ["cleo"], ["liver", "spleen", "kidney"])
    assert "liver looks like kidney, spleen looks like liver and kidney looks like spleen" in found["text"]
    assert f"0.00 as given and {(1 + (6 / 7 + 2) / 3) / 2:.2f} exchanged" in found["text"]
    # all moved on by one
    found = oddities(anna, bob, np.uint8([0, 2, 3, 4])[anna], classes=classes)
    assert found[0]["kind"] == "exchanged"
    assert "spleen looks like liver, kidney looks like spleen and more looks like kidney" in found[0]["text"]


def test_exchanged_values_among_raters_who_have_not_all_of_them():
    turned = np.array([0, 2, 1], np.uint8)[CLEO]
    livers, spleens = np.where(BOB == 1, BOB, 0).astype(np.uint8), np.where(BOB == 2, BOB, 0).astype(np.uint8)
    found = oddities(ANNA, livers, turned, spleens)
    assert found[0]["kind"] == "exchanged"
    assert found[0]["raters"] == ["cleo"]
    # nobody else has both: which of the two is it?
    found = oddities(ANNA, turned)
    assert [entry["raters"] for entry in found] == [["anna", "bob"]]
    assert found[0]["text"].startswith("Either anna or bob: liver and spleen look exchanged; the mean Dice is 0.00")


def test_two_raters_who_hardly_overlap():
    one = ("background", "liver")
    seen = (np.minimum(ANNA, 1) * (np.arange(10)[None, :, None] < 5)).astype(np.uint8)
    assert kinds(seen, (1 - seen).astype(np.uint8), classes=one) == [("inverted", ["anna", "bob"])]
    assert kinds(seen, np.flip(seen, 1), classes=one) == [("mirrored", ["anna", "bob"])]
    other = grid("0111111000", "0000000000", "0000000000", "0000000000")
    (found,) = oddities(seen, other, classes=one)
    assert found["text"] == "anna and bob hardly overlap: the mean Dice of the two is 0.00."
    (found,) = oddities(grid("0001100022"), grid("3300000000"), classes=("background", "liver", "spleen", "body"))
    assert found["kind"] == "nothing in common"
    assert "anna drew liver and spleen, bob body" in found["text"]
    # 2 * 2 / 8: they overlap by half, and nothing is said of it
    assert kinds(grid("0111100000"), grid("0001111000"), classes=one) == []


def test_a_mirrored_annotation_is_none_with_left_and_right_exchanged():
    # two kidneys and a liver on the left: mirrored all fit, exchanged only the kidneys
    anna = grid("0110000220", "0330000000", "0330000000", "0330000000")
    bob = grid("0110000220", "0330000000", "0330000000", "0300000000")
    classes = ("background", "left kidney", "right kidney", "liver")
    (found,) = oddities(anna, bob, np.flip(anna, 1), classes=classes)
    assert (found["kind"], found["raters"]) == ("mirrored", ["cleo"])
    assert "the ends of the second axis exchanged" in found["text"]


def test_what_is_mirrored_is_called_by_the_axes_of_the_file(tmp_path):
    truth = ball(shift=(6, 0, 0))
    # stored from front to back, from left to right, from bottom to top
    turned = np.array([[0, 1.0, 0, 0], [1.0, 0, 0, 0], [0, 0, 2.0, 0], [0, 0, 0, 1]])
    drawn = [truth, ball(radius=5.3, shift=(6, 0, 0)), np.flip(truth, 0)]
    files = [save(tmp_path / f"r{n}.nii.gz", np.ascontiguousarray(a), turned) for n, a in enumerate(drawn)]
    image = save(tmp_path / "image.nii.gz", image_of(truth), turned)
    consensus(ConsensusOptions(tmp_path / "told", [image], files, method="majority", report=False))
    (found,) = json.loads((tmp_path / "told" / "report.json").read_text())["oddities"]
    assert found["text"].startswith("r2 looks mirrored, front and back exchanged")


def test_a_class_that_was_not_looked_for():
    without = np.where(CLEO == 2, 0, CLEO).astype(np.uint8)
    (found,) = oddities(ANNA, BOB, without)
    assert (found["kind"], found["raters"], found["classes"]) == ("not looked for", ["cleo"], ["spleen"])
    assert "anna and bob did" in found["text"]
    assert "--partial-protocol cleo:spleen (or auto)" in found["text"]
    # one other is no protocol, and what was not annotated was not left empty
    assert kinds(ANNA, without) == []
    part = without.copy()
    part[:, 5:] = MISSING
    assert kinds(ANNA, BOB, part) == []


def test_several_classes_that_one_rater_did_not_look_for_are_one_sentence():
    classes = ("background", "liver", "spleen", "kidney")
    drawn = np.where(grid("0000000000", "0000033000", "0000033000", "0000000000") > 0, 3, ANNA).astype(np.uint8)
    other = np.where(drawn > 0, drawn, BOB).astype(np.uint8)
    other[0, 0] = 1
    (found,) = oddities(drawn, other, np.where(drawn == 1, 1, 0).astype(np.uint8), classes=classes)
    assert (found["raters"], found["classes"]) == (["cleo"], ["spleen", "kidney"])
    assert "cleo never drew spleen and kidney, which two others or more did" in found["text"]
    assert "--partial-protocol cleo:spleen --partial-protocol cleo:kidney (or auto)" in found["text"]
    raters = tuple(
        Rater(n, a) for n, a in zip(NAMES, (drawn, other, np.where(drawn == 1, 1, 0).astype(np.uint8)), strict=False)
    )
    study = Study(raters, classes, (1.0, 1.0, 1.0))
    assert classes_not_looked_for(study) == [("cleo", "spleen"), ("cleo", "kidney")]


def test_two_names_of_one_structure():
    renamed = np.where(CLEO == 2, 3, CLEO).astype(np.uint8)
    found = oddities(ANNA, BOB, renamed, classes=("background", "liver", "spleen", "milz"))
    same = next(entry for entry in found if entry["kind"] == "same structure")
    assert same["classes"] == ["spleen", "milz"]
    # Dice 2 * 3 / 7 with anna and with bob
    assert "Dice 0.86" in same["text"]


def test_one_annotation_twice():
    assert kinds(ANNA, BOB, ANNA) == [("identical", ["anna", "cleo"])]
    assert kinds(ANNA, np.zeros_like(ANNA), np.zeros_like(ANNA)) == [("empty", ["bob", "cleo"])]
    (found,) = oddities(ANNA, BOB, ANNA, ANNA)
    assert found["text"] == "anna, cleo and dora are alike in every voxel: is it one annotation given 3 times?"


def test_inverted_mirrored_and_elsewhere():
    one = ("background", "liver")
    seen = [np.minimum(labels, 1) * (np.arange(10)[None, :, None] < 5) for labels in (ANNA, BOB)]
    seen = [labels.astype(np.uint8) for labels in seen]
    assert kinds(*seen, (1 - seen[0]).astype(np.uint8), classes=one) == [("inverted", ["cleo"])]
    assert kinds(*seen, np.flip(seen[0], 1), classes=one) == [("mirrored", ["cleo"])]
    assert kinds(*seen, np.roll(seen[0], 2, 0), classes=one) == [("elsewhere", ["cleo"])]
    # nothing of the third's row is anybody else's; the others have 7 of 8 and 7 voxels in common: 14 / 15
    (found,) = oddities(*seen, grid("0111111000", "0000000000", "0000000000", "0000000000"), classes=one)
    assert (found["kind"], found["raters"]) == ("elsewhere", ["cleo"])
    assert "is 0.00, while they have 0.93" in found["text"]


def test_no_class_in_common():
    other = np.where(ANNA > 0, 3, 0).astype(np.uint8)
    found = kinds(ANNA, BOB, other, classes=("background", "liver", "spleen", "body"))
    assert ("nothing in common", ["cleo"]) in found


def test_what_seems_not_looked_for_is_copied_by_auto(tmp_path):
    truth = ball()
    both = truth.copy()
    both[2:6, 2:6, 4:8] = 2
    drawn = [both, both, truth, truth, truth]
    files = [save(tmp_path / f"r{n}.nii.gz", labels) for n, labels in enumerate(drawn)]
    image = save(tmp_path / "image.nii.gz", image_of(both))
    study = Study(tuple(Rater(f"r{n}", labels) for n, labels in enumerate(drawn)), ("b", "1", "2"), (1.0, 1.0, 2.0))
    assert classes_not_looked_for(study) == [("r2", "2"), ("r3", "2"), ("r4", "2")]
    found = consensus(ConsensusOptions(tmp_path / "told", [image], files, method="majority"))
    report = json.loads((tmp_path / "told" / "report.json").read_text())
    assert [entry["kind"] for entry in report["oddities"]].count("not looked for") == 3
    assert "odd: r2 (not looked for); r3 (not looked for)" in found["cases"][0]["summary"]
    page = (tmp_path / "told" / "report.html").read_text()
    assert page.index("Look at this first") < page.index("Who was trusted")
    assert "r2:label 2&#39; (or auto)" in page
    consensus(ConsensusOptions(tmp_path / "auto", [image], files, method="majority", partial=("auto",)))
    report = json.loads((tmp_path / "auto" / "report.json").read_text())
    assert not [entry for entry in report["oddities"] if entry["kind"] == "not looked for"]
    # 64 voxels of the second structure, by the votes of those who looked for it
    assert report["volumes_ml"]["label 2"] == 64 * 2 / 1000
    assert any("did not look for label 2: 64 voxels" in line for line in report["warnings"])


BODY = ("background", "liver", "body")


def body_drawn_by(*chosen):
    """Two raters on a line: a liver of three voxels, and a body of all twelve by the raters with these numbers."""
    raters = []
    for number, start in enumerate((4, 5)):
        line = np.zeros((1, 1, 14), np.uint8)
        if number in chosen:
            line[..., 1:13] = 2
        line[..., start : start + 3] = 1
        raters.append(Rater(("anna", "bob")[number], line))
    return raters


def test_a_body_that_one_rater_drew_round_everything_is_left_out():
    raters, notes = leave_out_surroundings(body_drawn_by(0), BODY)
    assert raters[0].labels.tolist() == [[[0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0]]]
    assert raters[1].labels.tolist() == [[[0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0]]]
    assert len(notes) == 1
    assert notes[0].startswith("body: only anna drew it, and it contains all other structures: it is left out")
    labels = [rater.labels[0, 0] for rater in body_drawn_by(0)]
    fused = fuse(None, [np.stack([line] * 2) for line in labels], method="majority")
    assert 2 not in fused.labels
    assert any("contains all other structures" in warning for warning in fused.report["warnings"])


def test_a_body_counts_that_both_drew_or_the_other_did_not_look_for():
    both = body_drawn_by(0, 1)
    assert leave_out_surroundings(both, BODY) == (both, [])
    anna, bob = body_drawn_by(0)
    bob.labels[(bob.labels == 0) & (anna.labels == 2)] = MISSING
    assert leave_out_surroundings([anna, bob], BODY) == ([anna, bob], [])


def test_what_contains_nothing_or_not_all_counts():
    anna, bob = body_drawn_by(0)
    bob.labels[..., 13] = 1  # a quarter of the liver outside of the body
    assert leave_out_surroundings([anna, bob], BODY)[1] == []
    alone = Rater("bob", np.zeros((1, 1, 14), np.uint8))
    only_body = Rater("anna", np.where(anna.labels > 0, np.uint8(2), np.uint8(0)))
    assert leave_out_surroundings([only_body, alone], BODY)[1] == [], "nothing else is there: the structure itself"
    twice = np.zeros((1, 1, 14), np.uint8)
    twice[..., 3:9] = 2  # six voxels round three: another outline of the same thing, not its surroundings
    assert leave_out_surroundings([Rater("anna", twice), body_drawn_by()[0]], BODY)[1] == []


def test_what_the_reference_shows_has_no_say(tmp_path):
    truth = ball()
    both = truth.copy()
    both[2:6, 2:6, 4:8] = 2
    body = np.where(both > 0, both, 3).astype(np.uint8)
    # one rater drew the second structure: with the reference there would be two, and two raters who did not look for it
    files = [save(tmp_path / f"r{n}.nii.gz", labels) for n, labels in enumerate((both, truth, truth))]
    image, reference = save(tmp_path / "image.nii.gz", image_of(both)), save(tmp_path / "reference.nii.gz", body)
    found = {}
    for name, known in (("without", None), ("with", reference)):
        options = ConsensusOptions(
            tmp_path / name, [image], files, method="majority", partial=("auto", "r1:2"), reference=known, report=False
        )
        consensus(options)
        report = json.loads((tmp_path / name / "report.json").read_text())
        found[name] = report["volumes_ml"]["label 2"], report["warnings"]
    assert found["with"] == found["without"]
    # 64 voxels by one against the third, who left them empty: a tie, which is background
    assert found["with"][0] == 0
    assert "r1: did not look for label 2: 64 voxels that others call so count as not annotated" in found["with"][1]
    told = json.loads((tmp_path / "with" / "report.json").read_text())["comparison"]
    # the second structure and the reference's body are nobody's: the ball alone of three is right
    assert np.isclose(told[0]["dice_to_reference"]["mean"], 1 / 3)
