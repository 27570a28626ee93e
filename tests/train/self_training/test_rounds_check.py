"""What is refused, or said, before a run with rounds trains anything."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tiny import write_dataset

from medseg.errors import MedsegError
from medseg.manifest.manifest import Manifest
from medseg.workflows.train.self_training.check_data import check_rounds


@pytest.fixture
def data(tmp_path) -> Path:
    return write_dataset(tmp_path / "data", shape=(12, 10, 8), modality="CT")


def edit(path: Path, change) -> Manifest:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return Manifest.load(path)


def check(manifest: Manifest) -> list[str]:
    return check_rounds(manifest, manifest.path.with_name("check.json"))


def rewrite(path: Path, change) -> None:
    image = nib.load(path)
    nib.save(nib.Nifti1Image(change(np.asarray(image.dataobj)), image.affine), path)


def test_good_data_pass_and_are_not_read_again(data):
    manifest = Manifest.load(data)
    assert check(manifest) == []
    record = data.with_name("check.json")
    before = record.read_bytes()
    assert check(manifest) == []
    assert record.read_bytes() == before


@pytest.mark.parametrize(
    ("section", "words"),
    [("training", "the image of unlabeled case other is also that of training case case0"),
     ("test", "the image of test case case5 is also that of unlabeled case other"),
     ("validation", "the image of unlabeled case other is also that of validation case case4")],
)  # fmt: skip
def test_one_image_on_two_sides(data, section, words):
    def again(content):
        image = content[section][0]["image"]
        link = data.with_name("other.nii.gz")
        link.symlink_to(data.with_name(image))
        content["unlabeled"].append({"image": link.name, "case": "other"})

    with pytest.raises(MedsegError, match=words):
        check(edit(data, again))


def test_a_copy_of_an_image_is_found_too(data):
    def copy(content):
        shutil.copy(data.with_name("case0.nii.gz"), data.with_name("copied.nii.gz"))
        content["unlabeled"].append({"image": "copied.nii.gz"})

    with pytest.raises(MedsegError, match="has the same voxels as training case0"):
        check(edit(data, copy))


@pytest.mark.parametrize("section", ["training", "validation", "test"])
def test_one_subject_on_two_sides(data, section):
    def same(content):
        content[section][0]["subject"] = content["unlabeled"][0]["subject"] = "p7"

    with pytest.raises(
        MedsegError, match=r"the subject p7 of .* is also that of .*keep every image and every subject in one"
    ):
        check(edit(data, same))


def test_one_name_on_two_sides(data):
    with pytest.raises(MedsegError, match="is called 'case0' like training"):
        edit(data, lambda content: content["unlabeled"].append({"image": "case2.nii.gz", "case": "case0"}))


def test_nan_in_an_unlabelled_volume(data):
    def broken(array):
        array = array.astype(np.float32)
        array[3, 3, 3] = np.nan
        return array

    rewrite(data.with_name("case3.nii.gz"), broken)
    with pytest.raises(MedsegError, match=r"case3\.nii\.gz: unlabeled case case3: 1 of 960 voxels are NaN"):
        check(Manifest.load(data))


def test_an_unlabelled_volume_of_more_channels(data):
    rewrite(data.with_name("case3.nii.gz"), lambda array: np.stack([array, array], -1))
    with pytest.raises(MedsegError, match=r"case3\.nii\.gz: unlabeled case case3: has 2 channels"):
        check(Manifest.load(data))


def test_an_unlabelled_volume_of_another_modality(data):
    rewrite(data.with_name("case3.nii.gz"), lambda array: array - array.min())
    with pytest.raises(MedsegError, match="unlabelled case case3 holds no negative value"):
        check(Manifest.load(data))


def test_damage_is_found_before_training(data):
    path = data.with_name("case2.nii.gz")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(MedsegError, match=r"case2\.nii\.gz"):
        check(Manifest.load(data))


def test_a_class_that_nobody_drew_is_said_once(data, capsys):
    manifest = edit(data, lambda content: content["labels"].update({"3": "spleen"}))
    assert check(manifest) == ["no training label has spleen: it cannot be learnt"]
    assert "spleen" in capsys.readouterr().err
    assert check(manifest) == ["no training label has spleen: it cannot be learnt"]
    assert capsys.readouterr().err == ""
