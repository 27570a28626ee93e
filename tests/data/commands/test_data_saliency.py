"""`medseg data saliency`: maps on the images' grids, a manifest that names them, and how much they find."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from imagenet import imagenet_weights
from PIL import Image

from medseg.errors import ConfigError, DataError, ManifestError
from medseg.manifest.manifest import Manifest
from medseg.ops.tags.saliency import saliency_of
from medseg.workflows.data.check import check_manifest
from medseg.workflows.data.saliency import compute_saliency, stored_saliency
from medseg.workflows.data.saliency_check import summarize_saliency
from medseg.workflows.data.saliency_sources import Features, body_of

SPOTS = {"a": (12, 20), "b": (30, 14), "c": None}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Three ultrasound-like pictures, two of them with a dark spot, and a manifest with their masks."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :40]
    tagged, masked = [], []
    for name, centre in SPOTS.items():
        picture = 140 + rng.normal(0, 4, (48, 40))
        mask = np.zeros((48, 40), np.uint8)
        if centre is not None:
            mask[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < 16] = 1
        picture[mask == 1] -= 90
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / f"{name}.png")
        Image.fromarray(mask).save(folder / f"{name}_mask.png")
        tagged.append({"image": f"{name}.png", "tags": ["cyst"] if centre else []})
        masked.append({"image": f"{name}.png", "label": f"{name}_mask.png"})
    common = {"labels": {"0": "background", "1": "cyst"}, "modality": {"0": "US"}}
    (folder / "tags.json").write_text(json.dumps({**common, "training": tagged}))
    (folder / "masks.json").write_text(json.dumps({**common, "test": masked}))
    return folder


@pytest.fixture(scope="module")
def made(pictures, tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("made")
    return folder, compute_saliency(pictures / "tags.json", folder, kind="dark", masks=pictures / "masks.json")


def test_dark_spots_are_found_and_images_of_no_class_have_none(pictures, made):
    folder, found = made
    for name, centre in SPOTS.items():
        saliency = np.asarray(nib.load(folder / f"{name}.nii.gz").dataobj)
        assert saliency.shape == (40, 48)
        if centre is None:
            assert not saliency.any()
        else:
            assert saliency[centre[1], centre[0]] > 200
            assert saliency[2, 2] < 60
    assert found["labelled"] == 3
    assert found["recall"] > 0.95
    assert found["empty"] == pytest.approx(1 / 3)
    assert json.loads((folder / "saliency.json").read_text())["recall"] == found["recall"]
    assert (folder / "overview.png").read_bytes().startswith(b"\x89PNG")


def test_the_new_manifest_names_the_maps_and_passes_the_check(made):
    folder, _ = made
    manifest = Manifest.load(folder / "manifest.json")
    assert all(manifest.resolve(case.maps["saliency"]).is_file() for case in manifest.training)
    assert [case.tags for case in manifest.training] == [("cyst",), ("cyst",), ()]
    assert check_manifest(folder / "manifest.json").ok


def test_what_is_done_is_not_done_again(pictures, made, monkeypatch):
    folder, found = made
    times = {file.name: file.stat().st_mtime_ns for file in folder.glob("*.nii.gz")}
    again = compute_saliency(pictures / "tags.json", folder, kind="dark", masks=pictures / "masks.json")
    assert again == found
    assert {file.name: file.stat().st_mtime_ns for file in folder.glob("*.nii.gz")} == times


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "darkness"}, "--kind is 'darkness'; accepted are dark, bright, contrast, features, model"),
        ({"size": 0.0}, "--size is 0; accepted is more than 0 and up to 1"),
        ({"kind": "features"}, "--kind features needs --weights"),
        ({"kind": "model"}, "--kind model needs --model"),
    ],
)
def test_options_that_cannot_be_are_refused(pictures, tmp_path, options, said):
    with pytest.raises(ConfigError, match=said):
        compute_saliency(pictures / "tags.json", tmp_path, **options)


def test_the_given_manifest_is_not_overwritten(pictures, tmp_path):
    (tmp_path / "manifest.json").write_text((pictures / "tags.json").read_text())
    with pytest.raises(ConfigError, match="would overwrite the given one"):
        compute_saliency(tmp_path / "manifest.json", tmp_path)


def test_training_images_whose_label_is_known_become_validation_cases(pictures, tmp_path, capsys):
    content = json.loads((pictures / "masks.json").read_text())
    few = {**content, "test": [{**each, "image": str(pictures / each["image"])} for each in content["test"][:1]]}
    few["test"][0]["label"] = str(pictures / "a_mask.png")
    (tmp_path / "few.json").write_text(json.dumps(few))
    folder = tmp_path / "out"
    compute_saliency(pictures / "tags.json", folder, kind="dark", masks=tmp_path / "few.json", validation=True)
    assert "1 of 3 training images have a label and are validation cases now" in capsys.readouterr().err
    manifest = Manifest.load(folder / "manifest.json")
    assert [case.name for case in manifest.training] == ["b", "c"]
    (case,) = manifest.validation
    assert (case.name, case.tags) == ("a", ("cyst",))
    assert manifest.label(case) == pictures / "a_mask.png"
    assert manifest.resolve(case.maps["saliency"]).is_file()
    assert check_manifest(folder / "manifest.json").ok


def test_masks_with_other_labels_are_no_validation_cases(pictures, tmp_path):
    content = json.loads((pictures / "masks.json").read_text())
    content["labels"] = {"0": "background", "2": "cyst"}
    (pictures / "others.json").write_text(json.dumps(content))
    options = {"kind": "dark", "masks": pictures / "others.json", "validation": True}
    with pytest.raises(ManifestError, match=r"others.json: has the labels .*2: 'cyst'.*; accepted are"):
        compute_saliency(pictures / "tags.json", tmp_path / "out", **options)
    with pytest.raises(ConfigError, match="--validation needs --masks"):
        compute_saliency(pictures / "tags.json", tmp_path / "out", validation=True)


def test_masks_of_other_images_are_refused(pictures, tmp_path):
    content = json.loads((pictures / "masks.json").read_text())
    content["test"] = [{"image": str(pictures / "other.png"), "label": str(pictures / "a_mask.png")}]
    (tmp_path / "other.json").write_text(json.dumps(content))
    with pytest.raises(ManifestError, match="has no label of any image of the other manifest"):
        compute_saliency(pictures / "tags.json", tmp_path / "out", masks=tmp_path / "other.json")


def test_saliency_of_next_to_nothing_is_not_read_as_certain():
    assert stored_saliency(np.array([0.0, 0.5, 1.0])).tolist() == [0, 128, 255]
    faint = stored_saliency(np.array([0.0, 0.003, 0.004]))
    assert saliency_of(torch.from_numpy(faint), "a").tolist() == [0, 0, 0]
    assert saliency_of(torch.from_numpy(stored_saliency(np.array([0.0, 0.008]))), "a").tolist() == pytest.approx(
        [0, 2 / 255]
    )


def test_shares_over_all_cases_by_hand():
    one = {"voxels": 10, "salient": 4, "true": 4, "found": 3, "both": 2, "certain": 3, "either": 5}
    found = summarize_saliency([one, {"voxels": 10, "salient": 0}])
    assert (found["cases"], found["labelled"], found["empty"], found["salient"]) == (2, 1, 0.5, 0.2)
    assert (found["recall"], found["precision"], found["iou"]) == (0.75, 2 / 3, 0.4)
    assert summarize_saliency([{"voxels": 10, "salient": 1}])["recall"] is None


def test_the_body_is_the_largest_part_that_is_no_air_with_its_holes():
    scan = np.full((20, 20, 6), -1000.0)
    scan[4:16, 4:16] = 40
    scan[8:11, 8:11, 2:4] = -900  # gas inside
    scan[0:2, 0:2] = 300  # a cable
    body = body_of(scan, "CT")
    assert body[9, 9, 3]
    assert not body[0, 0, 0]
    assert body.sum() == 12 * 12 * 6
    assert body_of(scan, "US").all()


def test_features_of_a_pretrained_network(pictures, tmp_path):
    folder = tmp_path / "strong"
    found = compute_saliency(pictures / "tags.json", folder, kind="features", weights=imagenet_weights())
    assert found["cases"] == 3
    for name, centre in SPOTS.items():
        values = np.asarray(nib.load(folder / f"{name}.nii.gz").dataobj)
        assert values.shape[:2] == (40, 48)
        assert values.max() == (0 if centre is None else 255)


def test_a_mirrored_picture_has_mirrored_saliency(tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (24, 40, 3)).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "picture.png")
    Image.fromarray(picture[:, ::-1]).save(tmp_path / "mirrored.png")
    features = Features(imagenet_weights(), 3, torch.device("cpu"))
    found, mirrored = (features([tmp_path / f"{name}.png"]) for name in ("picture", "mirrored"))
    assert found.shape == (40, 24, 1)
    assert found.min() == 0
    assert found.max() == 1
    np.testing.assert_allclose(mirrored, found[::-1], atol=1e-4)


def test_an_image_with_numbers_that_are_none_is_refused_by_its_count(tmp_path):
    image = np.ones((6, 5, 1), np.float32)
    image[:3, 0] = np.nan
    nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / "a.nii.gz")
    content = {"labels": {"0": "background", "1": "cyst"}, "modality": {"0": "US"}}
    content["training"] = [{"image": "a.nii.gz", "tags": ["cyst"]}]
    (tmp_path / "m.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"a.nii.gz: 3 of 30 voxels are NaN or infinite; replace them on purpose"):
        compute_saliency(tmp_path / "m.json", tmp_path / "out", kind="dark")
