"""What goes wrong: every answer is JSON that says what to do, and the server goes on."""

from __future__ import annotations

import gzip
import shutil
import socket
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest
from conftest import BALL, PLANES
from servers import PATIENCE, free_port


@pytest.fixture(autouse=True)
def goes_on(app):
    """Whatever was asked, the next request is answered."""
    yield
    assert app.process.poll() is None
    assert app.infer(BALL, "case0").status_code == 200
    app.tidied()


def refused(answer, *words: str) -> None:
    assert 400 <= answer.status_code < 500, answer.text
    detail = answer.json()["detail"]
    for word in words:
        assert word in detail
    assert "Traceback" not in detail


def test_a_study_that_is_no_image(app):
    (app.studies / "notes.nii.gz").write_text("these are notes")
    app.lists("notes", True)
    refused(app.infer(BALL, "notes"), "notes.nii.gz")
    scores = app.json("POST", "/scoring/disagreement", params={"run_sync": True})
    assert "notes.nii.gz" in scores["notes"]["error"]
    assert app.json("POST", "/activelearning/disagreement")["id"] != "notes"
    (app.studies / "notes.nii.gz").unlink()
    app.lists("notes", False)


def test_a_study_that_was_deleted_since(app):
    shutil.copy(app.studies / "case0.nii.gz", app.studies / "gone.nii.gz")
    app.lists("gone", True)
    (app.studies / "gone.nii.gz").unlink()
    refused(app.infer(BALL, "gone"), "list of studies again")
    app.lists("gone", False)
    refused(app.infer(BALL, "gone"), "list of studies again")
    refused(app.infer(BALL, "never-there"), "never-there")


def test_a_label_of_another_geometry(app, tmp_path):
    image = nib.load(app.studies / "case0.nii.gz")
    empty = np.zeros(image.shape, np.uint8)
    moved = image.affine.copy()
    moved[0, 3] += 40
    nib.save(nib.Nifti1Image(empty, moved), tmp_path / "moved.nii.gz")
    nib.save(nib.Nifti1Image(empty[:-3], image.affine), tmp_path / "smaller.nii.gz")
    (tmp_path / "text.nii.gz").write_text("no label")
    refused(app.save("case0", tmp_path / "moved.nii.gz", "final"), "voxels off its image", "resample")
    refused(app.save("case0", tmp_path / "smaller.nii.gz", "final"), "voxels, its image")
    refused(app.save("case0", tmp_path / "text.nii.gz", "final"), "label cannot be read")
    refused(app.save("never-there", tmp_path / "moved.nii.gz", "final"), "never-there")
    assert not (app.studies / "labels" / "final" / "case0.nii.gz").exists()
    # the same grid stored the other way round is the same geometry
    turned = nib.Nifti1Image(empty, image.affine).as_reoriented(np.array([[0, -1], [1, 1], [2, 1]]))
    nib.save(turned, tmp_path / "turned.nii.gz")
    assert app.save("case0", tmp_path / "turned.nii.gz", "rater-z").status_code == 200
    assert app.ask("DELETE", "/datastore/label", params={"id": "case0", "tag": "rater-z"}).status_code == 200


def test_a_label_that_is_none(app, tmp_path):
    shutil.copy(app.studies / "case0.nii.gz", tmp_path / "label.nii.gz")
    (tmp_path / "label.docx").write_text("no label")
    (tmp_path / "label.bin").write_bytes(b"raw voxels, which a folder of files has no use for")
    refused(app.save("case0", tmp_path / "label.docx", "final"), "save it in one of these formats")
    refused(app.save("case0", tmp_path / "label.bin", "final"), "save it in one of these formats")
    refused(app.save("case0", tmp_path / "label.nii.gz", "../../escaped"), "is no name")
    with (tmp_path / "label.nii.gz").open("rb") as stream:
        where = {"image": "../escaped"}
        refused(app.ask("PUT", "/datastore/image", params=where, files={"file": ("a.nii.gz", stream)}), "is no name")
    assert not list(app.studies.parent.glob("escaped*"))


