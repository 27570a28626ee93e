"""`data init` on public data sets as they are downloaded: a few tiny cases in the layout of each."""

from __future__ import annotations

import json
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from dicoms import voxels, write_series
from PIL import Image
from tiny_sets import called, cube, save

from medseg.manifest.manifest import Manifest
from medseg.portable.io.read import read_volume
from medseg.workflows.predict.collect_cases import collect


def volume(path: Path) -> None:
    """An image that is no other's, by its path."""
    noise = np.random.default_rng(crc32(str(path).encode())).normal(0, 10, cube().shape)
    save(path, (noise + 60 * cube()).astype("i2"))


def picture(path: Path, array: np.ndarray, **how) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **how)


def disc() -> np.ndarray:
    rows, columns = np.mgrid[:48, :64]
    return ((rows - 24) ** 2 + (columns - 32) ** 2 < 15**2).astype("u1")


def btcv(root):
    for n in (1, 2):
        volume(root / f"RawData/Training/img/img000{n}.nii.gz")
        save(root / f"RawData/Training/label/label000{n}.nii.gz", cube(13))
    volume(root / "RawData/Testing/img/img0061.nii.gz")
    return {"training": ["img0001", "img0002"], "test": ["img0061"]}, {"0": "background", "13": "foreground"}


def mm_whs(root):
    labels = cube(500, "i2")
    labels[:2] = 205
    for n in (1001, 1002):
        volume(root / f"ct_train/ct_train_{n}_image.nii.gz")
        save(root / f"ct_train/ct_train_{n}_label.nii.gz", labels)
    names = ["ct_train_1001_image", "ct_train_1002_image"]
    return {"training": names}, {"0": "background", "1": "class 205", "2": "class 500"}


def lits(root):
    for n in (0, 1):
        volume(root / f"volume-{n}.nii")
        save(root / f"segmentation-{n}.nii", cube(1) + (np.arange(16) == 5).astype("u1"))
    return {"training": ["volume-0", "volume-1"]}, {"0": "background", "1": "class 1", "2": "class 2"}


def kits(root):
    for n in (0, 1):
        volume(root / f"data/case_0000{n}/imaging.nii.gz")
        save(root / f"data/case_0000{n}/segmentation.nii.gz", cube())
    return {"training": ["case_00000", "case_00001"]}, {"0": "background", "1": "foreground"}


def acdc(root):
    for n in (1, 2):
        folder = root / f"training/patient00{n}"
        volume(folder / f"patient00{n}_4d.nii.gz")
        volume(folder / f"patient00{n}_frame01.nii.gz")
        save(folder / f"patient00{n}_frame01_gt.nii.gz", cube())
    return {"training": ["patient001_frame01", "patient002_frame01"]}, {"0": "background", "1": "foreground"}


def brats(root):
    for n in (1, 2):
        name = f"BraTS20_Training_00{n}"
        for ending in ("t1", "t1ce", "t2", "flair"):
            volume(root / name / f"{name}_{ending}.nii.gz")
        save(root / name / f"{name}_seg.nii.gz", cube(4))
    return {"training": ["BraTS20_Training_001", "BraTS20_Training_002"]}, {"0": "background", "4": "foreground"}


def isic(root):
    for n in (0, 1):
        picture(root / f"ISIC2018_Task1-2_Training_Input/ISIC_000000{n}.jpg", np.dstack([disc() * 90 + 20] * 3))
        place = "ISIC2018_Task1_Training_GroundTruth"
        picture(root / place / f"ISIC_000000{n}_segmentation.png", disc() * 255)
    return {"training": ["ISIC_0000000", "ISIC_0000001"]}, {"0": "background", "1": "foreground"}


def kvasir(root):
    for n in (0, 1):
        picture(root / f"images/c{n}.jpg", np.dstack([disc() * 90 + 20 + n] * 3))
        picture(root / f"masks/c{n}.jpg", np.dstack([disc() * 255] * 3), quality=75)
    return {"training": ["c0", "c1"]}, {"0": "background", "1": "foreground"}


def nnunet_1(root):
    cases = []
    for n in (1, 2):
        volume(root / f"imagesTr/la_00{n}_0000.nii.gz")
        save(root / f"labelsTr/la_00{n}.nii.gz", cube())
        cases.append({"image": f"./imagesTr/la_00{n}.nii.gz", "label": f"./labelsTr/la_00{n}.nii.gz"})
    labels = {"0": "background", "1": "left atrium"}
    content = {"modality": {"0": "MRI"}, "labels": labels, "training": cases, "test": [], "tensorImageSize": "4D"}
    (root / "dataset.json").write_text(json.dumps(content))
    return {"training": ["la_001", "la_002"]}, labels


