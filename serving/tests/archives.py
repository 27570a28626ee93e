"""A DICOM store of its own on loopback, what is put into it and what is found there."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from servers import Server, free_port

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def orthanc_in(place: Path) -> Server | None:
    """Orthanc, started and not yet waited for; None where it is not installed."""
    program = shutil.which("Orthanc")
    if program is None or not PLUGIN.exists():
        return None
    port = free_port()
    settings = {
        "StorageDirectory": str(place / "store"),
        "IndexDirectory": str(place / "store"),
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (place / "orthanc.json").write_text(json.dumps(settings))
    return Server([program, str(place / "orthanc.json")], port, place / "home")


def write_series(image: nib.Nifti1Image, folder: Path) -> str:
    """A volume as an MR series, by pydicom alone; gives the series' UID."""
    from dicoms import header, put_pixels
    from pydicom.uid import MRImageStorage, generate_uid

    series, study = generate_uid()[:50].rstrip("."), generate_uid()
    lps = np.diag([-1.0, -1, 1, 1]) @ image.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    array = np.asarray(image.dataobj).astype(np.int16)
    folder.mkdir()
    for z in range(array.shape[2]):
        data = header(series, z, "MR", study)
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = MRImageStorage
        put_pixels(data, array[:, :, z].T)
        data.ImageOrientationPatient = [*(lps[:3, 0] / spacing[0]), *(lps[:3, 1] / spacing[1])]
        data.ImagePositionPatient = [float(f"{v:.9g}") for v in lps[:3, 3] + lps[:3, 2] * z]
        data.PixelSpacing, data.SliceThickness = [spacing[1], spacing[0]], spacing[2]
        data.save_as(folder / f"{z}.dcm", enforce_file_format=True)
    return series


def upload(orthanc: Server, folder: Path) -> None:
    for file in sorted(folder.iterdir()):
        assert orthanc.ask("POST", "/instances", data=file.read_bytes()).status_code == 200


def write_foreign_seg(label: Path, series: Path, names: list[str], folder: Path) -> None:
    """A SEG by dcmqi, with the frames that have a voxel only."""
    anatomy = {"CodeValue": "123037004", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Anatomical Structure"}
    organ = {"CodeValue": "113343008", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Organ"}
    segments = [
        {
            "labelID": number,
            "SegmentLabel": name,
            "SegmentDescription": name,
            "SegmentAlgorithmType": "MANUAL",
            "SegmentedPropertyCategoryCodeSequence": anatomy,
            "SegmentedPropertyTypeCodeSequence": organ,
        }
        for number, name in enumerate(names, start=1)
    ]
    meta = {"ContentCreatorName": "Somebody^Else", "SeriesDescription": "theirs", "SeriesNumber": "7"}
    meta |= {"InstanceNumber": "1", "ContentLabel": "THEIRS", "ContentDescription": "theirs", "BodyPartExamined": ""}
    folder.mkdir()
    words = folder.with_suffix(".json")
    words.write_text(json.dumps({**meta, "segmentAttributes": [segments]}))
    order = ["--inputImageList", label, "--inputDICOMDirectory", series, "--inputMetadata", words, "--skip", "1"]
    tool = Path(sys.executable).with_name("itkimage2segimage")
    command = [str(part) for part in [tool, *order, "--outputDICOM", folder / "seg.dcm"]]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


def segments_of(orthanc: Server, series: str) -> list[pydicom.Dataset]:
    """What the stored SEGs of a series say of their segments."""
    found = []
    for stored in orthanc.json("POST", "/tools/find", json={"Level": "Instance", "Query": {"Modality": "SEG"}}):
        seg = pydicom.dcmread(io.BytesIO(orthanc.ask("GET", f"/instances/{stored}/file").content))
        if seg.ReferencedSeriesSequence[0].SeriesInstanceUID == series:
            found += seg.SegmentSequence
    return found
