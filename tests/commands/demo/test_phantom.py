from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from medseg.errors import OutputError
from medseg.manifest.manifest import Manifest
from medseg.workflows.demo.anatomy import LABELS
from medseg.workflows.demo.phantom import make_phantom, write_phantoms

SMALL = {
    "labeled": 2,
    "unlabeled": 2,
    "validation": 1,
    "test": 1,
    "shape": (48, 40, 20),
    "spacing_mm": (6.4, 6.4, 10),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_phantoms(tmp_path_factory.mktemp("phantom"), seed=5, **SMALL)


def test_manifest_and_files(written):
    manifest = Manifest.load(written)
    assert manifest.labels == LABELS
    assert manifest.modalities == ("CT",)
    assert [len(getattr(manifest, s)) for s in ("training", "validation", "test", "unlabeled")] == [
        2,
        1,
        1,
        2,
    ]
    for section in ("training", "validation", "test"):
        for case in getattr(manifest, section):
            image, label = nib.load(manifest.images(case)[0]), nib.load(manifest.label(case))
            assert image.get_data_dtype() == np.int16
            assert label.get_data_dtype() == np.uint8
            assert image.shape == label.shape == (48, 40, 20)
            np.testing.assert_array_equal(image.affine, label.affine)


def test_truth_of_unlabelled_cases_is_hidden_from_the_manifest(written):
    assert "hidden" not in written.read_text()
    manifest = Manifest.load(written)
    assert all(case.label is None for case in manifest.unlabeled)
    hidden = {path.name for path in (written.parent / "hidden").iterdir()}
    assert hidden == {f"{case.name}.nii.gz" for case in manifest.unlabeled}


def test_same_seed_same_bytes_and_cases_do_not_depend_on_their_number(written, tmp_path):
    again = write_phantoms(tmp_path, seed=5, **{**SMALL, "labeled": 1, "unlabeled": 1, "validation": 0})
    for path in sorted(again.parent.glob("*/*.nii.gz")):
        assert path.read_bytes() == (written.parent / path.relative_to(again.parent)).read_bytes()
    other = make_phantom((48, 40, 20), (6.4, 6.4, 10.0), seed=(6, 0, 0))[0]
    assert (other != np.asarray(nib.load(again.parent / "images/training_000.nii.gz").dataobj)).mean() > 0.3


@pytest.mark.parametrize("seed", range(4))
def test_densities_are_those_of_a_ct(seed):
    image, label, affine = make_phantom((96, 80, 40), (3.2, 3.2, 5.0), seed=seed)
    assert set(np.unique(label)) == set(LABELS)
    assert image.min() >= -1024
    ml = abs(np.linalg.det(affine[:3, :3])) / 1000
    volumes = {name: (label == value).sum() * ml for value, name in LABELS.items()}
    assert 300 < volumes["liver"] < 2500
    assert 10 < volumes["spleen"] < 500
    for side in ("right", "left"):
        assert 30 < volumes[f"{side} kidney"] < 450
    middle = {name: np.median(image[label == value]) for value, name in LABELS.items()}
    assert 35 < middle["liver"] < 150
    assert 20 < middle["spleen"] < 150
    assert 20 < middle["aorta"] < 300
    assert np.median(image[:3]) < -900  # air outside
    assert 0.02 < ((image > -140) & (image < -60)).mean() < 0.4  # fat
    assert (image > 300).mean() > 0.003  # bone


def test_right_is_right_and_storage_varies():
    sides, stored = [], set()
    for seed in range(8):
        _, label, affine = make_phantom((48, 40, 20), (6.4, 6.4, 10.0), seed=seed)
        where = {v: (affine @ [*np.argwhere(label == v).mean(0), 1])[:3] for v in (1, 2, 3, 4)}
        sides.append(where[1][0] > where[2][0] and where[3][0] > where[4][0])
        stored.add("".join(nib.aff2axcodes(affine)))
    assert all(sides)
    assert stored == {"RAS", "LPS"}


def test_subjects_differ():
    labels = [make_phantom((48, 40, 20), (6.4, 6.4, 10.0), seed=seed)[1] for seed in range(6)]
    livers = [(label == 1).sum() for label in labels]
    assert max(livers) > 1.2 * min(livers)


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "images").write_text("in the way")
    with pytest.raises(OutputError, match="images"):
        write_phantoms(tmp_path, **SMALL)
    assert not (tmp_path / "dataset.json").exists()


def test_manifest_is_plain_json(written):
    content = json.loads(written.read_text())
    assert content["labels"]["1"] == "liver"
    assert content["training"][0] == {
        "image": "images/training_000.nii.gz",
        "subject": "training_000",
        "label": "labels/training_000.nii.gz",
    }
