"""`data init` on data as people have them: pairs, folders of subjects, single structures, tables, DICOM."""

from __future__ import annotations

import json
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from dicoms import affine_of, voxels, write_contours, write_series
from tiny_sets import called, cube, save

from medseg.manifest.manifest import Manifest
from medseg.portable.io.read import read_volume

NAMES = ("training", "validation", "test", "unlabeled")


def volume(path: Path) -> None:
    """An image that is no other's, by its path."""
    noise = np.random.default_rng(crc32(path.name.encode() + path.parent.name.encode())).normal(0, 10, cube().shape)
    save(path, (noise + 60 * cube()).astype("i2"))


def made(capfd, source: Path, *options: object) -> tuple[Manifest, str]:
    """The manifest of a source, checked by `data check`, and what was said."""
    out = source.parent / "out" / "m.json"
    code, said = called(capfd, "data", "init", source, "-o", out, *options)
    assert code == 0, said
    code, checked = called(capfd, "data", "check", out)
    assert code == 0, checked
    return Manifest.load(out), said


def refused(capfd, source: Path, *options: object) -> str:
    code, said = called(capfd, "data", "init", source, "-o", source.parent / "out" / "m.json", *options)
    assert code == 2, said
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert not (source.parent / "out" / "m.json").exists()
    return line


def names(manifest: Manifest) -> dict[str, list[str]]:
    lists = {section: [case.name for case in getattr(manifest, section)] for section in NAMES}
    return {section: cases for section, cases in lists.items() if cases}


def files(manifest: Manifest, case: int = 0) -> tuple[list[str], str]:
    """Names of the image files and of the label file of a training case."""
    mine = manifest.training[case]
    label = manifest.label(mine)
    assert label is not None
    return [path.name for path in manifest.images(mine)], label.name


# ---- pairs in one folder


@pytest.mark.parametrize("mark", ["_seg", "_label", "_mask", "_gt", "-seg", "_SEG", ".seg"])
def test_pairs_in_one_folder(mark, tmp_path, capfd):
    root = tmp_path / "d"
    for n in range(3):
        volume(root / f"x{n}.nii.gz")
    save(root / f"x0{mark}.nii.gz", cube())
    save(root / f"x1{mark}.nii.gz", cube())
    manifest, said = made(capfd, root)
    assert names(manifest) == {"training": ["x0", "x1"], "unlabeled": ["x2"]}
    assert f"found as pairs of files in one folder, such as x0{mark}.nii.gz" in said
    assert files(manifest, 1) == (["x1.nii.gz"], f"x1{mark}.nii.gz")


def test_pairs_of_several_channels(tmp_path, capfd):
    """The channels are in the order of their names, flair before t1, and named by them; `n2` has no label."""
    for n in range(3):
        for channel in ("t1", "flair"):
            volume(tmp_path / f"d/n{n}_{channel}.nii.gz")
    for n in range(2):
        save(tmp_path / f"d/n{n}_seg.nii.gz", cube())
    manifest, _ = made(capfd, tmp_path / "d")
    assert names(manifest) == {"training": ["n0", "n1"], "unlabeled": ["n2"]}
    assert files(manifest) == (["n0_flair.nii.gz", "n0_t1.nii.gz"], "n0_seg.nii.gz")
    assert manifest.modality == {"0": "flair", "1": "t1"}
    (tmp_path / "d/n1_t1.nii.gz").unlink()
    line = refused_again(capfd, tmp_path)
    assert "n1 has the images flair, and n0 has flair, t1; accepted are the same images for all" in line


def refused_again(capfd, folder: Path, *options: object) -> str:
    """What is said of a source that cannot be read any more; the manifest that was made of it goes first."""
    (folder / "out/m.json").unlink(missing_ok=True)
    return refused(capfd, folder / "d", *options)


