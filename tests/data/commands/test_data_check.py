"""`data check` finds every fault that was planted, and nothing in good data."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medseg.errors import ManifestError
from medseg.portable.io.read import Header
from medseg.workflows.data.check import CheckReport, check_manifest
from medseg.workflows.data.check_case import difference
from medseg.workflows.data.voxel_statistics import intensities, values

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("MEDSEG_DATA", ROOT.parent / "shared" / "data"))
SHAPE = (12, 10, 8)
AFFINE = np.diag([1.0, 1.0, 1.5, 1.0])


class Set:
    """A small good data set in a folder, to be spoilt file by file."""

    def __init__(self, folder: Path, count: int = 3) -> None:
        self.folder = folder
        self.content: dict = {
            "labels": {"0": "background", "1": "liver", "2": "tumour"},
            "modality": {"0": "MR"},
            "training": [],
        }
        for n in range(count):
            self.image(f"i{n}.nii.gz", seed=n)
            self.label(f"l{n}.nii.gz")
            self.content["training"].append({"image": f"i{n}.nii.gz", "label": f"l{n}.nii.gz"})

    def image(self, name: str, array=None, affine=AFFINE, seed: int = 0) -> None:
        if array is None:
            array = np.random.default_rng(seed).normal(size=SHAPE).astype("f4")
        nib.save(nib.Nifti1Image(array, affine), self.folder / name)

    def label(self, name: str, array=None, affine=AFFINE) -> None:
        if array is None:
            array = np.zeros(SHAPE, "u1")
            array[2:6, 2:6, 2:6], array[6:8, 2:6, 2:6] = 1, 2
        nib.save(nib.Nifti1Image(array, affine), self.folder / name)

    def check(self, **options) -> CheckReport:
        path = self.folder / "m.json"
        path.write_text(json.dumps(self.content))
        return check_manifest(path, **options)

    def codes(self, severity: str | None = None, **options) -> list[tuple[str, str]]:
        found = self.check(**options).problems
        return [(p.case, p.code) for p in found if severity in (None, p.severity)]


@pytest.fixture
def made(tmp_path) -> Set:
    return Set(tmp_path)


def test_good_data(made):
    report = made.check()
    assert report.problems == ()
    assert report.ok
    assert (report.cases, report.files) == (3, 6)
    assert report.to_text().endswith("3 cases, 6 files (every voxel read): 0 errors, 0 warnings")
    value = json.loads(report.to_json(), parse_constant=pytest.fail)
    assert value["ok"] is True
    assert value["problems"] == []


def test_everything_is_told_in_one_run(made):
    half = (made.folder / "i0.nii.gz").read_bytes()
    (made.folder / "i0.nii.gz").write_bytes(half[: len(half) // 2])
    (made.folder / "l1.nii.gz").unlink()
    (made.folder / "i2.nii.gz").write_text("hello")
    report = made.check()
    assert not report.ok
    assert [(p.case, p.file, p.code) for p in report.problems][:3] == [
        ("i0", "i0.nii.gz", "unreadable"),
        ("i1", "l1.nii.gz", "missing"),
        ("i2", "i2.nii.gz", "unreadable"),
    ]
    assert all(p.section == "training" and p.severity == "error" for p in report.problems[:3])
    assert "i0.nii.gz: is cut off" in report.to_text()
    assert [p["code"] for p in json.loads(report.to_json())["problems"]][1] == "missing"


def moved(mm: float):
    affine = AFFINE.copy()
    affine[0, 3] += mm
    return affine


FLIPPED = np.array([[-1.0, 0, 0, 11], [0, 1, 0, 0], [0, 0, 1.5, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("affine", "expected"),
    [
        (moved(0.0005), []),
        (moved(0.3), [("warning", "affine")]),
        (moved(40), [("error", "affine")]),
        (np.diag([-1.0, 1, 1.5, 1]), [("error", "affine")]),  # flipped in the header
        (np.diag([1.0, 1, 3, 1]), [("error", "spacing")]),
    ],
)
def test_geometry(made, affine, expected):
    made.label("l1.nii.gz", affine=affine)
    for headers_only in (False, True):
        found = made.check(headers_only=headers_only).problems
        assert [(p.severity, p.code) for p in found] == expected
        assert all(p.file == "l1.nii.gz" for p in found)


def test_another_order_of_storage_is_the_same_grid(made):
    label = np.zeros(SHAPE, "u1")
    label[2:5] = 1
    label[5] = 2
    made.label("l0.nii.gz", label[::-1], FLIPPED)
    swapped = AFFINE[:, [1, 0, 2, 3]]
    made.label("l1.nii.gz", label.transpose(1, 0, 2), swapped)
    assert made.codes() == []


def test_shape(made):
    made.label("l0.nii.gz", np.ones((12, 10, 7), "u1"))
    (problem,) = made.check(headers_only=True).problems
    assert problem.code == "shape"
    assert "12 x 10 x 7" in problem.message
    assert "12 x 10 x 8" in problem.message


def label_of(*numbers, dtype="u1"):
    array = np.zeros(SHAPE, dtype)
    array.flat[: len(numbers)] = numbers
    return array


@pytest.mark.parametrize(
    ("array", "severity", "code", "words"),
    [
        (label_of(1, 2, 7, 7), "error", "unknown_values", "2 voxels have unknown values 7; known are 0 background"),
        (label_of(1, 0.9989, dtype="f4"), "error", "non_integer", "1 voxels are no whole numbers, such as 0.9989"),
        (label_of(1, np.nan, dtype="f4"), "error", "non_integer", "such as nan"),
        (label_of(1, -1, dtype="i2"), "error", "unknown_values", "unknown values -1"),
        (label_of(1, 1e30, dtype="f4"), "error", "non_integer", "no whole numbers"),
        (np.full(SHAPE, 255, "u1"), "error", "all_ignored", "nothing can be learnt"),
        (np.zeros(SHAPE, "u1"), "warning", "empty", "no voxel of any class"),
        (label_of(255, 255), "warning", "empty", "masks of 0 and 255"),
        (np.ones((*SHAPE, 2), "u1"), "error", "label_channels", "2 channels"),
    ],
)
def test_label_values(made, array, severity, code, words):
    made.label("l0.nii.gz", array)
    found = [p for p in made.check().problems if p.file == "l0.nii.gz"]
    assert [(p.severity, p.code) for p in found] == [(severity, code)]
    assert words in found[0].message


def test_whole_floats_and_ignored_voxels_are_labels(made):
    made.label("l0.nii.gz", label_of(1, 2, 255, dtype="f4"))
    made.label("l1.nii.gz", label_of(1, 2, 255, dtype="i8").astype("i4"))
    assert made.codes() == []


def test_images(made):
    array = np.random.default_rng(5).normal(size=SHAPE).astype("f4")
    array[0, 0, :3] = np.nan, np.inf, -np.inf
    made.image("i0.nii.gz", array)
    made.image("i1.nii.gz", np.full(SHAPE, 3.0, "f4"))
    made.image("i2.nii.gz", np.random.default_rng(6).normal(size=(*SHAPE, 2)).astype("f4"))
    found = {p.case: p for p in made.check().problems}
    assert found["i0"].code == "non_finite"
    assert "3 of 960 voxels" in found["i0"].message
    assert (found["i1"].code, found["i1"].severity) == ("constant", "warning")
    assert found["i2"].code == "channels"
    assert "has 2 channels, modality has 1" in found["i2"].message


def test_channels_in_files(made):
    made.content["modality"] = {"0": "T1", "1": "T2"}
    for n, case in enumerate(made.content["training"]):
        made.image(f"j{n}.nii.gz", seed=10 + n)
        case["image"] = [f"i{n}.nii.gz", f"j{n}.nii.gz"]
    assert made.codes() == []
    made.image("j1.nii.gz", affine=moved(2))
    made.image("j2.nii.gz", np.ones((8, 10, 12), "f4"))
    assert made.codes("error", headers_only=True) == [("i1", "channel_grid"), ("i2", "channel_grid")]


def test_duplicates(made):
    content = made.content
    content["test"] = [{"image": "i0.nii.gz", "label": "l0.nii.gz", "case": "again"}]
    made.image("copy.nii.gz", seed=1)
    content["validation"] = [{"image": "copy.nii.gz", "label": "l1.nii.gz"}]
    assert set(made.codes("error")) == {("again", "duplicate"), ("copy", "duplicate")}
    assert {("again", "duplicate_label"), ("copy", "duplicate_label")} == set(made.codes("warning"))
    content["training"][2]["label"] = "i2.nii.gz"
    assert ("i2", "label_is_image") in made.codes("error")


def test_subjects_in_two_splits(made):
    training = made.content["training"]
    for case in training:
        case["subject"] = "s1"
    assert made.codes(headers_only=True) == []
    made.content["validation"] = [training.pop()]
    (problem,) = made.check(headers_only=True).problems
    assert (problem.severity, problem.code) == ("error", "subject_leak")
    assert "s1 is in both training and validation" in problem.message
    made.content["unlabeled"] = [{"image": made.content.pop("validation")[0]["image"], "subject": "s1"}]
    assert made.codes(headers_only=True) == []
    made.content["test"] = [training.pop()]
    assert [p.severity for p in made.check(headers_only=True).problems] == ["error", "warning"]


def test_folds_that_are_no_cross_validation(made):
    training = made.content["training"]
    for number, case in enumerate(training):
        case["fold"] = number
    assert made.codes(headers_only=True) == []
    training[0]["subject"] = training[1]["subject"] = "s1"
    (problem,) = made.check(headers_only=True).problems
    assert (problem.severity, problem.code) == ("warning", "folds")
    assert problem.message == "2 labelled subjects are too few for 3 folds; ask for fewer folds"
    training[2]["fold"] = 0
    (problem,) = made.check(headers_only=True).problems
    assert problem.message == "subject s1 is in the folds 0 and 1; keep a subject in one fold"


def test_misspelt_keys_and_counts(made):
    made.content |= {"unlabelled": [{"image": "x"}], "numTraining": 5, "tensorImageSize": "3D", "comment": "x"}
    made.content["training"][1]["subjet"] = "s1"
    report = made.check(headers_only=True)
    assert report.ok
    messages = [p.message for p in report.problems]
    assert "the key 'unlabelled' is not known and not used; was 'unlabeled' meant?" in messages
    assert "the key 'subjet' is not known and not used; was 'subject' meant?" in messages
    assert "numTraining is 5, the list 'training' has 3 cases" in messages
    assert len(messages) == 3


def test_annotations_and_tags(made):
    made.label("r1.nii.gz", label_of(1, 2))
    made.label("r2.nii.gz", affine=moved(9))
    made.content["training"][0] |= {
        "annotations": [
            {"rater": "A", "label": "r1.nii.gz", "classes": ["liver"]},
            {"rater": "B", "label": "r2.nii.gz"},
            {"rater": "C", "label": "r3.nii.gz"},
        ],
        "tags": ["liver"],
    }
    found = [(p.severity, p.code, p.file) for p in made.check().problems]
    assert found == [
        ("warning", "tags", "l0.nii.gz"),
        ("warning", "rater_classes", "r1.nii.gz"),
        ("error", "affine", "r2.nii.gz"),
        ("error", "missing", "r3.nii.gz"),
    ]


def test_tags_of_some_classes_say_nothing_of_the_others(made):
    """A label of the liver alone that was looked at for livers alone; its tags tell of nothing else."""
    made.content["training"][0] |= {"tags": {"liver": True}}
    assert [p for p in made.check().problems if p.code == "tags"] == []
    made.content["training"][0] |= {"tags": {"liver": False}}
    (problem,) = [p for p in made.check().problems if p.code == "tags"]
    assert problem.message == "liver: in the label only"


def test_maps(made):
    fine = np.linspace(0, 1, 12 * 10 * 8, dtype="f4").reshape(SHAPE)
    spoilt = fine.copy()
    spoilt[3, 4, 5], spoilt[0, 0, 1] = np.nan, np.inf
    moved = AFFINE.copy()
    moved[0, 3] = 3
    maps = {
        "fine": (fine, AFFINE),
        "small": (fine[:-1], AFFINE),
        "moved": (fine, moved),
        "spoilt": (spoilt, AFFINE),
        "constant": (np.zeros(SHAPE, "f4"), AFFINE),
        "colours": (np.stack([fine] * 3, -1), AFFINE),
    }
    for name, (array, affine) in maps.items():
        made.image(f"{name}.nii.gz", array, affine)
    (made.folder / "text.nii.gz").write_text("no image")
    maps |= {"absent": None, "text": None}
    made.content["training"][1]["maps"] = {name: f"{name}.nii.gz" for name in maps}
    report = made.check()
    assert report.files == 6 + 8
    said = {Path(problem.file).name.split(".")[0]: problem for problem in report.problems}
    assert {name: (problem.severity, problem.code) for name, problem in said.items()} == {
        "small": ("error", "shape"),
        "moved": ("error", "affine"),
        "spoilt": ("error", "non_finite"),
        "constant": ("warning", "constant"),
        "colours": ("error", "map_channels"),
        "absent": ("error", "missing"),
        "text": ("error", "unreadable"),
    }
    assert (
        said["small"].message
        == "map 'small': its shape is 11 x 10 x 8, the image's is 12 x 10 x 8; resample it to the image"
    )
    assert "map 'spoilt': 2 of 960 voxels are NaN or infinite" in said["spoilt"].message
    headers = {problem.code for problem in made.check(headers_only=True).problems}
    assert headers == {"shape", "affine", "map_channels", "missing", "unreadable"}


def test_slices(made):
    flat = (12, 10, 1)
    made.image("i0.nii.gz", np.random.default_rng(0).normal(size=flat).astype("f4"))
    made.label("l0.nii.gz", np.ones(flat, "u1"))
    assert made.codes(headers_only=True) == [("i0", "single_slice")]
    for n in (1, 2):
        made.image(f"i{n}.nii.gz", seed=n, affine=np.diag([1, 1, 5, 1]))
        made.label(f"l{n}.nii.gz", affine=np.diag([1, 1, 5, 1]))
    thick = made.check(headers_only=True).problems[-1]
    assert thick.code == "thick_slices"
    assert "2 of 2 volumes have thick slices (spacing ratio up to 5)" in thick.message


def test_pictures(tmp_path):
    made = Set(tmp_path, 0)
    made.content["modality"] = ["R", "G", "B"]
    for n in range(2):
        Image.fromarray(np.random.default_rng(n).integers(0, 255, (20, 30, 3), np.uint8)).save(tmp_path / f"{n}.png")
        Image.fromarray(np.arange(600, dtype=np.uint8).reshape(20, 30) % 3).save(tmp_path / f"l{n}.png")
        made.content["training"].append({"image": f"{n}.png", "label": f"l{n}.png"})
    report = made.check()
    assert report.ok
    assert [p.code for p in report.problems] == ["single_slice"]


def test_numbers_that_are_not_the_modality(made):
    made.content["modality"] = {"0": "CT"}
    for n in range(3):
        made.image(f"i{n}.nii.gz", np.random.default_rng(n).integers(0, 200, SHAPE).astype("i2"))
    assert [p.code for p in made.check().problems] == ["modality"]
    made.content["modality"] = {"0": "MR"}
    made.image("i0.nii.gz", np.random.default_rng(0).integers(-1024, 200, SHAPE).astype("i2"))
    assert "is this CT?" in made.check().problems[0].message


def test_classes_that_cannot_be_learnt(made):
    for n in range(3):
        made.label(f"l{n}.nii.gz", label_of(1))
    (problem,) = made.check().problems
    assert problem.code == "class_absent"
    assert "tumour" in problem.message


def test_a_broken_manifest_is_an_error(tmp_path):
    (tmp_path / "m.json").write_text("{")
    with pytest.raises(ManifestError, match="line 1, column 2"):
        check_manifest(tmp_path / "m.json")


def test_a_thousand_headers_in_a_minute(tmp_path):
    made = Set(tmp_path, 1)
    image, label = ((tmp_path / f).read_bytes() for f in ("i0.nii.gz", "l0.nii.gz"))
    for n in range(1, 300):
        (tmp_path / f"i{n}.nii.gz").write_bytes(image)
        (tmp_path / f"l{n}.nii.gz").write_bytes(label)
        made.content["training"].append({"image": f"i{n}.nii.gz", "label": f"l{n}.nii.gz"})
    start = time.process_time()
    report = made.check(headers_only=True)
    assert time.process_time() - start < 60 * 300 / 1000
    assert (report.cases, report.ok) == (300, True)


@pytest.mark.parametrize("dtype", ["u1", "i2", "i8", "u8", "f4", "f8"])
def test_voxel_counts_against_numpy(dtype):
    array = np.random.default_rng(0).integers(0, 5, (3, 130, 120, 90)).astype(dtype)
    numbers, counts = np.unique(array, return_counts=True)
    assert values(array).counts == dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    found = intensities(np.asfortranarray(array))
    assert (found.low, found.high, found.non_finite) == (0, 4, 0)


def test_values_beyond_every_table():
    assert values(np.array([0, 2**63 + 5], "u8")).counts == {0: 1, 2**63 + 5: 1}
    assert values(np.array([-(2**63), 7], "i8")).counts == {-(2**63): 1, 7: 1}


def header(shape, affine) -> Header:
    spacing = tuple(np.linalg.norm(affine[:3, :3], axis=0))
    return Header(Path("x"), shape, 1, np.asarray(affine, float), spacing, np.dtype("u1"))


def test_half_as_many_voxels_over_the_same_place_are_another_grid():
    one, other = header((10, 10, 20), np.eye(4)), header((10, 10, 10), np.diag([1, 1, 2, 1]))
    severity, code, _ = difference(other, one)
    assert (severity, code) == ("error", "shape")


@pytest.mark.parametrize("name", ["la/dataset_16", "btcv/dataset_6"])
def test_real_data(name):
    path = DATA / f"{name}.json"
    if not path.exists():
        pytest.skip(f"{path} is not here; set MEDSEG_DATA")
    report = check_manifest(path)
    assert report.ok, report.to_text()
