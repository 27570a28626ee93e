"""Finished work is recognised by what it was made of and by what was made, not by names or dates."""

from __future__ import annotations

import hashlib
import json
import os

import numpy as np
import pytest

from medseg import __version__
from medseg.errors import DataError
from medseg.portable.io.record import fingerprint
from medseg.records import RECORD, Record, differing, digest_of, hash_of, read_record


def record_of(folder, source="a", above=2):
    return Record(folder / RECORD, inputs={"image": source}, settings={"above": above}, products=[folder / "mask.txt"])


def make(folder, text="made"):
    record = record_of(folder)
    record.begin()
    (folder / "mask.txt").write_text(text)
    record.finish({"voxels": 3})
    return record


def test_finished_work_is_found_again(tmp_path):
    make(tmp_path)
    assert record_of(tmp_path).notes()["voxels"] == 3
    os.utime(tmp_path / "mask.txt", (0, 0))
    assert record_of(tmp_path).notes() is not None
    assert record_of(tmp_path).difference() is None


@pytest.mark.parametrize("change", ["product", "input", "setting", "record", "gone", "no record", "a list", "no notes"])
def test_anything_else_is_done_again(tmp_path, change):
    make(tmp_path)
    product, file = tmp_path / "mask.txt", tmp_path / RECORD
    if change == "product":
        product.write_text("forged")
    elif change == "gone":
        product.unlink()
    elif change == "record":
        file.write_text(file.read_text()[:-20])
    elif change == "no record":
        file.unlink()
    elif change == "a list":
        file.write_text("[1]")
    elif change == "no notes":
        file.write_text(json.dumps({**json.loads(file.read_text()), "notes": None}))
    again = record_of(tmp_path, "b" if change == "input" else "a", 1 if change == "setting" else 2)
    assert again.notes() is None
    assert not again.begun
    again.begin()
    assert not product.exists()


def test_interrupted_work_keeps_what_there_is(tmp_path):
    folder = tmp_path / "network"

    def record(seed):
        return Record(folder / RECORD, inputs={}, settings={"seed": seed}, products=[folder / "bundle"])

    record(0).begin(folder)
    (folder / "last.pt").write_text("half")
    assert record(0).begun
    record(0).begin(folder)
    assert (folder / "last.pt").exists()
    record(1).begin(folder)
    assert sorted(path.name for path in folder.iterdir()) == [RECORD]


def test_what_differs_is_said_in_one_line(tmp_path):
    file = tmp_path / RECORD
    inputs = {"files": {"case1": ["aa", "bb"], "case2": ["cc"]}}
    Record(file, inputs=inputs, settings={"stage": {"lr": 0.1}, "views": ["axial"]}).finish()
    inputs["files"]["case1"] = ["aa", "dd"]
    other = Record(file, inputs=inputs, settings={"stage": {"lr": 0.2}, "views": ["axial", "coronal"]})
    assert other.difference() == (
        'files.case1.1 was "bb" and is "dd", stage.lr was 0.1 and is 0.2, views was 1 values and is 2 values'
    )
    assert differing({"a": 1, "b": 2}, {"b": 3, "c": 4}) == ["b", "c", "a"]


def test_the_version_that_made_it_counts_unless_it_may_be_continued(tmp_path):
    old = Record(tmp_path / RECORD, inputs={}, settings={"seed": 0}, version="0.0.1")
    old.finish()
    new = Record(tmp_path / RECORD, inputs={}, settings={"seed": 0})
    assert new.notes() is None
    assert new.difference() == f"medseg was 0.0.1 and is {__version__}"
    run = tmp_path / "run.json"
    Record(run, inputs={}, settings={"seed": 0}, version=None).begin()
    assert Record(run, inputs={}, settings={"seed": 0}, version=None).begun


def test_records_of_before_are_honoured(tmp_path):
    """They had a key of the same values, the hashes of the products, and no more."""
    product = tmp_path / "mask.txt"
    product.write_text("made")
    values = json.dumps({"above": 2, "image": "a", "medseg": __version__}, sort_keys=True)
    key = hashlib.sha256(values.encode()).hexdigest()
    made = [hashlib.sha256(b"made").hexdigest()]
    former = {"key": key, "made": made, "notes": {"seconds": 2.5}}
    (tmp_path / "piece.json").write_text(json.dumps(former))
    assert record_of(tmp_path).notes() == {"seconds": 2.5}
    other = record_of(tmp_path, above=1)
    assert other.notes() is None
    assert other.difference() == "there is no record that says of what it was made"
    product.write_text("forged")
    assert record_of(tmp_path).notes() is None


def test_seconds_are_those_of_the_notes_where_they_say_some(tmp_path):
    record = Record(tmp_path / RECORD, inputs={}, settings={})
    assert record.finish({"seconds": 12.5})["seconds"] == 12.5
    assert record.finish()["seconds"] < 12


def test_a_folder_is_its_files_and_their_names(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
        (folder / "x").write_text("1")
    assert digest_of(first) == digest_of(second)
    (second / "x").rename(second / "y")
    assert digest_of(first) != digest_of(second)
    with pytest.raises(DataError, match="cannot be read"):
        digest_of(tmp_path / "absent")


@pytest.mark.parametrize("voxels", ["image.raw", "voxels.bin"])
def test_a_header_without_voxels_stands_for_their_file_too(tmp_path, voxels):
    sitk = pytest.importorskip("SimpleITK")
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 4, 5), np.uint8)), str(tmp_path / "image.mhd"))
    header = tmp_path / "image.mhd"
    (tmp_path / "image.raw").rename(tmp_path / voxels)
    header.write_text(header.read_text().replace("image.raw", voxels))
    before = digest_of(header), fingerprint([header])
    (tmp_path / voxels).write_bytes(b"\1" * 60)
    after = digest_of(header), fingerprint([header])
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_what_is_no_record_says_nothing(tmp_path):
    for number, text in enumerate(("", "{", "[]", '"x"')):
        file = tmp_path / f"{number}.json"
        file.write_text(text)
        assert read_record(file) == {}
    assert read_record(tmp_path / "absent.json") == {}
    assert hash_of({"a": 1, "b": 2}) == hash_of({"b": 2, "a": 1})