def test_pairs_that_cannot_be_used(tmp_path, capfd):
    root = tmp_path / "d"
    volume(root / "a.nii.gz")
    save(root / "a_seg.nii.gz", cube())
    save(root / "a_gt.nii.gz", cube())
    assert "has a_gt.nii.gz and a_seg.nii.gz, both labels of 'a'; accepted is one" in refused(capfd, root)
    (root / "a_gt.nii.gz").rename(root / "b_gt.nii.gz")
    assert "1 labels have no image of the same name, such as b_gt.nii.gz" in refused(capfd, root)
    (root / "b_gt.nii.gz").unlink()
    save(root / "a.nii", cube())
    assert "has a.nii and a.nii.gz, both of the name 'a'; rename or remove one of them" in refused(capfd, root)
    empty = tmp_path / "other" / "d"
    volume(empty / "deep/down/a.nii.gz")
    line = refused(capfd, empty)
    assert "has no images in a layout that is known; it holds 1 folder (deep); accepted are folders called" in line
    assert "a CSV with the columns image and label, or --image-pattern" in line


def test_images_that_belong_to_no_case_are_told(tmp_path, capfd):
    volume(tmp_path / "d/a.nii.gz")
    save(tmp_path / "d/a_seg.nii.gz", cube())
    volume(tmp_path / "d/old/b.nii.gz")
    manifest, said = made(capfd, tmp_path / "d")
    assert names(manifest) == {"training": ["a"]}
    assert "d: 1 image file belongs to no case: old/b.nii.gz" in said


def test_pairs_in_several_folders(tmp_path, capfd):
    """One folder for each class, whose images have the same names; and parts of a data set."""
    for folder in ("benign", "malignant"):
        for n in range(2):
            volume(tmp_path / f"d/{folder}/{n}.nii.gz")
            save(tmp_path / f"d/{folder}/{n}_mask.nii.gz", cube())
    manifest, said = made(capfd, tmp_path / "d")
    assert names(manifest) == {"training": ["benign_0", "benign_1", "malignant_0", "malignant_1"]}
    assert "found as pairs of files in folders such as benign/" in said
    (tmp_path / "d/benign").rename(tmp_path / "d/train")
    (tmp_path / "d/malignant").rename(tmp_path / "d/test")
    (tmp_path / "out/m.json").unlink()
    manifest, _ = made(capfd, tmp_path / "d")
    assert names(manifest) == {"training": ["train_0", "train_1"], "test": ["test_0", "test_1"]}
    save(tmp_path / "d/train/0_mask_1.nii.gz", cube())
    line = refused_again(capfd, tmp_path)
    assert "train: has 0_mask.nii.gz and 0_mask_1.nii.gz, labels of one image; accepted is one; merge them" in line


def test_pairs_in_a_folder_called_images(tmp_path, capfd):
    for n in range(2):
        volume(tmp_path / f"d/images/{n}.nii.gz")
        save(tmp_path / f"d/images/{n}_seg.nii.gz", cube())
    manifest, _ = made(capfd, tmp_path / "d")
    assert names(manifest) == {"training": ["0", "1"]}


# ---- a folder for each subject


def test_a_folder_for_each_subject(tmp_path, capfd):
    for place, name in (("train", "p1"), ("train", "p2"), ("val", "p3"), ("test", "p4")):
        volume(tmp_path / "d" / place / name / "image.nii.gz")
        if name != "p4":
            save(tmp_path / "d" / place / name / "label.nii.gz", cube())
    manifest, said = made(capfd, tmp_path / "d")
    assert names(manifest) == {"training": ["p1", "p2"], "validation": ["p3"], "test": ["p4"]}
    assert "found as a folder for each subject, such as p1/image.nii.gz and p1/label.nii.gz" in said