def test_a_label_is_read_before_it_is_stored(app, tmp_path):
    """A good label, and the same one cut off, changed, followed by others, with NaN, with a strange value."""
    image = nib.load(app.studies / "case0.nii.gz")
    good = np.zeros(image.shape, np.uint8)
    good[2:5, 2:5, 2:5] = 1
    nib.save(nib.Nifti1Image(good, image.affine), tmp_path / "good.nii.gz")
    content = (tmp_path / "good.nii.gz").read_bytes()
    damaged = {
        "short": content[: len(content) // 2],
        "crc": content[:-8] + bytes([content[-8] ^ 1]) + content[-7:],
        "longer": gzip.compress(gzip.decompress(content) + b"more"),
    }
    for name, wrong in damaged.items():
        (tmp_path / f"{name}.nii.gz").write_bytes(wrong)
        refused(app.save("case0", tmp_path / f"{name}.nii.gz", "rater-y"), "the label cannot be read")
    fractions = good.astype(np.float32)
    fractions[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(fractions, image.affine), tmp_path / "nan.nii.gz")
    refused(app.save("case0", tmp_path / "nan.nii.gz", "rater-y"), "NaN")
    nib.save(nib.Nifti1Image(good * 9, image.affine), tmp_path / "nine.nii.gz")
    refused(app.save("case0", tmp_path / "nine.nii.gz", "rater-y"), "the value 9", "accepted are 0, 1")
    refused(app.save("case0", tmp_path / "good.nii.gz", "r" * 300), "300 letters")
    assert not (app.studies / "labels" / "rater-y").exists()
    assert app.save("case0", tmp_path / "good.nii.gz", "rater-y").status_code == 200
    stored = app.studies / "labels" / "rater-y"
    assert (stored / "case0.nii.gz").read_bytes() == content
    assert [path.name for path in stored.iterdir()] == ["case0.nii.gz"]
    assert app.ask("DELETE", "/datastore/label", params={"id": "case0", "tag": "rater-y"}).status_code == 200


def test_tasks_in_the_background_of_unknown_models(app):
    refused(app.ask("POST", "/train/nope"), "no model 'nope' can be trained", BALL)
    refused(app.ask("POST", "/batch/infer/nope"), "no model 'nope' is served", BALL)


def test_many_studies_at_once_without_a_gpu(app):
    """And one that is no image, in the place of whose result the reason stands."""
    (app.studies / "notes.nii.gz").write_text("these are notes")
    app.lists("notes", True)
    found = app.json("POST", f"/batch/infer/{BALL}", params={"images": "all", "run_sync": True})
    assert "notes.nii.gz" in found["notes"]["error"]
    assert found["case0"]["label"] == "case0"
    assert (app.studies / "labels" / "original" / "case0.nii.gz").is_file()
    shutil.rmtree(app.studies / "labels" / "original")
    (app.studies / "notes.nii.gz").unlink()
    app.lists("notes", False)


def test_a_client_that_hangs_up(app):
    host = "127.0.0.1"
    for _ in range(3):
        with socket.create_connection((host, app.port)) as line:
            request = f"POST /token/{app.token}/infer/{PLANES}?image=case1&output=image HTTP/1.1"
            line.sendall(f"{request}\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n".encode())
            time.sleep(0.1)


def test_requests_that_mean_nothing(app):
    refused(app.infer("no-such-model", "case0"), "no-such-model")
    refused(app.infer(BALL, "case0", data={"params": "{not json"}), "JSON")
    refused(app.infer(BALL, "case0", data={"params": "[1, 2]"}), "no JSON object")
    refused(app.infer(BALL, "case0", data={"params": '{"device": "abacus"}'}), "abacus")
    refused(app.infer(BALL, "case0", data={"params": '{"result_extension": ".exe"}'}), ".exe")
    refused(app.infer(BALL, "", data={"params": "{}"}), "Neither Image")
    refused(app.ask("POST", f"/infer/{BALL}", params={"image": "case0", "output": "dicom_seg"}), "DICOM SEG")
    refused(app.infer("consensus", "case0", data={"params": '{"tags": "a,b"}'}), "no label with the tag a, b")
    refused(app.ask("POST", "/scoring/no-such", params={"run_sync": True}), "no-such")
    refused(app.ask("POST", "/activelearning/no-such"), "no-such")
    refused(app.ask("POST", "/activelearning/disagreement", json={"seconds": "few"}), "seconds is 'few'")


def test_a_model_folder_that_is_no_bundle_and_a_port_that_is_taken(app, tmp_path, train):
    start = [sys.executable, "-m", "medseg", "serve", "--studies", str(app.studies), "--work", str(tmp_path)]
    taken = str(app.port)
    mistakes = {
        "holds no bundle": ["--models", str(app.studies), "--port", str(free_port())],
        "choose another --port": ["--models", str(train(BALL)), "--port", taken],
    }
    for words, more in mistakes.items():
        done = subprocess.run([*start, *more], capture_output=True, text=True, timeout=200 * PATIENCE)
        assert done.returncode == 2
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
