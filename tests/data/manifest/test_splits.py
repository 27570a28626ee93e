"""Folds and smaller numbers of labels: by subject, seeded, whatever the order of the cases, and without leaks."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.errors import ConfigError, ManifestError
from medseg.manifest.manifest import Manifest, streams_of
from medseg.manifest.splits import cut_labels, fold_manifest, split_folds, subject_of


def labelled(name: str, **more) -> dict:
    return {"image": f"{name}.nii.gz", "label": f"labels/{name}.nii.gz", **more}


def built(training: list, **lists) -> Manifest:
    content = {"labels": {"0": "background", "1": "liver"}, "training": training, **lists}
    return Manifest.model_validate(content)


def frames(*subjects: str, **more) -> list[dict]:
    """Two labelled frames of each subject."""
    return [labelled(f"{subject}_{frame}", subject=subject, **more) for subject in subjects for frame in (1, 2)]


def names(cases) -> list[str]:
    return [case.name for case in cases]


def subjects(cases) -> set[str]:
    return {subject_of(case) for case in cases}


def refused(call, *arguments, **keywords) -> str:
    with pytest.raises((ManifestError, ConfigError)) as caught:
        call(*arguments, **keywords)
    line = str(caught.value)
    assert "\n" not in line
    return line


# ---- folds


@given(count=st.integers(4, 15), folds=st.integers(2, 4), seed=st.integers(0, 5), shuffle=st.integers(0, 99))
def test_folds_part_the_subjects_evenly_whatever_their_order(count, folds, seed, shuffle):
    cases = frames(*(f"p{number}" for number in range(count)))
    parts = split_folds(built(cases), folds, seed)
    random.Random(shuffle).shuffle(cases)
    assert split_folds(built(cases), folds, seed) == parts
    flat = [subject for part in parts for subject in part]
    assert sorted(flat) == sorted({case["subject"] for case in cases})
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_another_seed_is_another_split():
    manifest = built(frames(*"abcdefghij"))
    assert len({split_folds(manifest, 2, seed) for seed in range(5)}) > 1


def test_frames_of_a_subject_and_its_other_images_stay_together():
    lists = {
        "unlabeled": [{"image": "a_3.nii.gz", "subject": "a"}, {"image": "u.nii.gz"}],
        "validation": [labelled("a_4", subject="a"), labelled("v")],
        "test": [labelled("t")],
    }
    weak = {"image": "a_5.nii.gz", "subject": "a", "tags": ["liver"]}
    manifest = built([*frames("a", "b", "c"), weak], **lists)
    (fold,) = [number for number, part in enumerate(split_folds(manifest, 3)) if part == ("a",)]
    judged = fold_manifest(manifest, 3, fold)
    assert names(judged.test) == ["a_1", "a_2"]
    assert names(judged.training) == ["b_1", "b_2", "c_1", "c_2"]
    assert names(judged.unlabeled) == ["u"]
    assert names(judged.validation) == ["v"]
    assert judged.path == manifest.path


def test_of_a_training_the_fold_is_the_validation_and_all_labelled_cases_take_part():
    manifest = built(frames("a", "b"), validation=[labelled("v")], test=[labelled("t")])
    held_out = []
    for fold in range(3):
        found = fold_manifest(manifest, 3, fold, section="validation")
        assert names(found.test) == ["t"]
        assert not subjects(found.training) & subjects(found.validation)
        held_out += names(found.validation)
    assert sorted(held_out) == ["a_1", "a_2", "b_1", "b_2", "v"]


def test_counts_of_a_decathlon_file_follow():
    manifest = built(frames("a", "b"), numTraining=4, numTest=0)
    found = fold_manifest(manifest, 2, 0)
    assert (found.model_extra["numTraining"], found.model_extra["numTest"]) == (2, 2)


def test_the_folds_of_the_manifest_are_taken_whatever_the_seed():
    training = [*frames("a", fold=1), *frames("b", "c", fold=0)]
    manifest = built(training, unlabeled=[{"image": "u.nii.gz", "fold": 1}, {"image": "w.nii.gz"}])
    for seed in range(4):
        assert split_folds(manifest, 2, seed) == (("b", "c"), ("a",))
    found = fold_manifest(manifest, 2, 1)
    assert names(found.test) == ["a_1", "a_2"]
    assert names(found.unlabeled) == ["w"]


@pytest.mark.parametrize(
    ("training", "folds", "said"),
    [
        ([*frames("a", fold=0), *frames("b", fold=1)], 3, "2 labelled subjects are too few"),
        ([*frames("a", fold=0), *frames("b", fold=1), *frames("c")], 2, "labelled ones do not: c_1, c_2; give each"),
        ([*frames("a", fold=0), *frames("b", fold=2)], 2, "others: b_1 (2), b_2 (2); accepted are the folds 0 to 1"),
        ([*frames("a", fold=0), *frames("b", fold=-1)], 2, "b_1 (-1), b_2 (-1)"),
        ([labelled("x", subject="a", fold=0), labelled("y", subject="a", fold=1), labelled("z", fold=0)], 2,
         "subject a is in the folds 0 and 1"),
        ([*frames("a", "b", "c", fold=0)], 2, "no labelled training case has the fold 1"),
        (frames("a"), 2, "1 labelled subjects"),
        (frames("a", "b"), 1, "1 folds: accepted are 2 and more"),
    ],
)  # fmt: skip
def test_folds_that_are_none(training, folds, said):
    assert said in refused(split_folds, built(training), folds)


def test_a_fold_and_a_list_that_do_not_exist():
    manifest = built(frames("a", "b"))
    assert "there is no fold 2; accepted are 0 to 1" in refused(fold_manifest, manifest, 2, 2)
    assert "there is no fold -1" in refused(fold_manifest, manifest, 2, -1)
    assert "not 'unlabeled'" in refused(fold_manifest, manifest, 2, 0, section="unlabeled")


def test_unlabelled_cases_are_no_fold():
    manifest = built([*frames("a"), {"image": "w.nii.gz", "tags": []}], unlabeled=["u.nii.gz"])
    assert "1 labelled subjects" in refused(split_folds, manifest, 2)


# ---- labels


@given(count=st.integers(2, 12), seed=st.integers(0, 5), shuffle=st.integers(0, 99))
def test_fewer_labels_are_among_more_labels(count, seed, shuffle):
    cases = frames(*(f"p{number}" for number in range(count)))
    random.Random(shuffle).shuffle(cases)
    before: set[str] = set()
    for labels in range(1, count + 1):
        found = cut_labels(built(cases), labels, seed)
        kept = subjects(found.training)
        assert len(kept) == labels
        assert before < kept
        assert len(found.training) == 2 * labels
        assert len(found.unlabeled) == len(cases) - 2 * labels
        assert kept == subjects(cut_labels(built(cases[::-1]), labels, seed).training)
        before = kept


def test_the_labels_of_the_others_are_gone_and_their_names_stay():
    annotations = [{"rater": "ann", "label": "ann/p.nii.gz"}]
    training = [
        labelled("a", classes=["liver"], tags=["liver"], annotations=annotations, maps={"m": "m.nii.gz"}),
        {"image": "x/b_0000.nii.gz", "label": "y/b.nii.gz"},  # called b by its label's name
        labelled("c"),
        {"image": "w.nii.gz", "tags": ["liver"]},
    ]
    manifest = built(training, unlabeled=["u.nii.gz"], validation=[labelled("v")])
    found = cut_labels(manifest, 1, seed=0)
    (kept,) = [case.name for case in found.training if case.label]
    assert names(found.training) == [kept, "w"]
    assert names(found.unlabeled) == ["u", *(name for name in "abc" if name != kept)]
    assert names(found.validation) == ["v"]
    for case in found.unlabeled:
        said = case.model_dump(mode="json", exclude_defaults=True)
        assert set(said) <= {"image", "case", "maps"}
    streams = streams_of(found)
    assert [len(streams[name]) for name in ("labeled", "weak", "unlabeled")] == [1, 1, 3]


def test_all_labels_are_the_manifest_itself():
    manifest = built(frames("a", "b"))
    assert cut_labels(manifest, 2) == manifest


@pytest.mark.parametrize("count", [0, 3, -1])
def test_labels_that_are_not_there(count):
    line = refused(cut_labels, built(frames("a", "b")), count)
    assert f"labels of {count} subjects are asked for, and 2 have a labelled case" in line
    assert line.endswith("accepted are 1 to 2")


def test_a_fold_first_and_then_fewer_labels():
    manifest = built(frames(*"abcdef"), unlabeled=["u.nii.gz"])
    found = cut_labels(fold_manifest(manifest, 3, 1), 2)
    assert len(subjects(found.training)) == 2
    assert len(subjects(found.test)) == 2
    assert not subjects(found.test) & (subjects(found.training) | subjects(found.unlabeled))