def test_several_images_of_each_subject(tmp_path, capfd):
    """Names may begin with that of the subject, and a modality that names tell is kept."""
    for n in range(2):
        folder = tmp_path / "d" / f"p{n}"
        for channel in ("T2", "adc"):
            volume(folder / f"p{n}_{channel}.nii.gz")
        save(folder / f"p{n}_ground-truth.nii.gz", cube())
    manifest, _ = made(capfd, tmp_path / "d")
    assert names(manifest) == {"training": ["p0", "p1"]}
    assert files(manifest) == (["p0_adc.nii.gz", "p0_T2.nii.gz"], "p0_ground-truth.nii.gz")
    assert manifest.modalities == ("MR", "MR")
    save(tmp_path / "d/p1/mask.nii.gz", cube())
    line = refused_again(capfd, tmp_path)
    assert "p1: has 2 labels, mask.nii.gz, p1_ground-truth.nii.gz; accepted is one" in line


# ---- one mask for each structure


def structures(root: Path, case: str, **masks: np.ndarray) -> None:
    volume(root / case / "ct.nii.gz")
    for name, mask in masks.items():
        save(root / case / "segmentations" / f"{name}.nii.gz", mask)


def corner() -> np.ndarray:
    """A cube of 4 x 4 x 4 = 64 voxels in a corner of `cube`."""
    mask = np.zeros(cube().shape, "u1")
    mask[6:10, 6:10, 4:8] = 1
    return mask


def test_one_mask_for_each_structure(tmp_path, capfd):
    """The liver has 512 voxels, of which 64 are tumour: whichever comes first by name, the smaller one has them."""
    structures(tmp_path / "d", "s1", liver=cube(), tumour=corner() * 255, cyst=np.zeros_like(cube()))
    structures(tmp_path / "d", "s2", liver=corner(), tumour=cube(), cyst=np.roll(cube(), 8, axis=0))
    manifest, said = made(capfd, tmp_path / "d")
    assert manifest.labels == {0: "background", 1: "cyst", 2: "liver", 3: "tumour"}
    assert (manifest.modality, names(manifest)) == ({"0": "CT"}, {"training": ["s1", "s2"]})
    for case, wanted in zip(manifest.training, ([0, 448, 64], [512, 64, 448]), strict=True):
        labels, _ = read_volume(manifest.label(case))
        assert np.bincount(labels.reshape(-1), minlength=4)[1:].tolist() == wanted
        assert case.classes is None
    told = "structures overlap in 128 voxels of 2 cases (s1, s2), most of all liver and tumour of s1, in 64"
    assert told in said
    assert "the structure that is smaller in that image has the voxel" in said
    assert manifest.label(manifest.training[0]) == tmp_path / "out/m_labels/s1.nii.gz"


def test_some_of_the_structures(tmp_path, capfd):
    structures(tmp_path / "d", "s1", liver=cube(), spleen=np.roll(cube(), 8, axis=0), stomach=corner())
    structures(tmp_path / "d", "s2", liver=cube())
    manifest, said = made(capfd, tmp_path / "d", "--label", "1=spleen", "--label", "4=liver")
    assert manifest.labels == {0: "background", 1: "spleen", 4: "liver"}
    assert "left out, as --label does not name them: stomach" in said
    assert [case.classes for case in manifest.training] == [None, ("liver",)]
    assert "no files for some of the structures, which counts as 'not annotated', in s2" in said
    line = refused_again(capfd, tmp_path, "--label", "1=spleeen")
    assert "--label names spleeen, which no file is called; there are spleen" in line


def test_the_lists_of_totalsegmentator(tmp_path, capfd):
    for name in ("s1", "s2", "s3"):
        structures(tmp_path / "d", name, liver=cube(), spleen=corner())
    (tmp_path / "d/meta.csv").write_text("image_id;age;split\ns1;60;train\ns2;61;val\ns3;62;test\n")
    manifest, said = made(capfd, tmp_path / "d")
    assert names(manifest) == {"training": ["s1"], "validation": ["s2"], "test": ["s3"]}
    assert "the lists are those of meta.csv" in said


