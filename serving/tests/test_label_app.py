"""The app of `medseg label start`: what a client sees from the first request to a model trained on its labels."""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import medseg

BALL, PLANES = "ball_mr_segmentation", "planes_segmentation"


def label_of(data: Path, case: str) -> Path:
    return data.parent / f"{case}_label.nii.gz"


def voxels(content: bytes, folder: Path, ending: str = ".nii.gz") -> np.ndarray:
    path = folder / f"answer{ending}"
    path.write_bytes(content)
    return np.asarray(nib.load(path).dataobj)


def finished(server, path: str, seconds: float = 200) -> dict:
    """Wait for a background task."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        task = server.json("GET", path)
        if task["status"] not in ("SUBMITTED", "RUNNING"):
            return task
        time.sleep(0.5)
    raise AssertionError(f"still running: {task}")


def test_inference_as_slicer_and_ohif_ask_for_it(serve, train, studies, data, tmp_path):
    server = serve(studies, train(BALL), train(PLANES))
    info = server.json("GET", "/info/")
    assert set(info["models"]) == {BALL, PLANES, "consensus"}
    assert info["models"][BALL]["labels"] == {"ball": 1, "box": 2}
    assert set(info["trainers"]) == {BALL, PLANES}
    for name in (BALL, PLANES):
        medseg("predict", "--model", train(name), "--input", studies / "case5.nii.gz", "--output", tmp_path / name)
        expected = np.asarray(nib.load(tmp_path / name / "case5.nii.gz").dataobj)
        assert expected.any()
        np.testing.assert_array_equal(voxels(server.infer(name, "case5").content, tmp_path), expected)
    # OHIF: NRRD without compression; the labels of another image in between must not be mixed up
    options = {"result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": False}
    answer = server.infer(PLANES, "case5", data={"params": json.dumps(options)})
    import SimpleITK as sitk

    (tmp_path / "answer.nrrd").write_bytes(answer.content)
    image = sitk.ReadImage(str(tmp_path / "answer.nrrd"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, expected)
    # Slicer: a volume that only the client has, and everything in one answer
    with (studies / "case5.nii.gz").open("rb") as stream:
        session = server.json("PUT", "/session/", files={"files": ("mine.nii.gz", stream)})["session_id"]
    both = server.ask("POST", f"/infer/{PLANES}", params={"session_id": session, "output": "all"})
    assert both.status_code == 200
    assert b'"volumes_ml"' in both.content
    facts = server.json("POST", f"/infer/{PLANES}", params={"image": "case5", "output": "json"})
    assert facts["label_names"] == {"ball": 1, "box": 2}
    assert facts["latencies"]["total"] < 60


def test_many_requests_at_once_are_all_answered(serve, train, studies, tmp_path):
    server = serve(studies, train(BALL))
    with ThreadPoolExecutor(20) as clients:
        asked = [f"case{i % 6}" for i in range(20)]
        work = [clients.submit(server.infer, BALL, case) for case in asked]
        time.sleep(0.2)
        started = time.monotonic()
        server.json("GET", "/info/")  # which is answered meanwhile
        assert time.monotonic() - started < 10
        answers = [job.result() for job in work]
    assert [answer.status_code for answer in answers] == [200] * 20
    first = {}
    for case, answer in zip(asked, answers, strict=True):
        found = voxels(answer.content, tmp_path)
        np.testing.assert_array_equal(found, first.setdefault(case, found))
    assert len({found.tobytes() for found in first.values()}) > 1


def test_annotators_become_a_consensus(serve, train, studies, data, tmp_path):
    server = serve(studies, train(BALL))
    truth = np.asarray(nib.load(label_of(data, "case5")).dataobj)
    grid = nib.load(label_of(data, "case5")).affine
    for shift, tag in enumerate(("rater-a", "rater-b", "rater-c")):
        nib.save(nib.Nifti1Image(np.roll(truth, shift - 1, 0), grid), tmp_path / f"{tag}.nii.gz")
        assert server.save("case5", tmp_path / f"{tag}.nii.gz", tag).status_code == 200
    lonely = server.ask("POST", "/infer/consensus", params={"image": "case4", "output": "json"})
    assert lonely.status_code == 400
    assert "tag of its own" in lonely.json()["detail"]
    told = server.json("POST", "/infer/consensus", params={"image": "case5", "output": "json"})
    assert told["annotators"] == ["rater-a", "rater-b", "rater-c"]
    final = nib.load(studies / "labels" / "final" / "case5.nii.gz")
    fused = np.asarray(final.dataobj)
    assert (fused == truth).mean() > max((np.roll(truth, s, 0) == truth).mean() for s in (-1, 1))
    np.testing.assert_allclose(final.affine, grid, atol=1e-4)
    scored = server.json("POST", "/scoring/consensus", params={"run_sync": True}, json={"overwrite": True, "fuser": "majority"})
    assert list(scored) == ["case5"]
    assert scored["case5"]["method"] == "majority"


def test_active_learning_asks_for_the_most_disputed_study(serve, train, studies):
    server = serve(studies, train(PLANES))
    scores = server.json("POST", "/scoring/disagreement", params={"run_sync": True})
    assert len(scores) == 6
    assert all(0 <= value <= 1 for value in scores.values())
    most = max(scores, key=scores.get)
    assert server.json("POST", "/activelearning/disagreement")["id"] == most
    # a labelled study is not asked for again
    shutil.copy(studies / f"{most}.nii.gz", studies.parent / "l.nii.gz")
    image = nib.load(studies / f"{most}.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), studies.parent / "l.nii.gz")
    assert server.save(most, studies.parent / "l.nii.gz", "final").status_code == 200
    del scores[most]
    assert server.json("POST", "/activelearning/disagreement")["id"] == max(scores, key=scores.get)
    assert server.json("POST", "/activelearning/first")["id"] == min(scores)


@pytest.mark.parametrize("name", [BALL, PLANES])
def test_training_continues_the_run_and_publishes_what_is_better(name, serve, train, studies, data, tmp_path):
    run = shutil.copytree(train(name), tmp_path / name)
    server = serve(studies, run)
    for case in ("case4", "case5"):
        assert server.save(case, label_of(data, case), "final").status_code == 200
    before = server.infer(name, "case5").content
    server.json("POST", f"/train/{name}", json={"iterations": 60, "device": "cpu"})
    again = server.ask("POST", f"/train/{name}")
    assert again.status_code == 429, "one training at a time"
    assert "already running" in again.json()["detail"].lower()
    task = finished(server, "/train/")
    assert task["status"] == "DONE", task["details"]
    stats = server.json("GET", "/info/")["train_stats"][name]
    assert stats["status"] == "done"
    assert stats["cases"]["unlabeled"] >= 2, "the unlabelled studies are learned from"
    assert stats["new_labels"] >= 1
    assert stats["published"] == (stats["dice"] > stats["dice_in_service"])
    after = server.infer(name, "case5").content
    assert (voxels(after, tmp_path) != voxels(before, tmp_path)).any() == stats["published"]
    manifest = json.loads((Path(stats["folder"]) / "manifest.json").read_text())
    trained = {case["case"] for case in manifest["training"]}
    assert trained >= {"case0", "case1"}
    assert not trained & {case["case"] for case in manifest["validation"]}
    # trained towards nonsense, it is worse, and stays unpublished
    server.json("POST", f"/train/{name}", json={"iterations": 1, "device": "cpu", "publish": False})
    assert finished(server, "/train/")["status"] == "DONE"
    assert voxels(server.infer(name, "case5").content, tmp_path).tobytes() == voxels(after, tmp_path).tobytes()