def capitals(root):
    for n in (0, 1):
        volume(root / f"Images/c{n}.nii.gz")
        save(root / f"Labels/c{n}.nii.gz", cube())
    return {"training": ["c0", "c1"]}, {"0": "background", "1": "foreground"}


SETS = (btcv, mm_whs, lits, kits, acdc, brats, isic, kvasir, nnunet_1, capitals)


@pytest.mark.parametrize("make", SETS, ids=[make.__name__ for make in SETS])
def test_sets_as_they_are_downloaded(make, tmp_path, capfd):
    root = tmp_path / "set"
    root.mkdir()
    names, labels = make(root)
    code, said = called(capfd, "data", "init", root, "-o", tmp_path / "m.json")
    assert code == 0, said
    content = json.loads((tmp_path / "m.json").read_text())
    assert content["labels"] == labels
    manifest = Manifest.load(tmp_path / "m.json")
    assert {section: [case.name for case in getattr(manifest, section)] for section in names} == names
    assert not manifest.unlabeled
    code, said = called(capfd, "data", "check", tmp_path / "m.json")
    assert "error " not in said.replace("errors", ""), said


def test_copies_hold_the_same_structures(tmp_path, capfd):
    """The disc of radius 15 has 697 pixels; JPEG moves none of them across the middle."""
    pixels = int(disc().sum())
    for make in (isic, kvasir):
        root = tmp_path / make.__name__
        make(root)
        assert called(capfd, "data", "init", root, "-o", root / "m.json")[0] == 0
        copies = sorted((root / "m_labels").iterdir())
        assert [int(read_volume(copy)[0].sum()) for copy in copies] == [pixels] * 2
    root = tmp_path / "whs"
    mm_whs(root)
    code, said = called(capfd, "data", "init", root, "-o", root / "m.json")
    assert (code, "labels were written anew, with values from 0 to 2" in said) == (0, True)
    array, _ = read_volume(root / "m_labels/ct_train_ct_train_1001_label.nii.gz")
    assert [int((array == value).sum()) for value in (1, 2)] == [2 * 18 * 16, 512]


def test_a_part_of_a_set_is_known_too(tmp_path, capfd):
    """Its folder "label" is one that plain folders have, and there is no folder "images" beside it."""
    btcv(tmp_path)
    code, said = called(capfd, "data", "init", tmp_path / "RawData/Training", "-o", tmp_path / "m.json")
    assert (code, "found as the data set BTCV" in said, "2 training" in said) == (0, True, True), said


def test_patterns(tmp_path, capfd):
    for n in (0, 1):
        volume(tmp_path / f"deep/scan{n}/ct.nii.gz")
        save(tmp_path / f"drawn/by_anna/scan{n}-liver.nii.gz", cube())
    words = ("data", "init", tmp_path, "-o", tmp_path / "m.json")
    assert called(capfd, *words)[0] == 2
    patterns = ("--image-pattern", "{case}/ct.nii.gz", "--label-pattern", "by_*/{case}-liver.nii.gz")
    code, said = called(capfd, *words, *patterns)
    assert (code, "2 training" in said) == (0, True), said
    code, said = called(capfd, *words, *patterns[:2])
    assert (code, "given together" in said) == (2, True)
    code, said = called(capfd, *words, "--image-pattern", "ct.nii.gz", "--label-pattern", "{case}-liver.nii.gz")
    assert (code, "does not say where the case's name is" in said) == (2, True)


def test_a_dicom_folder_as_an_image_names_the_converter(tmp_path, capfd):
    write_series(tmp_path / "ct", voxels((20, 18, 16)))
    save(tmp_path / "l.nii.gz", cube())
    content = {
        "modality": "CT",
        "labels": {"0": "background", "1": "cube"},
        "training": [{"image": "ct", "label": "l.nii.gz"}],
    }
    (tmp_path / "m.json").write_text(json.dumps(content))
    for command in (("data", "check"), ("train", "--task", "supervised", "-o", tmp_path / "r", "--data")):
        code, said = called(capfd, *command, tmp_path / "m.json")
        assert code in (1, 2)
        assert "is a DICOM series" in said
        assert "dcm2niix" in said