def test_structures_that_cannot_be_merged(tmp_path, capfd):
    structures(tmp_path / "d", "s1", liver=cube(), spleen=cube() * 2 + corner())
    line = refused(capfd, tmp_path / "d")
    assert "spleen.nii.gz: holds 3 values in 1 channel; accepted in a mask of one structure are 0 and one other" in line
    structures(tmp_path / "d", "s1", spleen=cube()[:-1])
    assert "spleen.nii.gz: has 19x18x16 voxels, the mask" in refused(capfd, tmp_path / "d")
    structures(tmp_path / "d", "s1", spleen=cube())
    save(tmp_path / "d/s1/label.nii.gz", cube())
    assert "s1: has 2 labels, label.nii.gz, segmentations/" in refused(capfd, tmp_path / "d")


# ---- upper case


def test_endings_and_names_in_capitals(tmp_path, capfd):
    for n in range(2):
        volume(tmp_path / f"v/images/c{n}.nii.gz")
        save(tmp_path / f"v/labels/C{n}.nii.gz", cube())
        (tmp_path / f"v/images/c{n}.nii.gz").rename(tmp_path / f"v/images/c{n}.NII.GZ")
    (tmp_path / "v").rename(tmp_path / "d")
    manifest, _ = made(capfd, tmp_path / "d")
    assert [files(manifest, n) for n in range(2)] == [([f"c{n}.NII.GZ"], f"C{n}.nii.gz") for n in range(2)]


def test_parts_of_folders(tmp_path, capfd):
    """train/images with train/labels, and images/val with labels/val."""
    for folder, label in (("train/images", "train/labels"), ("images/val", "labels/val")):
        name = folder.replace("/", "_")
        volume(tmp_path / "d" / folder / f"{name}.nii.gz")
        save(tmp_path / "d" / label / f"{name}.nii.gz", cube())
    manifest, _ = made(capfd, tmp_path / "d")
    assert names(manifest) == {"training": ["train_images"], "validation": ["images_val"]}


def test_names_that_no_case_may_have_are_refused_in_one_line(tmp_path, capfd):
    for layout in (
        "images/aux.nii.gz labels/aux.nii.gz",
        "nul.nii.gz nul_seg.nii.gz",
        "con/ct.nii.gz con/label.nii.gz",
    ):
        image, label = layout.split()
        root = tmp_path / layout[:3] / "d"
        volume(root / image)
        save(root / label, cube())
        assert "is the name of a device of Windows" in refused(capfd, root)


# ---- tables


def table(folder: Path, text: str) -> Path:
    path = folder / "cases.csv"
    path.write_text(text, encoding="utf-8-sig")
    return path


@pytest.fixture
def tabled(tmp_path) -> Path:
    for n in range(4):
        volume(tmp_path / f"p{n}/ct.nii.gz")
        save(tmp_path / f"p{n}/drawn.nii.gz", cube())
    return tmp_path


def test_a_table(tabled, capfd):
    """Semicolons as Excel writes them; the images are all called ct.nii.gz, and their cases by the subject."""
    text = (
        "Image;Label;Subject;Fold;Section\np0/ct.nii.gz;p0/drawn.nii.gz;anna;0;\n\np1/ct.nii.gz;p1/drawn.nii.gz;ben;1;"
        "train\np2/ct.nii.gz;./p2/drawn.nii.gz;cleo;;val\np3/ct.nii.gz;;dan;;\n"
    )
    out = tabled / "out/m.json"
    code, said = called(capfd, "data", "init", table(tabled, text), "-o", out, "--modality", "CT", "--label", "1=liver")
    assert code == 0, said
    manifest = Manifest.load(out)
    assert names(manifest) == {"training": ["anna", "ben"], "validation": ["cleo"], "unlabeled": ["dan"]}
    assert [case.fold for case in manifest.training] == [0, 1]
    assert (manifest.labels, manifest.name) == ({0: "background", 1: "liver"}, "cases")
    assert manifest.label(manifest.validation[0]) == tabled / "p2/drawn.nii.gz"


