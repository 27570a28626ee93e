"""Labels in a DICOM store: those that other programs put there, people's and fused ones."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import nibabel as nib
import numpy as np
from archives import segments_of, upload, write_foreign_seg, write_series
from conftest import BALL, serve


def test_segmentations_of_other_programs_and_of_people(orthanc, train, data, tmp_path):
    grid, truth = nib.load(data.parent / "case4_label.nii.gz"), tmp_path / "drawn.nii.gz"
    drawn = np.asarray(grid.dataobj).copy()
    assert not drawn[:, :, -1].any(), "or the segmentation would have all slices"
    swapped = nib.Nifti1Image(np.array([0, 2, 1], np.uint8)[drawn], grid.affine)
    nib.save(swapped, tmp_path / "swapped.nii.gz")
    nib.save(nib.Nifti1Image(drawn, grid.affine), truth)
    series = {}
    for name in ("theirs", "unknown", "person"):
        series[name] = write_series(nib.load(data.parent / "case4.nii.gz"), tmp_path / name)
        upload(orthanc, tmp_path / name)
    for name, words in (("theirs", ["Box", "ball"]), ("unknown", ["Segment_1", "Segment_2"])):
        write_foreign_seg(tmp_path / "swapped.nii.gz", tmp_path / name, words, tmp_path / f"{name}-seg")
        upload(orthanc, tmp_path / f"{name}-seg")
    label = serve(orthanc, train(BALL), tmp_path)
    try:
        pairs = {
            Path(p["image"]).name.removesuffix(".nii.gz"): p for p in label.json("GET", "/datastore/?output=train")
        }
        assert series["unknown"] not in pairs, "a guess which structure it is may be wrong"
        found = nib.load(pairs[series["theirs"]]["label"])
        image = nib.load(pairs[series["theirs"]]["image"])
        assert found.shape == image.shape == drawn.shape
        expected = nib.as_closest_canonical(nib.load(truth))
        np.testing.assert_array_equal(nib.as_closest_canonical(found).dataobj, expected.dataobj)
        np.testing.assert_allclose(nib.as_closest_canonical(found).affine, expected.affine, atol=1e-3)
        # it is scored, and trained on; what cannot be used is named
        assert label.save(series["theirs"], truth, "original").status_code == 200
        scored = label.json("POST", "/scoring/dice", params={"run_sync": True})
        assert scored[series["theirs"]]["mean"] == 1
        label.json("POST", f"/train/{BALL}", json={"iterations": 1, "device": "cpu"})
        told = label.stats(BALL, "done", "failed")
        assert told["status"] == "done", told
        assert "no known value: Segment_1, Segment_2" in told["left_out"][series["unknown"]]
        manifest = json.loads((Path(told["folder"]) / "manifest.json").read_text())
        assert series["theirs"] in {case["case"] for part in ("training", "validation") for case in manifest[part]}
        # a person's label, without any model; two of them fused
        raw = tmp_path / "label.bin"  # as OHIF saves: voxels alone
        raw.write_bytes(b"too short")
        assert "voxels of one byte" in label.save(series["person"], raw, "final").json()["detail"]
        assert label.save(series["person"], truth, "final").status_code == 200
        kinds = {"MANUAL": segments_of(orthanc, series["person"])}
        for tag in ("rater-a", "rater-b"):
            assert label.save(series["person"], truth, tag).status_code == 200
        options = {"image": series["person"], "output": "json"}
        label.json("POST", "/infer/consensus", params=options, data={"params": '{"method": "majority"}'})
        kinds["AUTOMATIC"] = [s for s in segments_of(orthanc, series["person"]) if s not in kinds["MANUAL"]]
        label.tidied()
    finally:
        label.stop(signal.SIGTERM)
    for kind, segments in kinds.items():
        assert [s.SegmentLabel for s in segments] == ["ball", "box"]
        assert {s.SegmentAlgorithmType for s in segments} == {kind}
    assert kinds["AUTOMATIC"][0].SegmentAlgorithmName == "medseg consensus by majority"