def test_monais_names(tmp_path, capfd):
    """A data list of Auto3DSeg: `testing`, folds, and no names of classes."""
    cases = []
    for n in (0, 1):
        volume(tmp_path / f"c{n}.nii.gz")
        save(tmp_path / f"c{n}_l.nii.gz", cube())
        cases.append({"fold": n, "image": f"c{n}.nii.gz", "label": f"c{n}_l.nii.gz"})
    volume(tmp_path / "t.nii.gz")
    (tmp_path / "list.json").write_text(json.dumps({"testing": [{"image": "t.nii.gz"}], "training": cases}))
    code, said = called(capfd, "data", "check", tmp_path / "list.json")
    assert (code, "'medseg data init' finds the values" in said) == (2, True), said
    code, said = called(capfd, "data", "init", tmp_path / "list.json", "-o", tmp_path / "m.json")
    assert code == 0, said
    content = json.loads((tmp_path / "m.json").read_text())
    assert (content["labels"], [case["image"] for case in content["test"]]) == (
        {"0": "background", "1": "foreground"},
        ["t.nii.gz"],
    )
    assert [item.name for item in collect(tmp_path / "m.json", tmp_path / "p", channels=1)] == ["t"]


def test_files_of_unknown_endings_are_counted_and_named(tmp_path, capfd):
    capitals(tmp_path)
    for name in ("a.bmp", "b.bmp", "c.mgz"):
        (tmp_path / "Images" / name).write_bytes(b"x")
    told = "3 files of unknown endings are passed over: 2 .bmp (a.bmp, ...), 1 .mgz (c.mgz)"
    code, said = called(capfd, "data", "init", tmp_path, "-o", tmp_path / "m.json")
    assert (code, told in said) == (0, True), said
    folders = ("-p", tmp_path / "Labels", "-r", tmp_path / "Labels", "-o", tmp_path / "t", "--no-pictures")
    (tmp_path / "Labels/x.webp").write_bytes(b"x")
    code, said = called(capfd, "evaluate", *folders)
    assert (code, "1 file of an unknown ending is passed over: 1 .webp (x.webp)" in said) == (0, True), said


@pytest.mark.parametrize("make", [kvasir, nnunet_1, capitals], ids=lambda make: make.__name__)
def test_the_folder_around_an_archive_s_content_is_no_hindrance(make, tmp_path, capfd):
    root = tmp_path / "unpacked" / "Set" / "Train"
    root.mkdir(parents=True)
    (tmp_path / "unpacked" / "__MACOSX").mkdir()
    names, labels = make(root)
    code, said = called(capfd, "data", "init", tmp_path / "unpacked", "-o", tmp_path / "m.json")
    assert (code, f"found in {root}" in said) == (0, True), said
    manifest = Manifest.load(tmp_path / "m.json")
    assert [case.name for case in manifest.training] == names["training"]
    assert {str(value): name for value, name in manifest.labels.items()} == labels


@pytest.mark.parametrize(
    ("images", "mark"), [("ISIC-2017_Training_Data", "segmentation"), ("ISIC_Part1_Training_Data", "Segmentation")]
)
def test_earlier_years_of_isic_and_what_belongs_to_no_case(images, mark, tmp_path, capfd):
    for n in (0, 1):
        picture(tmp_path / f"set/{images}/ISIC_000000{n}.jpg", np.dstack([disc() * 90 + 20] * 3))
        picture(tmp_path / f"set/{images}/ISIC_000000{n}_superpixels.png", disc() * 9)
        picture(tmp_path / f"set/Training_GroundTruth/ISIC_000000{n}_{mark}.png", disc() * 255)
    code, said = called(capfd, "data", "init", tmp_path / "set", "-o", tmp_path / "m.json")
    assert (code, "2 image files belong to no case" in said) == (0, True), said
    manifest = Manifest.load(tmp_path / "m.json")
    assert [case.name for case in manifest.training] == ["ISIC_0000000", "ISIC_0000001"]


def test_a_set_s_images_that_fit_no_pattern_are_named(tmp_path, capfd):
    (tmp_path / "set").mkdir()
    lits(tmp_path / "set")
    volume(tmp_path / "set/test-volume-0.nii")
    code, said = called(capfd, "data", "init", tmp_path / "set", "-o", tmp_path / "m.json")
    assert (code, "1 image file belongs to no case: test-volume-0.nii" in said) == (0, True), said