def test_a_table_of_channels(tabled, capfd):
    text = "case,image_1,image_0,label\na,p1/ct.nii.gz,p0/ct.nii.gz,p0/drawn.nii.gz\n"
    manifest, _ = made(capfd, table(tabled, text), "--modality", "CT,PET")
    assert names(manifest) == {"training": ["a"]}
    assert [path.parent.name for path in manifest.images(manifest.training[0])] == ["p0", "p1"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("scan,label\n", "its first line has the columns scan, label, and needs either image or image_0"),
        ("image,image\n", "its first line has a column twice: image, image"),
        ("image,label\n", "has no line but the first"),
        ("image,label\np0/ct.nii.gz,p0/none.nii.gz\n", "line 2 names the label p0/none.nii.gz, and there is no such"),
        ("image,label\n\n,p0/drawn.nii.gz\n", "line 3 has no image"),
        ("image,fold\np0/ct.nii.gz,one\n", "line 2 has the fold 'one'; accepted are 0, 1, ..."),
        ("image,section\np0/ct.nii.gz,tset\n", "line 2 has the section 'tset'; accepted are training, validation"),
        ("image,section\np0/ct.nii.gz,train\n", "line 2 has the section train and no label"),
        ("image\np0/ct.nii.gz\np0/ct.nii.gz\n", "line 3 has the image p0/ct.nii.gz of line 2"),
        ("image\np0/ct.nii.gz,p1\n", "line 2 has more cells than the first line"),
        ("image\na\nb\nc\nd\n", "no such file; line 4 names the image c, and there is no such file (and 1 more"),
        ("image\np0/ct.nii.gz\n", "has images but no label for any of them"),
    ],
)
def test_bad_lines_are_named(text, told, tabled, capfd):
    assert told in refused(capfd, table(tabled, text))


# ---- DICOM


def test_dicom_series(tmp_path, capfd):
    """Series become NIfTI beside the manifest; labels are a file in the folder, or one of the folder's name."""
    pytest.importorskip("pydicom")
    arrays = [voxels(seed=seed) for seed in range(3)]
    for n, array in enumerate(arrays):
        write_series(tmp_path / f"d/p{n}/series", array)
    mask = np.zeros(arrays[0].shape, "u1")
    mask[2:6, 3:7, 1:4] = 1
    save(tmp_path / "d/p0/label.nii.gz", mask, affine_of())
    save(tmp_path / "d/p1_seg.nii.gz", mask, affine_of())
    manifest, said = made(capfd, tmp_path / "d")
    assert names(manifest) == {"training": ["p0", "p1"], "unlabeled": ["p2"]}
    assert "3 DICOM series were written as NIfTI into" in said
    assert manifest.modality == {"0": "CT"}
    for n, case in enumerate([*manifest.training, *manifest.unlabeled]):
        array, header = read_volume(manifest.images(case)[0])
        np.testing.assert_array_equal(array[0], arrays[n].astype(int) - 1024)
        np.testing.assert_allclose(header.affine, affine_of(), atol=1e-4)
    made(capfd, tmp_path / "d")  # again, with the files that are there
    write_series(tmp_path / "d/p2/series", voxels(seed=9))
    code, said = called(capfd, "data", "init", tmp_path / "d", "-o", tmp_path / "out/m.json")
    assert (code, "p2.nii.gz: is there already and is another image than the series" in said) == (2, True), said


def test_a_table_may_name_series(tmp_path, capfd):
    pytest.importorskip("pydicom")
    write_series(tmp_path / "ct", voxels())
    mask = np.zeros(voxels().shape, "u1")
    mask[2:6, 3:7, 1:4] = 1
    save(tmp_path / "l.nii.gz", mask, affine_of())
    manifest, _ = made(capfd, table(tmp_path, "image,label,subject\nct,l.nii.gz,anna\n"))
    assert (names(manifest), manifest.training[0].subject) == ({"training": ["ct"]}, "anna")
    assert manifest.images(manifest.training[0]) == (tmp_path / "out/m_images/ct.nii.gz",)


