"""3D Slicer's modules of MONAI Label: their own clients, with the requests of the modules in their order."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import nibabel as nib
import numpy as np
import pytest
from conftest import PLANES
from monailabel.client import MONAILabelClient
from monailabel.client.client import MONAILabelClientException

REVIEWER = "monailabel/plugins/slicer/MONAILabelReviewer/MONAILabelReviewerLib/MonaiServerREST.py"

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*cgi.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # it leaves its sockets open
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:The 'warn' function is deprecated:DeprecationWarning"),
]


class Slicer:
    """The module "MONAI Label": a new client for each request, and a dialog where the server asks for a login.

    Args:
        address: what its user types as server.
        password: what its user types into the dialog.
    """

    def __init__(self, address: str, folder: Path, password: str = "") -> None:
        self.address, self.folder, self.password = address, str(folder), password
        self.dialogs = 0
        self.token: dict[str, Any] | None = None

    @property
    def client(self) -> MONAILabelClient:
        client = MONAILabelClient(self.address, self.folder, "user-xyz")
        if client.auth_enabled():
            if self.token:
                client.update_auth(self.token)
            if not self.token or not client.auth_valid_token():
                self.dialogs += 1
                self.token = client.auth_token("user-xyz", self.password)
                client.update_auth(self.token)
        return client


@pytest.fixture(params=["dialog", "address"])
def slicer(request, app, tmp_path) -> Slicer:
    """With the token typed as password, or as a part of the address."""
    if request.param == "dialog":
        return Slicer(app.url, tmp_path, app.token)
    return Slicer(f"{app.url}/token/{app.token}/", tmp_path)


@pytest.fixture
def mine(app, data, tmp_path):
    """A volume that only the client has; what becomes of it at the server is removed."""
    yield shutil.copy(data.parent / "case4.nii.gz", tmp_path / "mine.nii.gz")
    for file in app.studies.rglob("mine.nii.gz"):
        file.unlink()
    app.lists("mine", False)


def test_a_study_of_the_server(slicer, app):
    assert PLANES in slicer.client.info()["models"]
    sample = slicer.client.next_sample("first", {})
    options = {"result_extension": ".nrrd", "result_dtype": "uint8"}
    file, told = slicer.client.infer(PLANES, sample["id"], options)
    assert Path(file).stat().st_size > 0
    assert told["model"] == PLANES
    label, _ = slicer.client.infer(PLANES, sample["id"], {})
    saved = slicer.client.save_label(sample["id"], label, "reviewed", {"label_info": [{"name": "ball", "idx": 1}]})
    assert saved["label"] == sample["id"]
    assert "reviewed" in slicer.client.datastore()["objects"][sample["id"]]["labels"]
    back = slicer.client.download_label(sample["id"], "reviewed")
    np.testing.assert_array_equal(nib.load(back).dataobj, nib.load(label).dataobj)
    assert slicer.client.train_status(check_if_running=True) is False
    assert app.ask("DELETE", "/datastore/label", params={"id": sample["id"], "tag": "reviewed"}).status_code == 200
    assert slicer.dialogs == (1 if slicer.password else 0), "nobody types it twice"


def test_a_volume_of_the_client(slicer, app, mine, data):
    session = slicer.client.create_session(str(mine))["session_id"]
    assert slicer.client.get_session(session)["name"] == session
    # the name of a volume in Slicer is sent beside its session, and is no study
    file, told = slicer.client.infer(PLANES, "mine", {"result_extension": ".nrrd"}, session_id=session)
    assert told["volumes_ml"]
    assert file
    assert slicer.client.upload_image(str(mine), "mine")["image"] == "mine"
    assert slicer.client.save_label("mine", str(data.parent / "case4_label.nii.gz"), "", {"label_info": []})
    assert (app.studies / "labels" / "final" / "mine.nii.gz").exists()
    assert slicer.client.upload_image(str(mine), "mine")["image"] == "mine", "once more, as another day"
    assert slicer.client.datastore()["objects"]["mine"]["labels"], "which loses no label"
    other = str(data.parent / "case3.nii.gz")
    with pytest.raises(MONAILabelClientException) as refused:
        slicer.client.upload_image(other, "mine")
    assert "another study 'mine' already" in refused.value.msg
    assert (app.studies / "mine.nii.gz").read_bytes() == mine.read_bytes()
    slicer.client.remove_session(session)
    with pytest.raises(MONAILabelClientException) as refused:
        slicer.client.get_session(session)
    assert refused.value.status_code == 404


def test_a_wrong_password(app, tmp_path):
    with pytest.raises(MONAILabelClientException) as refused:
        _ = Slicer(app.url, tmp_path, "secret").client
    assert refused.value.status_code == 401
    with pytest.raises(MONAILabelClientException) as refused:
        Slicer(f"{app.url}/token/wrong", tmp_path).client.info()
    assert refused.value.status_code == 401


def test_what_slicer_fetches_by_address_alone(app, data, tmp_path):
    """Studies of a server on another machine are downloaded without any header."""
    address = f"{app.url}/token/{app.token}"
    with urllib.request.urlopen(f"{address}/datastore/image?image={quote_plus('case1')}") as answer:
        assert answer.read() == (data.parent / "case1.nii.gz").read_bytes()


def test_the_reviewer(app, data, tmp_path):
    """The module "MONAI Label Reviewer" knows no login."""
    spec = importlib.util.spec_from_file_location("reviewer", Path(sys.prefix) / REVIEWER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    reviewer = module.MonaiServerREST(f"{app.url}/token/{app.token}")
    assert reviewer.checkServerConnection()
    assert "case1" in reviewer.requestDataStoreInfo()["objects"]
    label = tmp_path / "label.nrrd"
    import SimpleITK as sitk

    sitk.WriteImage(sitk.ReadImage(str(data.parent / "case1_label.nii.gz")), str(label))
    assert reviewer.saveLabel("case1", str(label), "version_1", {"label_info": []}) == 200
    assert reviewer.requestSegmentation("case1", "version_1").content == label.read_bytes()
    assert reviewer.updateLabelInfo("case1", "version_1", {"segmentationMeta": {"status": "approved"}}) == 200
    told = app.json("GET", "/datastore/label/info", params={"label": "case1", "tag": "version_1"})
    assert told["segmentationMeta"]["status"] == "approved"
    assert reviewer.deleteLabelByVersionTag("case1", "version_1") == 200
    assert reviewer.deleteLabelByVersionTag("case1", "version_1") == 404
    assert module.MonaiServerREST(app.url).requestDataStoreInfo() is None, "without the token"
