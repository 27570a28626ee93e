"""One rule for label values in every command: within 0.001 of a whole number, and of a mask 0 and 1."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_sets import called, cube, save, trained, write_set

from medseg.portable.io.labels import is_smeared, read_labels, whole_numbers
from medseg.portable.io.read import VolumeError


@pytest.mark.parametrize(
    ("numbers", "wanted"),
    [
        ([0, 1.00002, 2.9995], [0, 1, 3]),
        ([-0.0009, 254.9992], [0, 255]),
        ([0.5], None),
        ([1.0011], None),
        ([np.nan], None),
        ([np.inf], None),
        ([3e38], None),
    ],
)
def test_whole_numbers(numbers, wanted):
    array = np.array(numbers, np.float64)
    if wanted is None:
        with pytest.raises(Exception, match="1 voxels are no whole numbers"):
            whole_numbers(array)
        return
    found, note = whole_numbers(array)
    assert found.tolist() == wanted
    assert "rounded" in note
    assert whole_numbers(found) == (pytest.approx(found), "")


def commands(capfd, folder: Path, labels: np.ndarray, slope: float = 1.0) -> dict[str, tuple[int, str]]:
    """Every command that reads labels, on the same files."""
    manifest = write_set(folder, labels, slope=slope)
    for name in ("pred", "ref", "plain/labels"):
        save(folder / name / "c0.nii.gz", labels, slope=slope)
    save(folder / "plain/images/c0.nii.gz", cube(100, "i2") + np.arange(16, dtype="i2"))
    found = {
        "check": called(capfd, "data", "check", manifest),
        "init": called(capfd, "data", "init", folder / "plain", "-o", folder / "plain/m.json"),
        "evaluate": called(capfd, "evaluate", "-p", folder / "pred", "-r", folder / "ref", "-o", folder / "tables"),
        "train": trained(capfd, manifest, folder / "run"),
    }
    raters = ["--annotation", folder / "pred/c0.nii.gz", "--annotation", folder / "c1_label.nii.gz"]
    found["consensus"] = called(capfd, "consensus", "--method", "majority", *raters, "-o", folder / "fused")
    return found


def test_numbers_that_scaling_made_fractions_of_are_rounded_and_that_is_said_once(tmp_path, capfd):
    """512 voxels of 1 stored with a slope of 1.00002: nibabel itself reads 1.00002."""
    found = commands(capfd, tmp_path, cube(1, "i2"), slope=1.00002)
    assert {name: code for name, (code, _) in found.items()} == dict.fromkeys(found, 0)
    for name in ("check", "train"):  # one line for both files
        lines = [line for line in found[name][1].splitlines() if "1.00002: rounded to whole numbers" in line]
        assert len(lines) == 1
    assert found["evaluate"][1].count("rounded to whole numbers") == 1
    scores = json.loads((tmp_path / "tables/metrics.json").read_text())["cases"][0]["classes"]["label 1"]
    assert (scores["tp"], scores["fp"], scores["fn"]) == (512, 0, 0)
    assert json.loads((tmp_path / "plain/m.json").read_text())["labels"] == {"0": "background", "1": "foreground"}
    fused = read_labels(tmp_path / "fused/consensus.nii.gz")[0]
    assert int((fused == 1).sum()) == 512


@pytest.mark.parametrize("value", [1.01, 3e38])
def test_other_fractions_and_what_no_label_can_be_are_refused_by_all(value, tmp_path, capfd):
    found = commands(capfd, tmp_path, cube(value, "f4"))
    assert {name: code for name, (code, _) in found.items()} == {**dict.fromkeys(found, 2), "check": 1}
    for name in ("check", "train", "consensus"):
        assert f"512 voxels are no whole numbers, such as {value:.7g}" in found[name][1]
    assert not any("Traceback" in text for _, text in found.values())


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (cube(0), "no training label has a voxel of any structure (1 cube): nothing can be learnt"),
        (cube(255), "no training label has a voxel of any structure (1 cube): nothing can be learnt"),
        (np.ones_like(cube()), "every labelled voxel of the training labels is cube: there is nothing to tell it from"),
    ],
)
def test_labels_that_teach_nothing_are_refused(labels, words, tmp_path, capfd):
    manifest = write_set(tmp_path, labels)
    code, said = called(capfd, "data", "check", manifest)
    assert (code, words in said) == (1, True)
    code, said = trained(capfd, manifest, tmp_path / "run")
    assert (code, words in said) == (2, True)
    assert not (tmp_path / "run/bundle").exists()


def write_masks(folder: Path, ending: str) -> None:
    """Three photographs 64 x 48 with a disc of radius 15, and masks of 0 and 255 that were made grey."""
    rows, columns = np.mgrid[:48, :64]
    disc = (rows - 24) ** 2 + (columns - 32) ** 2 < 15**2
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(3):
        noise = np.random.default_rng(number).normal(100, 10, disc.shape) + 40 * disc
        Image.fromarray(noise.clip(0, 255).astype("u1")).save(folder / f"images/i{number}.png")
        mask = Image.fromarray((255 * disc).astype("u1"))
        if ending == ".png":
            mask = mask.resize((128, 96), Image.Resampling.BICUBIC).resize((64, 48), Image.Resampling.BICUBIC)
        mask.save(folder / f"masks/i{number}{ending}")


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_grey_masks_are_no_label_maps_of_many_classes(ending, tmp_path, capfd):
    """What an earlier version wrote of such a folder: a manifest with a class for every grey level."""
    write_masks(tmp_path, ending)
    cases = [{"image": f"images/i{n}.png", "label": f"masks/i{n}{ending}"} for n in range(3)]
    labels = {"0": "background", **{str(value): f"class {value}" for value in range(1, 255)}}
    content = {"modality": "XR", "labels": labels, "training": cases}
    (tmp_path / "m.json").write_text(json.dumps(content))
    code, said = called(capfd, "data", "check", tmp_path / "m.json")
    assert (code, said.count("[grey_levels]")) == (1, 3)
    code, said = called(
        capfd, "train", "--task", "supervised", "--data", tmp_path / "m.json", "-o", tmp_path / "run",
        "--set", "stages.0.schedule.iterations=1",
    )  # fmt: skip
    assert (code, f"masks/i0{ending}: " in said) == (2, True)
    files = [word for n in range(2) for word in ("--annotation", tmp_path / f"masks/i{n}{ending}")]
    code, said = called(capfd, "consensus", "--method", "majority", *files, "-o", tmp_path / "fused")
    assert (code, f"masks/i0{ending}: " in said) == (2, True)
    with pytest.raises(Exception, match=r"grey levels|JPEG"):
        read_labels(tmp_path / f"masks/i0{ending}")


def test_maps_of_many_classes_are_none():
    assert not is_smeared(dict.fromkeys(range(151), 100))  # ADE20K
    assert not is_smeared({**dict.fromkeys(range(21), 500), 255: 300})  # VOC with borders
    assert not is_smeared(dict.fromkeys(range(256), 7))  # an atlas
    organs = dict.fromkeys(range(1, 118), 50)
    assert not is_smeared({0: 90000, **organs, 255: 90000})  # TotalSegmentator, half of it not annotated
    assert is_smeared({0: 9000, 2: 40, 60: 9, 128: 10, 190: 8, 250: 30, 253: 20, 255: 900})


def test_an_unreadable_label_says_so(tmp_path):
    (tmp_path / "x.nii.gz").write_bytes(b"no gzip")
    with pytest.raises(VolumeError, match=r"x\.nii\.gz"):
        read_labels(tmp_path / "x.nii.gz")
