"""Prediction from files to files: geometry, records, mistakes, interruptions."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from forking import python
from limits import full_disk
from models import data_spec, labels_of, make_bundle, make_image
from pages import Page, shown

from medseg.errors import BundleError, ConfigError, DataError, ManifestError, OutputError
from medseg.portable.io.find_cases import find_cases
from medseg.portable.io.write import SaveError, remove_leftovers, write_labels
from medseg.workflows.predict.run import predict


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("model") / "bundle")


@pytest.fixture
def images(tmp_path) -> Path:
    for i in range(3):
        make_image(tmp_path / "images" / f"ct{i}.nii.gz", seed=i)
    return tmp_path / "images"


def statuses(report: dict) -> list[str]:
    return [case["status"] for case in report["cases"]]


def hidden(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.name.startswith(".")]


def test_a_folder_of_images(model, images, tmp_path, capfd):
    report = predict(model, images, tmp_path / "out")
    assert statuses(report) == ["done"] * 3
    assert json.loads((tmp_path / "out" / "predict_report.json").read_text()) == report
    for image in images.iterdir():
        result = nib.load(tmp_path / "out" / image.name)
        assert result.shape == nib.load(image).shape
        assert result.get_data_dtype() == np.uint8
        for matrix in (result.get_sform(), result.get_qform()):
            np.testing.assert_allclose(matrix, nib.load(image).affine, atol=1e-5)
        assert set(np.unique(result.dataobj)) <= {0, 1, 7}
    volumes = report["cases"][0]["volumes_ml"]
    voxel = abs(np.linalg.det(result.affine[:3, :3])) / 1000
    assert volumes["spleen"] == pytest.approx((labels_of(tmp_path / "out" / "ct0.nii.gz") == 7).sum() * voxel, abs=1e-3)
    assert "3 predicted" in capfd.readouterr().err
    assert not hidden(tmp_path)


def test_finished_cases_are_skipped_only_if_nothing_changed(model, images, tmp_path):
    out = tmp_path / "out"
    predict(model, images, out)
    assert statuses(predict(model, images, out)) == ["skipped"] * 3
    make_image(images / "ct1.nii.gz", seed=9)
    assert statuses(predict(model, images, out)) == ["skipped", "done", "skipped"]
    assert statuses(predict(model, images, out, overlap=0.25)) == ["done"] * 3
    assert statuses(predict(model, images, out, overlap=0.25, overwrite=True)) == ["done"] * 3
    other = make_bundle(tmp_path / "other", name="vnet")
    assert statuses(predict(other, images, out)) == ["done"] * 3
    (out / "ct0.nii.gz").write_bytes(b"")
    assert statuses(predict(other, images, out)) == ["done", "skipped", "skipped"]


def test_probabilities_agree_with_the_labels(model, images, tmp_path):
    report = predict(model, images / "ct0.nii.gz", tmp_path / "out", probabilities=True)
    stored = nib.load(tmp_path / "out" / "probabilities" / "ct0.nii.gz")
    labels = nib.load(tmp_path / "out" / "ct0.nii.gz")
    assert stored.shape == (*labels.shape, 3)
    np.testing.assert_allclose(stored.affine, labels.affine)
    values = np.array([0, 1, 7])[stored.get_fdata().argmax(-1)]
    np.testing.assert_array_equal(values, labels.dataobj)
    np.testing.assert_allclose(stored.get_fdata().sum(-1), 1, atol=0.01)
    assert not hidden(tmp_path)
    assert statuses(report) == ["done"]
    predict(model, images / "ct0.nii.gz", tmp_path / "plain")
    np.testing.assert_array_equal(labels_of(tmp_path / "plain" / "ct0.nii.gz"), labels.dataobj)
    assert statuses(predict(model, images / "ct0.nii.gz", tmp_path / "plain", probabilities=True)) == ["done"]


def test_stored_orientation_does_not_matter(model, tmp_path):
    image = nib.load(make_image(tmp_path / "a" / "x.nii.gz"))
    turned = image.as_reoriented(np.array([[1, -1], [2, 1], [0, -1]]))
    (tmp_path / "b").mkdir()
    nib.save(turned, tmp_path / "b" / "x.nii.gz")
    for name in "ab":
        predict(model, tmp_path / name, tmp_path / f"out_{name}")
    one, other = (nib.load(tmp_path / f"out_{name}" / "x.nii.gz") for name in "ab")
    np.testing.assert_array_equal(one.as_reoriented(np.array([[1, -1], [2, 1], [0, -1]])).dataobj, other.dataobj)
    np.testing.assert_allclose(other.affine, turned.affine, atol=1e-5)


@pytest.mark.parametrize("shape", [(40, 36), (40, 36, 1), (3, 4, 2)])
def test_pictures_single_slices_and_tiny_volumes(model, shape, tmp_path):
    planar = make_bundle(
        tmp_path / "flat", data_spec(patch=(32, 32, 1), view="axial", resample_axes=(True, True, False))
    )
    make_image(tmp_path / "in" / "x.nii.gz", shape, affine=np.diag([-1.2, 1.1, 3.0, 1.0]))
    for number, bundle in enumerate((planar, model)):
        predict(bundle, tmp_path / "in", tmp_path / f"out{number}")
        assert nib.load(tmp_path / f"out{number}" / "x.nii.gz").shape == shape


def test_two_channels_as_files_and_as_one(tmp_path):
    two = make_bundle(tmp_path / "two", data_spec(modality=("MR", "MR")))
    parts = [make_image(tmp_path / "split" / f"p_{i:04d}.nii.gz", seed=i) for i in range(2)]
    both = np.stack([labels_of(p) for p in parts], -1)
    (tmp_path / "joint").mkdir()
    nib.save(nib.Nifti1Image(both, nib.load(parts[0]).affine), tmp_path / "joint" / "p.nii.gz")
    for name in ("split", "joint"):
        assert statuses(predict(two, tmp_path / name, tmp_path / f"out_{name}")) == ["done"]
    np.testing.assert_array_equal(*(labels_of(tmp_path / f"out_{n}" / "p.nii.gz") for n in ("split", "joint")))


def manifest(folder: Path, **sections) -> Path:
    content = {"labels": {"0": "background", "1": "liver", "7": "spleen"}, "modality": {"0": "CT"}, **sections}
    path = folder / "m.json"
    path.write_text(json.dumps(content))
    return path


def test_manifests_and_their_sections(model, images, tmp_path):
    cases = [{"image": f"images/ct{i}.nii.gz"} for i in range(3)]
    cases[0]["label"] = "labels/ct0.nii.gz"
    path = manifest(tmp_path, training=cases[:1], test=["images/ct1.nii.gz"], unlabeled=cases[2:])
    names = lambda report: [case["case"] for case in report["cases"]]  # noqa: E731
    assert names(predict(model, path, tmp_path / "o1")) == ["ct1"]
    assert names(predict(model, path, tmp_path / "o2", section="unlabeled")) == ["ct2"]
    path = manifest(tmp_path, training=cases[:1], unlabeled=cases[2:])
    assert names(predict(model, path, tmp_path / "o3")) == ["ct0", "ct2"]
    with pytest.raises(ManifestError, match="no case under test"):
        predict(model, path, tmp_path / "o4", section="test")
    with pytest.raises(ConfigError, match="'tests' is not known; one of training"):
        predict(model, path, tmp_path / "o4", section="tests")
    two = manifest(tmp_path, modality={"0": "CT", "1": "PT"}, test=cases)
    with pytest.raises(ManifestError, match="2 channels, the model takes 1"):
        predict(model, two, tmp_path / "o4")


def test_one_bad_image_does_not_stop_the_others(model, images, tmp_path, capfd):
    whole = (images / "ct1.nii.gz").read_bytes()
    (images / "ct1.nii.gz").write_bytes(whole[: len(whole) // 2])
    broken = nib.load(images / "ct2.nii.gz")
    voxels = np.asarray(broken.dataobj, np.float32).copy()
    voxels[3, 4, 5] = np.nan
    nib.save(nib.Nifti1Image(voxels, broken.affine), images / "ct2.nii.gz")
    report = predict(model, images, tmp_path / "out")
    assert statuses(report) == ["done", "failed", "failed"]
    assert [f["case"] for f in report["failed"]] == ["ct1", "ct2"]
    assert "1 of" in report["failed"][1]["error"]
    assert "NaN" in report["failed"][1]["error"]
    assert f"failed: {images / 'ct1.nii.gz'}: " in capfd.readouterr().err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "ct0.nii.gz",
        "predict_report.html",
        "predict_report.json",
    ]
    with pytest.raises(DataError, match=r"ct1\.nii\.gz"):
        predict(model, images, tmp_path / "out", strict=True)


def test_the_page_shows_every_case_and_what_is_odd_first(model, images, tmp_path):
    (images / "ct0.nii.gz").write_bytes(b"no image")
    report = predict(model, images, tmp_path / "out")
    text = (tmp_path / "out" / "predict_report.html").read_text()
    page = Page(text)
    assert shown(page, "of 3 cases predicted 2")
    assert shown(page, "ct0 : ct0.nii.gz: is no NIfTI file")
    for case in report["cases"][1:]:
        volumes = " ".join(f"{volume:.1f}" for volume in case["volumes_ml"].values())
        assert shown(page, f"{case['case']} {volumes}")
    assert len(page.links) == 2, "a picture of each"
    assert str(tmp_path) not in text
    predict(model, images, tmp_path / "plain", report=False)
    assert not (tmp_path / "plain" / "predict_report.html").exists()


def test_shards_share_a_folder(model, images, tmp_path):
    reports = [predict(model, images, tmp_path / "out", shard=i, num_shards=2) for i in range(2)]
    assert [[c["case"] for c in r["cases"]] for r in reports] == [["ct0", "ct2"], ["ct1"]]
    assert statuses(predict(model, images, tmp_path / "out")) == ["skipped"] * 3
    assert len(list((tmp_path / "out").glob("*.json"))) == 3


MISTAKES = {
    "no model": ({"model": "nowhere"}, BundleError, "does not exist"),
    "no input": ({"inputs": "nowhere"}, DataError, "does not exist"),
    "empty folder": ({"inputs": "empty"}, DataError, "has no image; accepted endings"),
    "same folder": ({"output": "images"}, ConfigError, "folder of the images"),
    "overwriting": ({"inputs": "images/ct0.nii.gz", "output": "images"}, ConfigError, "would overwrite an image"),
    "section of a folder": ({"section": "test"}, ConfigError, "needs a manifest"),
    "overlap": ({"overlap": 1.0}, ConfigError, "not in"),
    "shard": ({"shard": 2, "num_shards": 2}, ConfigError, "counted from 0"),
    "device": ({"device": "gpu7"}, ConfigError, "device"),
    "output is a file": ({"output": "images/ct0.nii.gz"}, OutputError, "cannot be made"),
    "two files of a case": ({"inputs": "twice"}, DataError, "has a.nii and a.nii.gz, both of the name 'a'; rename"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_mistakes_are_one_clear_line(what, model, images, tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("a.nii", "a.nii.gz"):
        make_image(tmp_path / "twice" / name)
    changes, kind, words = MISTAKES[what]
    arguments = {"model": model, "inputs": images, "output": tmp_path / "out"} | changes
    for key in ("model", "inputs", "output"):
        arguments[key] = tmp_path / arguments[key]
    before = sorted((p, p.stat().st_size) for p in images.iterdir())
    with pytest.raises(kind, match=words) as caught:
        predict(arguments.pop("model"), arguments.pop("inputs"), arguments.pop("output"), **arguments)
    assert "\n" not in str(caught.value)
    assert sorted((p, p.stat().st_size) for p in images.iterdir()) == before


def test_wrong_channels_and_names_are_failures_of_the_case(model, tmp_path):
    image = nib.load(make_image(tmp_path / "in" / "a.nii.gz"))
    nib.save(nib.Nifti1Image(np.stack([labels_of(tmp_path / "in" / "a.nii.gz")] * 2, -1), image.affine),
             tmp_path / "in" / "b.nii.gz")  # fmt: skip
    make_image(tmp_path / "in" / ("n" * 250 + ".nii"))
    report = predict(model, tmp_path / "in", tmp_path / "out")
    assert statuses(report) == ["done", "failed", "failed"]
    assert "2 channels, the model takes 1 (CT)" in report["failed"][0]["error"]
    assert "longer than 255 bytes" in report["failed"][1]["error"]


def test_what_cannot_fit_is_refused_with_its_size(tmp_path):
    fine = make_bundle(tmp_path / "fine", data_spec(spacing_mm=(0.01, 0.01, 0.01)))
    make_image(tmp_path / "in" / "a.nii.gz")
    report = predict(fine, tmp_path / "in", tmp_path / "out")
    assert "GiB at the model's spacing, this machine has" in report["failed"][0]["error"]


def test_a_full_disk_leaves_the_old_file(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "x.nii.gz"
    write_labels(path, np.zeros((4, 4, 4), np.uint8), np.eye(4))
    before = path.read_bytes()
    with full_disk(4096), pytest.raises(SaveError, match="cannot be written"):
        write_labels(path, rng.integers(0, 255, (64, 64, 64), dtype=np.uint8), np.eye(4))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_said_before_and_after_the_network_has_run(model, tmp_path):
    make_image(tmp_path / "in" / "a.nii.gz", (60, 60, 60))
    for probabilities in (False, True):
        out = tmp_path / str(probabilities)
        with full_disk(1000), pytest.raises(OutputError, match=r"a\.nii\.gz: cannot be written \(File too large\)"):
            predict(model, tmp_path / "in", out, probabilities=probabilities)
        assert not [p for p in out.rglob("*") if p.is_file() and p.suffix != ".json"]


def test_equal_labels_are_equal_files_and_odd_values_are_refused(tmp_path):
    labels = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    for name in "ab":
        write_labels(tmp_path / f"{name}.nii.gz", np.asarray(labels, order="CF"[name == "a"]), np.eye(4))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    np.testing.assert_array_equal(labels_of(tmp_path / "a.nii.gz"), labels)
    with pytest.raises(SaveError, match="outside 0"):
        write_labels(tmp_path / "c.nii.gz", labels.astype(int) + 250, np.eye(4))


def test_leftovers_of_dead_processes_are_removed_and_those_of_living_ones_kept(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    write_labels(tmp_path / "x.nii.gz", np.zeros((2, 2, 2), np.uint8), np.eye(4))
    from medseg.portable.io import write

    names = {p: tmp_path / f".medseg-{write._here()}-{p}-0123456789ab.tmp" for p in (dead.pid, os.getpid())}
    for path in names.values():
        path.touch()
    remove_leftovers(tmp_path)
    assert not names[dead.pid].exists()
    assert names[os.getpid()].exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from medseg.atomic import replacing
with replacing(Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_of_a_small_file_is_removed_too(tmp_path):
    subprocess.run([python(), "-c", KILLED, str(tmp_path / "report.json")], check=False)
    assert len(hidden(tmp_path)) == 1
    remove_leftovers(tmp_path)
    assert not hidden(tmp_path)


INTERRUPTED = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell starts its children with it ignored
from medseg.workflows.predict.run import predict
try:
    predict(*map(Path, sys.argv[1:4]), overlap=0.95, probabilities=True)
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_ctrl_c_leaves_whole_files_and_a_report(model, tmp_path):
    make_image(tmp_path / "in" / "a.nii.gz")
    make_image(tmp_path / "in" / "b.nii.gz", (120, 120, 60))
    out = tmp_path / "out"
    command = [python(), "-c", INTERRUPTED, str(model), str(tmp_path / "in"), str(out)]
    second = hashlib.sha256(b"b.nii.gz scratch").hexdigest()[:12]  # its scratch file: the first case is entered by then
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        deadline = time.monotonic() + 90
        while not list(out.glob(f"probabilities/.medseg-*-{second}.tmp")) or not (out / "a.nii.gz").exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        asked = time.monotonic()
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(30) == 130
        finally:
            process.kill()
        assert time.monotonic() - asked < 10
    assert not hidden(out)
    assert sorted(p.name for p in out.rglob("*.gz")) == ["a.nii.gz", "a.nii.gz"]
    report = json.loads((out / "predict_report.json").read_text())
    assert report["interrupted"]
    assert statuses(report) == ["done"]


def test_cases_of_folders(tmp_path):
    for name in ("b.nii.gz", "a.nii", ".hidden.nii", "notes.txt"):
        (tmp_path / name).touch()
    assert [c["case"] for c in find_cases(tmp_path)] == ["a", "b"]
    for folder, names in (("nn", ("x_0000.nii.gz", "x_0001.nii.gz", "y_0000.nii.gz", "y_0001.nii.gz")),):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).touch()
    assert [(c["case"], len(c["image"])) for c in find_cases(tmp_path / "nn", 2)] == [("x", 2), ("y", 2)]
    assert [c["case"] for c in find_cases(tmp_path / "nn", 1)] == ["x_0000", "x_0001", "y_0000", "y_0001"]
