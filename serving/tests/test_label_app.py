"""The app of `medseg serve`: what a client sees from the first request to a model trained on its labels."""

from __future__ import annotations

import gzip
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from conftest import BALL, PLANES
from servers import PATIENCE

from medseg.workflows.predict.run import predict


def label_of(data: Path, case: str) -> Path:
    return data.parent / f"{case}_label.nii.gz"


def voxels(content: bytes, folder: Path) -> np.ndarray:
    path = folder / "answer.nii.gz"
    path.write_bytes(content)
    return np.asarray(nib.load(path).dataobj).copy()


def finished(server, path: str, seconds: float = 300) -> dict:
    """Wait for a background task."""
    until = time.monotonic() + seconds * PATIENCE
    while time.monotonic() < until:
        task = server.json("GET", path)
        if task["status"] not in ("SUBMITTED", "RUNNING"):
            return task
        time.sleep(0.5)
    raise AssertionError(f"still running: {task}")


def test_what_a_client_is_told(app):
    info = app.json("GET", "/info/")
    assert set(info["models"]) == {BALL, PLANES, "consensus"}
    assert info["models"][BALL]["labels"] == {"ball": 1, "box": 2}
    assert set(info["trainers"]) == {BALL, PLANES}
    assert set(info["strategies"]) == {"disagreement", "first"}
    assert info["datastore"]["total"] == 6


