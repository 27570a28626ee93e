"""End to end over DICOMweb: Orthanc has a study, a model is asked for it, its labels are stored and read by others."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import requests
from archives import upload, write_series
from conftest import BALL, serve
from servers import Server

from medseg.workflows.predict.run import predict

SEGMENTS = [{"name": "any", "model_name": "medseg"}, {"name": "other"}]  # the model knows better


def voxels(content: bytes, path: Path) -> np.ndarray:
    path.write_bytes(content)
    return np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj)


def test_a_study_is_segmented_stored_and_read_by_others(orthanc, train, data, tmp_path):
    image = nib.load(data.parent / "case5.nii.gz")
    series = write_series(image, tmp_path / "series")
    upload(orthanc, tmp_path / "series")
    label = serve(orthanc, train(BALL), tmp_path)
    try:
        assert label.json("POST", "/activelearning/first")["id"] == series
        served = voxels(label.infer(BALL, series).content, tmp_path / "served.nii.gz")
        predict(train(BALL), data.parent / "case5.nii.gz", tmp_path / "ours")
        ours = np.asarray(nib.as_closest_canonical(nib.load(tmp_path / "ours" / "case5.nii.gz")).dataobj)
        assert set(np.unique(ours)) == {0, 1, 2}
        assert served.shape == ours.shape
        assert (served == ours).mean() > 0.999, "DICOM's decimal numbers move no label"
        # a DICOM SEG as the answer
        told = {"params": json.dumps({"label_info": SEGMENTS})}
        options = {"image": series, "output": "dicom_seg"}
        answer = label.ask("POST", f"/infer/{BALL}", params=options, data=told)
        assert answer.status_code == 200, answer.text
        (tmp_path / "answer.dcm").write_bytes(answer.content)
        assert pydicom.dcmread(tmp_path / "answer.dcm").Modality == "SEG"
        # the accepted label goes into the store
        with (tmp_path / "served.nii.gz").open("rb") as stream:
            where = {"image": series, "tag": "final"}
            told = {"params": json.dumps({"label_info": SEGMENTS})}
            saved = label.ask("PUT", "/datastore/label", params=where, data=told, files={"label": stream})
        assert saved.status_code == 200, saved.text + label.words()
        through_the_proxy(label, tmp_path / "series" / "0.dcm")
        label.tidied()
    finally:
        label.stop(signal.SIGTERM)
    answered = pydicom.dcmread(tmp_path / "answer.dcm").SegmentSequence[0]
    assert (answered.SegmentAlgorithmType, answered.SegmentAlgorithmName) == ("AUTOMATIC", f"medseg {BALL}")
    found = requests.get(f"{orthanc.url}/dicom-web/series", params={"Modality": "SEG"}, timeout=60).json()
    assert len(found) == 1
    stored = orthanc.json("POST", "/tools/find", json={"Level": "Instance", "Query": {"Modality": "SEG"}})
    (tmp_path / "stored.dcm").write_bytes(orthanc.ask("GET", f"/instances/{stored[0]}/file").content)
    segmentation = pydicom.dcmread(tmp_path / "stored.dcm")
    assert segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID == series
    assert [segment.SegmentLabel for segment in segmentation.SegmentSequence] == ["ball", "box"]
    drawn = segmentation.SegmentSequence[0]  # the client was given a model's result and saved what it became
    assert (drawn.SegmentAlgorithmType, drawn.SegmentAlgorithmName) == ("SEMIAUTOMATIC", f"medseg {BALL}")
    grid = nib.as_closest_canonical(nib.load(tmp_path / "served.nii.gz"))
    np.testing.assert_array_equal(by_dcmqi(tmp_path / "stored.dcm", tmp_path / "read", grid), served)


def through_the_proxy(label: Server, slice_: Path) -> None:
    """What OHIF asks and stores; nothing else of the archive can be reached that way."""
    parts = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + slice_.read_bytes() + b"\r\n--b--\r\n"
    kind = {
        "Content-Type": 'multipart/related; type="application/dicom"; boundary=b',
        "Accept": "application/dicom+json",
    }
    stored = label.json("POST", "/proxy/dicom/wado/studies", data=parts, headers=kind)
    assert len(stored["00081199"]["Value"]) == 1
    study = label.json("GET", "/proxy/dicom/qido/studies")[0]["0020000D"]["Value"][0]
    assert label.json("GET", f"/proxy/dicom/wado/studies/{study}/metadata")
    for path in (
        "studies/../../instances",
        "studies/%2e%2e/%2e%2e/instances",
        "studies/%252e%252e/%252e%252e/instances",
    ):
        line = http.client.HTTPConnection("127.0.0.1", label.port, timeout=60)
        line.request("GET", f"/proxy/dicom/wado/{path}", headers={"Authorization": f"Bearer {label.token}"})
        assert line.getresponse().status == 404, path
        line.close()


def by_dcmqi(file: Path, folder: Path, like: nib.Nifti1Image) -> np.ndarray:
    """The labels as an independent program reads them, on the grid of an image; it gives the slices that have any."""
    folder.mkdir()
    tool = Path(sys.executable).with_name("segimage2itkimage")
    order = ["--inputDICOM", str(file), "--outputDirectory", str(folder), "--outputType", "nii", "--mergeSegments"]
    subprocess.run([str(tool), *order], check=True, capture_output=True, timeout=120)
    whole = np.zeros(like.shape, np.uint8)
    for path in sorted(folder.glob("*.nii.gz")):
        part = nib.as_closest_canonical(nib.load(path))
        first = np.linalg.solve(like.affine, part.affine @ [0, 0, 0, 1])[:3]
        start = first.round().astype(int)
        np.testing.assert_allclose(first, start, atol=1e-3)
        here = tuple(slice(s, s + n) for s, n in zip(start, part.shape, strict=True))
        whole[here] = np.maximum(whole[here], np.asarray(part.dataobj).astype(np.uint8))
    return whole
