"""Bundles in MONAI Label's own app for bundles: copied there, they give the voxels of `medseg predict`."""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import MODELS
from servers import Server, free_port

from medseg.serve.standins import python_path
from medseg.workflows.predict.run import predict


@pytest.fixture(scope="module")
def stock(train, data, tmp_path_factory):
    """The stock app with every model, over a folder of images."""
    place = tmp_path_factory.mktemp("stock")
    environment = {"PYTHONPATH": python_path(), "MONAI_LABEL_TRACKING_ENABLED": "false"}
    # what `monailabel apps --download --name monaibundle` copies
    shutil.copytree(Path(sys.prefix) / "monailabel" / "sample-apps" / "monaibundle", place / "monaibundle")
    for name in MODELS:
        shutil.copytree(train(name) / "bundle", place / "monaibundle" / "model" / name)
    images = place / "studies"
    images.mkdir()
    for image in data.parent.glob("case[45].nii.gz"):
        shutil.copy(image, images)
    port = free_port()
    app = ["--app", str(place / "monaibundle"), "--studies", str(images), "--host", "127.0.0.1", "--port", str(port)]
    settings = ["--conf", "models", ",".join(MODELS), "--conf", "zoo_source", "ngc", "--conf", "sam2", "false"]
    server = Server(
        [sys.executable, "-m", "monailabel.main", "start_server", *app, *settings], port, place / "home", environment
    )
    try:
        yield server.wait()
    finally:
        server.stop(signal.SIGTERM)


def test_the_app_knows_the_models(stock):
    models = stock.json("GET", "/info/")["models"]
    assert set(models) == set(MODELS)
    assert all(model["type"] == "segmentation" for model in models.values())
    assert all(set(model["labels"]) == {"ball", "box"} for model in models.values())


# another model in between: MONAI Label imports each bundle's scripts anew
@pytest.mark.parametrize("case", ["case4", "case5"])
@pytest.mark.parametrize("name", MODELS)
def test_voxels_are_those_of_medseg_predict(name, case, stock, train, data, tmp_path):
    predict(train(name), data.parent / f"{case}.nii.gz", tmp_path)
    answer = stock.infer(name, case)
    assert answer.status_code == 200, answer.text[:500] + stock.words()
    served = tmp_path / "served.nii.gz"
    served.write_bytes(answer.content)
    ours, theirs = nib.load(tmp_path / f"{case}.nii.gz"), nib.load(served)
    expected = np.asarray(ours.dataobj)
    assert expected.any(), "a model that finds nothing shows nothing"
    np.testing.assert_array_equal(np.asarray(theirs.dataobj), expected)
    np.testing.assert_allclose(theirs.affine, ours.affine, atol=1e-4)


def test_bundles_stay_as_they_were(stock, train):
    """Serving must not write into them."""
    for name in MODELS:
        served = Path(stock.log).parent.parent / "monaibundle" / "model" / name
        before = train(name) / "bundle"
        for file in sorted(p for p in before.rglob("*") if p.is_file() and p.suffix != ".pyc"):
            assert (served / file.relative_to(before)).read_bytes() == file.read_bytes(), file
