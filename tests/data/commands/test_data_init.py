"""`data init`: manifests from the three layouts that people have."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medseg.errors import ConfigError, DataError, ManifestError
from medseg.manifest.manifest import Manifest
from medseg.workflows.data.check import check_manifest
from medseg.workflows.data.init import init_manifest


def volume(path: Path, values=(0, 1), shape=(6, 5, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(zlib.crc32(str(path).encode())).choice(np.array(values), shape).astype("i2")
    array.flat[: len(values)] = values
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)


def names(cases) -> list[str]:
    return [c.name for c in cases]


# ---- Decathlon


@pytest.fixture
def decathlon(tmp_path) -> Path:
    task = tmp_path / "Task09"
    cases = []
    for n in range(10):
        volume(task / f"imagesTr/s_{n}.nii.gz", range(9))
        volume(task / f"labelsTr/s_{n}.nii.gz")
        cases.append({"image": f"./imagesTr/s_{n}.nii.gz", "label": f"./labelsTr/s_{n}.nii.gz"})
    content = {
        "name": "Spleen",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "spleen"},
        "numTraining": 10,
        "training": cases,
        "test": ["./imagesTs/s_99.nii.gz"],
    }
    (task / "dataset.json").write_text(json.dumps(content))
    return task


def test_decathlon(decathlon, tmp_path):
    made = init_manifest(decathlon / "dataset.json", tmp_path / "m.json", validation=0.2, seed=3)
    assert (len(made.training), len(made.validation), names(made.test)) == (8, 2, ["s_99"])
    assert made.training[0].image[0].startswith("Task09/imagesTr/")
    assert made.images(made.training[0])[0].exists()
    assert made.model_extra["numTraining"] == 8
    assert made.name == "Spleen"
    by_folder = init_manifest(decathlon, tmp_path / "n.json", validation=0.2, seed=3, name="x", modality="MR")
    assert names(by_folder.validation) == names(made.validation)
    assert (by_folder.name, by_folder.modalities) == ("x", ("MR",))


def test_the_split_depends_on_seed_and_names_alone(decathlon, tmp_path):
    def held_out(seed: int) -> list[str]:
        return names(init_manifest(decathlon, tmp_path / "m.json", validation=0.3, seed=seed).validation)

    assert held_out(1) == held_out(1)
    assert len({tuple(held_out(seed)) for seed in range(6)}) > 1
    content = json.loads((decathlon / "dataset.json").read_text())
    before = set(held_out(1))
    content["training"].reverse()
    (decathlon / "dataset.json").write_text(json.dumps(content))
    assert set(held_out(1)) == before


def test_subjects_stay_together(decathlon, tmp_path):
    content = json.loads((decathlon / "dataset.json").read_text())
    for n, case in enumerate(content["training"]):
        case["subject"] = f"p{n % 3}"
    (decathlon / "dataset.json").write_text(json.dumps(content))
    made = init_manifest(decathlon, tmp_path / "m.json", validation=0.34)
    apart = {c.subject for c in made.training} & {c.subject for c in made.validation}
    assert not apart
    assert len({c.subject for c in made.validation}) == 1


# ---- nnU-Net


@pytest.fixture
def nnunet(tmp_path) -> Path:
    raw = tmp_path / "Dataset005_Brain"
    for name in ("a", "b", "c"):
        for channel in range(2):
            volume(raw / f"imagesTr/{name}_{channel:04d}.nii.gz", range(9))
    for name in ("a", "b"):
        volume(raw / f"labelsTr/{name}.nii.gz", (0, 1, 2, 3))
    for channel in range(2):
        volume(raw / f"imagesTs/t_{channel:04d}.nii.gz", range(9))
    content = {
        "channel_names": {"0": "T1", "1": "FLAIR"},
        "labels": {"background": 0, "oedema": 1, "tumour": 2, "ignore": 3},
        "numTraining": 2,
        "file_ending": ".nii.gz",
        "licence": "free",
    }
    (raw / "dataset.json").write_text(json.dumps(content))
    return raw


def test_nnunet(nnunet, tmp_path):
    made = init_manifest(nnunet, tmp_path / "m.json")
    assert (names(made.training), names(made.test), names(made.unlabeled)) == (["a", "b"], ["t"], ["c"])
    assert made.labels == {0: "background", 1: "oedema", 2: "tumour"}
    assert made.ignore_index == 3
    assert made.modalities == ("MR", "MR")
    assert made.training[0].image == tuple(f"Dataset005_Brain/imagesTr/a_{n:04d}.nii.gz" for n in range(2))
    assert made.model_extra["licence"] == "free"
    assert check_manifest(tmp_path / "m.json").ok


def test_nnunet_with_endings_in_capitals(nnunet, tmp_path):
    for path in sorted((nnunet / "imagesTr").iterdir()):
        path.rename(path.with_name(path.name.replace(".nii.gz", ".NII.GZ")))
    made = init_manifest(nnunet, tmp_path / "m.json")
    assert (names(made.training), names(made.unlabeled)) == (["a", "b"], ["c"])


def change(raw: Path, **changes) -> None:
    content = json.loads((raw / "dataset.json").read_text()) | changes
    (raw / "dataset.json").write_text(json.dumps(content))


def test_nnunet_with_spelled_out_paths(nnunet, tmp_path):
    entry = {"images": ["imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz"], "label": "labelsTr/a.nii.gz"}
    change(nnunet, dataset={"a": entry})
    made = init_manifest(nnunet, nnunet / "m.json")
    assert names(made.training) == ["a"]
    assert made.training[0].label == "labelsTr/a.nii.gz"
    change(nnunet, dataset={"a": {"images": []}})
    with pytest.raises(ManifestError, match="without images or label"):
        init_manifest(nnunet, tmp_path / "m.json")


def test_nnunet_mistakes(nnunet, tmp_path):
    def line() -> str:
        with pytest.raises(ManifestError) as caught:
            init_manifest(nnunet, tmp_path / "m.json")
        return str(caught.value)

    (nnunet / "imagesTr/b_0001.nii.gz").rename(nnunet / "imagesTr/odd.nii.gz")
    assert "odd.nii.gz: is not named like nnU-Net's images" in line()
    (nnunet / "imagesTr/odd.nii.gz").unlink()
    change(nnunet, channel_names={"0": "T1", "1": "T2", "2": "FLAIR"})
    assert "a_0000.nii.gz: is no channel of a case 'a', which would be a_0000, a_0001, a_0002; there are" in line()
    change(nnunet, channel_names={"0": "T1", "1": "T2"})
    (nnunet / "imagesTr/b_0000.nii.gz").unlink()
    (nnunet / "labelsTr/b.nii.gz").rename(nnunet / "labelsTr/z.nii.gz")
    assert "z.nii.gz has no image" in line()
    content = json.loads((nnunet / "dataset.json").read_text())
    del content["labels"]
    (nnunet / "dataset.json").write_text(json.dumps(content))
    assert "lacks labels" in line()


# ---- plain folders


def test_folders(tmp_path):
    for n in range(4):
        volume(tmp_path / f"d/images/c{n}.nii.gz", range(9))
    volume(tmp_path / "d/labels/c0.nii.gz", (0, 2, 5, 255))
    volume(tmp_path / "d/labels/c1_seg.nii.gz", (0, 5))
    (tmp_path / "d/images/._c0.nii.gz").write_bytes(b"x")
    (tmp_path / "d/images/notes.txt").write_text("x")
    made = init_manifest(tmp_path / "d", tmp_path / "d" / "m.json", modality="CT")
    assert (names(made.training), names(made.unlabeled)) == (["c0", "c1"], ["c2", "c3"])
    assert made.labels == {0: "background", 2: "class 2", 5: "class 5"}
    assert made.training[0].image == ("images/c0.nii.gz",)
    assert made.modalities == ("CT",)
    assert made.name == "d"
    assert check_manifest(tmp_path / "d" / "m.json").ok


def test_folders_in_the_other_style(tmp_path):
    for split, count in (("Tr", 3), ("Ts", 1)):
        for n in range(count):
            volume(tmp_path / f"d/images{split}/{split}{n}_0000.nii.gz", range(9))
            volume(tmp_path / f"d/labels{split}/{split}{n}.nii.gz")
    made = init_manifest(tmp_path / "d", tmp_path / "m.json", validation=0.3)
    assert names(made.test) == ["Ts0"]
    assert len(made.training) == 2
    assert made.test[0].label == "d/labelsTs/Ts0.nii.gz"
    assert made.labels == {0: "background", 1: "foreground"}
    assert made.modality == {"0": "unknown"}


def test_pictures(tmp_path):
    for n in range(2):
        for folder, array in (("images", np.full((9, 8, 3), n * 90, "u1")), ("masks", np.eye(9, 8, dtype="u1"))):
            (tmp_path / "d" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(tmp_path / "d" / folder / f"{n}.png")
    made = init_manifest(tmp_path / "d", tmp_path / "m.json", modality="R,G,B")
    assert made.modality == {"0": "R", "1": "G", "2": "B"}
    with pytest.raises(DataError, match="3 channels, 2 modalities"):
        init_manifest(tmp_path / "d", tmp_path / "m.json", modality="R,G")
    for n in range(2):
        Image.fromarray(np.eye(9, 8, dtype="u1") * 255).save(tmp_path / "d" / "masks" / f"{n}.png")
    made = init_manifest(tmp_path / "d", tmp_path / "m.json", modality="R,G,B")
    assert made.label_values == (0, 1)
    written = np.asarray(Image.open(made.label(made.training[0])))
    np.testing.assert_array_equal(written, np.eye(9, 8, dtype="u1"))


def test_names_that_tell_the_subject(tmp_path):
    for n in range(6):
        volume(tmp_path / f"d/images/patient{n // 2:03d}_frame{n % 2}.nii.gz", range(9))
        volume(tmp_path / f"d/labels/patient{n // 2:03d}_frame{n % 2}.nii.gz")
    made = init_manifest(tmp_path / "d", tmp_path / "m.json", validation=0.3)
    assert len(made.validation) == 2
    assert len({c.subject for c in made.validation}) == 1


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"kind": "bids"}, ConfigError, "accepted are auto, decathlon, nnunet, folders"),
        ({"validation": 1.0}, ConfigError, "--validation is 1.0"),
        ({"validation": -0.1}, ConfigError, "--validation"),
        ({"validation": 0.9}, ManifestError, "leave none for training"),
        ({"kind": "nnunet"}, ManifestError, "no such file"),
    ],
)
def test_options(tmp_path, options, error, words):
    volume(tmp_path / "d/images/a.nii.gz")
    volume(tmp_path / "d/labels/a.nii.gz")
    with pytest.raises(error, match=words):
        init_manifest(tmp_path / "d", tmp_path / "m.json", **options)


def test_folders_that_cannot_be_used(tmp_path, decathlon):
    def line(source: Path, **options) -> str:
        with pytest.raises((DataError, ManifestError, ConfigError)) as caught:
            init_manifest(source, tmp_path / "m.json", **options)
        return str(caught.value)

    assert "no such file or folder" in line(tmp_path / "none")
    (tmp_path / "d").mkdir()
    assert "has no images in a layout that is known; it holds nothing; accepted are folders called images" in line(
        tmp_path / "d"
    )
    volume(tmp_path / "d/images/a.nii.gz")
    assert "no label for any" in line(tmp_path / "d")
    volume(tmp_path / "d/labels/b.nii.gz")
    assert "1 labels have no image of the same name, such as b.nii.gz" in line(tmp_path / "d")
    (tmp_path / "d/labels/b.nii.gz").unlink()
    (tmp_path / "d/labels/a.nii.gz").write_bytes(b"x")
    assert "no NIfTI" in line(tmp_path / "d")
    volume(tmp_path / "d/labels/a.nii.gz", (0,))
    assert "hold only [0]" in line(tmp_path / "d")
    with pytest.raises(ConfigError, match="overwrite its own source"):
        init_manifest(decathlon, decathlon / "dataset.json")
    first = init_manifest(decathlon, tmp_path / "v.json", validation=0.2)
    assert "already has 2 validation cases" in line(first.path, validation=0.2)
    assert Manifest.load(first.path).validation