def test_contours_of_dicom_become_labels(tmp_path, capfd):
    pytest.importorskip("pydicom")
    box = np.zeros((12, 9, 6), bool)
    box[3:8, 2:6, 1:4] = True
    for n, structures_there in enumerate(({"Spleen": box}, {"Spleen": box, "Liver": np.roll(box, 1, 2)})):
        write_series(tmp_path / f"d/p{n}/ct", voxels(seed=n))
        write_contours(tmp_path / f"d/p{n}/rs.dcm", structures_there, affine_of())
    code, said = called(capfd, "data", "init", tmp_path / "d", "-o", tmp_path / "m.json", "--label", "3=Spleen")
    assert code == 0, said
    manifest = Manifest.load(tmp_path / "m.json")
    assert manifest.labels == {0: "background", 3: "Spleen"}
    labels, header = read_volume(manifest.label(manifest.training[0]))
    np.testing.assert_array_equal(labels[0] == 3, box)
    np.testing.assert_allclose(header.affine, affine_of(), atol=1e-4)


# ---- names of values


def test_names_of_values(tmp_path, capfd):
    volume(tmp_path / "d/images/a.nii.gz")
    save(tmp_path / "d/labels/a.nii.gz", cube() + corner())
    manifest, said = made(capfd, tmp_path / "d", "--label", "1=liver", "--label", "7=cyst")
    assert manifest.labels == {0: "background", 1: "liver", 2: "class 2", 7: "cyst"}
    assert "no label file holds 7 (cyst)" in said
    assert "--label gives no name for 2" in said
    out = tmp_path / "out/m.json"
    for words, told in (
        (("--label", "liver=1"), "--label is 'liver=1'; accepted is VALUE=NAME, such as 1=liver"),
        (("--label", "1=a", "--label", "1=b"), "--label names 1 twice: a and b"),
        (("--label", "1=a", "--label", "2=A"), "--label gives the name 'A' to two values"),
    ):
        code, said = called(capfd, "data", "init", tmp_path / "d", "-o", out, *words)
        assert (code, told in said) == (2, True), said


def test_names_of_a_data_list(tmp_path, capfd):
    volume(tmp_path / "d/a.nii.gz")
    save(tmp_path / "d/l.nii.gz", cube())
    content = {"labels": {"background": 0, "x": 1}, "training": [{"image": "a.nii.gz", "label": "l.nii.gz"}]}
    (tmp_path / "d/dataset.json").write_text(json.dumps(content))
    manifest, _ = made(capfd, tmp_path / "d", "--label", "1=liver")
    assert manifest.labels == {0: "background", 1: "liver"}
    for labels, told in (({"x": [1, 2]}, "its labels are regions: x"), (["x"], "labels: "), ({"one": "x"}, "labels: ")):
        (tmp_path / "d/dataset.json").write_text(json.dumps(content | {"labels": labels}))
        assert told in refused_again(capfd, tmp_path, "--label", "1=liver")


def test_labels_of_another_set_are_left_alone_when_init_is_refused(tmp_path, capfd):
    """Both sets have masks of 0 and 255 of the same names, whose copies would lie in one folder."""
    for name, value in (("one", 255), ("two", 200)):
        volume(tmp_path / name / "images/a.nii.gz")
        save(tmp_path / name / "labels/a.nii.gz", cube() * 255 if value == 255 else corner() * 255)
    assert called(capfd, "data", "init", tmp_path / "one", "-o", tmp_path / "m.json")[0] == 0
    before = (tmp_path / "m_labels/labels_a.nii.gz").read_bytes()
    code, said = called(capfd, "data", "init", tmp_path / "two", "-o", tmp_path / "m.json")
    assert (code, "is the manifest of images in" in said) == (2, True), said
    assert (tmp_path / "m_labels/labels_a.nii.gz").read_bytes() == before