@pytest.mark.parametrize("name", [BALL, PLANES])
def test_voxels_are_those_of_medseg_predict(name, app, train, data, tmp_path):
    predict(train(name), data.parent / "case5.nii.gz", tmp_path)
    expected = nib.load(tmp_path / "case5.nii.gz")
    assert np.asarray(expected.dataobj).any()
    answer = app.infer(name, "case5")
    np.testing.assert_array_equal(voxels(answer.content, tmp_path), expected.dataobj)
    plain = app.infer(name, "case5", data={"params": json.dumps({"result_extension": ".nii"})})
    assert plain.content == gzip.decompress(answer.content)
    # OHIF: NRRD without compression
    options = {"result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": False}
    (tmp_path / "answer.nrrd").write_bytes(app.infer(name, "case5", data={"params": json.dumps(options)}).content)
    image = sitk.ReadImage(str(tmp_path / "answer.nrrd"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, expected.dataobj)


def test_a_volume_that_only_the_client_has(app, data):
    with (data.parent / "case5.nii.gz").open("rb") as stream:
        session = app.json("PUT", "/session/", files={"files": ("mine.nii.gz", stream)})["session_id"]
    both = app.ask("POST", f"/infer/{PLANES}", params={"session_id": session, "output": "all"})
    assert both.status_code == 200
    assert b'"volumes_ml"' in both.content
    facts = app.json("POST", f"/infer/{PLANES}", params={"image": "case5", "output": "json"})
    assert facts["label_names"] == {"ball": 1, "box": 2}


def test_many_requests_at_once_are_all_answered(app, tmp_path):
    with ThreadPoolExecutor(20) as clients:
        asked = [f"case{i % 6}" for i in range(20)]
        work = [clients.submit(app.infer, BALL, case) for case in asked]
        app.json("GET", "/info/")  # which is answered meanwhile
        answered = sum(job.done() for job in work)
        answers = [job.result() for job in work]
    assert answered < 20
    assert [answer.status_code for answer in answers] == [200] * 20
    first: dict[str, np.ndarray] = {}
    for case, answer in zip(asked, answers, strict=True):
        found = voxels(answer.content, tmp_path)
        np.testing.assert_array_equal(found, first.setdefault(case, found))
    assert len({found.tobytes() for found in first.values()}) > 1
    app.tidied()


def test_active_learning_asks_for_the_most_disputed_study(app, data):
    scores = app.json("POST", "/scoring/disagreement", params={"run_sync": True})
    assert all(0 <= value <= 1 for value in scores.values())
    assert len(set(scores.values())) > 1
    most = max(scores, key=scores.get)
    assert app.json("POST", "/activelearning/disagreement")["id"] == most
    # a labelled study is not asked for again
    label = app.studies.parent / "nothing.nii.gz"
    image = nib.load(app.studies / f"{most}.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), label)
    assert app.save(most, label, "final").status_code == 200
    others = {study: score for study, score in scores.items() if study != most}
    assert app.json("POST", "/activelearning/disagreement")["id"] == max(others, key=others.get)
    assert app.json("POST", "/activelearning/first")["id"] == min(others)
    assert app.ask("DELETE", "/datastore/label", params={"id": most, "tag": "final"}).status_code == 200


def test_raters_become_a_consensus(app, data, tmp_path):
    truth = np.asarray(nib.load(label_of(data, "case5")).dataobj)
    grid = nib.load(label_of(data, "case5")).affine
    for shift, tag in enumerate(("rater-a", "rater-b", "rater-c")):
        nib.save(nib.Nifti1Image(np.roll(truth, shift - 1, 0), grid), tmp_path / f"{tag}.nii.gz")
        assert app.save("case5", tmp_path / f"{tag}.nii.gz", tag).status_code == 200
    lonely = app.ask("POST", "/infer/consensus", params={"image": "case4", "output": "json"})
    assert lonely.status_code == 400
    assert "tag of its own" in lonely.json()["detail"]
    told = app.json("POST", "/infer/consensus", params={"image": "case5", "output": "json"})
    assert told["raters"] == ["rater-a", "rater-b", "rater-c"]
    final = nib.load(app.studies / "labels" / "final" / "case5.nii.gz")
    fused = np.asarray(final.dataobj)
    assert (fused == truth).mean() > max((np.roll(truth, s, 0) == truth).mean() for s in (-1, 1))
    np.testing.assert_allclose(final.affine, grid, atol=1e-4)
    asked = {"overwrite": True, "fuser": "majority"}
    scored = app.json("POST", "/scoring/consensus", params={"run_sync": True}, json=asked)
    assert list(scored) == ["case5"]
    assert scored["case5"]["method"] == "majority"
    agreed = app.json("POST", "/scoring/dice", params={"run_sync": True}, json={"y_pred": "rater-b", "y": "final"})
    assert agreed["case5"]["mean"] > 0.8


@pytest.mark.parametrize("name", [BALL, PLANES])
def test_training_continues_the_run_and_publishes_what_is_better(name, app, data, tmp_path):
    for case in ("case4", "case5"):
        assert app.save(case, label_of(data, case), "final").status_code == 200
    before = app.infer(name, "case3").content
    app.json("POST", f"/train/{name}", json={"iterations": 30, "device": "cpu"})
    until = time.monotonic() + 60 * PATIENCE
    while app.json("GET", "/train/")["status"] == "SUBMITTED" and time.monotonic() < until:
        time.sleep(0.1)
    again = app.ask("POST", f"/train/{name}")
    assert again.status_code == 429, "one training at a time"
    assert "already running" in again.json()["detail"].lower()
    assert app.infer(name, "case3").content, "inference goes on meanwhile"
    task = finished(app, "/train/")
    stats = app.json("GET", "/info/")["train_stats"][name]
    assert (task["status"], stats["status"]) == ("DONE", "done"), task["details"]
    assert any('"status": "training"' in line for line in task["details"])
    assert stats["cases"]["unlabeled"] >= 2, "the unlabelled studies are learned from"
    assert stats["new_labels"] >= 1
    assert stats["published"] == (stats["dice"] > stats["dice_in_service"])
    after = app.infer(name, "case3").content
    changed = bool((voxels(after, tmp_path) != voxels(before, tmp_path)).any())
    assert not changed or stats["published"]
    manifest = json.loads((Path(stats["folder"]) / "manifest.json").read_text())
    trained = {case["case"] for case in manifest["training"]}
    assert trained >= {"case0", "case1"}
    assert not trained & {case["case"] for case in manifest["validation"]}


def test_training_that_fails_says_why(app, train):
    app.json("POST", f"/train/{BALL}", json={"iterations": "many"})
    task = finished(app, "/train/")
    assert task["status"] == "ERROR"
    assert any("iterations is" in line and "whole number" in line for line in task["details"]), task["details"]
    assert not any("Traceback" in line for line in task["details"])
